"""A process with an elector, for tests that kill it: says on stdout when it leads, and until when it did."""

from __future__ import annotations

import sys
import time

from scheduler_service.elector import Elector


def main() -> None:
    """Stand for election until killed."""
    url, name = sys.argv[1:]
    elector = Elector(url, instance_id=name, crash_detection="auto")
    elector.add_listener(
        on_elected=lambda lease: print("elected", lease.term, flush=True),
        on_lost=lambda lease, reason: print("lost", lease.term, reason, flush=True),
    )
    with elector:
        while True:
            time.sleep(60)


if __name__ == "__main__":
    main()

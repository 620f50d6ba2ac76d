"""Show that the service is alive."""

from datetime import UTC, datetime
from pathlib import Path

from scheduler_service.context import RunContext


def beat(file: str, run: RunContext) -> str:
    """Write the time, and which replica wrote it, into `file`; a reader never sees half of it.

    The service fills in a parameter that is annotated RunContext.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    # A name of its own: a replica that was cut off may still be writing while the next one starts.
    new = Path(f"{file}.{run.fence}.new")
    new.write_text(f"{now} {run.instance} term {run.term}\n", encoding="utf-8")
    new.replace(file)
    print(f"beat at {now}")  # what a job prints is kept with the run, and logged
    return now

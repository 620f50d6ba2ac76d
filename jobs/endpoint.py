"""Look whether a web page answers."""

import time
import urllib.request


def check(url: str, timeout_seconds: float = 10, expected_status: int = 200) -> str:
    """Ask for `url`; an error, another status or no answer in time fails the run.

    Redirects are followed; the status is that of the last answer.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is not an HTTP address")
    started = time.monotonic()
    with urllib.request.urlopen(url, timeout=timeout_seconds) as answer:  # noqa: S310  # the scheme is checked above
        status = answer.status
        answer.read(1)  # the first byte of the page must come, too
    seconds = time.monotonic() - started
    if status != expected_status:
        raise RuntimeError(f"{url} answered {status}, not {expected_status}")
    return f"{status} in {seconds:.3f}s"

"""Remove what is no longer needed."""

import logging
import time
from pathlib import Path

from scheduler_service.context import RunContext

logger = logging.getLogger(__name__)
DAY_SECONDS = 86_400


def prune(folder: str, pattern: str = "*", days: float = 30, run: RunContext | None = None) -> int:
    """Remove the files in `folder` that match `pattern` and were not changed for `days`; return how many.

    Folders in it, and what is in them, are left alone.  Running it twice does no harm.
    The service fills in `run`; by hand, prune("backups", "*.tar.gz") works too.
    """
    if days < 1:
        raise ValueError(f"days is {days}: less than one is hardly meant")
    oldest = time.time() - days * DAY_SECONDS
    removed = 0
    for path in sorted(Path(folder).glob(pattern)):
        if run is not None:
            run.check()  # ends the loop when the service stops
        if path.is_file() and not path.is_symlink() and path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
            logger.info("removed %s", path)
            removed += 1
    return removed

"""A wall clock that can be set while its processes run: libfaketime's, read from a file at each look.

The boot clock, on which deadlines are counted, stays true: nobody can set it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

LIBRARY = next(Path("/usr").glob("lib*/**/faketime/libfaketimeMT.so.1"), None)
needs_libfaketime = pytest.mark.skipif(
    LIBRARY is None, reason="no libfaketime here (Debian: apt-get install libfaketime)"
)


class FalseClock:
    """The clock of those processes that are started with its `environment`, at first true.

    `path` is a file that those processes can read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.step(0.0)

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process must be started with."""
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DISABLE_SHM": "1",  # whose owner need not be the user that the server runs as
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, seconds: float) -> None:
        """Set it so many seconds before true time, or after it if negative; all its processes see it at once."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{seconds:+f}\n")
        new.chmod(0o644)
        new.replace(self._path)  # nobody finds half of it

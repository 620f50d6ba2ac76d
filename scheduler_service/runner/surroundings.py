"""What commands and child processes find around them: as the service was started, whatever its jobs do since.

A function in a thread may change the folder, the environment and the umask of the whole process; what is started
beside it shall not depend on that.  Resource limits cannot be held so: only code between fork and exec could set
them again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scheduler_service.runner import kernel


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Folder, environment and umask of this process at the moment at which this is made."""

    folder: Path = field(default_factory=Path.cwd)
    variables: Mapping[str, str] = field(default_factory=os.environ.copy, repr=False)  # there may be secrets in it
    umask: int = field(default_factory=kernel.umask)  # as `Popen` takes it

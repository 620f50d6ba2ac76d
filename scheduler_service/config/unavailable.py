"""What the file format knows and this version does not do yet.

Everything here is read and checked in full elsewhere; a later version only takes lines out of this module.
"""

from __future__ import annotations

from typing import Any

from scheduler_service.config.kinds import WRONG
from scheduler_service.config.problems import Report
from scheduler_service.config.sections import Section
from scheduler_service.model import Isolation, OnCrash, OnLeadershipLost, Overlap

AVAILABLE: dict[str, tuple[tuple[Any, ...], str]] = {
    "isolation": ((Isolation.THREAD,), "write thread, or use 'command'"),
    "overlap": ((Overlap.SKIP, Overlap.ALLOW), "write skip or allow"),
    "on_crash": ((OnCrash.FAIL,), "write fail"),
    "on_leadership_lost": ((OnLeadershipLost.FINISH,), "write finish"),
    "max_running": ((1,), "write 1"),
}


def check_policies(section: Section, report: Report) -> None:
    """Report what a job or `defaults` asks for and cannot have."""
    for name, (values, instead) in AVAILABLE.items():
        if section.has(name) and section.known(name) and section.get(name) not in values:
            position, path = section.place(name)
            shown = str(section.get(name)) if section.shows(name) else "this"
            report.add(position, path, f"{shown} is not available in this version; {instead}")
    retry = section.get("retry")
    if section.has("retry") and isinstance(retry, Section) and retry.known("attempts") and retry.get("attempts") > 1:
        position, path = retry.place("attempts")
        report.add(position, path, "more than 1 is not available in this version; write 1")


def check_timeout(job: Section, report: Report) -> None:
    """Report a time-out of a function: only a command can be ended from outside."""
    if job.get("timeout") in (None, WRONG) or not job.has("run"):
        return
    position, path = job.place("timeout")
    if job.has("timeout"):
        message = "is not available in this version for 'run', only for 'command'; leave it out"
    else:
        message = "is not available in this version for 'run', only for 'command'; move it into the jobs with 'command'"
    report.add(position, path, message)

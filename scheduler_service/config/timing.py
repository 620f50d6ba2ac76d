"""When a job runs: exactly one of cron, every, at and manual, and what limits and moves its ticks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from scheduler_service import schedule
from scheduler_service.config.kinds import WRONG, Wrong
from scheduler_service.config.problems import Report
from scheduler_service.config.sections import Section
from scheduler_service.config.values import WrongValueError, duration_text, in_zone
from scheduler_service.schedule import Schedule, ScheduleError

KINDS = ("cron", "every", "at", "manual")
LOOK_FROM = datetime(2026, 1, 1, tzinfo=UTC)  # fixed, so that every replica judges a jitter alike
MICROSECOND = timedelta(microseconds=1)


def read_schedule(job: Section, timezone: str, report: Report) -> Schedule | None:
    """Return the job's schedule with its bounds, or None when the report says why not.

    `timezone` is the service's, for jobs without one.
    """
    written = [name for name in KINDS if job.has(name) and not (name == "manual" and job.get(name) is False)]
    if not written:
        report.add(job.position, job.path, "has no schedule; add cron, every, at or 'manual: true'")
        return None
    if len(written) > 1:
        position, path = max(job.place(name) for name in written)
        report.add(position, path, f"a job has one schedule, and this has {' and '.join(written)}; keep one of them")
    if job.has("offset") and "every" not in written:
        position, path = job.place("offset")
        report.add(position, path, "goes with 'every' only; remove it")
    if "manual" in written:
        for name in ("jitter", "starts_at", "ends_at"):
            if job.has(name):
                position, path = job.place(name)
                report.add(position, path, "has no effect on 'manual: true', which has no ticks; remove it")
    zone = job.get("timezone") if job.get("timezone") not in (None, WRONG) else timezone
    starts_at, ends_at = (_bound(job, name, zone, report) for name in ("starts_at", "ends_at"))
    if isinstance(starts_at, datetime) and isinstance(ends_at, datetime) and ends_at <= starts_at:
        position, path = job.place("ends_at")
        report.add(position, path, "is not later than starts_at; exchange them, or make it later")
        return None
    made = [_made(job, name, zone, report) for name in written]
    found = made[0]
    if len(made) > 1 or found is None or isinstance(starts_at, Wrong) or isinstance(ends_at, Wrong):
        return None
    _check_jitter(job, found, report)
    bounded = found.bounded(starts_at, ends_at) if starts_at is not None or ends_at is not None else found
    if starts_at is not None and "manual" not in written and bounded.after(starts_at - MICROSECOND) is None:
        position, path = job.place("starts_at")
        report.add(position, path, "the schedule has no tick from then on; make it earlier, or ends_at later")
    elif ends_at is not None and "at" in written and bounded.after(LOOK_FROM.replace(year=1)) is None:
        position, path = job.place("ends_at")
        report.add(position, path, "is before the only tick; make it later")
    return bounded


def _made(job: Section, name: str, zone: str, report: Report) -> Schedule | None:
    value = job.get(name)
    if value is WRONG:
        return None
    try:
        if name == "cron":
            return schedule.cron(value, zone)
        if name == "every":
            return schedule.every(value, timedelta(0) if job.get("offset") is WRONG else job.get("offset"))
        if name == "at":
            return schedule.at(in_zone(value, schedule.zone(zone)))
    except (ScheduleError, WrongValueError) as error:
        message = str(error)
        if name == "every" and value >= schedule.LEAST_INTERVAL:
            name = "offset"
            message = f"is not shorter than the interval; write less than {duration_text(value)}"
        if not job.shows(name, "every", "timezone"):
            message = "what its variables hold is not a schedule"
        position, path = job.place(name)
        report.add(position, path, message)
        return None
    return schedule.manual()


def _bound(job: Section, name: str, zone: str, report: Report) -> datetime | Wrong | None:
    value: datetime | Wrong | None = job.get(name)
    if not isinstance(value, datetime):
        return value
    try:
        return in_zone(value, schedule.zone(zone))
    except WrongValueError as error:
        position, path = job.place(name)
        message = str(error) if job.shows(name, "timezone") else "what its variables hold is not a moment in that zone"
        report.add(position, path, message)
        return WRONG


def _check_jitter(job: Section, found: Schedule, report: Report) -> None:
    jitter = job.get("jitter")
    if jitter is WRONG or not jitter:
        return
    gap = schedule.shortest_gap(found, LOOK_FROM)
    if gap is not None and jitter >= gap:
        position, path = job.place("jitter")
        message = f"is not shorter than {duration_text(gap)}, the least time between two ticks; make it shorter"
        report.add(
            position, path, message if job.shows("jitter", *KINDS) else "is not shorter than the time between ticks"
        )

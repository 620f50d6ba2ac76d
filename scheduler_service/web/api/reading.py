"""What may be read."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from scheduler_service import __version__
from scheduler_service.ledger.history import Chosen, JobRow, TermRow, why
from scheduler_service.ledger.history.documents import (
    answer_document,
    job_document,
    leader_document,
    replica_document,
    run_details,
    run_document,
)
from scheduler_service.ledger.history.listing import TICK_KINDS
from scheduler_service.model import Kind, State
from scheduler_service.moments import MomentError, iso, local, read_moment
from scheduler_service.web.api import shapes
from scheduler_service.web.api.cursors import after_run, read_cursor
from scheduler_service.web.api.routing import JobId, RunId, guarded_router, no_such_run, problems
from scheduler_service.web.auth import require_reader
from scheduler_service.web.documents import Document
from scheduler_service.web.problems import Problem
from scheduler_service.web.view import View

MOST_JOBS, MOST_ROWS = 200, 500  # of one page
USUAL_ROWS = 50
COMPUTING_SECONDS = 0.05  # of an answer, for ticks that are not known yet: the others are computed after it
LONGEST = 100  # characters of a moment or a cursor

Limit = Annotated[int, Query(ge=1, le=MOST_ROWS, description="At most so many.")]
Cursor = Annotated[str | None, Query(max_length=LONGEST, description="The `after` of the page before.")]
Moment = Annotated[
    str | None,
    Query(
        max_length=LONGEST,
        description="ISO 8601, in the service's zone where it has no offset; or how long ago, as in 90m.",
        examples=["2026-11-23T02:45:00Z"],
    ),
]


def reading_routes(view: View) -> APIRouter:
    """Return the routes that read."""
    router = guarded_router(require_reader(view), writing=False)
    history = view.history

    @router.get("/status", response_model=shapes.Status, tags=["service"])
    def status() -> Response:
        """Say who leads since when, and count the jobs."""
        standing = history.standing(with_jobs=False)
        counts = history.job_counts(standing.leader, standing.now)
        return Document(
            {
                "now": iso(standing.now),
                "version": __version__,
                "lock_id": standing.lock_id,
                "answered_by": view.instance_id,
                "leader": leader_document(standing.leader) if standing.leader is not None else None,
                "config_drift": bool(standing.drifted(view.lost_after_seconds)),
                "replicas": [replica_document(standing, replica) for replica in standing.replicas],
                "job_counts": {
                    "all": counts.all,
                    "enabled": counts.enabled,
                    "paused": counts.paused,
                    "running": counts.running,
                    "stuck": counts.stuck,
                },
            }
        )

    @router.get("/replicas", response_model=shapes.Replicas, tags=["service"])
    def replicas() -> Response:
        """List the replicas that signed in."""
        standing = history.standing(with_jobs=False)
        drifted = standing.drifted(view.lost_after_seconds)
        return Document(
            {
                "replicas": [
                    {
                        **replica_document(standing, replica),
                        "started_at": iso(replica.started_at),
                        "live": standing.live(replica, view.lost_after_seconds),
                        "drifted": replica in drifted,
                    }
                    for replica in standing.replicas
                ]
            }
        )

    @router.get("/leadership", response_model=shapes.Leadership, tags=["service"])
    def leadership(
        limit: Limit = USUAL_ROWS,
        after: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="Terms before this one.")] = None,
    ) -> Response:
        """Say who led from when to when, the newest term first."""
        terms = history.term_page(before=after, limit=limit + 1)
        further = terms[limit - 1].term if len(terms) > limit else None
        return Document({"terms": [_term_document(term) for term in terms[:limit]], "after": further})

    @router.get("/next", response_model=shapes.NextTicks, tags=["jobs"])
    def next_ticks(limit: Limit = USUAL_ROWS) -> Response:
        """Show the coming ticks of all jobs, soonest first."""
        now, leader = history.now_and_leader()
        jobs = history.schedules(leader, now)
        deadline = time.monotonic() + COMPUTING_SECONDS
        ticks, pending = view.coming.first(jobs, now, limit, until=lambda: time.monotonic() > deadline)
        return Document(
            {
                "now": iso(now),
                "ticks": [
                    {
                        "job": tick.job_id,
                        "scheduled_at": iso(tick.scheduled_at),
                        "local": local(tick.scheduled_at, zone),
                        "timezone": zone,
                    }
                    for tick, zone in ((tick, tick.timezone or view.timezone) for tick in ticks)
                ],
                "pending": pending,
            }
        )

    @router.get("/jobs", response_model=shapes.Jobs, tags=["jobs"])
    def jobs(
        limit: Annotated[int, Query(ge=1, le=MOST_JOBS, description="At most so many.")] = USUAL_ROWS,
        after: Annotated[str, Query(max_length=LONGEST, description="Jobs whose ids follow this one.")] = "",
        attention: Annotated[
            bool, Query(description="Only jobs whose newest finished run went wrong, or whose code goes on after it.")
        ] = False,
    ) -> Response:
        """List the configured jobs in order of their ids."""
        now, leader = history.now_and_leader()
        found = history.job_page(leader, after=_shown(after), limit=limit + 1, attention=attention, now=now)
        return Document(
            {
                "now": iso(now),
                "jobs": [job_document(job, now, view.coming.next_tick(job, now)) for job in found[:limit]],
                "after": found[limit - 1].job_id if len(found) > limit else None,
            }
        )

    @router.get("/jobs/{job}", response_model=shapes.JobDetails, tags=["jobs"], responses=problems(404))
    def one_job(job: JobId) -> Response:
        """Show one job, also one that is not configured any more."""
        row = _require_job(view, job)
        now = history.now()
        return Document(
            {
                **job_document(row, now, view.coming.next_tick(row, now)),
                "accountable_from": iso(row.accountable_from),
                "settled_until": iso(row.settled_until),
                "present_at": iso(row.present_at),
            }
        )

    @router.get("/jobs/{job}/ticks", response_model=shapes.Ticks, tags=["jobs"], responses=problems(404))
    def ticks(
        job: JobId,
        count: Annotated[int, Query(ge=0, le=MOST_ROWS, description="At most so many coming ticks.")] = 10,
        limit: Limit = USUAL_ROWS,
        after: Cursor = None,
    ) -> Response:
        """Show a job's coming ticks, and the decisions on those that came, the newest first."""
        place = read_cursor(after)
        row = _require_job(view, job)
        now = history.now()
        decided = history.run_page(Chosen(job_id=job, kinds=TICK_KINDS), after=place, limit=limit + 1)
        return Document(
            {
                "job": job,
                "timezone": row.timezone,
                "next": [iso(tick) for tick in _coming(row, now, count)],
                "decided": [run_document(one) for one in decided[:limit]],
                "after": after_run(decided, limit),
            }
        )

    @router.get("/jobs/{job}/why", response_model=shapes.Why, tags=["jobs"], responses=problems(404))
    def why_tick(
        job: JobId,
        at: Annotated[
            str,
            Query(
                max_length=LONGEST,
                description="The tick: ISO 8601; without an offset in the job's zone, or the service's without cron.",
                examples=["2026-11-23T02:45"],
            ),
        ],
    ) -> Response:
        """Say what was decided for one tick, by whom, and why."""
        row = _require_job(view, job)
        return Document(answer_document(why(history, row, moment("at", at, row.zone(view.timezone)))))

    @router.get("/runs", response_model=shapes.Runs, tags=["runs"])
    def runs(
        job: Annotated[str | None, Query(max_length=LONGEST, description="Only of this job.")] = None,
        state: Annotated[State | None, Query(description="Only in this state.")] = None,
        kind: Annotated[Kind | None, Query(description="Only of this kind.")] = None,
        since: Moment = None,
        until: Moment = None,
        limit: Limit = USUAL_ROWS,
        after: Cursor = None,
    ) -> Response:
        """List what ran, was missed or skipped, the newest tick first; a range counts as since its last tick."""
        place = read_cursor(after)
        now = history.now() if since is not None or until is not None else None
        chosen = Chosen(
            job_id=None if job is None else _shown(job),
            state=state,
            kinds=None if kind is None else (kind,),
            since=None if since is None else moment("since", since, view.timezone, now),
            until=None if until is None else moment("until", until, view.timezone, now),
        )
        found = history.run_page(chosen, after=place, limit=limit + 1)
        return Document({"runs": [run_document(row) for row in found[:limit]], "after": after_run(found, limit)})

    @router.get("/runs/{run}", response_model=shapes.RunDetails, tags=["runs"], responses=problems(404))
    def one_run(run: RunId) -> Response:
        """Show a run with its attempts and what they wrote."""
        found = history.run(run)
        if found is None:
            raise no_such_run(run)
        return Document(run_details(*found))

    return router


def moment(name: str, text: str, timezone: str, now: datetime | None = None) -> datetime:
    """Return the moment that a part of a request names; a Problem if it is none."""
    try:
        return read_moment(text, timezone, now)
    except MomentError as error:
        hint = "; in a URL write + as %2B" if " " in text else ""
        raise Problem(422, f"{name}: {error}{hint}", kind="invalid-request") from None


def no_such_job(job_id: str) -> Problem:
    """Return what to say about a job that there is not."""
    return Problem(404, f"The ledger knows no job {job_id!r}: /api/v1/jobs lists them.", kind="no-such-job")


def _require_job(view: View, job_id: str) -> JobRow:
    row = view.history.job(job_id)
    if row is None:
        raise no_such_job(job_id)
    return row


def _coming(job: JobRow, now: datetime, count: int) -> list[datetime]:
    ticks: list[datetime] = []
    tick = job.next_tick(now) if count else None
    if tick is None:
        return ticks
    schedule = job.schedule
    while tick is not None and len(ticks) < count:
        ticks.append(tick)
        tick = schedule.after(tick)
    return ticks


def _term_document(term: TermRow) -> dict[str, Any]:
    return {
        "term": term.term,
        "instance_id": term.leader_id,
        "acquired_at": iso(term.acquired_at),
        "ended_at": iso(term.ended_at),
        "end_reason": term.end_reason,
    }


def _shown(text: str) -> str:
    """Return a text that a database can compare: one that no id holds would be refused by some."""
    return text if text.isprintable() else "\N{REPLACEMENT CHARACTER}"

"""What is left afterwards: rows of the ledger, lines of the side effects, words of the logs.

Plain values, read with the plain driver, so that the judge is a pure function of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.faults.evidence import Books, Effect, effects
from tests.faults.fleet import Entry, Fleet, Replica


@dataclass(frozen=True)
class Run:
    """A row of `run`."""

    id: int
    job: str
    scheduled_at: datetime
    until: datetime | None
    due_at: datetime
    kind: str
    state: str
    reason: str | None
    decided_at: datetime
    decided_by: str | None
    slot_held: bool
    request_key: str | None


@dataclass(frozen=True)
class Attempt:
    """A row of `run_attempt`."""

    id: int
    run_id: int
    number: int
    term: int
    instance: str
    state: str
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class Term:
    """A row of `leader_term`, or what a replica said that it was elected to."""

    term: int
    instance: str
    acquired_at: datetime | None = None


@dataclass(frozen=True)
class Span:
    """For which stretch of time the ledger answers, for one job."""

    accountable_from: datetime
    settled_until: datetime


@dataclass(frozen=True)
class Records:
    """Everything that can be looked at after everybody has stopped."""

    runs: Sequence[Run]
    attempts: Sequence[Attempt]
    terms: Sequence[Term]
    spans: Mapping[str, Span]
    effects: Sequence[Effect]
    elected: Sequence[Term]  # as the replicas told
    told_lost: Mapping[tuple[int, int], str]  # (run, attempt) → whose it was
    crashes: Sequence[str] = ()  # threads that crashed, deaths that nobody caused, processes left behind

    @classmethod
    def read(cls, books: Books, tally: Path, fleet: Fleet | None = None) -> Records:
        """Read them; without a fleet nobody has told anything."""
        moment = books.moment

        def maybe(value: Any) -> datetime | None:
            return None if value is None else moment(value)

        def said(event: str) -> Iterable[tuple[Replica, Entry]]:
            return () if fleet is None else fleet.said(event)

        return cls(
            runs=[
                Run(
                    number,
                    job,
                    moment(at),
                    maybe(until),
                    moment(due_at),
                    kind,
                    state,
                    reason,
                    moment(decided_at),
                    by,
                    bool(held),
                    key,
                )
                for number, job, at, until, due_at, kind, state, reason, decided_at, by, held, key in books.rows(
                    "select id, job_id, scheduled_at, until, due_at, kind, state, reason, decided_at, decided_by,"
                    " slot_held, request_key from {p}run order by id"
                )
            ],
            attempts=[
                Attempt(number, run_id, attempt, term, instance, state, moment(started_at), maybe(finished_at))
                for number, run_id, attempt, term, instance, state, started_at, finished_at in books.rows(
                    "select id, run_id, attempt, term, instance_id, state, started_at, finished_at"
                    " from {p}run_attempt order by id"
                )
            ],
            terms=[
                Term(term, instance, moment(acquired_at))
                for term, instance, acquired_at in books.rows(
                    "select term, leader_id, acquired_at from {p}leader_term order by term"
                )
            ],
            spans={
                job: Span(moment(since), moment(until))
                for job, since, until in books.rows("select job_id, accountable_from, settled_until from {p}job_state")
            },
            effects=effects(tally),
            elected=[Term(entry["term"], entry["instance"]) for _, entry in said("leader_elected")],
            told_lost={(entry["run"], entry["attempt"]): entry["holder"] for _, entry in said("attempt_lost")},
            crashes=[f"replica {who.number}: {entry}" for who, entry in said("thread_crashed")]
            + [f"replica {who.number} wrote {entry['line']!r}" for who, entry in said("no_json")],
        )

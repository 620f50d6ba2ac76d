"""The ledger's writes on PostgreSQL: each is one autocommit statement and one round trip.

A client that freezes between two round trips holds nothing, because there are no two.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import BigInteger, Boolean, DateTime, Float, Integer, Interval, Text

from scheduler_service.clock import EPOCH
from scheduler_service.ledger import (
    ABSENT_AFTER,
    BUSY_ROWS,
    DISABLES,
    DROPS,
    Adoption,
    Finished,
    JobState,
    LostAttempt,
    Pruned,
    Settlement,
    StartsLimits,
)
from scheduler_service.ledger.reading import PEERS, SIGN_IN, STATE_COLUMNS, LedgerReads, asker
from scheduler_service.ledger.statements import (
    ADOPT,
    CLAIMED,
    FINISH,
    MARK_LOST,
    PRUNE,
    SETTLE,
    SIGN_OUT,
    START,
    UNSTART,
)
from scheduler_service.model import Attempt, Decision, JobSpec, Lease, Reason, Run

_TEXTS, _TIMES, _BOOLS, _IDS = ARRAY(Text), ARRAY(DateTime(timezone=True)), ARRAY(Boolean), ARRAY(BigInteger)
_INTS, _FLOATS = ARRAY(Integer), ARRAY(Float)
_CLOSE_TYPES = {"gone": Text(), "limited": _TEXTS, "limits": _INTS}


class PostgresLedger(LedgerReads):
    """The ledger of one election on PostgreSQL."""

    def rehearse(self) -> None:
        """Send each statement of a new leader once; the fence refuses them all."""
        nobody = Lease(self._lock_id, leader_id="", term=0, acquired_at=EPOCH, trusted_until=0.0)
        self.recall(0)
        self.adopt(nobody, ())
        self._all_states(set())
        self.survey(())
        self.settle(nobody, ())
        self.poll(0)
        self.start(nobody, "", (), 0.0)

    def adopt(self, lease: Lease, specs: Sequence[JobSpec]) -> Adoption | None:
        """Make the job table agree with `specs`; see Ledger."""
        row = self._one(
            ADOPT,
            {
                "absent": Interval,
                "led_since": DateTime(timezone=True),
                "jobs": _TEXTS,
                "schedules": _TEXTS,
                "timezones": _TEXTS,
                "enabled": _BOOLS,
                "limits": _INTS,
            },
            **self._fence_values(lease),
            disables=DISABLES,
            drops=DROPS,
            jobs=[spec.id for spec in specs],
            limits=[spec.running_limit for spec in specs],
            schedules=[spec.schedule.canonical for spec in specs],
            timezones=[spec.schedule.timezone for spec in specs],
            enabled=[spec.enabled for spec in specs],
            absent=ABSENT_AFTER,
            led_since=lease.acquired_at,
        )
        if not row[0]:
            return None
        states = self._all_states({spec.id for spec in specs})
        return Adoption(states, tuple(row[1]), tuple(row[2]), row[3])

    def settle(self, lease: Lease, settlements: Sequence[Settlement]) -> frozenset[str] | None:
        """Write decisions for a batch of jobs; see Ledger."""
        batch = sorted(settlements, key=lambda one: one.state.job_id)
        gone = [(one.state.job_id, run_id, str(reason)) for one in batch for run_id, reason in one.withdrawn]
        replaced = [(one.state.job_id, run_id, by) for one in batch for run_id, by in one.replaced]
        row = self._one(
            SETTLE,
            {
                **dict.fromkeys(("withdrawn_jobs", "withdrawn_reasons", "replaced_jobs", "replaced_by"), _TEXTS),
                **dict.fromkeys(("withdrawn", "replaced"), _IDS),
            },
            **self._fence_values(lease),
            # One text, not an array for each of 18 columns, which takes the driver five times as long to write.
            spans=json.dumps([_span(one) for one in batch]),
            decisions=json.dumps([_decision(one, decision) for one in batch for decision in one.decisions]),
            withdrawn_jobs=[job_id for job_id, _, _ in gone],
            withdrawn=[run_id for _, run_id, _ in gone],
            withdrawn_reasons=[reason for _, _, reason in gone],
            replaced_jobs=[job_id for job_id, _, _ in replaced],
            replaced=[run_id for _, run_id, _ in replaced],
            replaced_by=[by for _, _, by in replaced],
        )
        return frozenset(row[1]) if row[0] else None

    def start(
        self, lease: Lease, claim_id: str, runs: Sequence[tuple[Run, int | None]], sent: float
    ) -> list[Attempt] | None:
        """Make attempts of waiting runs; see Ledger."""
        rows = self._all(
            START,
            {"runs": _IDS, "limits": _INTS},
            **self._fence_values(lease),
            claim=claim_id,
            runs=[run.id for run, _ in runs],
            limits=[limit for _, limit in runs],
        )
        if not rows[0][0]:
            return None
        begun = [(row[1], row[2], row[3], lease.term, lease.leader_id, row[4]) for row in rows if row[1] is not None]
        return self._attempts(begun, [run for run, _ in runs], sent)

    def claimed(self, claim_id: str, runs: Sequence[Run], sent: float) -> list[Attempt]:
        """Return the open attempts that carry `claim_id`."""
        return self._attempts(self._all(CLAIMED, {}, claim=claim_id), runs, sent)

    def unstart(self, instance_id: str, attempt_ids: Sequence[int]) -> int:
        """Delete attempts that certainly never began; their runs wait again."""
        return len(self._all(UNSTART, {"attempts": _IDS}, attempts=list(attempt_ids), me=instance_id))

    def finish(self, finished: Sequence[Finished]) -> None:
        """Close attempts, and their runs where the attempt is the newest."""
        batch = sorted(finished, key=lambda one: one.attempt.id)
        spoken = [one for one in batch if one.outcome.output]
        self._all(
            FINISH,
            {
                **dict.fromkeys(("attempts", "runs", "output_ids", "memories"), _IDS),
                **dict.fromkeys(("states", "errors", "results", "outputs"), _TEXTS),
                **dict.fromkeys(("exit_codes", "numbers"), _INTS),
                **dict.fromkeys(("seconds", "retries"), _FLOATS),
                **dict.fromkeys(("returned", "truncated"), _BOOLS),
                "began": _TIMES,
            },
            attempts=[one.attempt.id for one in batch],
            began=[one.attempt.started_at for one in batch],
            runs=[one.attempt.run_id for one in batch],
            numbers=[one.attempt.attempt for one in batch],
            states=[str(one.outcome.state) for one in batch],
            errors=[_storable(one.outcome.error) for one in batch],
            exit_codes=[one.outcome.exit_code for one in batch],
            results=[_storable(one.outcome.result) for one in batch],
            seconds=[one.outcome.seconds for one in batch],
            returned=[one.outcome.returned for one in batch],
            retries=[one.outcome.retry_seconds for one in batch],
            memories=[one.outcome.peak_memory_bytes for one in batch],
            output_ids=[one.attempt.id for one in spoken],
            outputs=[_storable(one.outcome.output) for one in spoken],
            truncated=[one.outcome.truncated for one in spoken],
        )

    def sign_out(self, instance_id: str, starts_limits: StartsLimits) -> None:
        """Close what is still open under this name as lost, free its slots and remove its row."""
        self._all(SIGN_OUT, _CLOSE_TYPES, gone=instance_id, **_limits(starts_limits))

    def _sign_in_rows(self, values: dict[str, Any]) -> tuple[Any, Any]:
        with self._signing_in() as connection:
            rows = self._on(
                connection,
                f"""with me as ({SIGN_IN})
                    select (select seen_at from me), q.* from (select 1) one left join ({PEERS}) q on true""",
                **values,
            )
        return rows[0][0], [row[1:] for row in rows if row[1] is not None]

    def mark_lost(
        self, lease: Lease, instance_id: str, seen_at: Any, starts_limits: StartsLimits
    ) -> list[LostAttempt] | None:
        """Close what a replica left open; see Ledger."""
        rows = self._all(
            MARK_LOST,
            {**_CLOSE_TYPES, "seen": DateTime(timezone=True)},
            **self._fence_values(lease),
            gone=instance_id,
            seen=seen_at,
            **_limits(starts_limits),
        )
        if not rows[0][0]:
            return None
        return [
            LostAttempt(row[1], row[2], row[3], row[4], self.known_moment(row[5]), row[6])
            for row in rows
            if row[1] is not None
        ]

    def prune(
        self, lease: Lease, job_ids: Sequence[str], keep_for: timedelta, keep_runs: int, limit: int
    ) -> Pruned | None:
        """Remove closed rows of some jobs that are too old or too many; see Ledger."""
        row = self._one(
            PRUNE,
            {"jobs": _TEXTS, "keep_for": Interval},
            **self._fence_values(lease),
            jobs=list(job_ids),
            keep_for=keep_for,
            keep_runs=keep_runs,
            most=limit,
            busy=BUSY_ROWS,
        )
        return Pruned(row[1], tuple(row[2])) if row[0] else None

    def _all_states(self, wanted: set[str]) -> tuple[JobState, ...]:
        rows = self._rows(f"select {STATE_COLUMNS} from {{p}}job_state where lock_id = :lock_id")
        return tuple(self.job_state(row) for row in rows if row[0] in wanted)

    def _one(self, statement: str, types: dict[str, Any], **values: Any) -> Any:
        return self._all(statement, types, **values)[0]

    def _all(self, statement: str, types: dict[str, Any], **values: Any) -> Any:
        clause = self._texts.get(statement)
        if clause is None:
            clause = text(statement.replace("{p}", self._database.prefix))
            clause = clause.bindparams(*(bindparam(name, type_=type_) for name, type_ in types.items()))
            self._texts[statement] = clause
        with self._database.connect() as connection:
            result = connection.execute(clause, self._values(statement, values))
            return result.fetchall() if result.returns_rows else []


def _span(one: Settlement) -> dict[str, Any]:
    return {
        "job_id": one.state.job_id,
        "since": one.state.settled_until.isoformat(),
        "until": one.until.isoformat(),
        "paused_at": _moment(one.state.paused_at),
        "paused_until": _moment(one.state.paused_until),
        "schedule": one.schedule,
        "timezone": one.timezone,
        "enabled": one.enabled,
        "resumed": one.resumed,
    }


def _decision(one: Settlement, decision: Decision) -> dict[str, Any]:
    # What is left out is null: most have none of it, and there may be two thousand.
    told: dict[str, Any] = {
        "job_id": one.state.job_id,
        "scheduled_at": decision.scheduled_at.isoformat(),
        "due_at": decision.due_at.isoformat(),
        "kind": decision.kind,
        "state": decision.state,
        "reason": decision.reason,
    }
    if decision.until is not None:
        told["until"] = decision.until.isoformat()
    if decision.reason is Reason.PAUSED:
        told |= {"pausing": decision is one.decisions[0], "requested_by": asker(one, decision)}
    return told


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _limits(starts_limits: StartsLimits) -> dict[str, Any]:
    return {"limited": list(starts_limits), "limits": list(starts_limits.values())}


def _storable(value: str | None) -> str | None:
    """PostgreSQL has no NUL in text."""
    return None if value is None else value.replace("\x00", "\N{REPLACEMENT CHARACTER}")

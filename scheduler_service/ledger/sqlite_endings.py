"""How attempts end on SQLite: each verb one short transaction, begun as a writer; none needs the lease."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from scheduler_service.ledger import Finished, LostAttempt, StartsLimits
from scheduler_service.ledger.reading import LedgerReads
from scheduler_service.model import Reason, State

MICROSECONDS = 1_000_000


class SqliteEndings(LedgerReads):
    """The part of the ledger that closes attempts, frees slots and lets runs wait again."""

    def unstart(self, instance_id: str, attempt_ids: Sequence[int]) -> int:
        """Delete attempts that certainly never began; their runs wait again, for what they waited for before."""
        count = 0
        with self._database.transaction() as connection:
            for attempt_id in attempt_ids:
                for run_id, number in self._on(
                    connection,
                    """delete from {p}run_attempt where id = :attempt and instance_id = :me and state = 'running'
                       returning run_id, attempt""",
                    attempt=attempt_id,
                    me=instance_id,
                ):
                    count += len(
                        self._on(
                            connection,
                            """update {p}run
                                  set state = case when cancel_requested_at is null then 'waiting' else 'cancelled' end,
                                      reason = case when cancel_requested_at is not null then null
                                                    when :number = 1 then
                                                      case kind when 'manual' then 'requested' else 'queued' end
                                                    when exists (select 1 from {p}run_attempt a where a.run_id = :run
                                                                    and a.attempt = :number - 1 and a.state = 'lost')
                                                    then 'rerun' else 'retry' end,
                                      attempt = attempt - 1, slot_held = 0
                                where id = :run and attempt = :number and state = 'running' returning id""",
                            run=run_id,
                            number=number,
                        )
                    )
        return count

    def finish(self, finished: Sequence[Finished]) -> None:
        """Close attempts, and their runs where the attempt is the newest."""
        with self._database.transaction() as connection:
            for one in finished:
                self._finish_one(connection, one)

    def sign_out(self, instance_id: str, starts_limits: StartsLimits) -> None:
        """Close what is still open under this name as lost, free its slots and remove its row."""
        with self._database.transaction() as connection:
            self._on(connection, "delete from {p}replica where instance_id = :gone", gone=instance_id)
            self.close_left_open(connection, instance_id, starts_limits)

    def _finish_one(self, connection: Connection, one: Finished) -> None:
        attempt, outcome = one.attempt, one.outcome
        ours = "select 1 from {p}run_attempt where id = :attempt and started_at = :began"
        # A backup that was restored gives numbers again; the moment tells their attempts apart.
        if not self._on(connection, ours, attempt=attempt.id, began=self.stamp(attempt.started_at)):
            return
        closed = self._on(
            connection,
            """update {p}run_attempt set state = :state, error = :error, exit_code = :exit_code, result = :result,
                 peak_memory_bytes = :memory, finished_at = started_at + :microseconds
                where id = :attempt and state in ('running', 'lost') returning finished_at""",
            attempt=attempt.id,
            state=str(outcome.state),
            error=outcome.error,
            exit_code=outcome.exit_code,
            result=outcome.result,
            memory=outcome.peak_memory_bytes,
            microseconds=round(outcome.seconds * MICROSECONDS),
        )
        newest = {"run": attempt.run_id, "number": attempt.attempt}
        for (finished_at,) in closed:
            again = outcome.retry_seconds is not None
            self._on(
                connection,
                """update {p}run
                      set state = case when :again and cancel_requested_at is null then 'waiting' else :state end,
                          reason = case when :again and cancel_requested_at is null then 'retry' end,
                          due_at = case when :again and cancel_requested_at is null then :again_at else due_at end
                    where id = :run and attempt = :number and state in ('running', 'lost', 'waiting')""",
                **newest,
                state=str(outcome.state),
                again=again,
                again_at=finished_at + round((outcome.retry_seconds or 0.0) * MICROSECONDS),
            )
        if outcome.returned:
            self._on(connection, "update {p}run set slot_held = 0 where id = :run and attempt = :number", **newest)
        if outcome.output:
            self._on(
                connection,
                """insert into {p}run_output (attempt_id, text, truncated)
                   select id, :text, :truncated from {p}run_attempt where id = :attempt
                   on conflict (attempt_id) do update set text = excluded.text, truncated = excluded.truncated""",
                attempt=attempt.id,
                text=outcome.output,
                truncated=outcome.truncated,
            )

    def close_left_open(
        self, connection: Connection, instance_id: str, starts_limits: StartsLimits
    ) -> list[LostAttempt]:
        """Close the attempts that a replica left open, and free its slots."""
        lost = self._on(
            connection,
            """update {p}run_attempt set state = 'lost', finished_at = {now}
                where instance_id = :gone and state = 'running' returning id, run_id, attempt""",
            gone=instance_id,
        )
        closed = []
        for attempt_id, run_id, number in lost:
            newest = self._on(
                connection,
                """select job_id, scheduled_at, cancel_requested_at from {p}run
                    where id = :run and attempt = :number and state <> 'waiting'""",
                run=run_id,
                number=number,
            )
            for job_id, scheduled_at, cancel_requested_at in newest:
                again = cancel_requested_at is None and number < starts_limits.get(job_id, 0)
                self._on(
                    connection,
                    """update {p}run set state = :state, reason = :reason, slot_held = 0,
                         due_at = case when :again then {now} else due_at end where id = :run""",
                    state=str(State.WAITING if again else State.LOST),
                    reason=str(Reason.RERUN) if again else None,
                    again=again,
                    run=run_id,
                )
                closed.append(LostAttempt(attempt_id, run_id, number, job_id, self.known_moment(scheduled_at), again))
        self._on(
            connection,
            """update {p}run set slot_held = 0 where lock_id = :lock_id and slot_held and exists (
                 select 1 from {p}run_attempt a
                  where a.run_id = run.id and a.attempt = run.attempt and a.instance_id = :gone)""",
            gone=instance_id,
        )
        return closed

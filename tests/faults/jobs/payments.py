"""A job whose effect is a row in the service's own database."""

import os

from sqlalchemy import text

from scheduler_service.context import RunContext


def pay(run: RunContext) -> None:
    """Write a row in one transaction with the run's success."""
    with run.transaction() as connection:
        connection.execute(
            text("insert into public.payment (run_id, attempt, pid) values (:run_id, :attempt, :pid)"),
            {"run_id": run.run_id, "attempt": run.attempt, "pid": os.getpid()},
        )
        run.stopping.wait(0.05)

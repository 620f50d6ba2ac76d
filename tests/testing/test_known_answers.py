"""The simulation against what it did not make: known answers, and the service itself."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scheduler_service.testing import Scheduler
from tests import forked
from tests.unit.test_policy import CORRECTED, VECTORS
from tests.waiting import wait_until

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TICK = timedelta(milliseconds=200)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["title"] for vector in VECTORS])
def test_a_stretch_without_a_leader_is_caught_up_as_known(worlds: Scheduler, vector: dict[str, Any]) -> None:
    # As defaults, because some of them have no effect beside others, which a job may not ask for.
    policies = {
        "misfire_grace": f"{vector['grace_s']}s",
        "catch_up": vector["policy"],
        "catch_up_window": f"{vector['window_s']}s",
        "catch_up_limit": vector["limit"],
    }
    bounds = {"ends_at": vector["not_after"]} if vector["not_after"] else {}
    job = {"command": "true", "cron": vector["expr"], "timezone": vector["tz"], **bounds}
    world = worlds.jobs({"a": job}, defaults=policies)
    world.no_leader(vector["watermark"], vector["now"])
    runs = world.run(vector["watermark"], vector["now"])
    words = {"scheduled": "run", "catch_up": "catch_up"}
    decided = {
        tick.scheduled_at: words[tick.run.kind] if tick.run is not None else f"{tick.decision}:{tick.reason}"
        for tick in runs.ticks("a")
    }
    assert decided == {
        datetime.fromisoformat(one["tick"]): CORRECTED.get((vector["title"], one["tick"]), one["decision"])
        for one in vector["decisions"]
    }


def test_a_run_of_the_service_itself_decides_the_same_ticks(worlds: Scheduler, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "tick.py").write_text("def main(word):\n    print(word)\n")
    config = {
        "version": 1,
        "http": {"enabled": False},
        "jobs": {
            "often": {"run": "tick:main", "args": ["a"], "every": "200ms", "overlap": "allow", "catch_up": "all"},
            "seldom": {"run": "tick:main", "args": ["b"], "every": "600ms", "overlap": "allow", "catch_up": "all"},
        },
    }
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(config))
    process = forked.start(("run", "-c", str(file)), tmp_path, {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        wait_until(lambda: counted(tmp_path / "scheduler.db") >= 20)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    with sqlite3.connect(tmp_path / "scheduler.db") as database:
        spans = {
            job: (moment(since), moment(until))
            for job, since, until in database.execute("select job_id, accountable_from, settled_until from job_state")
        }
        rows = database.execute("select job_id, scheduled_at, kind, state from run order by scheduled_at").fetchall()
    database.close()
    for job, (since, until) in spans.items():
        real = [(moment(at), kind, state) for name, at, kind, state in rows if name == job]
        runs = worlds.load(file).run(since, until)
        assert [(tick.scheduled_at, tick.run.kind, tick.decision) for tick in runs.ticks(job) if tick.run] == real
        assert len(real) >= 5


def moment(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


def counted(file: Path) -> int:
    if not file.exists():
        return 0
    database = sqlite3.connect(file)
    try:
        return int(database.execute("select count(*) from run where state = 'succeeded'").fetchone()[0])
    except sqlite3.OperationalError:  # its tables are being made
        return 0
    finally:
        database.close()

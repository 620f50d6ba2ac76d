"""Functions that are called in a simulation: as the service calls them, at the moment that it shows."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from scheduler_service.config import ConfigError
from scheduler_service.testing import Scheduler
from scheduler_service.testing.moments import iso

NOON, ONE = "2026-05-05T12:00Z", "2026-05-05T13:00Z"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write the module jobs/report.py."""

    def write(source: str) -> None:
        (tmp_path / "jobs").mkdir(exist_ok=True)
        (tmp_path / "jobs" / "report.py").write_text(textwrap.dedent(source))

    return write


def report(**settings: Any) -> dict[str, dict[str, Any]]:
    return {"report": {"run": "report:main", "every": "20m", **settings}}


def test_a_function_asks_for_the_time_and_gets_the_simulated_moment(worlds: Scheduler, write: Any) -> None:
    write(
        """
        from datetime import datetime, timezone
        import time

        def main():
            return datetime.now(timezone.utc).isoformat(timespec="minutes"), round(time.time()) // 60 * 60
        """
    )
    runs = worlds.jobs(report(), call=True).run(NOON, ONE)
    assert [run.starts[0].result for run in runs.of("report")] == [
        "('2026-05-05T12:20+00:00', 1777983600)",
        "('2026-05-05T12:40+00:00', 1777984800)",
        "('2026-05-05T13:00+00:00', 1777986000)",
    ]


def test_a_function_gets_its_arguments_and_its_run(worlds: Scheduler, write: Any) -> None:
    write(
        """
        from scheduler_service.context import RunContext, current_run

        def main(run: RunContext, *names, days):
            assert current_run() is run
            print("to", *names)
            return f"{run.job} {run.scheduled_at:%H:%M} attempt {run.attempt} on {run.instance}, {names} {days}"
        """
    )
    runs = worlds.jobs(report(args=["a", "b"], kwargs={"days": 3}), call=True).run(NOON, "2026-05-05T12:30Z")
    ((start,),) = [run.starts for run in runs.of("report")]
    assert start.result == "\"report 12:20 attempt 1 on replica-1, ('a', 'b') 3\""
    assert start.output == "to a b\n"
    assert (start.args, start.kwargs) == (("a", "b"), {"days": 3})


def test_what_a_function_raises_decides_how_its_run_goes_on(worlds: Scheduler, write: Any) -> None:
    write(
        """
        from scheduler_service.context import GiveUp, RetryLater

        STARTS = []

        def main():
            STARTS.append(1)
            if len(STARTS) == 1:
                raise OSError("the disk is full")
            if len(STARTS) == 2:
                raise RetryLater(300)
            raise GiveUp("no use")
        """
    )
    world = worlds.jobs(report(every="1h", retry={"attempts": 9, "delay": "1m"}), call=True)
    (run,) = world.run(NOON, "2026-05-05T13:59Z").of("report")
    assert [iso(start.at)[11:19] for start in run.starts] == ["13:00:00", "13:01:00", "13:06:00"]
    assert run.state == "failed"
    assert "OSError: the disk is full" in str(run.starts[0].error)


def test_a_coroutine_is_awaited_on_a_clock_that_goes_on(worlds: Scheduler, write: Any) -> None:
    write(
        """
        import asyncio
        from datetime import datetime, timezone

        async def main():
            await asyncio.sleep(0.001)
            return datetime.now(timezone.utc).hour
        """
    )
    runs = worlds.jobs(report(every="1h"), call=True).run(NOON, ONE)
    assert runs.of("report")[0].starts[0].result == "13"


def test_a_function_may_be_said_to_take_long_and_holds_its_slot_for_so_long(worlds: Scheduler, write: Any) -> None:
    write("def main():\n    return 'done'\n")
    world = worlds.jobs(report(timeout="10m"), call=True)
    world.takes("report", ["5m", "30m"])
    runs = world.run(NOON, "2026-05-05T13:05Z")
    assert [tick.decision for tick in runs.ticks("report")] == ["succeeded", "timed_out", "skipped"]


def test_a_function_in_a_process_of_its_own_is_called_here(worlds: Scheduler, write: Any) -> None:
    write("import os\n\ndef main():\n    return os.getpid()\n")
    runs = worlds.jobs(report(isolation="process", every="1h"), call=True).run(NOON, ONE)
    assert runs.of("report")[0].state == "succeeded"


def test_the_streams_are_as_they_were(worlds: Scheduler, write: Any) -> None:
    write("def main():\n    print('hello')\n")
    streams = sys.stdout, sys.stderr
    worlds.jobs(report(), call=True).run(NOON, ONE)
    assert (sys.stdout, sys.stderr) == streams


def test_functions_that_cannot_be_called_are_told_at_once(worlds: Scheduler, write: Any) -> None:
    write("def main(folder):\n    pass\n")
    with pytest.raises(ConfigError, match="needs 'folder'"):
        worlds.jobs(report(), call=True)


def test_a_function_says_itself_how_it_ends(worlds: Scheduler, write: Any) -> None:
    write("def main():\n    pass\n")
    world = worlds.jobs({**report(), "backup": {"command": "false", "every": "1h"}}, call=True)
    with pytest.raises(ValueError, match="its function says how it ends"):
        world.ends("report", "failed")
    world.ends("backup", "failed")
    assert world.run(NOON, ONE).of("backup")[0].state == "failed"


def test_without_freezegun_a_test_is_told_what_to_do(
    worlds: Scheduler, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("def main():\n    return 'called'\n")
    monkeypatch.setitem(sys.modules, "freezegun", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'scheduler-service\[testing\]'"):
        worlds.jobs(report(), call=True)
    runs = worlds.jobs(report(), call=True, frozen=False).run(NOON, ONE)
    assert runs.of("report")[0].starts[0].result == "'called'"

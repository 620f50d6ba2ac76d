"""Every kind of job, and every way in which one may end: state, words, exit code, output, and what is left."""

from __future__ import annotations

import os
import re
import textwrap
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from scheduler_service.model import Attempt, Isolation, Outcome, State
from tests.runner.conftest import Bench
from tests.runner.process_table import children, descriptors, marked, none_outlives, parent
from tests.waiting import wait_until

SHORT = timedelta(seconds=0.3)
AMPLE = timedelta(minutes=1)  # for what obeys, however slow the machine


@dataclass(frozen=True)
class Way:
    kind: str
    name: str
    body: str  # of the function, after print("hello"); or a shell script, after echo hello
    state: State
    error: str | None = None  # a pattern for all of it
    exit_code: int | None = None
    output: str = "hello\n"
    limited: bool = False
    returned: bool = True

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


THREAD, COROUTINE, PROCESS, PROCESS_COROUTINE, COMMAND = (
    "thread", "coroutine", "process", "coroutine in a process", "command",
)  # fmt: skip
FUNCTIONS = (THREAD, COROUTINE, PROCESS, PROCESS_COROUTINE)
PROCESSES = (PROCESS, PROCESS_COROUTINE)
TRACEBACK = r'Traceback \(most recent call last\):\n  File ".*tidy.py", line \d+, in main\n(.*\n)*ValueError: no way'
CLEANS_UP = 'try:\n    {sleep}\nfinally:\n    print("cleaned up")'
STAYS = 'import os, time\nwhile not os.path.exists("{gate}"):\n    time.sleep(0.005)\nprint("at last")'
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True:\n    time.sleep(0.05)"

WAYS = [
    *(Way(kind, "returns", "return 3", State.SUCCEEDED) for kind in FUNCTIONS),
    *(Way(kind, "raises", "raise ValueError('no way')", State.FAILED, TRACEBACK) for kind in FUNCTIONS),
    *(Way(kind, "exits with 0", "sys.exit()", State.SUCCEEDED, None, 0) for kind in FUNCTIONS),
    *(Way(kind, "exits with 3", "sys.exit(3)", State.FAILED, "exit code 3", 3) for kind in FUNCTIONS),
    *(Way(kind, "exits with words", "sys.exit('no disk')", State.FAILED, "no disk", 1) for kind in FUNCTIONS),
    Way(
        THREAD, "times out", "while True:\n    run.check()", State.TIMED_OUT, r"timed out after 0\.3s", limited=True,
    ),
    Way(
        COROUTINE, "times out", CLEANS_UP.format(sleep="await asyncio.sleep(600)"), State.TIMED_OUT,
        r"timed out after 0\.3s", output="hello\ncleaned up\n", limited=True,
    ),
    Way(
        PROCESS, "times out", CLEANS_UP.format(sleep="time.sleep(600)"), State.TIMED_OUT,
        r"timed out after 0\.3s", output="hello\ncleaned up\n", limited=True,
    ),
    Way(
        PROCESS_COROUTINE, "times out", CLEANS_UP.format(sleep="await asyncio.sleep(600)"), State.TIMED_OUT,
        r"timed out after 0\.3s", output="hello\ncleaned up\n", limited=True,
    ),
    *(
        Way(
            kind, "ends well when its time is over", "while not run.stopping.wait(0.01):\n    pass\nreturn 3",
            State.TIMED_OUT, r"timed out after 0\.3s", limited=True,
        )
        for kind in (THREAD, PROCESS)
    ),
    *(
        Way(
            kind, "ignores its time-out", STAYS, State.TIMED_OUT, r"timed out after 0\.3s; it has not returned",
            limited=True, returned=False,
        )
        for kind in (THREAD, COROUTINE)
    ),
    *(
        Way(
            kind, "ignores its time-out", DEAF, State.TIMED_OUT,
            r"timed out after 0\.3s; it ignored SIGTERM and was killed 0\.3s later", 137, limited=True,
        )
        for kind in PROCESSES
    ),
    *(
        Way(
            kind, "dies by os._exit", "os._exit(4)", State.FAILED,
            "exit code 4: its process ended before its function did", 4,
        )
        for kind in PROCESSES
    ),
    *(
        Way(
            kind, "dies by os._exit(0)", "os._exit(0)", State.FAILED,
            "exit code 0: its process ended before its function did", 0,
        )
        for kind in PROCESSES
    ),
    *(
        Way(
            kind, "is killed", "os.kill(os.getpid(), 9)", State.FAILED,
            r"killed by SIGKILL \(by a person, or by the kernel because memory ran out\)", 137,
        )
        for kind in PROCESSES
    ),
    *(
        Way(
            kind, "crashes", "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); ctypes.string_at(0)", State.FAILED,
            "killed by SIGSEGV", 139, output=r"hello\nFatal Python error: Segmentation fault\n(.*\n)*.*tidy.py(.*\n)*",
        )
        for kind in PROCESSES
    ),
    *(
        Way(kind, "aborts", "faulthandler.disable(); os.abort()", State.FAILED, "killed by SIGABRT", 134)
        for kind in PROCESSES
    ),
    Way(COMMAND, "returns", "exit 0", State.SUCCEEDED, None, 0),
    Way(COMMAND, "exits with 3", "exit 3", State.FAILED, "exit code 3", 3),
    Way(
        COMMAND, "times out", "trap 'echo cleaned up; exit 0' TERM; while :; do sleep 0.01; done", State.TIMED_OUT,
        r"timed out after 0\.3s", 0, output="hello\n(Terminated\n)?cleaned up\n", limited=True,
    ),
    Way(
        COMMAND, "ignores its time-out", "trap '' TERM; while :; do sleep 0.01; done", State.TIMED_OUT,
        r"timed out after 0\.3s; it ignored SIGTERM and was killed 0\.3s later", 137, limited=True,
    ),
    Way(COMMAND, "is killed", "kill -KILL $$", State.FAILED, "killed by SIGKILL", 137),
]  # fmt: skip


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, own_template: None) -> Iterator[str]:
    """What stands in the environment of every process that this test starts; to be asked for before `bench`."""
    name = uuid.uuid4().hex
    monkeypatch.setenv("SCHEDULER_TEST_MARK", name)
    with none_outlives(f"SCHEDULER_TEST_MARK={name}"):
        yield f"SCHEDULER_TEST_MARK={name}"


def perform(bench: Bench, way: Way, gate: Path) -> Outcome:
    obeys = way.name != "ignores its time-out"
    limits = {"timeout": SHORT, "kill_after": AMPLE if obeys else SHORT} if way.limited else {}
    if way.kind == COMMAND:
        return bench.command(f"echo hello\n{way.body}", **limits)
    keyword = "async def" if way.kind in (COROUTINE, PROCESS_COROUTINE) else "def"
    isolation = Isolation.PROCESS if way.kind in PROCESSES else Isolation.THREAD
    body = textwrap.indent(way.body.replace("{gate}", str(gate)), "    ")
    source = (
        "import asyncio, ctypes, faulthandler, os, resource, sys, time\n"
        "from scheduler_service.context import RunContext\n"
        f"{keyword} main(run: RunContext):\n    print('hello')\n{body}\n"
    )
    return bench.function(source, isolation=isolation, **limits)


def long_or_not(way: Way) -> ParameterSet:
    """A process dies of the same things whether its function is a coroutine or not: once is enough to begin with."""
    again = way.kind == PROCESS_COROUTINE and way.state is State.FAILED and way.name not in ("raises", "exits with 3")
    return pytest.param(way, id=str(way), marks=[pytest.mark.long] if again else [])


@pytest.mark.parametrize("way", [long_or_not(way) for way in WAYS])
def test_each_way_to_end_is_told_as_it_was_and_leaves_nothing(mark: str, bench: Bench, way: Way, tmp_path: Path):
    returned: list[tuple[Attempt, Outcome]] = []
    bench.runner.on_returned = lambda attempt, outcome: returned.append((attempt, outcome))
    threads, before, gate = threading.active_count(), children(), tmp_path / "gate"

    outcome = perform(bench, way, gate)

    assert outcome.state is way.state
    assert (outcome.error is None) == (way.error is None)
    assert re.fullmatch(way.error or "", outcome.error or ""), outcome.error
    assert outcome.exit_code == way.exit_code
    assert re.fullmatch(way.output, outcome.output), outcome.output
    assert outcome.result == ("3" if way.name == "returns" and way.kind != COMMAND else None)
    assert outcome.returned == way.returned
    assert outcome.seconds >= (SHORT.total_seconds() if way.limited else 0)
    assert (outcome.peak_memory_bytes is not None) == (way.kind in PROCESSES)
    assert outcome.retry_seconds is None
    assert returned == []

    gate.touch()
    if not way.returned:
        wait_until(lambda: returned)
        late = returned[0][1]
        assert (late.returned, late.state, late.error) == (True, outcome.state, outcome.error)
        assert (late.seconds, late.output) == (outcome.seconds, "hello\nat last\n")
    wait_until(lambda: threading.active_count() == threads)
    bench.runner.close()
    wait_until(lambda: not marked(mark))  # a supervisor that has told all may be about to end
    assert children() == before


@pytest.mark.parametrize("runs", [40, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", PROCESSES)
def test_no_descriptor_thread_or_process_is_left_by_many_runs(mark: str, bench: Bench, runs: int, kind: str):
    keyword = "async def" if kind == PROCESS_COROUTINE else "def"
    bench.write(f"import os\n{keyword} main(number):\n    if number % 2: os._exit(1)\n    return number")

    def run_one(number: int) -> None:
        outcome = bench.run(run="tidy:main", args=(number,), isolation=Isolation.PROCESS)
        assert outcome.state is (State.FAILED if number % 2 else State.SUCCEEDED)

    run_one(0)
    before = (threading.active_count(), sorted(descriptors()), children())
    template = next(one for one in marked(mark) if parent(one) == os.getpid())
    wait_until(lambda: len(marked(mark)) == 3)  # with the child that is kept for the next run, and its supervisor
    held = len(descriptors(template))
    for number in range(runs):
        run_one(number)
    assert (threading.active_count(), len(descriptors()), children()) == (before[0], len(before[1]), before[2])
    wait_until(lambda: len(marked(mark)) == 3)
    assert len(descriptors(template)) == held
    wait_until(lambda: children(str(template)) == 1)

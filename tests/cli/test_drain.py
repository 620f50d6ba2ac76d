"""How a replica ends: on SIGTERM, on a second signal, when the grace is over, and with a database that hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select

from scheduler_service.clock import BootClock
from scheduler_service.config import load
from scheduler_service.database import Database, StoreUnavailable
from scheduler_service.events import Event, Events
from scheduler_service.ledger import Finished, SignedIn
from scheduler_service.mailbox import Mailbox
from scheduler_service.service import Service, assemble
from scheduler_service.tables import run, run_attempt
from tests.cli.conftest import PROCESS_SECONDS, Command, process_environment
from tests.cli.test_run import Replica
from tests.servers import PostgresServer
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
CONFIG = """\
version: 1
service: {{shutdown_grace: {grace}}}
database: {{url: "{url}"}}
election: {{lease_duration: 2s, renewal_interval: 300ms, jitter_range: 100ms, attempt_timeout: 500ms, safety_margin: 200ms}}
jobs:
  patient:
    command: trap '' TERM; echo begun >> begun.txt; until [ -e go ]; do sleep 0.05; done
    every: 100ms
    kill_after: 300ms
"""  # noqa: E501
STARTING_A_THREAD = """
import os, signal, threading, time
from types import SimpleNamespace
from scheduler_service import service
from scheduler_service.clock import BootClock
from scheduler_service.events import Events
from scheduler_service.mailbox import Mailbox
service.HURRY_SECONDS = 0.1
one = service.Service(None, SimpleNamespace(clock=BootClock(), events=Events(), inbox=Mailbox()))
one._take_signals()
one._signalled = True
with threading._active_limbo_lock:  # as when a thread is started
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""
BRIEF = """\
version: 1
service: {{shutdown_grace: 100ms}}
database: {{url: "{url}"}}
jobs:
  brief: {{command: "true", every: 100ms, on_crash: rerun}}
"""
ENDLESS = """\
version: 1
service: {{shutdown_grace: {grace}}}
database: {{url: "{url}"}}
jobs:
  endless: {{run: "endless:main", every: 100ms, kill_after: 100ms}}
"""
BURST = """\
version: 1
service: {{shutdown_grace: {grace}}}
database: {{url: "{url}"}}
workers: {{threads: 1}}
jobs:
  one: {{run: "burst:main", every: 1s}}
  two: {{run: "burst:main", every: 1s}}
  three: {{run: "burst:main", every: 1s}}
  four: {{run: "burst:main", every: 1s}}
"""
STAYING = """\
version: 1
service: {{shutdown_grace: {grace}}}
database: {{url: "{url}"}}
jobs:
  staying: {{run: "staying:main", kwargs: {{folder: "{folder}"}}, every: 100ms, kill_after: 1m}}
"""
UNTIL_LET_GO = """
import pathlib, time
from scheduler_service import RunContext
def main(ctx: RunContext, folder: str):
    ctx.stopping.wait()
    pathlib.Path(folder, "asked").touch()
    while not pathlib.Path(folder, "go").exists():
        time.sleep(0.01)
    ctx.check()
"""
QUICK_AT_FIRST = """
import pathlib
from scheduler_service import RunContext
def main(ctx: RunContext):
    if pathlib.Path('stay').exists():
        pathlib.Path('begun.txt').write_text('begun')
        ctx.stopping.wait()
        ctx.check()
"""
FOR_EVER = """
import pathlib, time
from concurrent.futures import ThreadPoolExecutor
def for_ever():
    pathlib.Path('begun.txt').write_text('begun')
    while True:
        time.sleep(0.05)
"""
HANGING_IN_THE_START = """
import os, signal, sys, time
from scheduler_service import service, tables
from scheduler_service.cli import main
service.HURRY_SECONDS = 0.1
def hang(*_, **__):
    for _ in range(int(sys.argv[2])):
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(600)
owner, name = {"database": (tables, "upgrade"), "parts": (service.Service, "_start")}[sys.argv[1]]
setattr(owner, name, hang)
main(["run", "--port", "0"])
"""
Start = Callable[..., Replica]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a replica, whose job runs until a file `go` is there unless `config` says otherwise."""
    replicas: list[Replica] = []

    def one(url: str = "sqlite:///scheduler.db", grace: str = "60s", config: str = CONFIG) -> Replica:
        (tmp_path / "config.yaml").write_text(config.format(url=url, grace=grace))
        replicas.append(Replica(tmp_path, f"replica-{len(replicas)}"))
        return replicas[-1]

    yield one
    for replica in replicas:
        with contextlib.suppress(ProcessLookupError):
            os.kill(replica.process.pid, signal.SIGKILL)
        replica.process.wait(PROCESS_SECONDS)


def begun(folder: Path, count: int = 1) -> None:
    path = folder / "begun.txt"
    wait_until(lambda: path.exists() and path.read_text().count("begun") >= count, PROCESS_SECONDS)


def states(process: Command, folder: Path) -> list[str]:
    runs = process("runs", "patient", "--limit", 1000, "--json", folder=folder).document
    return [run["state"] for run in runs if run["attempt"]]


def test_a_drain_gives_the_lease_back_first_and_lets_the_run_finish(
    start: Start, process: Command, tmp_path: Path
) -> None:
    first = start()
    begun(tmp_path)
    second = start()
    second.wait_for("leader_observed")
    first.process.send_signal(signal.SIGTERM)
    second.wait_for("leader_elected")  # while the run goes on
    assert first.process.poll() is None
    assert states(process, tmp_path) == ["running"]
    (tmp_path / "go").touch()
    assert first.process.wait(PROCESS_SECONDS) == 0
    assert states(process, tmp_path)[-1] == "succeeded"


def test_when_the_grace_is_over_what_still_runs_is_killed(start: Start, process: Command, tmp_path: Path) -> None:
    replica = start(grace="100ms")
    begun(tmp_path)
    assert replica.end(signal.SIGTERM) == 1
    assert states(process, tmp_path) == ["cancelled"]


def test_what_died_with_its_replica_in_peace_is_run_again_if_its_job_says_so(
    start: Start, process: Command, tmp_path: Path
) -> None:
    config = CONFIG.replace("kill_after: 300ms", "kill_after: 300ms\n    on_crash: rerun")
    replica = start(grace="100ms", config=config)
    begun(tmp_path)
    assert replica.end(signal.SIGTERM) == 1
    assert states(process, tmp_path) == ["waiting"]
    (told,) = replica.events("run_retrying")
    assert told["state"] == "cancelled"
    assert told["error"].startswith("stopped: the replica is stopping")
    start(config=config)
    begun(tmp_path, 2)
    (tmp_path / "go").touch()
    wait_until(lambda: states(process, tmp_path)[-1] == "succeeded", PROCESS_SECONDS)


def test_what_no_worker_has_begun_when_the_grace_is_over_waits_again(
    start: Start, process: Command, tmp_path: Path
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "burst.py").write_text(QUICK_AT_FIRST)
    replica = start(grace="100ms", config=BURST)
    wait_until(lambda: len(replica.events("run_finished")) >= 8, PROCESS_SECONDS)  # now its worker takes runs ahead
    (tmp_path / "stay").touch()
    begun(tmp_path)
    assert replica.end(signal.SIGTERM) == 1
    runs = process("runs", "--limit", 1000, "--json", folder=tmp_path).document
    ended = [run["state"] for run in runs if run["attempt"]]
    assert sorted(set(ended)) == ["cancelled", "succeeded"]
    assert ended.count("cancelled") == 1


@pytest.mark.parametrize("answered", [True, False], ids=["late", "never"])
def test_a_start_that_is_not_answered_before_the_grace_is_over_begins_nothing_and_its_run_waits_again(
    tmp_path: Path, store_url: str, answered: bool
) -> None:
    (tmp_path / "config.yaml").write_text(BRIEF.format(url=store_url))
    told: list[Event] = []
    events, over = Events(), threading.Event()
    events.subscribe(told.append)
    config = load(tmp_path / "config.yaml")
    parts = assemble(config, events)
    start, claimed, pending = parts.ledger.start, parts.ledger.claimed, parts.results.pending

    def lose_the_reply(*arguments: Any) -> Any:
        if start(*arguments):
            os.kill(os.getpid(), signal.SIGTERM)
            raise StoreUnavailable("the reply was lost")
        return []

    def claim(*arguments: Any) -> Any:
        if not over.is_set():
            raise StoreUnavailable("it is away")
        return claimed(*arguments)

    def look() -> Any:  # when what runs has been looked at, to be stopped
        if answered and not over.is_set():
            over.set()
            wait_until(lambda: not parts.dispatcher.open_claims(), PROCESS_SECONDS)
        return pending()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts.ledger, "start", lose_the_reply)
        patch.setattr(parts.ledger, "claimed", claim)
        patch.setattr(parts.results, "pending", look)
        assert Service(config, parts).run() == 1
    assert over.is_set() is answered
    assert "run_started" not in [event.name for event in told]
    database = Database(store_url)
    with database.connect() as connection:
        rows = connection.execute(select(run.c.state, run.c.reason, run.c.attempt).where(run.c.state != "skipped"))
        assert [tuple(row) for row in rows] == [("waiting", "queued", 0)]
        assert connection.execute(select(run_attempt)).all() == []
    database.dispose()


@pytest.mark.parametrize(("on_crash", "then"), [("fail", "lost"), ("rerun", "waiting")])
def test_a_run_whose_function_does_not_return_is_lost_when_the_replica_signs_out(
    start: Start, process: Command, tmp_path: Path, on_crash: str, then: str
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "endless.py").write_text(f"{FOR_EVER}\nmain = for_ever\n")
    config = ENDLESS.replace("kill_after: 100ms", f"kill_after: 100ms, on_crash: {on_crash}")
    replica = start(grace="100ms", config=config)
    begun(tmp_path)
    assert replica.end(signal.SIGTERM) == 1
    (ended,) = (one for one in process("runs", "--limit", 1000, "--json", folder=tmp_path).document if one["attempt"])
    assert (ended["state"], ended["attempt"]) == (then, 1)  # which began


def test_a_run_that_a_worker_is_handed_while_a_drain_looks_what_goes_on_is_waited_for() -> None:
    looks: list[str] = []

    def registry() -> list[str]:
        looks.append("the workers")
        return ["the run"] if len(looks) > 1 else []

    def open_claims() -> list[str]:
        looks.append("the dispatcher")
        return [] if len(looks) > 1 else ["the claim of the run"]

    parts: Any = SimpleNamespace(clock=BootClock(), events=Events(), inbox=Mailbox())
    parts.workers, parts.dispatcher = SimpleNamespace(registry=registry), SimpleNamespace(open_claims=open_claims)
    config: Any = None
    assert not Service(config, parts)._finish_runs(parts.clock.monotonic())


@pytest.mark.parametrize(
    ("part", "verb", "name", "code"),
    [
        pytest.param("results", "step", "results", 70, id="what ran would never be written"),
        pytest.param("workers", "_work", "worker-1", 70, id="what it ran would never end"),
        pytest.param("elector", "stop", "elector", 0, id="it has nothing to do any more"),
    ],
)
def test_a_drain_waits_for_nothing_that_a_thread_took_with_it_when_it_crashed(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, part: str, verb: str, name: str, code: int
) -> None:
    (tmp_path / "config.yaml").write_text(BRIEF.format(url=sqlite_url).replace("grace: 100ms", "grace: 20s"))
    told: list[Event] = []
    events, draining = Events(), threading.Event()
    events.subscribe(told.append)
    config = load(tmp_path / "config.yaml")
    parts = assemble(config, events)
    submit, submitted = parts.workers.submit, threading.Event()

    def end_with_a_run(*arguments: Any) -> None:
        submit(*arguments)
        if not submitted.is_set():  # a second signal would hurry
            submitted.set()
            os.kill(os.getpid(), signal.SIGTERM)

    def note(event: Event) -> None:
        if event.name == "service_draining":
            draining.set()

    def crash(*_: Any) -> None:
        draining.wait(PROCESS_SECONDS)
        raise RuntimeError("a mistake of ours")

    stop = parts.elector.stop

    def stop_badly(*arguments: Any) -> None:
        stop(*arguments)
        parts.events.emit("thread_crashed", thread="elector", error="a mistake of ours")

    events.subscribe(note)
    monkeypatch.setattr(parts.workers, "submit", end_with_a_run)
    monkeypatch.setattr(getattr(parts, part), verb, stop_badly if part == "elector" else crash)
    assert Service(config, parts).run() == code
    assert [event.fields["thread"] for event in told if event.name == "thread_crashed"] == [name]
    assert told[-1].name == "service_stopped"
    assert told[-1].fields["exit_code"] == code


def test_a_crash_in_a_drain_leaves_what_runs_its_time_to_end(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_service.service.CUT_SECONDS", 0.0)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "staying.py").write_text(UNTIL_LET_GO)
    (tmp_path / "config.yaml").write_text(STAYING.format(url=sqlite_url, grace="10m", folder=tmp_path))
    told: list[str] = []
    events, draining = Events(), threading.Event()
    config = load(tmp_path / "config.yaml")
    parts = assemble(config, events)
    asked, step = tmp_path / "asked", parts.progress.step

    def note(event: Event) -> None:
        told.append(event.name)
        if event.name == "run_started":
            os.kill(os.getpid(), signal.SIGTERM)
        elif event.name == "service_draining":
            draining.set()

    def crash() -> float:
        draining.wait(PROCESS_SECONDS)
        raise RuntimeError("a mistake of ours")

    def let_go() -> None:  # when it is waited for, though it was asked to stop
        step()
        if asked.exists():
            (tmp_path / "go").touch()

    events.subscribe(note)
    monkeypatch.setattr(parts.watch, "step", crash)
    monkeypatch.setattr(parts.progress, "step", let_go)
    try:
        assert Service(config, parts).run() == 70
        assert told.index("run_finished") < told.index("service_stopped")
    finally:
        (tmp_path / "go").touch()


def test_a_second_signal_stops_at_once(start: Start, process: Command, tmp_path: Path) -> None:
    replica = start(grace="10m")
    begun(tmp_path)
    replica.process.send_signal(signal.SIGTERM)
    replica.wait_for("service_draining")
    assert replica.end(signal.SIGTERM) == 1
    assert states(process, tmp_path)[0] in {"cancelled", "lost"}


def test_a_replica_does_not_wait_for_its_watch_before_it_signs_out(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_service.service.STOP_SECONDS", PROCESS_SECONDS)
    (tmp_path / "config.yaml").write_text(BRIEF.format(url=sqlite_url))
    events, stopped, ends = Events(), threading.Event(), threading.Event()

    def note(event: Event) -> None:
        if event.name == "service_stopped":
            stopped.set()

    events.subscribe(note)
    config = load(tmp_path / "config.yaml")
    parts = assemble(config, events)
    in_time: list[bool] = []

    def look() -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        in_time.append(stopped.wait(PROCESS_SECONDS / 4))
        ends.set()
        return 0.0

    monkeypatch.setattr(parts.watch, "step", look)
    Service(config, parts).run()
    assert ends.wait(PROCESS_SECONDS)
    assert in_time == [True]


def test_a_second_signal_in_the_middle_of_starting_a_thread_ends_it_too() -> None:
    command = [sys.executable, "-c", STARTING_A_THREAD]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, timeout=PROCESS_SECONDS / 2, check=False)
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("module", "grace", "code"),
    [
        pytest.param(
            """
            def main():
                with ThreadPoolExecutor() as pool:
                    pool.submit(for_ever)
            """,
            "100ms",
            1,
            id="its threads outlast the grace",
        ),
        pytest.param(
            """
            def main():
                ThreadPoolExecutor().submit(for_ever)
            """,
            "60s",
            0,
            id="it has returned, and left one behind",
        ),
    ],
)
def test_threads_that_a_job_has_started_do_not_hold_up_the_end(
    start: Start, tmp_path: Path, module: str, grace: str, code: int
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "endless.py").write_text(FOR_EVER + textwrap.dedent(module))
    replica = start(grace=grace, config=ENDLESS)
    begun(tmp_path)
    replica.wait_for("run_finished" if code == 0 else "run_started")
    assert replica.end(signal.SIGTERM) == code
    assert replica.events("service_stopped")


def test_a_thread_that_a_module_has_started_does_not_hold_up_the_end_of_a_command(
    process: Command, tmp_path: Path
) -> None:
    (tmp_path / "jobs").mkdir()
    module = f"{FOR_EVER}\nimport threading\nthreading.Thread(target=for_ever).start()\ndef main(): pass\n"
    (tmp_path / "jobs" / "endless.py").write_text(module)
    (tmp_path / "config.yaml").write_text(ENDLESS.format(url="sqlite:///scheduler.db", grace="1s"))
    process("check", folder=tmp_path)
    begun(tmp_path)


@pytest.mark.parametrize(("what", "signals", "code"), [("database", 1, 0), ("parts", 2, 1)])
def test_a_start_that_hangs_ends_with_the_first_signal_and_whatever_it_does_with_the_second(
    tmp_path: Path, what: str, signals: int, code: int
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.format(url="sqlite:///scheduler.db", grace="60s"))
    command = [sys.executable, "-c", HANGING_IN_THE_START, what, str(signals)]
    environment = process_environment()
    done = subprocess.run(command, cwd=tmp_path, env=environment, timeout=PROCESS_SECONDS / 2, check=False)
    assert done.returncode == code


@pytest.mark.root
def test_the_first_process_of_a_container_ends_while_it_loads(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "slow.py").write_text(
        "import pathlib, time\npathlib.Path('loads').touch()\ntime.sleep(600)\ndef main(): pass\n"
    )
    (tmp_path / "config.yaml").write_text("version: 1\njobs:\n  slow: {run: 'slow:main', every: 1s}\n")
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "scheduler_service", "run"]
    try:
        container = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare here (Debian: apt-get install util-linux)")
    with container, contextlib.ExitStack() as at_the_end:  # which waits for it, however the test ends
        at_the_end.callback(container.kill)
        wait_until(lambda: (tmp_path / "loads").exists() or container.poll() is not None, PROCESS_SECONDS)
        if container.poll() is not None and container.stderr is not None:
            said = container.stderr.read().strip()
            assert said.startswith("unshare:"), said
            pytest.skip(f"no process is the first one here: {said}")
        first = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text()
        os.kill(int(first), signal.SIGTERM)
        assert container.wait(PROCESS_SECONDS) == 128 + signal.SIGTERM


def test_a_run_may_finish_while_the_database_is_away(start: Start, tmp_path: Path, own_server: PostgresServer) -> None:
    replica = start(own_server.url)
    begun(tmp_path)
    own_server.stop("immediate")
    replica.wait_for("leadership_suspect")
    replica.process.send_signal(signal.SIGTERM)
    replica.wait_for("service_draining")
    (tmp_path / "go").touch()
    replica.wait_for("run_finished")
    own_server.start()
    assert replica.process.wait(PROCESS_SECONDS) == 0
    assert not replica.events("thread_crashed")
    with own_server.connect() as connection:
        rows = connection.execute("select state from scheduler.run_attempt").fetchall()
    assert [state for (state,) in rows] == ["succeeded"]


def test_a_result_that_cannot_be_written_is_told_of_and_not_waited_for_as_a_run_is(
    start: Start, tmp_path: Path, own_server: PostgresServer
) -> None:
    config = CONFIG.replace("kill_after: 300ms", "kill_after: 10m")
    replica = start(own_server.url, grace="100ms", config=config)
    begun(tmp_path)
    own_server.stop("immediate")
    replica.wait_for("leadership_suspect")
    (tmp_path / "go").touch()
    replica.wait_for("run_finished")
    assert replica.end(signal.SIGTERM) == 1
    (told,) = replica.events("results_given_up")
    assert (told["count"], told["jobs"]) == (1, "patient")


def test_a_result_that_can_be_written_again_before_the_replica_signs_out_is_written(
    tmp_path: Path, sqlite_url: str
) -> None:
    (tmp_path / "config.yaml").write_text(BRIEF.format(url=sqlite_url))
    told: list[Event] = []
    events, back = Events(), threading.Event()
    events.subscribe(told.append)

    def end(event: Event) -> None:
        if event.name == "run_finished":
            os.kill(os.getpid(), signal.SIGTERM)

    events.subscribe(end)
    config = load(tmp_path / "config.yaml")
    parts = assemble(config, events)
    written = parts.results._finish

    def finish(results: Sequence[Finished]) -> None:
        if not back.is_set():
            raise StoreUnavailable("it is away")
        written(results)

    sign_in = parts.ledger.sign_in

    def sign_in_again(replica: Any) -> SignedIn:
        if threading.current_thread().name == "sign_out":
            back.set()
        return sign_in(replica)

    parts.results._finish, parts.ledger.sign_in = finish, sign_in_again
    assert Service(config, parts).run() == 1
    names = [event.name for event in told]
    assert "service_stopped" in names
    assert "results_given_up" not in names
    database = Database(sqlite_url)
    with database.connect() as connection:
        assert connection.execute(select(run.c.state).where(run.c.attempt > 0)).scalars().all() == ["succeeded"]
    database.dispose()


def test_a_database_that_hangs_does_not_hold_up_the_end(
    start: Start, tmp_path: Path, own_server: PostgresServer
) -> None:
    replica = start(own_server.url, grace="100ms")
    begun(tmp_path)
    own_server.pause()
    try:
        replica.process.send_signal(signal.SIGTERM)
        replica.wait_for("service_draining")
        assert replica.process.wait(PROCESS_SECONDS) == 1
        assert not replica.events("thread_crashed")
    finally:
        own_server.resume()

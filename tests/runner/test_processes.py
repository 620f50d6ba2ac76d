"""Child processes: what they see, what they cannot hurt, and what becomes of them when others die."""

from __future__ import annotations

import contextlib
import logging
import os
import py_compile
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from scheduler_service import callables
from scheduler_service.context import Stopping
from scheduler_service.model import Isolation, Outcome, State
from scheduler_service.runner import needs_process
from scheduler_service.runner import output as outputs
from scheduler_service.runner.process import Template
from scheduler_service.runner.surroundings import Surroundings
from tests.runner.conftest import Bench, Running, a_job
from tests.runner.process_table import alive, children, descriptors, marked, none_outlives, number_in, parent
from tests.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]


def own(bench: Bench, source: str, stop: Stopping | None = None, **settings: object) -> Outcome:
    """Run the function `main` of `source` in a process of its own."""
    return bench.function(source, stop, isolation=Isolation.PROCESS, **settings)


def begin(bench: Bench, source: str, stop: Stopping | None = None, **settings: object) -> Running:
    bench.write(source)
    return bench.start(stop or Stopping(), run="tidy:main", isolation=Isolation.PROCESS, **settings)


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, own_template: None) -> Iterator[str]:
    """What stands in the environment of every process that this test starts; to be asked for before `bench`."""
    name = uuid.uuid4().hex
    monkeypatch.setenv("SCHEDULER_TEST_MARK", name)
    with none_outlives(f"SCHEDULER_TEST_MARK={name}"):
        yield f"SCHEDULER_TEST_MARK={name}"


def test_a_command_needs_no_process_of_the_pool():
    assert needs_process(a_job(run="tidy:main", isolation=Isolation.PROCESS))
    assert not needs_process(a_job(run="tidy:main"))
    assert not needs_process(a_job(command="true", isolation=Isolation.PROCESS))


# --- what a child sees


def test_a_child_is_told_which_run_it_is(bench: Bench):
    outcome = own(
        bench,
        """
        from scheduler_service.context import RunContext, current_run
        def main(run: RunContext):
            assert run == current_run()
            return [run.job, run.scheduled_at.isoformat(), run.due_at.isoformat(), run.term, run.fence,
                    run.attempt, run.run_id, run.instance, run.stopping.is_set(), run.check()]
        """,
    )
    noon = "'2026-11-23T12:00:00+00:00'"
    assert outcome.result == f"['tidy', {noon}, {noon}, 4, 7, 1, 70, 'web-1', False, None]"


def test_arguments_come_through_as_they_are(bench: Bench):
    args, kwargs = ([1, {"a": None}], 2.5), {"name": "ä", "when": timedelta(days=1)}
    outcome = own(
        bench,
        "def main(*args, **kwargs): return f'{args!r} {kwargs!r}'",
        args=args,
        kwargs=kwargs,
    )
    assert outcome.result == repr(f"{args!r} {kwargs!r}")


def test_arguments_that_no_other_process_can_be_given_are_a_failure_in_words(bench: Bench):
    outcome = own(bench, "def main(lock): pass", args=(threading.Lock(),))
    assert outcome.error == (
        "the arguments cannot be handed to a process of its own: TypeError: cannot pickle '_thread.lock' object"
    )


def test_environment_and_folder_are_the_jobs_own(bench: Bench, tmp_path: Path):
    (tmp_path / "there").mkdir()
    outcome = own(
        bench,
        """
        import os, subprocess, sys, time
        def main():
            print(os.getcwd())
            print(os.environ["OWN"], os.environ["SCHEDULER_FENCE"], time.strftime("%Z"), sys.argv, flush=True)
            subprocess.run(["sh", "-c", "echo $OWN $PWD"])
            print(sys.stdin.read() == "")
        """,
        env={"OWN": "a b", "TZ": "Asia/Tokyo"},
        working_directory=tmp_path / "there",
    )
    assert outcome.output == f"{tmp_path}/there\na b 7 JST ['tidy:main']\na b {tmp_path}/there\nTrue\n"


def test_a_template_that_starts_late_has_the_environment_and_the_umask_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORD", "of the replica")
    umask = os.umask(0o027)
    try:
        bench = Bench(tmp_path)
        changes = "os.environ['WORD'] = 'behind'; os.umask(0o077)"
        assert bench.function(f"import os\ndef main(): {changes}").state is State.SUCCEEDED
        found = "(os.environ['WORD'], os.umask(0))"
        assert own(bench, f"import os\ndef main(): return {found}").result == f"('of the replica', {0o027})"
        bench.runner.close()
    finally:
        os.umask(umask)


@pytest.mark.parametrize(
    ("folder", "error"),
    [
        ("/nope", "the working directory '/nope' does not exist"),
        ("/etc/passwd", "the working directory '/etc/passwd' is not a folder"),
    ],
)
def test_a_folder_that_is_not_there_is_a_failure_in_words(bench: Bench, folder: str, error: str):
    assert own(bench, "def main(): pass", working_directory=Path(folder)).error == error


def test_a_function_that_is_not_there_is_a_failure_in_words(bench: Bench):
    bench.write("def main(): pass")
    outcome = bench.run(run="tidy:mian", isolation=Isolation.PROCESS)
    assert outcome.error == "jobs/tidy.py has no function 'mian'; did you mean 'main'?"


@pytest.mark.usefixtures("own_template")
def test_packages_are_found_where_the_replica_finds_them(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "packages" / "treasure").mkdir(parents=True)
    (tmp_path / "packages" / "treasure" / "__init__.py").touch()
    (tmp_path / "packages" / "treasure" / "chest.py").write_text("def open_it(): return 'gold'")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    assert bench.run(run="treasure.chest:open_it", isolation=Isolation.PROCESS).result == "'gold'"


def test_a_file_in_the_working_directory_shadows_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "json.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    bench = Bench(tmp_path)
    try:
        assert own(bench, "import json\ndef main(): return json.dumps([3])").result == "'[3]'"
    finally:
        bench.runner.close()


def test_log_records_are_kept_as_those_of_threads_are(bench: Bench, caplog: pytest.LogCaptureFixture):
    source = """
    import logging
    def main():
        logging.getLogger("till").info("counted %d", 3)
        logging.getLogger("till").debug("silence")
    """
    with caplog.at_level(logging.INFO):
        assert own(bench, source).output == bench.function(source).output == "INFO till: counted 3\n"
    with caplog.at_level(logging.WARNING):
        assert own(bench, source).output == ""


def test_output_is_told_while_the_child_runs(bench: Bench, tmp_path: Path):
    os.mkfifo(tmp_path / "go")
    running = begin(bench, f"def main():\n    print('waiting')\n    print(open({str(tmp_path / 'go')!r}).read())")
    bench.told.wait_for("run_output")
    (tmp_path / "go").write_text("went on")
    assert running.outcome().output == "waiting\nwent on\n"
    assert bench.told.lines() == ["waiting", "went on"]


def test_all_that_is_written_is_kept_in_its_order(bench: Bench):
    outcome = own(
        bench,
        """
        import os, sys, subprocess, ctypes
        def main():
            print("print")
            print("error", file=sys.stderr)
            os.write(1, b"descriptor\\n")
            subprocess.run(["sh", "-c", "echo program; echo its error >&2"])
            libc = ctypes.CDLL(None)
            libc.puts(b"C library")
            libc.fflush(None)
            print("no end", end="")
        """,
    )
    assert outcome.output == "print\nerror\ndescriptor\nprogram\nits error\nC library\nno end"


def test_memory_is_the_childs_own_peak(bench: Bench):
    small = own(bench, "def main(): pass").peak_memory_bytes or 0
    large = own(bench, "def main(): return len(bytearray(200_000_000).replace(b'x', b'y'))").peak_memory_bytes or 0
    assert small < 150_000_000
    assert large > small + 200_000_000


# --- the code is as it is on disk


def test_each_run_has_the_module_as_it_is_on_disk(bench: Bench):
    for number in range(3):
        assert own(bench, f"def main(): return {number}").result == str(number)


def test_an_edit_within_the_same_second_that_keeps_the_size_is_seen(bench: Bench):
    file = bench.jobs_folder / "tidy.py"
    bench.write("from jobs import sums\ndef main(): return sums.add()")
    for result in ("3", "7"):
        bench.write(f"def add(): return {result}", "sums")
        os.utime(bench.jobs_folder / "sums.py", (1_700_000_000, 1_700_000_000))
        os.utime(file, (1_700_000_000, 1_700_000_000))
        assert bench.run(run="tidy:main", isolation=Isolation.PROCESS).result == result


@pytest.mark.parametrize("isolation", Isolation)
def test_bytecode_is_neither_trusted_nor_left_behind(bench: Bench, isolation: Isolation):
    file = bench.jobs_folder / "tidy.py"
    bench.write("def main(): return 'stale'")
    os.utime(file, (1_700_000_000, 1_700_000_000))
    cached = Path(py_compile.compile(str(file), doraise=True) or "")
    bench.write("def main(): return 'fresh'")
    os.utime(file, (1_700_000_000, 1_700_000_000))
    assert bench.run(run="tidy:main", isolation=isolation).result == "'fresh'"
    cached.unlink()
    bench.run(run="tidy:main", isolation=isolation)
    assert list(cached.parent.iterdir()) == []


# --- isolation


@contextmanager
def held_locks() -> Iterator[None]:
    """Hold locks that a run needs, and that a fork of this process would copy as they are."""
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    handler.acquire()
    try:
        with callables._lock, outputs._installing:
            yield
    finally:
        handler.release()
        logging.getLogger().removeHandler(handler)


@pytest.mark.usefixtures("own_template")
def test_children_inherit_no_descriptor_and_no_lock_of_the_service(bench: Bench, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as listening, (tmp_path / "open").open("w") as held:
        os.set_inheritable(listening.fileno(), True)
        os.set_inheritable(held.fileno(), True)
        with held_locks():
            outcome = own(
                bench,
                """
                import logging, os, threading
                def main():
                    logging.getLogger().warning("free")
                    return sorted(map(int, os.listdir("/proc/self/fd")))[:-1], threading.active_count()
                """,
            )
        template = bench.runner._template.process_id
        assert template is not None

        def kinds() -> list[str]:
            return sorted(what.partition(":")[0] for what in descriptors(template))

        # It holds two more while it forks the child that is kept for the next run.
        wait_until(lambda: kinds() == ["/dev/null", "/dev/null", "anon_inode", "pipe", "socket"])
    assert outcome.result == "([0, 1, 2], 1)"
    assert len(list(Path(f"/proc/{template}/task").iterdir())) == 1


def test_what_one_run_does_to_its_process_does_not_reach_the_next(bench: Bench):
    before = own(bench, SELF)
    own(
        bench,
        """
        import locale, os, resource, signal, sys, threading, time
        def main():
            os.chdir("/"); os.umask(0o777); os.environ["LEFT"] = "behind"; os.environ["TZ"] = "Asia/Tokyo"
            time.tzset()
            locale.setlocale(locale.LC_ALL, "C")
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            sys.path.insert(0, "/nope"); sys.modules["json"] = None
            sys.stdout.close(); sys.setrecursionlimit(5000)
            resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        """,
    )
    assert own(bench, SELF).result == before.result
    assert before.result is not None


SELF = """
import locale, os, resource, signal, sys, threading, time
def main():
    import json
    umask = os.umask(0); os.umask(umask)
    return (os.getcwd(), umask, os.environ.get("LEFT"), time.tzname, locale.setlocale(locale.LC_ALL),
            signal.getsignal(signal.SIGINT).__name__, len(sys.path), sys.getrecursionlimit(),
            resource.getrlimit(resource.RLIMIT_NOFILE), threading.active_count())
"""


def test_a_child_that_closes_all_its_descriptors_still_tells_its_result(bench: Bench):
    outcome = own(bench, "import os\ndef main():\n    os.closerange(0, 1000)\n    return 'done'")
    assert (outcome.state, outcome.result) == (State.SUCCEEDED, "'done'")


def test_a_flood_of_output_stays_bounded(tmp_path: Path):
    bench = Bench(tmp_path, output_limit=1000)
    try:
        outcome = own(
            bench,
            """
            import os
            def main():
                for _ in range(1000):
                    os.write(1, b"0123456789\\n" * 1000)
                print("the end")
            """,
        )
    finally:
        bench.runner.close()
    assert (outcome.state, outcome.truncated, len(outcome.output)) == (State.SUCCEEDED, True, 1000)
    assert outcome.output.endswith("0123456789\nthe end\n")


def test_binary_output_is_kept_as_text(bench: Bench):
    outcome = own(bench, "import os\ndef main(): os.write(1, b'\\0\\xff\\xfea\\n')")
    assert outcome.output == "\N{REPLACEMENT CHARACTER}" * 3 + "a\n"


def test_what_was_written_before_a_kill_is_kept(bench: Bench):
    running = begin(
        bench,
        """
        import os, signal
        def main():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print("x" * 50)
            while True:
                os.write(1, b"and on\\n" * 1000)
        """,
        timeout=timedelta(seconds=0.3),
        kill_after=timedelta(seconds=0.2),
    )
    outcome = running.outcome()
    assert outcome.state is State.TIMED_OUT
    assert "and on\nand on\n" in outcome.output


def test_a_job_that_forks_is_told_once_and_its_children_go_with_it(mark: str, bench: Bench, tmp_path: Path):
    outcome = own(
        bench,
        f"""
        import os, time
        def main():
            if os.fork() == 0:
                return "the child's, told to nobody"
            if os.fork() == 0:
                with open({str(tmp_path / "child")!r}, "w") as file:
                    print(os.getpid(), file=file)
                time.sleep(600)
            while not os.path.exists({str(tmp_path / "child")!r}):
                time.sleep(0.005)
            os.wait()
            return "the parent's"
        """,
    )
    assert (outcome.state, outcome.result) == (State.SUCCEEDED, '"the parent\'s"')
    assert not alive(number_in(tmp_path / "child"))


def test_threads_that_are_no_daemons_and_exit_handlers_have_their_time(bench: Bench):
    outcome = own(
        bench,
        """
        import atexit, threading
        def main():
            gate = threading.Event()
            atexit.register(print, "handler")
            threading.Thread(target=lambda: (gate.wait(), print("thread"))).start()
            threading.Timer(0.01, gate.set).start()
            print("main")
        """,
    )
    assert outcome.output == "main\nthread\nhandler\n"


def test_what_a_function_has_forked_is_ended_by_the_signal_that_asks_the_function_to_stop(bench: Bench):
    outcome = own(
        bench,
        """
        import os, signal, time
        def main():
            forked = os.fork()
            if forked == 0:
                for _ in range(1000):
                    try:
                        time.sleep(0.01)
                    except BaseException:  # as where exceptions are ignored
                        pass
                os._exit(0)
            os.kill(forked, signal.SIGTERM)
            _, status = os.waitpid(forked, 0)
            return os.WTERMSIG(status)
        """,
    )
    assert outcome.result == "15"


@pytest.mark.parametrize(
    "ask",
    [
        "os.kill(os.getpid(), signal.SIGTERM)",
        "_thread.interrupt_main(signal.SIGTERM)",  # as if another thread had got it
    ],
)
@pytest.mark.parametrize(
    ("fork", "moment"),
    [
        ("os.fork()", "before"),
        ("os.fork()", "after_in_parent"),
        ("os.forkpty()[0]", "after_in_parent"),
        ("subprocess.Popen(['sh', '-c', 'exit 7'], preexec_fn=os.getpid)", "after_in_parent"),
    ],
)
def test_a_function_that_is_asked_to_stop_in_the_middle_of_a_fork_is_interrupted_after_it(
    fork: str, moment: str, ask: str, bench: Bench
):
    outcome = own(
        bench,
        f"""
        import _thread, os, signal, subprocess
        process_id, hooks = os.getpid(), []
        def hook():
            hooks.append("begun")
            {ask}
            hooks.append("ended")
        def main():
            os.register_at_fork({moment}=hook)
            try:
                if {fork} == 0:
                    os._exit(7)
                print("went on")
            finally:
                if os.getpid() == process_id:
                    _, status = os.wait()
                    print(hooks, os.WEXITSTATUS(status), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        """,
    )
    assert outcome.output == "['begun', 'ended'] 7 set()\n"
    assert outcome.error == "stopped: it got SIGTERM"


def test_sigterm_ends_a_program_that_a_function_is_just_starting(bench: Bench):
    outcome = own(
        bench,
        """
        import os, signal, subprocess
        def main():
            told = lambda: os.kill(os.getpid(), signal.SIGTERM)
            return subprocess.Popen(["sleep", "3"], preexec_fn=told).wait()
        """,
    )
    assert (outcome.error, outcome.result) == (None, "-15")


def test_a_pool_of_processes_works_in_a_child(bench: Bench):
    outcome = own(
        bench,
        """
        import multiprocessing
        def main():
            with multiprocessing.get_context("fork").Pool(2) as pool:
                return sum(pool.map(abs, range(-10, 0)))
        """,
    )
    assert (outcome.error, outcome.result) == (None, "55")


def test_random_numbers_of_two_runs_differ(bench: Bench):
    source = "import random, uuid\ndef main(): return random.random(), uuid.uuid4()"
    assert own(bench, source).result != own(bench, source).result


def test_four_children_run_at_once(bench: Bench, tmp_path: Path):
    source = f"""
    import os, time
    def main(number):
        open({str(tmp_path)!r} + f"/here-{{number}}", "w").close()
        while not all(os.path.exists({str(tmp_path)!r} + f"/here-{{one}}") for one in range(4)):
            time.sleep(0.005)
        return number
    """
    bench.write(source)
    running = [
        bench.start(Stopping(), run="tidy:main", args=(number,), isolation=Isolation.PROCESS) for number in range(4)
    ]
    assert [one.outcome().result for one in running] == ["0", "1", "2", "3"]


# --- asked to stop


def test_a_function_is_interrupted_where_it_is(bench: Bench):
    stop = Stopping()
    running = begin(
        bench,
        """
        import time
        from scheduler_service.context import Cancelled, RunContext
        def main(run: RunContext):
            try:
                print("begun")
                try:
                    time.sleep(600)
                except Exception:
                    print("not an Exception")
            finally:
                print("cleaned up,", run.stopping.is_set(), run.stopping.reason)
        """,
        stop,
    )
    bench.told.wait_for("run_output")
    stop.request("cancelled by anna")
    outcome = running.outcome()
    assert (outcome.state, outcome.error) == (State.CANCELLED, "stopped: cancelled by anna")
    assert outcome.output == "begun\ncleaned up, True cancelled by anna\n"


def test_a_function_that_waits_for_the_request_is_woken_by_it(bench: Bench):
    stop = Stopping()
    running = begin(
        bench,
        """
        from scheduler_service.context import Cancelled, RunContext
        def main(run: RunContext):
            try:
                print("begun")
                run.stopping.wait()
            except Cancelled:
                return run.stopping.wait()
        """,
        stop,
    )
    bench.told.wait_for("run_output")
    stop.request("cancelled by anna")
    assert (running.outcome().state, running.outcome().result) == (State.SUCCEEDED, "True")


def test_a_request_made_while_the_module_is_loaded_stops_the_function(bench: Bench):
    stop = Stopping()
    running = begin(
        bench,
        """
        import time
        from scheduler_service.context import current_run
        print("loading")
        current_run().stopping.wait()
        def main():
            print("never")
        """,
        stop,
    )
    bench.told.wait_for("run_output")
    stop.request("cancelled by anna")
    outcome = running.outcome()
    assert (outcome.state, outcome.error) == (State.CANCELLED, "stopped: cancelled by anna")
    assert outcome.output == "loading\n"


def test_the_whole_group_is_asked(bench: Bench, tmp_path: Path):
    outcome = own(
        bench,
        f"""
        import subprocess
        def main():
            program = "trap 'echo > {tmp_path}/asked; exit' TERM; echo ready; while :; do sleep 0.01; done"
            child = subprocess.Popen(["sh", "-c", program])
            try:
                child.wait()
            finally:
                child.wait()
        """,
        timeout=timedelta(seconds=1),
    )
    assert outcome.state is State.TIMED_OUT
    assert outcome.output.startswith("ready\n")  # some shells tell of the `sleep` that was terminated
    assert (tmp_path / "asked").exists()


def test_loading_does_not_count_against_the_timeout(bench: Bench):
    outcome = own(bench, "import time\ntime.sleep(0.6)\ndef main(): return 3", timeout=timedelta(seconds=0.5))
    assert (outcome.state, outcome.result) == (State.SUCCEEDED, "3")


def test_a_module_that_is_never_loaded_times_out(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scheduler_service.runner.group.LOAD_SECONDS", 0.2)
    outcome = own(
        bench,
        "import time\ntime.sleep(600)\ndef main(): pass",
        timeout=timedelta(seconds=0.2),
        kill_after=timedelta(seconds=0.2),
    )
    assert (outcome.state, outcome.exit_code) == (State.TIMED_OUT, 137)
    assert (outcome.error or "").startswith("timed out after 0.2s, before it was loaded")


def test_a_signal_from_elsewhere_is_a_failure(bench: Bench):
    outcome = own(
        bench, "import os, signal, time\ndef main():\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(9)"
    )
    assert (outcome.state, outcome.error) == (State.FAILED, "stopped: it got SIGTERM")


# --- the others die

WAITS = """
import os, subprocess, sys, time
def main(folder):
    child = subprocess.Popen(["sleep", "604"])
    for name, number in (("grandchild", child.pid), ("supervisor", os.getppid()), ("child", os.getpid())):
        with open(f"{folder}/{name}", "w") as file:
            print(number, file=file)
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.005)
    return "done"
"""


def waiting(bench: Bench, tmp_path: Path) -> tuple[Running, dict[str, int]]:
    running = begin(bench, WAITS, args=(str(tmp_path),))
    return running, {name: number_in(tmp_path / name) for name in ("child", "grandchild", "supervisor")}


def test_a_run_goes_on_when_the_template_is_killed_and_the_next_has_a_new_one(mark: str, bench: Bench, tmp_path: Path):
    before = children()
    running, _ = waiting(bench, tmp_path)
    former = bench.runner._template.process_id
    assert former is not None
    os.kill(former, signal.SIGKILL)
    assert own(bench, "def main(): return 'the next'").result == "'the next'"
    assert bench.runner._template.process_id != former
    (tmp_path / "go").touch()
    assert running.outcome().result == "'done'"
    bench.runner.close()
    wait_until(lambda: not marked(mark))
    assert children() == before


def test_a_template_that_dies_before_it_takes_a_run_is_replaced(mark: str, bench: Bench):
    for _ in range(2):
        own(bench, "def main(): pass")
        former = bench.runner._template.process_id
        assert former is not None
        os.kill(former, signal.SIGSTOP)
        # Stopped, it takes no request; one run has the child that was kept, and a kill loses what was asked for
        # the other: the request, not the run.
        running = [begin(bench, "def main(): return 3") for _ in range(2)]
        wait_until(lambda: queued(bench))
        os.kill(former, signal.SIGKILL)
        assert [one.outcome().result for one in running] == ["3", "3"]


def test_a_kept_child_that_was_killed_is_no_loss(mark: str, bench: Bench):
    own(bench, "def main(): pass")
    template = bench.runner._template.process_id
    wait_until(lambda: len(marked(mark)) == 3)
    killed = set(marked(mark)) - {template}
    for process_id in killed:
        with contextlib.suppress(ProcessLookupError):  # the one that did the run may end just now
            os.kill(process_id, signal.SIGKILL)
    # Its environment is gone some milliseconds before its sockets are closed, as all of its memory is.
    wait_until(lambda: not any(alive(process_id) for process_id in killed))
    assert own(bench, "def main(): return 3").result == "3"
    assert bench.runner._template.process_id == template


def test_a_signal_to_a_kept_child_reaches_no_run(mark: str, bench: Bench):
    own(bench, "def main(): pass")
    wait_until(lambda: len(marked(mark)) == 3)
    (kept,) = [one for one in marked(mark) if parent(parent(one)) == bench.runner._template.process_id]
    # A child that was forked a moment ago is still deaf to it.
    wait_until(lambda: not alive(kept) or os.kill(kept, signal.SIGTERM))
    assert own(bench, "def main(): return 3").result == "3"


def queued(bench: Bench) -> bool:
    """Whether a request lies unread in the template's queue."""
    import fcntl
    import struct
    import termios

    requests = bench.runner._template._requests
    if requests is None:
        return False
    return struct.unpack("i", fcntl.ioctl(requests, termios.TIOCOUTQ, b"\0" * 4))[0] > 0


@pytest.mark.usefixtures("own_template")
def test_where_no_template_can_live_the_run_says_why(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "scheduler_service.runner.process.PROGRAM", "import sys\nsys.exit('no room for another Python')"
    )
    for _ in range(2):
        outcome = own(bench, "def main(): pass")
        assert outcome.state is State.FAILED
        assert outcome.error == ("no process could be started: the template process ended: no room for another Python")
    monkeypatch.undo()
    assert own(bench, "def main(): return 3").result == "3"


@pytest.mark.usefixtures("own_template")
def test_a_python_that_is_not_there_is_a_failure_in_words(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/nope/python")
    outcome = own(bench, "def main(): pass")
    assert (outcome.error or "").startswith("the template process cannot be started: [Errno 2]")


def test_a_run_whose_supervisor_is_killed_has_failed_and_leaves_nothing(mark: str, bench: Bench, tmp_path: Path):
    running, numbers = waiting(bench, tmp_path)
    os.kill(numbers["supervisor"], signal.SIGKILL)
    outcome = running.outcome()
    assert outcome.state is State.FAILED
    assert outcome.error == "the process that watched over it was killed, and it was ended with it"
    assert not alive(numbers["child"])
    assert not alive(numbers["grandchild"])
    assert own(bench, "def main(): return 'the next'").result == "'the next'"


@pytest.mark.usefixtures("own_template")
def test_closing_without_a_template_is_nothing(bench: Bench):
    bench.runner.close()


def test_a_template_that_was_prepared_is_the_one_that_is_used(tmp_path: Path, mark: str):
    template = Template(Surroundings(tmp_path))
    template.prepare()
    first = template.process_id
    template.prepare()
    assert template.process_id == first
    template.close()
    wait_until(lambda: not marked(mark))


def test_a_child_that_is_let_go_while_it_is_forked_ends_too(tmp_path: Path, mark: str):
    template = Template(Surroundings(tmp_path))
    template.prepare()
    for step in range(200):  # through the moments between two statements of supervisor and child
        child = template._fork()
        time.sleep(step * 0.00005)
        child.bury()
    template.close()
    wait_until(lambda: not marked(mark))


REPLICA = """
import os, sys, threading
from datetime import datetime, UTC
from pathlib import Path
from scheduler_service import schedule
from scheduler_service.clock import BootClock
from scheduler_service.events import Events
from scheduler_service.model import Attempt, Isolation, JobSpec, Kind
from scheduler_service.runner import Runner

folder, count, forks = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "forks"
runner = Runner(jobs_folder=folder / "jobs", output_limit=1000, events=Events(), clock=BootClock(), instance_id="web-1")
now = datetime(2026, 11, 23, 12, tzinfo=UTC)
spec = JobSpec(
    id="tidy", schedule=schedule.manual(), run="tidy:main", isolation=Isolation.PROCESS, args=(str(folder),)
)

def work():
    while True:
        runner.run(Attempt(7, 70, 1, "tidy", now, now, Kind.SCHEDULED, 4, "web-1", now, 0.0), spec, threading.Event())

for _ in range(count):
    threading.Thread(target=work, daemon=True).start()
if forks:  # as a job in a thread may: a process that holds copies of all descriptors
    while not (folder / "child").exists():
        pass
    if os.fork() == 0:
        threading.Event().wait()
print("running", flush=True)
threading.Event().wait()
"""


def start_replica(folder: Path, count: int = 1, forks: str = "") -> subprocess.Popen[str]:
    replica = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", REPLICA, str(folder), str(count), forks],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert replica.stdout is not None
    assert replica.stdout.readline() == "running\n"
    return replica


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together with its template"])
def test_a_child_does_not_outlive_a_replica_that_is_killed(mark: str, bench: Bench, tmp_path: Path, together: bool):
    bench.write(
        "import signal\n"
        + WAITS.replace("    child =", "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    child =")
    )
    with start_replica(tmp_path) as replica:
        child, grandchild = number_in(tmp_path / "child"), number_in(tmp_path / "grandchild")
        assert alive(child)
        assert alive(grandchild)
        if together:
            for template in set(marked(mark)) - {child, grandchild, number_in(tmp_path / "supervisor"), replica.pid}:
                os.kill(template, signal.SIGKILL)
        replica.kill()
    wait_until(lambda: not marked(mark))


def test_a_process_that_holds_the_replicas_descriptors_does_not_keep_its_children_alive(
    mark: str, bench: Bench, tmp_path: Path
):
    bench.write(WAITS)
    with start_replica(tmp_path, forks="forks") as replica:
        forked = set(Path(f"/proc/{replica.pid}/task/{replica.pid}/children").read_text().split())
        child = number_in(tmp_path / "child")
        replica.kill()
    wait_until(lambda: not alive(child))
    wait_until(lambda: set(map(str, marked(mark))) <= forked)  # the copy itself is nobody's to end


@pytest.mark.parametrize("trial", range(3))
def test_no_moment_of_starting_a_child_is_unguarded(mark: str, bench: Bench, tmp_path: Path, trial: int):
    bench.write("import os, time\ndef main(folder):\n    if os.getpid() % 2: time.sleep(600)")
    with start_replica(tmp_path, 8) as replica:
        wait_until(lambda: len(marked(mark)) >= 6 + 3 * trial)
        replica.kill()
    wait_until(lambda: not marked(mark))

"""Functions and coroutines, whatever they do."""

from __future__ import annotations

import pytest

from scheduler_service.context import Stopping
from scheduler_service.model import State
from tests.runner.conftest import Bench


def test_a_function_that_returns_has_succeeded(bench: Bench):
    outcome = bench.function("def main(): return {'removed': 3}")
    assert (outcome.state, outcome.result, outcome.error, outcome.exit_code) == (
        State.SUCCEEDED,
        "{'removed': 3}",
        None,
        None,
    )
    assert outcome.seconds >= 0
    assert outcome.returned


def test_a_function_that_returns_nothing_has_no_result(bench: Bench):
    assert bench.function("def main(): pass").result is None


def test_a_huge_result_is_kept_in_a_few_words(bench: Bench):
    outcome = bench.function("def main(): return ['x' * 10_000] * 10_000")
    assert outcome.result is not None
    assert len(outcome.result) < 10_000


def test_a_result_that_cannot_be_shown_is_no_failure(bench: Bench):
    outcome = bench.function(
        """
        class Odd:
            def __repr__(self): raise SystemExit(3)
        def main(): return Odd()
        """
    )
    assert (outcome.state, outcome.result) == (State.SUCCEEDED, "<Odd, which cannot be shown: SystemExit>")


def test_a_traceback_starts_at_the_jobs_own_code(bench: Bench):
    outcome = bench.function(
        """
        def main():
            inner()
        def inner():
            raise ValueError("no way")
        """
    )
    lines = (outcome.error or "").splitlines()
    assert outcome.state is State.FAILED
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith('tidy.py", line 3, in main')
    assert lines[-1] == "ValueError: no way"
    assert "scheduler_service" not in (outcome.error or "")


def test_a_coroutines_traceback_starts_at_the_jobs_own_code_too(bench: Bench):
    outcome = bench.function("async def main():\n    raise ValueError('no way')")
    lines = (outcome.error or "").splitlines()
    assert lines[1].endswith('tidy.py", line 2, in main')
    assert "asyncio" not in (outcome.error or "")


def test_the_cause_of_an_error_is_told(bench: Bench):
    outcome = bench.function(
        """
        def main():
            try:
                {}["a"]
            except KeyError as error:
                raise RuntimeError("no a") from error
        """
    )
    assert "KeyError: 'a'" in (outcome.error or "")
    assert (outcome.error or "").endswith("RuntimeError: no a")


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(
    ("body", "state", "error", "exit_code"),
    [
        ("sys.exit()", State.SUCCEEDED, None, 0),
        ("sys.exit(0)", State.SUCCEEDED, None, 0),
        ("sys.exit(3)", State.FAILED, "exit code 3", 3),
        ("sys.exit(-1)", State.FAILED, "exit code -1", 255),
        ("sys.exit('no such folder')", State.FAILED, "no such folder", 1),
    ],
)
def test_exiting_ends_the_run_and_not_the_service(bench: Bench, kind, body, state, error, exit_code):
    outcome = bench.function(f"import sys\n{kind} main():\n    {body}")
    assert (outcome.state, outcome.error, outcome.exit_code) == (state, error, exit_code)


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("name", ["KeyboardInterrupt", "GeneratorExit", "MemoryError", "StopIteration", "Own"])
def test_nothing_that_a_job_raises_gets_out(bench: Bench, kind, name):
    outcome = bench.function(f"class Own(BaseException): pass\n{kind} main():\n    raise {name}()")
    assert outcome.state is State.FAILED
    assert name in (outcome.error or "")


def test_endless_recursion_is_a_failure_in_few_words(bench: Bench):
    outcome = bench.function("def main(): return main()")
    assert outcome.state is State.FAILED
    assert "RecursionError" in (outcome.error or "")
    assert len(outcome.error or "") < 9000


def test_recursion_in_turns_is_a_failure_in_few_words(bench: Bench):
    outcome = bench.function("def main(): return other()\ndef other(): return main()")
    assert (outcome.error or "").splitlines()[1].endswith("in main")
    assert "characters left out" in (outcome.error or "")
    assert "RecursionError" in (outcome.error or "")
    assert len(outcome.error or "") < 9000


def test_an_exception_that_cannot_be_shown_is_still_a_failure(bench: Bench):
    outcome = bench.function(
        """
        class Odd(Exception):
            def __str__(self): raise KeyboardInterrupt
        def main(): raise Odd
        """
    )
    assert outcome.state is State.FAILED
    assert "Odd" in (outcome.error or "")


def test_an_error_text_can_be_stored_anywhere(bench: Bench):
    outcome = bench.function(r"def main(): raise ValueError('a\x00b \udcff')")
    assert "\x00" not in (outcome.error or "")
    (outcome.error or "").encode("utf-8")


def test_a_job_that_is_not_there_fails_in_one_line(bench: Bench):
    bench.write("def main(): pass")
    outcome = bench.run(run="tidy:mian")
    assert outcome.state is State.FAILED
    assert "no function 'mian'" in (outcome.error or "")
    assert "\n" not in (outcome.error or "")


def test_arguments_that_do_not_fit_fail_in_one_line(bench: Bench):
    outcome = bench.function("def main(folder): pass", args=("a", "b"))
    assert outcome.state is State.FAILED
    assert outcome.error == "main() takes 1 argument by position, not 2"


def test_the_run_context_is_given_where_it_is_asked_for(bench: Bench):
    outcome = bench.function(
        """
        from scheduler_service.context import RunContext, current_run
        def main(folder, run: RunContext, *, days):
            assert current_run() is run
            return [folder, days, run.job, run.scheduled_at.isoformat(), run.term, run.fence, run.attempt, run.run_id,
                    run.instance, run.stopping.is_set()]
        """,
        args=("in",),
        kwargs={"days": 7},
    )
    assert outcome.error is None
    assert outcome.result == "['in', 7, 'tidy', '2026-11-23T12:00:00+00:00', 4, 7, 1, 70, 'web-1', False]"


def test_a_job_cannot_change_the_arguments_of_its_next_run(bench: Bench):
    source = "def main(folders, *, options):\n    folders.pop(); options.clear()"
    settings = {"args": (["a"],), "kwargs": {"options": {"b": 1}}}
    assert bench.function(source, **settings).state is State.SUCCEEDED
    assert bench.run(run="tidy:main", **settings).state is State.SUCCEEDED
    assert settings == {"args": (["a"],), "kwargs": {"options": {"b": 1}}}


def test_variables_of_the_context_do_not_leak_into_the_next_run(bench: Bench):
    source = """
        import contextvars
        seen = contextvars.ContextVar("seen", default=0)
        def main():
            seen.set(seen.get() + 1)
            return seen.get()
        """
    assert [bench.function(source).result, bench.run(run="tidy:main").result] == ["1", "1"]


def test_a_child_that_a_job_forks_does_not_come_back_as_a_worker(bench: Bench):
    outcome = bench.function(
        """
        import os
        def main():
            child = os.fork()
            if child == 0:
                return "in the child"      # falls out of the function, as people do
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        """
    )
    assert (outcome.state, outcome.result) == (State.SUCCEEDED, "0")


def test_a_function_that_turns_out_to_be_a_generator_has_failed(bench: Bench):
    outcome = bench.function("def main(): return (x for x in [1])")
    assert outcome.state is State.FAILED
    assert "generator" in (outcome.error or "")


# --- stopping


def test_a_function_that_checks_is_cancelled(bench: Bench):
    bench.write(
        """
        def main(run: "RunContext"):
            print("begun")
            run.stopping.wait()
            try:
                run.check()
            except Exception:
                pass
            return "went on"
        """
    )
    stop = Stopping()
    running = bench.start(stop, run="tidy:main")
    bench.told.wait_for("run_output")
    stop.request("cancelled by anna")
    outcome = running.outcome()
    assert (outcome.state, outcome.error) == (State.CANCELLED, "stopped: cancelled by anna")


def test_a_function_that_returns_after_a_request_to_stop_has_succeeded(bench: Bench):
    stop = Stopping()
    stop.request("cancelled by anna")
    assert bench.function("def main(): return 'all done'", stop).state is State.SUCCEEDED


def test_a_function_that_fails_after_a_request_to_stop_has_failed(bench: Bench):
    stop = Stopping()
    stop.request("cancelled by anna")
    assert bench.function("def main(): raise OSError('disk full')", stop).state is State.FAILED


def test_a_coroutine_is_cancelled_and_may_clean_up(bench: Bench):
    bench.write(
        """
        import asyncio
        async def main():
            try:
                print("begun")
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                print("cleaned up")
        """
    )
    stop = Stopping()
    running = bench.start(stop, run="tidy:main")
    bench.told.wait_for("run_output")
    stop.request("lost")
    outcome = running.outcome()
    assert (outcome.state, outcome.error) == (State.CANCELLED, "stopped: lost")
    assert outcome.output == "begun\ncleaned up\n"


def test_a_task_group_that_checks_is_cancelled(bench: Bench):
    bench.write(
        """
        import asyncio
        async def part(run):
            while True:
                run.check()
                await asyncio.sleep(0.001)
        async def main(run: "RunContext"):
            async with asyncio.TaskGroup() as group:
                group.create_task(part(run))
                group.create_task(asyncio.sleep(3600))
                print("begun")
        """
    )
    stop = Stopping()
    running = bench.start(stop, run="tidy:main")
    bench.told.wait_for("run_output")
    stop.request("lost")
    assert running.outcome().state is State.CANCELLED


def test_a_coroutine_that_cancels_itself_has_failed(bench: Bench):
    outcome = bench.function(
        "import asyncio\nasync def main():\n    asyncio.current_task().cancel(); await asyncio.sleep(1)"
    )
    assert outcome.state is State.FAILED
    assert "CancelledError" in (outcome.error or "")


def test_tasks_that_a_coroutine_leaves_behind_are_ended(bench: Bench):
    outcome = bench.function(
        """
        import asyncio
        kept = []
        async def forever():
            try:
                await asyncio.Event().wait()
            finally:
                print("ended")
        async def main():
            kept.append(asyncio.create_task(forever()))
            await asyncio.sleep(0)
            return len(asyncio.all_tasks())
        """
    )
    assert (outcome.state, outcome.result, outcome.output) == (State.SUCCEEDED, "2", "ended\n")


def test_each_coroutine_has_a_loop_of_its_own(bench: Bench):
    bench.write(
        """
        import asyncio
        async def main():
            barrier.wait(20)          # blocks its loop, and nobody else's
            return id(asyncio.get_running_loop())
        """
    )
    source = bench.jobs_folder / "tidy.py"
    source.write_text("import threading\nbarrier = threading.Barrier(2)\n" + source.read_text())
    runs = [bench.start(Stopping(), run="tidy:main") for _ in range(2)]
    outcomes = [run.outcome() for run in runs]
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert outcomes[0].result != outcomes[1].result


def test_a_function_that_returns_an_awaitable_is_awaited(bench: Bench):
    outcome = bench.function(
        """
        import asyncio, functools
        async def work(value):
            await asyncio.sleep(0)
            return value
        main = functools.partial(work, 5)
        """
    )
    assert outcome.result == "5"


def test_a_mistake_of_the_service_is_an_outcome_too(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError("our own")

    monkeypatch.setattr("scheduler_service.runner.run_callable", broken)
    outcome = bench.function("def main(): pass")
    assert outcome.state is State.FAILED
    assert "in broken" in (outcome.error or "")

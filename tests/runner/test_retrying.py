"""What a failed run says about being tried again, and what arguments a triggered one gets."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from scheduler_service.context import Stopping
from scheduler_service.model import Isolation, Outcome, Retry, State
from tests.runner.conftest import Bench, a_job, an_attempt

THRICE = Retry(attempts=3, delay=timedelta(seconds=10), factor=2.0)
KINDS = [
    pytest.param("def", Isolation.THREAD, id="thread"),
    pytest.param("async def", Isolation.THREAD, id="coroutine"),
    pytest.param("def", Isolation.PROCESS, id="process"),
]


def run(bench: Bench, number: int = 1, arguments: str | None = None, **settings: Any) -> Outcome:
    """Run start `number` of a run."""
    attempt = replace(an_attempt(), attempt=number, arguments=arguments)
    return bench.runner.run(attempt, a_job(**settings), Stopping())


def raising(bench: Bench, keyword: str, body: str, **settings: Any) -> Outcome:
    bench.write(f"from scheduler_service.context import GiveUp, RetryLater\n{keyword} main():\n    {body}")
    return run(bench, run="tidy:main", **settings)


@pytest.mark.parametrize(("keyword", "isolation"), KINDS)
@pytest.mark.parametrize(
    ("number", "retry_seconds", "note"),
    [
        (1, 10.0, "tried again in 10s: start 1 of 3"),
        (2, 20.0, "tried again in 20s: start 2 of 3"),
        (3, None, "not tried again: start 3 of 3"),
    ],
)
def test_a_failure_is_tried_again_as_the_job_is_set(bench: Bench, keyword, isolation, number, retry_seconds, note):
    outcome = raising(bench, keyword, "raise ValueError('no way')", number=number, retry=THRICE, isolation=isolation)
    assert (outcome.state, outcome.retry_seconds) == (State.FAILED, retry_seconds)
    assert (outcome.error or "").startswith(f"({note})\nTraceback (most recent call last):\n")
    assert (outcome.error or "").endswith("\nValueError: no way")


@pytest.mark.parametrize(("keyword", "isolation"), KINDS)
def test_a_job_may_say_when_it_is_tried_again(bench: Bench, keyword, isolation):
    outcome = raising(bench, keyword, "raise RetryLater(0.5, 'the till is busy')", retry=THRICE, isolation=isolation)
    assert (outcome.state, outcome.retry_seconds) == (State.FAILED, 0.5)
    assert (outcome.error or "").startswith("(tried again in 0.5s: start 1 of 3)\n")
    assert (outcome.error or "").endswith("RetryLater: the till is busy")


@pytest.mark.parametrize("seconds", ["1.7e12", "1e300", "float('nan')", "-1"])
def test_a_wait_that_no_ledger_could_hold_is_refused_and_the_run_tried_again_as_the_job_is_set(bench: Bench, seconds):
    outcome = raising(bench, "def", f"raise RetryLater({seconds})", retry=THRICE)
    assert (outcome.state, outcome.retry_seconds) == (State.FAILED, 10.0)
    assert "a wait is a number of seconds from now, from 0 to 31,622,400 (a year)" in (outcome.error or "")


@pytest.mark.parametrize("body", ["pass", "self.seconds = 1e300", "self.seconds = 'soon'", "self.seconds = -1"])
@pytest.mark.parametrize("settings", [{}, {"timeout": timedelta(seconds=60)}, {"isolation": Isolation.PROCESS}])
def test_a_class_of_the_job_that_spoils_its_wait_is_tried_again_as_the_job_is_set(bench: Bench, settings, body):
    bench.write(
        f"""
        from scheduler_service.context import RetryLater
        class Busy(RetryLater):
            def __init__(self):
                {body}
        def main():
            raise Busy
        """
    )
    outcome = run(bench, run="tidy:main", retry=THRICE, **settings)
    assert (outcome.state, outcome.retry_seconds, outcome.returned) == (State.FAILED, 10.0, True)


@pytest.mark.parametrize("settings", [{}, {"timeout": timedelta(seconds=60)}, {"isolation": Isolation.PROCESS}])
def test_an_ending_that_cannot_even_be_looked_at_is_a_failure_and_leaves_no_thread_as_stuck(bench: Bench, settings):
    bench.write(
        """
        import sys
        class Code:
            def __eq__(self, other):
                raise ValueError("compared")
        def main():
            sys.exit(Code())
        """
    )
    outcome = run(bench, run="tidy:main", **settings)
    assert (outcome.state, outcome.returned) == (State.FAILED, True)
    assert (outcome.error or "").endswith("ValueError: compared")


@pytest.mark.parametrize(("keyword", "isolation"), KINDS)
def test_a_job_may_give_up(bench: Bench, keyword, isolation):
    outcome = raising(bench, keyword, "raise GiveUp('no such customer')", retry=THRICE, isolation=isolation)
    assert (outcome.state, outcome.retry_seconds) == (State.FAILED, None)
    assert (outcome.error or "").startswith("(not tried again: it gave up)\n")
    assert (outcome.error or "").endswith("GiveUp: no such customer")


def test_asking_to_be_tried_again_makes_no_more_starts(bench: Bench):
    outcome = raising(bench, "def", "raise RetryLater(60)", number=3, retry=THRICE)
    assert outcome.retry_seconds is None
    assert (outcome.error or "").startswith("(not tried again: start 3 of 3)\n")
    outcome = raising(bench, "def", "raise RetryLater(60)")
    assert outcome.retry_seconds is None
    assert (outcome.error or "").startswith("(not tried again: start 1 of 1)\n")


@pytest.mark.parametrize(
    ("body", "retry_seconds"),
    [
        ("raise ExceptionGroup('both', [ValueError(), RetryLater(5), RetryLater(7)])", 7.0),
        ("raise ExceptionGroup('both', [RetryLater(5), ExceptionGroup('inner', [GiveUp()])])", None),
    ],
)
def test_words_to_the_service_are_heard_in_a_group(bench: Bench, body: str, retry_seconds: float | None):
    assert raising(bench, "def", body, retry=THRICE).retry_seconds == retry_seconds


def test_a_cause_is_told_with_it(bench: Bench):
    outcome = raising(bench, "def", "raise GiveUp('no such customer') from KeyError(7)", retry=THRICE)
    assert "KeyError: 7" in (outcome.error or "")


def test_a_failure_without_retries_has_no_word_on_them(bench: Bench):
    assert "tried again" not in (raising(bench, "def", "raise ValueError").error or "")
    bench.write("def main(): return 3", "well")
    assert run(bench, run="well:main", retry=THRICE).error is None


def test_a_command_that_fails_is_tried_again(bench: Bench):
    outcome = run(bench, command="exit 3", retry=THRICE)
    assert (outcome.retry_seconds, outcome.error) == (10.0, "exit code 3 (tried again in 10s: start 1 of 3)")


def test_a_timeout_is_tried_again_where_the_job_says_so(bench: Bench):
    limited = {"command": "exec sleep 600", "timeout": timedelta(seconds=0.1)}
    outcome = run(bench, retry=THRICE, **limited)
    assert (outcome.state, outcome.retry_seconds) == (State.TIMED_OUT, 10.0)
    assert outcome.error == "timed out after 0.1s (tried again in 10s: start 1 of 3)"
    outcome = run(bench, retry=Retry(attempts=3, on=("error",)), **limited)
    assert (outcome.retry_seconds, outcome.error) == (None, "timed out after 0.1s")


def test_a_cancelled_run_is_not_tried_again(bench: Bench):
    stop = Stopping()
    stop.request("cancelled by anna")
    outcome = bench.command("sleep 600", stop, retry=THRICE)
    assert (outcome.state, outcome.retry_seconds) == (State.CANCELLED, None)
    assert outcome.error == "stopped: cancelled by anna"


# --- arguments of a triggered run


@pytest.mark.parametrize(("keyword", "isolation"), KINDS)
@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        (None, "((1, 2), {'a': 3, 'b': 4})"),
        ("[]", "((), {'a': 3, 'b': 4})"),
        ('["x"]', "(('x',), {'a': 3, 'b': 4})"),
        ('{"b": [5], "c": null}', "((1, 2), {'a': 3, 'b': [5], 'c': None})"),
    ],
)
def test_a_list_replaces_args_and_a_map_is_merged_over_kwargs(bench: Bench, keyword, isolation, arguments, result):
    bench.write(f"{keyword} main(*args, **kwargs): return args, kwargs")
    settings = {"run": "tidy:main", "args": (1, 2), "kwargs": {"a": 3, "b": 4}, "isolation": isolation}
    assert run(bench, arguments=arguments, **settings).result == result


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ('"x"', 'the arguments of this run are "x": give a JSON list or a JSON map'),
        ("3", "the arguments of this run are 3: give a JSON list or a JSON map"),
        ("[", "the arguments of this run are not JSON: Expecting value: line 1 column 2 (char 1)"),
        ("[1, 2]", "main() takes 1 argument by position, not 2"),
        ('{"b": 1}', "main() has no parameter 'b'; it has a"),
    ],
)
def test_arguments_that_do_not_fit_are_a_failure_in_words(bench: Bench, arguments: str, error: str):
    bench.write("def main(a): pass")
    outcome = run(bench, run="tidy:main", arguments=arguments)
    assert (outcome.state, outcome.error) == (State.FAILED, error)


def test_a_command_takes_no_arguments(bench: Bench):
    outcome = run(bench, command="echo begun", arguments='["x"]')
    assert (outcome.state, outcome.output) == (State.FAILED, "")
    assert outcome.error == "tidy is a command, which takes no arguments: trigger it without any"

"""The judge finds nothing in a sound history, and what is wrong in each that was tampered with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.chaos.diary import Deed, Diary, Edit, Pause
from tests.chaos.jobs import Every, Job
from tests.chaos.judge import Verdict, judge
from tests.chaos.records import Attempt, Records, Run, Span, Term
from tests.chaos.report import distribution, gaps
from tests.faults.evidence import Effect

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
JOB = Job("one", "thread", Every(1000), 0.1)
TICKS = 6
LEADERS = ("ann", "ann", "ann", "bob", "bob", "bob")  # whoever led at each tick
TERMS = {"ann": 1, "bob": 2}


def at(second: float) -> datetime:
    return START + second * SECOND


def sound() -> tuple[Records, Diary]:
    """Return six ticks of one job that all ran, under two leaders."""
    runs, attempts, effects = [], [], []
    for number, leader in enumerate(LEADERS, 1):
        runs.append(
            Run(
                number,
                "one",
                at(number),
                None,
                at(number),
                "scheduled",
                "succeeded",
                None,
                at(number),
                leader,
                False,
                None,
            )
        )
        attempts.append(Attempt(number, number, 1, TERMS[leader], leader, "succeeded", at(number), at(number + 0.1)))
        effects += [
            Effect("one", at(number), number, number, 100, "begin", number),
            Effect("one", at(number), number, number, 100, "end", number + 0.1),
        ]
    records = Records(
        runs=runs,
        attempts=attempts,
        terms=[Term(1, "ann", at(0)), Term(2, "bob", at(3.5))],
        spans={"one": Span(at(0), at(6))},
        effects=effects,
        elected=[Term(1, "ann"), Term(2, "bob")],
        told_lost={},
    )
    return records, Diary([JOB], ended_at=at(6))


def verdict(records: Records, diary: Diary) -> Verdict:
    return judge(records, diary, lost_after_seconds=5.0)


def rules(records: Records, diary: Diary) -> set[str]:
    return {violation.rule for violation in verdict(records, diary).violations}


def run_changed(records: Records, number: int, **changes: object) -> Records:
    runs = [replace(run, **changes) if run.id == number else run for run in records.runs]  # type: ignore[arg-type]
    return replace(records, runs=runs)


def attempt_changed(records: Records, attempt_id: int, **changes: object) -> Records:
    attempts = [replace(one, **changes) if one.id == attempt_id else one for one in records.attempts]  # type: ignore[arg-type]
    return replace(records, attempts=attempts)


def without_run(records: Records, number: int) -> Records:
    return replace(
        records,
        runs=[run for run in records.runs if run.id != number],
        attempts=[one for one in records.attempts if one.run_id != number],
        effects=[line for line in records.effects if line.run_id != number],
    )


def test_a_sound_history_has_no_violations() -> None:
    found = verdict(*sound())
    assert not found.violations
    assert found.tick_count == TICKS
    assert found.decisions == {"succeeded": TICKS}
    assert found.attempts == {"succeeded": TICKS}


def doubled_line(records: Records) -> Records:
    return replace(records, effects=[*records.effects, records.effects[2]])


def missing_tick(records: Records) -> Records:
    return without_run(records, 3)


def last_tick_missing_and_not_settled(records: Records) -> Records:
    return replace(without_run(records, TICKS), spans={"one": Span(at(0), at(5.5))})


def tick_in_two_rows(records: Records) -> Records:
    skipped = replace(records.runs[2], id=50, state="skipped", reason="overlap")
    return replace(records, runs=[*records.runs, skipped])


def tick_in_a_row_and_in_a_range(records: Records) -> Records:
    window = replace(
        records.runs[0], id=50, kind="range", state="missed", reason="coalesced", scheduled_at=at(2), until=at(4)
    )
    return replace(records, runs=[*records.runs, window])


def row_between_ticks(records: Records) -> Records:
    return replace(records, runs=[*records.runs, replace(records.runs[0], id=50, scheduled_at=at(2.5))])


def overlapping_lines(records: Records) -> Records:
    one, two, three, four, *others = records.effects
    return replace(records, effects=[one, three, two, four, *others])


def term_of_two_replicas(records: Records) -> Records:
    return replace(records, elected=[*records.elected, Term(2, "cyd")])


def attempt_in_the_term_of_another(records: Records) -> Records:
    return attempt_changed(records, 5, instance="ann")


def attempt_after_its_term(records: Records) -> Records:
    return attempt_changed(records, 5, instance="ann", term=1)


def terms_out_of_order(records: Records) -> Records:
    return replace(records, terms=[Term(1, "ann", at(4)), Term(2, "bob", at(3.5))])


def unrecorded_term(records: Records) -> Records:
    return replace(records, terms=records.terms[:1])


def success_without_a_line(records: Records) -> Records:
    return replace(records, effects=[line for line in records.effects if line.fence != 2])


def success_without_an_end(records: Records) -> Records:
    return replace(records, effects=[line for line in records.effects if (line.fence, line.what) != (2, "end")])


def line_of_no_attempt(records: Records) -> Records:
    return replace(records, effects=[*records.effects, replace(records.effects[0], fence=99)])


def line_of_another_tick(records: Records) -> Records:
    return replace(records, effects=[replace(records.effects[0], scheduled_at=at(9)), *records.effects[1:]])


def second_start(records: Records) -> Records:
    again = replace(records.attempts[0], id=50, number=2)
    lines = [replace(line, fence=50) for line in records.effects[:2]]
    return replace(records, attempts=[*records.attempts, again], effects=[*records.effects, *lines])


def numbers_with_a_gap(records: Records) -> Records:
    return attempt_changed(records, 2, number=2)


def skipped_and_begun(records: Records) -> Records:
    return run_changed(records, 2, state="skipped", reason="overlap")


def forbidden_reason(records: Records) -> Records:
    return run_changed(without_run(records, 2), 3, state="missed", reason="limit")


def no_reason(records: Records) -> Records:
    return run_changed(records, 2, state="missed")


def failure_of_a_job_that_does_not_fail(records: Records) -> Records:
    return run_changed(attempt_changed(records, 2, state="failed"), 2, state="failed")


def lost_in_silence(records: Records) -> Records:
    return run_changed(attempt_changed(records, 2, state="lost"), 2, state="lost")


def given_up_though_alive(records: Records) -> Records:
    return replace(lost_in_silence(records), told_lost={(2, 1): "ann"})


def slot_held_at_the_end(records: Records) -> Records:
    return run_changed(records, 6, slot_held=True)


def open_at_the_end(records: Records) -> Records:
    return attempt_changed(records, 6, state="running", finished_at=None)


def paused_by_nobody(records: Records) -> Records:
    return run_changed(without_attempts(records, 2), 2, kind="range", until=at(2), state="skipped", reason="paused")


def without_attempts(records: Records, number: int) -> Records:
    return replace(without_run(records, number), runs=records.runs)


def unasked_run(records: Records) -> Records:
    manual = replace(records.runs[0], id=50, kind="manual", scheduled_at=at(2.2), state="waiting", reason="requested")
    return replace(records, runs=[*records.runs, manual])


def due_much_later(records: Records) -> Records:
    return attempt_changed(run_changed(records, 2, due_at=at(2.5)), 2, started_at=at(2.5))


def begun_before_it_was_due(records: Records) -> Records:
    return run_changed(records, 2, due_at=at(2.05))


def skipped_before_it_was_due(records: Records) -> Records:
    return run_changed(without_attempts(records, 2), 2, due_at=at(2.05), state="skipped", reason="overlap")


def strange_death(records: Records) -> Records:
    return replace(records, crashes=["replica 3 ended with 70, not None"])


@pytest.mark.parametrize(
    ("tampering", "rule"),
    [
        (doubled_line, "started twice"),
        (missing_tick, "undecided"),
        (last_tick_missing_and_not_settled, "undecided"),
        (tick_in_two_rows, "decided twice"),
        (tick_in_a_row_and_in_a_range, "decided twice"),
        (row_between_ticks, "not due"),
        (overlapping_lines, "overlap"),
        (term_of_two_replicas, "shared term"),
        (attempt_in_the_term_of_another, "shared term"),
        (attempt_after_its_term, "terms"),
        (terms_out_of_order, "terms"),
        (unrecorded_term, "terms"),
        (success_without_a_line, "effects"),
        (success_without_an_end, "effects"),
        (line_of_no_attempt, "effects"),
        (line_of_another_tick, "effects"),
        (second_start, "starts"),
        (numbers_with_a_gap, "attempts"),
        (skipped_and_begun, "row"),
        (forbidden_reason, "policy"),
        (no_reason, "row"),
        (failure_of_a_job_that_does_not_fail, "policy"),
        (lost_in_silence, "silence"),
        (given_up_though_alive, "given up"),
        (slot_held_at_the_end, "slot"),
        (open_at_the_end, "open"),
        (paused_by_nobody, "pause"),
        (unasked_run, "request"),
        (due_much_later, "due"),
        (begun_before_it_was_due, "due"),
        (skipped_before_it_was_due, "due"),
        (strange_death, "crash"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_tampering_is_found(tampering: Callable[[Records], Records], rule: str) -> None:
    records, diary = sound()
    assert rule in rules(tampering(records), diary)


def test_a_tick_that_ran_in_a_pause_is_found() -> None:
    records, diary = sound()
    diary.pauses.append(Pause("one", at(1.5), at(2.5), at(2.5)))
    assert rules(records, diary) == {"pause"}


def test_the_end_of_a_pause_whose_answer_was_lost_may_be_anywhere_between_question_and_answer() -> None:
    records, diary = sound()
    diary.pauses.append(Pause("one", at(1.5), at(1.8), at(2.5)))
    assert rules(records, diary) == set()
    assert rules(paused_by_nobody(records), diary) == set()


def test_a_triggered_run_that_is_not_there_is_found() -> None:
    records, diary = sound()
    diary.triggered["key"] = 77
    assert rules(records, diary) == {"request"}


def test_an_edit_may_be_taken_up_at_any_moment_until_it_is_known_to_be() -> None:
    records, diary = sound()
    every_two = replace(JOB, when=Every(2000))
    diary.edits.append(Edit(every_two, at(2.5), at(4.5)))
    assert rules(records, diary) == {"not due"}, "the fifth is of the former schedule"
    fewer = without_run(records, 5)
    assert rules(fewer, diary) == set(), "the third was, and may have been decided"
    assert rules(without_run(fewer, 3), diary) == set(), "or not"
    assert rules(without_run(fewer, 4), diary) == {"undecided"}, "the fourth is of both"


def test_a_tick_may_come_due_as_much_later_as_its_jobs_jitter_says() -> None:
    records, _ = sound()
    late = due_much_later(records)
    assert rules(late, Diary([replace(JOB, jitter=0.5)], ended_at=at(6))) == set()
    assert rules(late, Diary([replace(JOB, jitter=0.4)], ended_at=at(6))) == {"due"}
    assert rules(begun_before_it_was_due(records), Diary([replace(JOB, jitter=0.5)], ended_at=at(6))) == {"due"}


def test_a_tick_is_skipped_in_a_pause_before_jitter_makes_it_due() -> None:
    records, diary = sound()
    diary.pauses.append(Pause("one", at(1.5), at(2.5), at(2.5)))
    paused = run_changed(paused_by_nobody(records), 2, due_at=at(2.9))
    diary.jobs = [replace(JOB, jitter=0.9)]
    assert rules(paused, diary) == set()


def test_an_edit_reaches_back_to_a_tick_that_jitter_makes_due_later() -> None:
    records, _ = sound()
    diary = Diary([replace(JOB, jitter=0.9)], ended_at=at(6))
    diary.edits.append(Edit(replace(JOB, when=Every(2000)), at(3.5), at(3.5)))
    fewer = without_run(records, 5)
    assert rules(fewer, diary) == set()
    assert rules(without_run(fewer, 3), diary) == set(), "the third was not due yet"
    diary.jobs = [replace(JOB, jitter=0.4)]
    assert rules(without_run(fewer, 3), diary) == {"undecided"}


def test_an_edit_reaches_back_over_a_pause_too() -> None:
    records, _ = sound()
    diary = Diary([replace(JOB, when=Every(3000), jitter=0.9)], ended_at=at(6))
    diary.edits.append(Edit(JOB, at(2.5), at(2.5)))
    diary.pauses.append(Pause("one", at(1.5), at(2.2), at(2.2)))
    later = without_run(records, 1)
    assert rules(later, diary) == set(), "the second is of the new schedule alone"
    diary.edits[:] = [Edit(JOB, at(1.0), at(1.0))]
    assert rules(later, diary) == {"pause"}


def test_an_edit_that_was_overtaken_by_another_may_never_have_been_taken_up() -> None:
    records, diary = sound()
    diary.edits.append(Edit(replace(JOB, when=Every(3000)), at(2.5)))
    diary.edits.append(Edit(replace(JOB, when=Every(2000)), at(2.7), at(3.5)))
    assert rules(without_run(records, 5), diary) == set()
    assert rules(records, diary) == {"not due"}


def test_who_was_killed_leaves_no_process_that_writes_later() -> None:
    records, diary = sound()
    diary.killed["ann"] = (at(1), 1.0)
    assert rules(records, diary) == set(), "within what is waited for before its runs are given up"
    late = [replace(line, at=7.0) if (line.fence, line.what) == (3, "end") else line for line in records.effects]
    assert rules(replace(records, effects=late), diary) == {"outlives"}


def test_a_loss_may_stay_untold_where_its_teller_was_killed_at_that_moment() -> None:
    records, diary = sound()
    lost = lost_in_silence(records)
    diary.killed["bob"] = (at(2.2), 2.2)
    assert rules(lost, diary) == set()


def test_more_runs_at_once_are_allowed_where_a_job_allows_them() -> None:
    records, _ = sound()
    for job in (replace(JOB, max_running=2), replace(JOB, overlap="allow")):
        assert rules(overlapping_lines(records), Diary([job], ended_at=at(6))) == set()


def test_a_queue_is_served_in_order() -> None:
    records, _ = sound()
    diary = Diary([replace(JOB, overlap="queue")], ended_at=at(6))
    assert rules(records, diary) == set()
    one, two, three, four, *others = records.effects
    assert rules(replace(records, effects=[three, four, one, two, *others]), diary) == {"order"}


def test_what_was_pruned_is_asked_of_nobody() -> None:
    records, diary = sound()
    pruned = replace(records, runs=records.runs[2:], attempts=records.attempts[2:])
    assert rules(pruned, diary) >= {"undecided", "effects"}
    diary.pruned_before = at(2.5)
    assert rules(pruned, diary) == set()
    assert rules(doubled_line(replace(pruned, effects=records.effects)), diary) == {"started twice"}
    assert rules(missing_from_the_rest(pruned), diary) == {"undecided", "effects"}
    nothing = replace(records, runs=[], attempts=[])
    assert "undecided" in rules(nothing, diary), "the third came later than what may be pruned"
    diary.pruned_before = at(6.5)
    assert rules(nothing, diary) == set()


def test_who_was_given_up_may_go_on_unseen_although_its_attempt_was_pruned() -> None:
    records, diary = sound()
    diary.pruned_before = at(2.5)
    begun, ended, *others = records.effects
    again = [replace(begun, fence=50, pid=200, at=1.05), replace(ended, fence=50, pid=200, at=1.07)]
    pruned = replace(
        records, runs=records.runs[2:], attempts=records.attempts[2:], effects=[begun, *again, ended, *others]
    )
    assert rules(pruned, diary) == {"overlap"}
    assert rules(replace(pruned, told_lost={(1, 1): "ann"}), diary) == {"given up"}
    diary.unheard.add("ann")
    assert rules(replace(pruned, told_lost={(1, 1): "ann"}), diary) == set()


def missing_from_the_rest(records: Records) -> Records:
    return replace(without_run(records, 4), effects=records.effects)


def test_a_gap_runs_from_the_last_fault_of_a_term_to_the_next_leaders_first_decision() -> None:
    records, _ = sound()
    deeds = [Deed("kill", at(0.5), "cyd"), Deed("freeze", at(2.0), "ann"), Deed("server", at(3.0)), Deed("x", at(5.0))]
    assert gaps(records, deeds) == {"server": [1.0]}
    assert gaps(records, [*deeds[:1], Deed("freeze", at(3.25), "ann")]) == {"freeze": [0.75]}
    assert gaps(records, deeds[:2]) == {"freeze": [1.0]}, "it went on deciding for a second"
    idle = replace(records, terms=[*records.terms[:1], Term(2, "cyd", at(3.25)), Term(3, "bob", at(3.5))])
    assert gaps(idle, deeds[:2]) == {"freeze": [1.0]}, "whoever decides next"
    assert gaps(records, deeds[:1]) == {}


def test_a_distribution_has_its_ends_and_its_middle() -> None:
    assert distribution([]) == {"n": 0}
    assert distribution([2.0]) == {"min": 2.0, "p50": 2.0, "p90": 2.0, "p99": 2.0, "max": 2.0, "n": 1}
    found = distribution([float(value) for value in range(101)])
    assert (found["min"], found["p50"], found["p90"], found["max"], found["n"]) == (0.0, 50.0, 90.0, 100.0, 101)

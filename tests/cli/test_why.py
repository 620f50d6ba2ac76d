"""`why`: what was decided for one tick, by whom, and why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scheduler_service.ledger import DISABLES, DROPS
from tests.cli.conftest import Command
from tests.story import Story


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


@pytest.fixture
def tick(story: Story) -> datetime:
    return story.minute - timedelta(minutes=30)


def ask(command: Command, story: Story, moment: datetime | str, job: str = "report") -> Any:
    typed = moment if isinstance(moment, str) else iso(moment)
    return command("why", job, typed, *story.place, "--json").document


def test_a_tick_that_ran_names_replica_delay_and_duration(command: Command, story: Story, tick: datetime) -> None:
    story.job()
    run_id = story.run(tick, "succeeded")
    story.attempt(run_id, tick + timedelta(milliseconds=50), "succeeded")

    document = ask(command, story, tick)

    assert document == {
        "job": "report",
        "scheduled_at": iso(tick),
        "decision": "succeeded",
        "reason": None,
        "decided_at": document["decided_at"],
        "decided_by": "first",
        "run": run_id,
        "explanation": document["explanation"],
        "previous": iso(tick - timedelta(minutes=1)),
        "next": iso(tick + timedelta(minutes=1)),
    }
    assert "started on first at" in document["explanation"]
    assert "50ms after it was due, and ended well after 1.5s." in document["explanation"]


def test_a_failure_says_what_went_wrong(command: Command, story: Story, tick: datetime) -> None:
    story.job()
    story.attempt(story.run(tick, "failed"), tick, "failed", error="Traceback…\nValueError: no disk")

    assert ask(command, story, tick)["explanation"].endswith("failed after 1.5s: ValueError: no disk.")


def test_a_lost_run_is_not_said_to_have_worked(command: Command, story: Story, tick: datetime) -> None:
    story.job()
    story.attempt(story.run(tick, "lost"), tick, "lost")

    assert "whether it did its work is not known" in ask(command, story, tick)["explanation"]


def test_a_tick_missed_between_two_leaders_names_both_and_what_it_was_folded_into(
    command: Command, story: Story, tick: datetime
) -> None:
    story.job()
    story.term(3, "first", tick - timedelta(hours=1), tick - timedelta(minutes=1))
    elected = tick + timedelta(minutes=4, seconds=30)
    story.term(4, "second", elected)
    decided = {"decided_at": elected, "decided_by": "second"}
    story.run(tick, "missed", "coalesced", **decided)
    later = tick + timedelta(minutes=4)
    run_id = story.run(later, "succeeded", kind="catch_up", **decided)
    story.attempt(run_id, elected, "succeeded", instance_id="second")

    missed, caught_up = ask(command, story, tick), ask(command, story, later)

    assert (missed["decision"], missed["reason"], missed["decided_by"]) == ("missed", "coalesced", "second")
    assert f"no replica led from {iso(tick - timedelta(minutes=1))} until second was elected" in missed["explanation"]
    assert f"folded into the tick of {iso(later)} (coalesced), which is run {run_id}." in missed["explanation"]
    assert caught_up["explanation"].startswith("The tick was missed at first (no replica led from ")


def test_a_leader_that_died_is_said_to_have_left_the_tick_undecided(
    command: Command, story: Story, tick: datetime
) -> None:
    story.job()
    story.term(3, "first", tick - timedelta(hours=1))
    story.term(4, "second", tick + timedelta(minutes=2))
    story.run(tick, "missed", "policy", decided_at=tick + timedelta(minutes=2), decided_by="second")

    explanation = ask(command, story, tick)["explanation"]

    assert "first, which led before, did not decide it, and second was elected at" in explanation
    assert "catch_up 'none' runs nothing that is late." in explanation


@pytest.mark.parametrize(("reason", "words"), [("window", "catch_up_window"), ("limit", "catch_up_limit")])
def test_a_tick_that_was_too_old_names_the_setting(
    command: Command, story: Story, tick: datetime, reason: str, words: str
) -> None:
    story.job()
    story.term(3, "first", tick - timedelta(hours=1))
    story.run(tick, "missed", reason, decided_at=tick + timedelta(minutes=2))

    explanation = ask(command, story, tick)["explanation"]

    assert words in explanation
    assert "first led, but decided it 2m after it was due" in explanation


def test_a_tick_held_up_by_a_silent_replica_names_its_run(command: Command, story: Story, tick: datetime) -> None:
    story.job()
    story.term(4, "second", tick - timedelta(hours=1))
    lost = story.run(tick - timedelta(minutes=1), "lost")
    story.attempt(lost, tick - timedelta(minutes=1), "lost", seconds=75)
    story.run(tick, "missed", "coalesced", decided_at=tick + timedelta(seconds=16))

    explanation = ask(command, story, tick)["explanation"]

    assert f"second led, but decided it 16s after it was due, because run {lost} on first, which fell" in explanation


def test_a_tick_skipped_for_overlap_names_the_run_in_its_way(command: Command, story: Story, tick: datetime) -> None:
    story.job()
    long = story.run(tick - timedelta(minutes=1), "succeeded")
    story.attempt(long, tick - timedelta(minutes=1), "succeeded", seconds=90)
    story.run(tick, "skipped", "overlap")

    explanation = ask(command, story, tick)["explanation"]

    assert f"run {long}, of the tick of {iso(tick - timedelta(minutes=1))}, was not over" in explanation


def test_a_tick_skipped_for_a_triggered_run_names_who_asked(command: Command, story: Story, tick: datetime) -> None:
    story.job()
    asked = tick - timedelta(seconds=20)
    long = story.run(asked, "succeeded", kind="manual", requested_by="ann")
    story.attempt(long, asked, "succeeded", seconds=90)
    story.run(tick, "skipped", "overlap")

    explanation = ask(command, story, tick)["explanation"]

    assert f"because run {long}, which ann asked for, was not over when it came due" in explanation


def test_a_cancelled_run_names_who_asked_for_it(command: Command, story: Story, tick: datetime) -> None:
    story.job()
    asked = {"cancel_requested_by": "ann@desk", "cancel_requested_at": tick + timedelta(seconds=1)}
    begun = story.run(tick, "cancelled", **asked)
    story.attempt(begun, tick, "cancelled")
    story.run(tick - timedelta(minutes=1), "cancelled", **asked)
    going = story.run(tick + timedelta(minutes=1), "running", **asked)
    story.attempt(going, tick + timedelta(minutes=1), "running", seconds=None)
    between = story.run(tick + timedelta(minutes=2), "cancelled", **asked)
    story.attempt(between, tick + timedelta(minutes=2), "failed", error="ValueError: no disk")
    on_request = f" because ann@desk asked for it at {iso(tick + timedelta(seconds=1))}."

    assert ask(command, story, tick)["explanation"].endswith(f"was cancelled after 1.5s{on_request}")
    never = ask(command, story, tick - timedelta(minutes=1))["explanation"]
    assert never == f"It was cancelled before it began{on_request}"
    failed_first = ask(command, story, tick + timedelta(minutes=2))["explanation"]
    assert failed_first == (
        f"Attempt 1 failed after 1.5s: ValueError: no disk. It was cancelled before it began again{on_request}"
    )
    still = ask(command, story, tick + timedelta(minutes=1))["explanation"]
    assert still.endswith(f", and was asked to stop{on_request}")


@pytest.mark.parametrize("words", [DISABLES, DROPS])
def test_a_run_that_was_cancelled_with_its_job_names_the_configuration(
    command: Command, sqlite_story: Story, words: str
) -> None:
    tick = sqlite_story.minute - timedelta(minutes=30)
    sqlite_story.job()
    at = tick + timedelta(seconds=1)
    run_id = sqlite_story.run(tick, "cancelled", cancel_requested_by=words, cancel_requested_at=at)

    explanation = ask(command, sqlite_story, tick)["explanation"]
    listed = command("runs", "report", *sqlite_story.place).out
    shown = command("runs", "show", str(run_id), *sqlite_story.place).out

    assert explanation == f"It was cancelled before it began because {words} asked for it at {iso(at)}."
    assert f"asked for by {words}" in listed
    assert f"cancel        {iso(at)}, asked for by {words}" in shown


def test_replaced_ticks_name_what_took_their_place(command: Command, story: Story, tick: datetime) -> None:
    story.job()
    story.term(3, "first", tick - timedelta(hours=1))
    minute, newest = timedelta(minutes=1), tick + timedelta(minutes=2)
    by = {"cancel_requested_by": f"the tick of {iso(newest)}, which replaces it", "cancel_requested_at": tick + minute}
    running = story.run(tick, "cancelled", **by)
    story.attempt(running, tick, "cancelled", seconds=150)
    story.run(tick + minute, "missed", "coalesced", decided_at=newest)
    last = story.run(newest, "succeeded")
    story.attempt(last, newest + timedelta(seconds=30), "succeeded")

    replaced = ask(command, story, tick)["explanation"]
    waited = ask(command, story, tick + minute)["explanation"]

    assert replaced.endswith(f": it was replaced by the tick of {iso(newest)} (overlap 'replace').")
    assert waited == (
        f"The tick came while run {running} went on, waited for its end, and was missed because the tick of "
        f"{iso(newest)}, which is run {last}, took its place (overlap 'replace')."
    )


def test_a_run_that_was_tried_again_tells_of_its_earlier_attempts(
    command: Command, story: Story, tick: datetime
) -> None:
    story.job()
    run_id = story.run(tick, "succeeded")
    story.attempt(run_id, tick, "failed", error="ValueError: no disk")
    story.attempt(run_id, tick, "timed_out", attempt=2)
    story.attempt(run_id, tick, "lost", attempt=3)
    story.attempt(run_id, tick, "succeeded", attempt=4)

    explanation = ask(command, story, tick)["explanation"]

    assert explanation.startswith(
        "Attempt 1 failed after 1.5s: ValueError: no disk, then attempt 2 was stopped by its time-out after 1.5s, then "
        "attempt 3 was lost with its replica. It was started (attempt 4) on first at "
    )


@pytest.mark.parametrize(
    ("reason", "ended", "words"),
    [
        ("retry", "timed_out", "Attempt 1 was stopped by its time-out after 1.5s. It waits to be tried again: due at "),
        ("rerun", "lost", "Attempt 1 was lost with its replica. It waits to be run again (on_crash 'rerun'): due at "),
    ],
)
def test_a_run_that_waits_to_be_started_again_says_why(
    command: Command, story: Story, tick: datetime, reason: str, ended: str, words: str
) -> None:
    story.job()
    run_id = story.run(tick, "waiting", reason)
    story.attempt(run_id, tick, ended)

    assert ask(command, story, tick)["explanation"].startswith(words)


def test_a_run_that_waits_for_a_leader_that_has_its_job_says_so(command: Command, story: Story, tick: datetime) -> None:
    story.job("other")
    left_at = story.minute - timedelta(minutes=5)
    story.job(present_at=left_at)
    story.run(tick, "waiting", "queued")

    assert ask(command, story, tick)["explanation"] == (
        "It was decided to run and waits to be started, but its job is not configured: a leader last had it at "
        f"{iso(left_at)}. It goes on waiting for a leader that has it, and is cancelled when the job has been away for "
        "ten minutes."
    )


def test_a_range_covers_the_ticks_in_it_and_no_other_moment(command: Command, story: Story, tick: datetime) -> None:
    story.job()
    run_id = story.run(tick - timedelta(minutes=20), "skipped", "paused", kind="range", until=tick, decided_at=tick)

    inside = ask(command, story, tick - timedelta(minutes=7))
    beside = ask(command, story, tick - timedelta(minutes=7, seconds=30))

    assert (inside["decision"], inside["reason"], inside["run"]) == ("skipped", "paused", run_id)
    assert (beside["decision"], beside["run"]) == ("not_a_tick", None)


def test_a_moment_that_is_no_tick_has_neighbours(command: Command, story: Story, tick: datetime) -> None:
    story.job()

    document = ask(command, story, tick + timedelta(seconds=20))

    assert (document["decision"], document["run"], document["decided_by"]) == ("not_a_tick", None, None)
    assert (document["previous"], document["next"]) == (iso(tick), iso(tick + timedelta(minutes=1)))


def test_a_tick_before_the_job_was_accountable_is_owed_by_nobody(
    command: Command, story: Story, tick: datetime
) -> None:
    story.job(accountable_from=tick + timedelta(seconds=1))

    document = ask(command, story, tick)

    assert document["decision"] == "not_accountable"
    assert iso(tick + timedelta(seconds=1)) in document["explanation"]


def test_a_tick_to_come_is_in_the_future(command: Command, story: Story) -> None:
    story.job()

    assert ask(command, story, story.minute + timedelta(hours=2))["decision"] == "future"


def test_a_tick_past_what_is_settled_waits_for_a_leader(command: Command, story: Story, tick: datetime) -> None:
    story.job(settled_until=tick - timedelta(seconds=1))

    document = ask(command, story, tick)

    assert document["decision"] == "not_settled"
    assert "not decided yet" in document["explanation"]


@pytest.mark.parametrize("after", [timedelta(0), timedelta(hours=2)], ids=["past", "to come"])
def test_a_tick_of_a_job_that_left_the_configuration_is_promised_to_nobody(
    command: Command, story: Story, tick: datetime, after: timedelta
) -> None:
    story.job(present_at=tick, settled_until=tick - timedelta(seconds=1))
    story.job("renamed")

    explanation = ask(command, story, tick + after)["explanation"]

    assert explanation == (
        f"The job is not in the configuration any more: a leader last had it at {iso(tick)}. Nobody decides its ticks "
        "unless it comes back."
    )
    assert "Nobody" not in ask(command, story, story.minute + timedelta(hours=2), "renamed")["explanation"]


def test_a_tick_whose_row_was_pruned_is_not_recorded(command: Command, story: Story, tick: datetime) -> None:
    story.job()

    assert ask(command, story, tick)["decision"] == "not_recorded"


@pytest.mark.parametrize(
    ("values", "words"),
    [({"enabled": False}, "The job is disabled"), ({"paused_by": "ann"}, "The job is paused since")],
)
def test_a_tick_that_will_not_run_says_so_beforehand(
    command: Command, sqlite_story: Story, values: dict[str, Any], words: str
) -> None:
    if "paused_by" in values:
        values = {**values, "paused_at": sqlite_story.ago(hours=1)}
    sqlite_story.job(**values)

    assert ask(command, sqlite_story, sqlite_story.minute + timedelta(minutes=5))["explanation"].startswith(words)


def test_a_time_without_offset_is_in_the_zone_of_the_job(command: Command, sqlite_story: Story) -> None:
    sqlite_story.job(schedule="45 2 * * *", timezone="Europe/Berlin", accountable_from=sqlite_story.ago(days=900))
    run_id = sqlite_story.run(datetime(2025, 7, 1, 0, 45, tzinfo=UTC), "missed", "policy")

    document = ask(command, sqlite_story, "2025-07-01T02:45")

    assert (document["scheduled_at"], document["run"]) == ("2025-07-01T00:45:00Z", run_id)


def test_a_time_of_a_job_without_cron_is_in_the_zone_of_the_service(
    command: Command, sqlite_story: Story, tokyo: list[str]
) -> None:
    sqlite_story.job(schedule="every 1h")
    sqlite_story.job("nightly", "0 2 * * *", "Europe/Berlin")

    def asked(job: str, place: list[str]) -> str:
        return str(command("why", job, "2025-07-01T02:00", *place, "--json").document["scheduled_at"])

    assert asked("report", tokyo) == "2025-06-30T17:00:00Z"
    assert asked("nightly", tokyo) == "2025-07-01T00:00:00Z"
    assert asked("report", sqlite_story.place) == "2025-07-01T02:00:00Z"  # no configuration says the zone


def test_why_for_people_is_a_few_plain_lines(command: Command, sqlite_story: Story) -> None:
    tick = sqlite_story.minute - timedelta(minutes=30)
    sqlite_story.job()
    run_id = sqlite_story.run(tick, "skipped", "queue_limit")

    answered = command("why", "report", iso(tick), *sqlite_story.place)

    assert answered.out.splitlines() == [
        f"report at {iso(tick)}: skipped (queue_limit)",
        "The tick was skipped because as many runs as the job's queue_limit waited already (overlap 'queue').",
        f"decided   {iso(tick)[:-1]}.010Z by first",
        f"row       run {run_id}",
        f"previous  {iso(tick - timedelta(minutes=1))}",
        f"next      {iso(tick + timedelta(minutes=1))}",
    ]


def test_an_unknown_job_is_answered_with_the_nearest(command: Command, sqlite_story: Story) -> None:
    assert command("why", "reprot", "2025-07-01", *sqlite_story.place, exit_code=2).err == (
        "error: the ledger knows no job 'reprot': no leader has taken up any job yet\n"
    )
    sqlite_story.job()
    assert "did you mean 'report'?" in command("why", "reprot", "2025-07-01", *sqlite_story.place, exit_code=2).err


def test_a_time_that_is_none_is_a_mistake(command: Command, sqlite_story: Story) -> None:
    sqlite_story.job()

    assert command("why", "report", "noon", *sqlite_story.place, exit_code=2).err.startswith(
        "error: 'noon' is not a time"
    )

"""`status`: who leads, which replicas there are, how the jobs stand."""

from __future__ import annotations

from datetime import timedelta

import pytest

from scheduler_service import Elector
from scheduler_service.ledger.history.pages import Pages, Wanted
from scheduler_service.tables import leader_term
from scheduler_service.web.attention import concerns
from tests.cli.conftest import Command
from tests.story import LOCK_ID, Story

QUIET = {"lost_after_seconds": 15, "not_ready": ()}


def test_status_names_the_leader_the_replicas_and_the_jobs(command: Command, story: Story) -> None:
    story.term(3, "first", story.ago(minutes=5))
    story.lease(3, "first", timedelta(minutes=30))
    story.replica("first")
    story.replica("second", seen_at=story.ago(seconds=2))
    story.job()
    run_id = story.run(story.minute, "succeeded")

    document = command("status", *story.place, "--json").document

    assert document["lock_id"] == LOCK_ID
    assert document["leader"]["instance_id"] == "first"
    assert document["leader"]["term"] == 3
    assert document["leader"]["crash_detection"] is False
    assert [(one["instance_id"], one["role"]) for one in document["replicas"]] == [
        ("first", "leader"),
        ("second", "standby"),
    ]
    (job,) = document["jobs"]
    assert (job["job"], job["schedule"], job["timezone"], job["enabled"]) == ("report", "* * * * *", "UTC", True)
    assert job["last"]["id"] == run_id
    assert job["last"]["state"] == "succeeded"
    assert job["next"].endswith("Z")
    assert (job["paused"], job["running"]) == (None, 0)
    assert document["config_drift"] is False


def test_status_for_people_says_who_leads_and_what_comes_next(command: Command, sqlite_story: Story) -> None:
    sqlite_story.term(3, "first", sqlite_story.ago(minutes=5))
    sqlite_story.lease(3, "first", timedelta(minutes=30))
    sqlite_story.replica("first")
    sqlite_story.job()
    sqlite_story.run(sqlite_story.minute, "missed", "coalesced")

    shown = command("status", *sqlite_story.place).out

    assert "leader    first, term 3, since " in shown
    assert "crash detection off" in shown
    assert "missed (coalesced)" in shown
    assert all(len(line) <= 120 for line in shown.splitlines())


def test_without_a_leader_the_answer_is_no(command: Command, story: Story) -> None:
    answered = command("status", *story.place, exit_code=1)

    assert "leader    none: no replica has ever led" in answered.out
    assert "no replica has signed in" in answered.out


def test_a_program_that_leads_in_the_place_of_the_replicas_is_told(command: Command, story: Story) -> None:
    story.replica("first")
    with Elector(story.url, lock_id=LOCK_ID, instance_id="mailer") as elector:
        lease = elector.wait_elected(timeout_seconds=30)
        assert lease is not None
        assert "has not signed in" not in command("status", *story.place).out  # it may still sign in
        with story.database.connect() as connection:
            connection.execute(leader_term.update().values(acquired_at=story.ago(seconds=11)))

        shown = command("status", *story.place, exit_code=1).out
        told = [one.text for one in concerns(Pages(story.database, LOCK_ID).overview(Wanted()), (), **QUIET)]

        words = (
            f"{lease.leader_id} leads and has not signed in: it is another program that uses lock_id 7, and no job "
            "runs, or a replica that may not write"
        )
        assert f"stranger  {words}\n" in shown
        assert told == [f"{words}."]
        assert command("status", *story.place, "--json", exit_code=1).document["leader"]["term"] == lease.term


def test_an_expired_lease_is_no_leader_and_the_last_one_is_named(command: Command, story: Story) -> None:
    story.term(3, "first", story.ago(minutes=5))
    story.lease(3, "first", timedelta(seconds=-1))

    assert command("status", *story.place, "--json", exit_code=1).document["leader"] is None
    assert "first led last (term 3) and let its lease run out" in command("status", *story.place, exit_code=1).out


def test_a_lease_given_back_names_who_led_until_when(command: Command, sqlite_story: Story) -> None:
    sqlite_story.term(3, "first", sqlite_story.ago(minutes=5), sqlite_story.ago(minutes=1))

    assert "; first led until " in command("status", *sqlite_story.place, exit_code=1).out


def test_a_live_replica_with_another_configuration_is_drift(command: Command, sqlite_story: Story) -> None:
    sqlite_story.lease(3, "first", timedelta(minutes=30))
    sqlite_story.replica("first")
    sqlite_story.replica("second", config_hash="other")

    assert command("status", *sqlite_story.place, "--json").document["config_drift"] is True
    assert "drift     the configuration of second is not the leader's" in command("status", *sqlite_story.place).out


def test_a_replica_that_is_gone_is_no_drift_and_shows_for_how_long(command: Command, sqlite_story: Story) -> None:
    sqlite_story.lease(3, "first", timedelta(minutes=30))
    sqlite_story.replica("first")
    sqlite_story.replica("second", config_hash="other", seen_at=sqlite_story.ago(minutes=2))

    assert command("status", *sqlite_story.place, "--json").document["config_drift"] is False
    (line,) = [line for line in command("status", *sqlite_story.place).out.splitlines() if line.startswith("second")]
    assert line.split()[1] == "gone"
    assert "  not for 2m" in line


def test_a_job_that_left_the_configuration_is_left_out(command: Command, sqlite_story: Story) -> None:
    sqlite_story.term(3, "first", sqlite_story.ago(minutes=5))
    sqlite_story.lease(3, "first", timedelta(minutes=30))
    sqlite_story.replica("first")
    sqlite_story.job()
    sqlite_story.job("former", present_at=sqlite_story.ago(minutes=6))

    jobs = command("status", *sqlite_story.place, "--json").document["jobs"]

    assert [job["job"] for job in jobs] == ["report"]


@pytest.mark.parametrize(
    ("values", "shown"),
    [({"enabled": False}, "disabled"), ({"paused_by": "ann", "pause_reason": "holidays"}, "paused")],
)
def test_a_job_that_will_not_run_has_no_next_tick(
    command: Command, sqlite_story: Story, values: dict[str, object], shown: str
) -> None:
    if shown == "paused":
        values = {**values, "paused_at": sqlite_story.ago(hours=1)}
    sqlite_story.job(**values)

    (job,) = command("status", *sqlite_story.place, "--json", exit_code=1).document["jobs"]

    assert job["next"] is None
    assert (job["paused"] is not None) == (shown == "paused")
    assert shown in command("status", *sqlite_story.place, exit_code=1).out


def test_a_pause_that_is_over_counts_as_none(command: Command, story: Story) -> None:
    paused = {"paused_at": story.ago(hours=1), "paused_by": "ann", "pause_reason": "holidays"}
    story.job(paused_until=story.ago(minutes=1), **paused)
    story.job("backup", paused_until=story.now + timedelta(hours=1), **paused)

    backup, report = command("status", *story.place, "--json", exit_code=1).document["jobs"]

    assert report["paused"] is None
    assert backup["paused"] == {
        "at": backup["paused"]["at"],
        "until": backup["paused"]["until"],
        "by": "ann",
        "reason": "holidays",
    }
    assert backup["next"] > backup["paused"]["until"]
    shown = command("status", *story.place, exit_code=1).out.splitlines()
    assert [line.split()[0] for line in shown if " paused, " in line] == ["backup"]


def test_a_run_that_is_over_and_goes_on_all_the_same_is_shown_as_stuck(command: Command, story: Story) -> None:
    story.job()
    story.job("backup")
    stuck = story.run(story.minute, "timed_out", slot_held=True, exclusive=True, slot=0)
    story.attempt(stuck, story.minute, "timed_out")
    going = story.run(story.minute, "running", job_id="backup", slot_held=True)
    story.attempt(going, story.minute, "running", seconds=None)

    backup, report = command("status", *story.place, "--json", exit_code=1).document["jobs"]

    assert (report["running"], report["stuck"]) == (0, 1)
    assert (backup["running"], backup["stuck"]) == (1, 0)
    assert "timed_out, 1 stuck" in command("status", *story.place, exit_code=1).out


@pytest.mark.parametrize("stored", [{"schedule": "@lunar 5"}, {"timezone": "Mars/Base"}])
def test_a_job_whose_schedule_cannot_be_read_here_hides_no_other(
    command: Command, sqlite_story: Story, stored: dict[str, str]
) -> None:
    sqlite_story.term(3, "first", sqlite_story.ago(minutes=5))
    sqlite_story.lease(3, "first", timedelta(minutes=30))
    sqlite_story.replica("first")
    sqlite_story.job("strange", **stored)
    sqlite_story.job("report")
    jobs = command("status", *sqlite_story.place, "--json").document["jobs"]
    assert {one["job"]: one["next"] is not None for one in jobs} == {"strange": False, "report": True}
    answer = command("why", "strange", "2026-11-20T10:00:00Z", *sqlite_story.place, "--json").document
    assert answer["decision"] == "unreadable"

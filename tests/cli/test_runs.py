"""`runs` and `runs show`: the ledger."""

from __future__ import annotations

import unicodedata
from datetime import timedelta

import pytest

from scheduler_service.cli.output import visible
from tests.cli.conftest import Command
from tests.story import Story


def test_runs_come_newest_tick_first_with_delay_and_duration(command: Command, story: Story) -> None:
    earlier, later = story.minute - timedelta(minutes=2), story.minute - timedelta(minutes=1)
    first = story.run(earlier, "failed")
    story.attempt(first, earlier + timedelta(milliseconds=250), "failed", error="ValueError: no", exit_code=None)
    second = story.run(later, "missed", "window")

    newest, oldest = command("runs", *story.place, "--json").document

    assert (newest["id"], newest["state"], newest["reason"]) == (second, "missed", "window")
    assert (newest["started_at"], newest["delay_seconds"], newest["duration_seconds"]) == (None, None, None)
    assert oldest == {
        "id": first,
        "job": "report",
        "scheduled_at": earlier.isoformat().replace("+00:00", "Z"),
        "until": None,
        "due_at": earlier.isoformat().replace("+00:00", "Z"),
        "kind": "scheduled",
        "state": "failed",
        "reason": None,
        "decided_at": oldest["decided_at"],
        "decided_by": "first",
        "attempt": 1,
        "term": 3,
        "instance_id": "first",
        "started_at": oldest["started_at"],
        "finished_at": oldest["finished_at"],
        "exit_code": None,
        "error": "ValueError: no",
        "delay_seconds": 0.25,
        "duration_seconds": 1.5,
        "requested_by": None,
        "request_key": None,
        "arguments": None,
        "cancel_requested_at": None,
        "cancel_requested_by": None,
        "peak_memory_bytes": None,
    }


@pytest.mark.parametrize("state", ["waiting", "cancelled"])
def test_a_run_that_waits_to_be_tried_again_has_no_delay_yet(command: Command, story: Story, state: str) -> None:
    run_id = story.run(story.minute, state, "retry", due_at=story.minute + timedelta(seconds=31))
    story.attempt(run_id, story.minute + timedelta(seconds=1), "failed")

    assert command("runs", "show", run_id, *story.place, "--json").document["delay_seconds"] is None
    assert [state, "-", "1.5s"] == command("runs", *story.place).out.splitlines()[1].split()[3:6]


def test_runs_can_be_chosen_by_job_state_and_time(command: Command, story: Story) -> None:
    story.job()
    old = story.run(story.minute - timedelta(hours=3), "succeeded")
    new = story.run(story.minute - timedelta(minutes=1), "succeeded")
    other = story.run(story.minute, "lost", job_id="backup")

    def ids(*options: str) -> list[int]:
        return [row["id"] for row in command("runs", *options, *story.place, "--json").document]

    assert ids() == [other, new, old]
    assert ids("report") == [new, old]
    assert ids("--state", "lost") == [other]
    assert ids("--since", "2h") == [other, new]
    assert ids("--since", (story.minute - timedelta(minutes=1)).isoformat(), "report") == [new]


def test_a_range_is_found_by_its_last_tick(command: Command, story: Story) -> None:
    paused = story.run(
        story.minute - timedelta(hours=3), "skipped", "paused", kind="range", until=story.minute - timedelta(hours=1)
    )

    (row,) = command("runs", *story.place, "--since", "2h", "--json").document

    assert (row["id"], row["kind"]) == (paused, "range")


def test_older_runs_are_left_out_and_that_is_said(command: Command, sqlite_story: Story) -> None:
    for minutes in range(3):
        sqlite_story.run(sqlite_story.minute - timedelta(minutes=minutes), "succeeded")

    answered = command("runs", *sqlite_story.place, "--limit", 2)

    assert len(answered.out.splitlines()) == 3
    assert answered.err == "there are older ones: --limit 20\n"


def test_no_runs_is_an_empty_answer_and_not_a_mistake(command: Command, sqlite_story: Story) -> None:
    assert command("runs", *sqlite_story.place).out == ""
    assert command("runs", *sqlite_story.place, "--json").document == []


def test_show_has_every_attempt_and_what_it_wrote(command: Command, story: Story) -> None:
    run_id = story.run(story.minute, "succeeded")
    story.attempt(run_id, story.minute, "lost", instance_id="second")
    fence = story.attempt(run_id, story.minute, "succeeded", attempt=2, result="42")
    story.output(fence, "one\ntwo\n", truncated=True)

    document = command("runs", "show", run_id, *story.place, "--json").document

    assert document["id"] == run_id
    assert [attempt["state"] for attempt in document["attempts"]] == ["lost", "succeeded"]
    assert document["attempts"][1]["output_truncated"] is True
    assert document["output"] == "one\ntwo\n"
    shown = command("runs", "show", run_id, *story.place).out
    assert f"attempt 2 (fence {fence}): succeeded, took 1.5s" in shown
    assert "    two\n" in shown


def test_what_people_asked_for_says_who_did(command: Command, story: Story) -> None:
    asked = {"kind": "manual", "requested_by": "ann", "request_key": "k", "arguments": '{"days": 3}'}
    run_id = story.run(story.minute, "succeeded", **asked)
    story.attempt(run_id, story.minute, "succeeded", peak_memory_bytes=3 * 2**20)
    story.run(story.minute - timedelta(minutes=1), "waiting", "requested", kind="manual", requested_by="bob")
    by = {"cancel_requested_at": story.minute, "cancel_requested_by": "eve"}
    story.run(story.minute - timedelta(minutes=2), "cancelled", kind="manual", requested_by="bob", **by)

    document = command("runs", "show", run_id, *story.place, "--json").document
    assert (document["requested_by"], document["request_key"], document["arguments"]) == ("ann", "k", {"days": 3})
    assert document["peak_memory_bytes"] == document["attempts"][0]["peak_memory_bytes"] == 3 * 2**20
    shown = command("runs", "show", run_id, *story.place).out
    assert " by ann, key k\n" in shown
    assert "  peak memory 3.0 MiB\n" in shown
    lines = command("runs", *story.place).out.splitlines()
    assert [line.rpartition("  ")[2] for line in lines[2:]] == ["requested by bob", "asked for by eve"]


HOSTILE = "\x1b]0;pwn\x07\x1b[2Jred \x1b[31mred\x1b[0m\u202e\x9b\x7f"


def acts(text: str) -> bool:
    return any(unicodedata.category(letter) in ("Cc", "Cf") for letter in text if letter not in "\n\t")


def test_nothing_that_a_job_or_a_person_wrote_acts_on_the_terminal(command: Command, story: Story) -> None:
    story.job()
    run_id = story.run(story.minute, "failed", requested_by=f"ann{HOSTILE}", kind="manual", request_key=HOSTILE)
    fence = story.attempt(run_id, story.minute, "failed", error=f"Error: {HOSTILE}\n{HOSTILE}", result=HOSTILE)
    story.output(fence, f"one\r\n{HOSTILE}\n")
    tick = story.minute - timedelta(minutes=5)
    failed = story.run(tick, "failed")
    story.attempt(failed, tick, "failed", error=HOSTILE)

    for words in (["runs"], ["runs", "show", run_id], ["why", "report", tick.isoformat()]):
        shown = command(*words, *story.place).out
        assert not acts(shown)
        assert "\\x1b]0;pwn\\x07" in shown
        assert "\\u202e" in shown


def test_colours_of_an_output_stay_and_end_with_it() -> None:
    shown = visible("\x1b[1;31mred\x1b]0;pwn\x07\x1b[2J\n", colours=True)
    assert shown == "\x1b[1;31mred\\x1b]0;pwn\\x07\\x1b[2J\n\x1b[0m"
    assert visible("a\tb\r\nc\rd", colours=True) == "a\tb\r\nc\\rd"
    assert visible("\x1b[31mred") == "\\x1b[31mred"


def test_what_no_encoding_has_letters_for_is_escaped_in_json(command: Command, story: Story) -> None:
    run_id = story.run(story.minute, "waiting", "requested", kind="manual", arguments='{"half": "\\ud800 é"}')
    (document,) = command("runs", "--json", *story.place).document
    assert document["id"] == run_id
    shown = command("runs", "show", run_id, "--json", *story.place).document
    assert shown["arguments"] == {"half": "\ud800 é"}


def test_a_run_that_is_not_there_is_a_mistake(command: Command, sqlite_story: Story) -> None:
    for typed in ("12", "abc", "99999999999999999999999"):
        answered = command("runs", "show", typed, *sqlite_story.place, exit_code=2)
        assert answered.err.startswith(f"error: there is no run '{typed}'")
        assert len(answered.lines) == 1


def test_a_job_that_is_misspelt_is_answered_with_the_nearest(command: Command, sqlite_story: Story) -> None:
    sqlite_story.job()

    answered = command("runs", "reprot", *sqlite_story.place, exit_code=2)

    assert answered.err == "error: the ledger knows no job 'reprot'; did you mean 'report'?\n"


def test_a_time_that_is_none_says_what_one_looks_like(command: Command, sqlite_story: Story) -> None:
    answered = command("runs", *sqlite_story.place, "--since", "yesterday", exit_code=2)

    assert answered.err == (
        "error: 'yesterday' is not a time: write, for example, 2026-01-31T12:00:00Z, or how long ago, as in 90m\n"
    )


@pytest.mark.parametrize("ago", ["99999999999d", "100000d", "9" * 400 + "d"])
def test_a_time_too_long_ago_is_a_mistake(command: Command, sqlite_story: Story, ago: str) -> None:
    answered = command("runs", *sqlite_story.place, "--since", ago, exit_code=2)

    assert answered.lines == [f"error: {ago!r} is out of range: the years 1970 to 2999 can be asked for"]


@pytest.mark.parametrize("name", ["status", "runs"])
@pytest.mark.parametrize("lock_id", [2**63, -(2**63) - 1, 10**23])
def test_an_election_that_no_table_can_hold_is_a_mistake(
    command: Command, sqlite_story: Story, name: str, lock_id: int
) -> None:
    answered = command(name, "--database", sqlite_story.url, f"--lock-id={lock_id}", exit_code=2)

    assert f"{lock_id} is not in the range" in answered.lines[-1]


@pytest.mark.parametrize("lock_id", [2**63 - 1, -(2**63)])
def test_the_outermost_elections_can_be_asked_for(command: Command, sqlite_story: Story, lock_id: int) -> None:
    assert command("runs", "--database", sqlite_story.url, f"--lock-id={lock_id}", "--json").document == []

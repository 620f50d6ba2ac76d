"""What a person can get wrong when asking, and what the answers say; no replica is needed for it."""

from __future__ import annotations

import getpass
import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest

from scheduler_service.cli import requesting
from scheduler_service.cli.asking import asker, job_arguments
from scheduler_service.cli.output import Mistake
from tests.cli.conftest import Command
from tests.story import Story


@pytest.mark.parametrize(
    ("args", "pairs", "kept"),
    [
        (None, [], None),
        ("[]", [], "[]"),
        ('[1, "two", null]', [], '[1, "two", null]'),
        ('{"days": 3}', [], '{"days": 3}'),
        (None, ["days=3", "name=ann", "on=true"], '{"days": 3, "name": "ann", "on": true}'),
        (None, ['days="3"', "text=", "list=[1]", "bare=NaN"], '{"days": "3", "text": "", "list": [1], "bare": "NaN"}'),
        (None, ["vast=1e999"], '{"vast": "1e999"}'),
        ('{"a": 1}', ["b=x=y"], '{"a": 1, "b": "x=y"}'),
        ('["\\ud83d\\ude00"]', [], '["\\ud83d\\ude00"]'),
        (None, ["name=é\N{NULL}"], '{"name": "\\u00e9\\u0000"}'),
    ],
)
def test_arguments_are_kept_as_json(args: str | None, pairs: list[str], kept: str | None) -> None:
    assert job_arguments(args, pairs) == kept


@pytest.mark.parametrize(
    ("args", "pairs", "message"),
    [
        ("[1", [], "Expecting ',' delimiter at character 3"),
        ("3", [], "--args must be a list or an object"),
        ("days: 3", [], "--args is not JSON"),
        ("[NaN]", [], "NaN is no number of JSON's"),
        ("[-1e999]", [], "-1e999 is too large for a number"),
        ('{"a": 1, "a": 2}', [], "'a' is given twice"),
        ("[" * 100_000, [], "--args is not JSON"),
        ("[1]", ["a=2"], "--arg gives arguments by name and --args a list by position"),
        ('{"a": 1}', ["a=2"], "the argument 'a' is given twice"),
        (None, ["a"], "--arg 'a' is not NAME=VALUE"),
        (None, ["a-b=1"], "--arg 'a-b=1' is not NAME=VALUE"),
        (None, ["a=" + "x" * 100_001], "100000 are kept at most"),
        ('{"a": "\\ud800"}', [], "the arguments hold half of a surrogate pair"),
        ('[{"\\udfff": 1}]', [], "the arguments hold half of a surrogate pair"),
        (None, ["a=\udcff"], "the arguments hold half of a surrogate pair"),
    ],
)
def test_arguments_that_cannot_be_kept_are_refused_in_one_line(
    args: str | None, pairs: list[str], message: str
) -> None:
    with pytest.raises(Mistake) as refused:
        job_arguments(args, pairs)
    assert message in refused.value.message
    assert "\n" not in refused.value.message


def test_whoever_gives_no_name_is_user_at_host(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asker("the night shift") == "the night shift"
    assert asker(None) == f"{getpass.getuser()}@{socket.gethostname()}"

    def nobody() -> str:
        raise OSError("No username set in the environment")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert asker(None) == f"uid {os.getuid()}@{socket.gethostname()}"


@pytest.mark.parametrize("by", ["", " ", "a\nb", "x" * 201, "\x1b[31mred"])
@pytest.mark.parametrize("words", [["trigger", "report"], ["pause", "report"], ["cancel", "1"], ["resign"]])
def test_a_name_that_cannot_be_shown_is_a_mistake(
    command: Command, sqlite_story: Story, words: list[str], by: str
) -> None:
    answered = command(*words, "--by", by, *sqlite_story.place, exit_code=2)

    assert answered.lines[0].startswith("error: the text of --by ")
    assert len(answered.lines) == 1


@pytest.mark.parametrize("words", [["trigger", "report"], ["pause", "report"], ["cancel", "1"], ["resign"]])
def test_asking_makes_no_database(command: Command, tmp_path: Path, words: list[str]) -> None:
    answered = command(*words, "--database", f"sqlite:///{tmp_path}/none.db", exit_code=69)

    assert answered.lines == [
        f"error: sqlite:///{tmp_path}/none.db: there is no such file; a replica makes it when it starts"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["trigger", "pause", "resume"])
def test_a_job_that_there_is_not_is_answered_with_the_nearest(command: Command, sqlite_story: Story, verb: str) -> None:
    assert command(verb, "reprot", *sqlite_story.place, exit_code=2).err == (
        "error: the ledger knows no job 'reprot': no leader has taken up any job yet\n"
    )
    sqlite_story.job()
    assert command(verb, "reprot", *sqlite_story.place, exit_code=2).err == (
        "error: the ledger knows no job 'reprot'; did you mean 'report'?\n"
    )


@pytest.mark.parametrize("verb", ["trigger", "pause"])
def test_a_job_that_left_the_configuration_says_since_when(command: Command, sqlite_story: Story, verb: str) -> None:
    sqlite_story.job()
    sqlite_story.job("former", present_at=sqlite_story.ago(minutes=6))

    answered = command(verb, "former", *sqlite_story.place, exit_code=2)

    assert answered.err.startswith("error: the job 'former' is not in the configuration any more: a leader last had it")
    assert len(answered.lines) == 1


def test_where_nobody_leads_a_triggered_run_waits_for_a_leader(command: Command, story: Story) -> None:
    story.job()

    answered = command("trigger", "report", "--arg", "days=3", "--key", "k", *story.place)

    assert answered.lines == ["nobody leads: the run starts when a replica leads"]
    (row,) = command("runs", *story.place, "--json").document
    assert answered.out == f"run {row['id']} of report: waiting\n"
    assert (row["kind"], row["reason"], row["arguments"], row["request_key"]) == (
        "manual",
        "requested",
        {"days": 3},
        "k",
    )
    shown = command("runs", "show", row["id"], *story.place).out
    assert f"by {asker(None)}, key k" in shown
    assert 'arguments     {"days": 3}' in shown


def test_a_key_of_another_job_is_a_mistake_that_names_its_run(command: Command, sqlite_story: Story) -> None:
    sqlite_story.job()
    sqlite_story.job("backup")
    run_id = command("trigger", "backup", "--key", "k", *sqlite_story.place, "--json").document["id"]

    answered = command("trigger", "report", "--key", "k", *sqlite_story.place, exit_code=2)

    assert answered.lines == [f"error: the key 'k' belongs to run {run_id} of backup: take another"]


def test_what_a_run_wrote_reaches_a_pipe_byte_for_byte(command: Command, story: Story) -> None:
    story.job()
    run_id = story.run(story.minute, "succeeded", kind="manual", requested_by="ann", request_key="mine")
    written = "\x1b]0;title\x07\x1b[31mred\x1b[0m\r\u202e\n no end"
    story.output(story.attempt(run_id, story.minute, "succeeded"), written)

    assert command("trigger", "report", "--wait", "--key", "mine", *story.place).out == written


def test_where_nobody_leads_nobody_can_be_asked_to_resign(command: Command, story: Story) -> None:
    answered = command("resign", *story.place, "--json", exit_code=1)

    assert answered.document == {"asked": None, "leader": None}
    assert answered.lines == ["nobody leads: there is nobody to ask"]


def test_a_leader_can_be_asked_without_waiting_for_the_next(command: Command, story: Story) -> None:
    story.lease(3, "first", timedelta(minutes=30))

    answered = command("resign", "--no-wait", *story.place, "--json")

    assert answered.document == {"asked": {"instance_id": "first", "term": 3}, "leader": None}


def test_a_pause_can_be_ended_and_not_begun_anew_before_it_is_settled(
    command: Command, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requesting, "SETTLED_WITHIN_SECONDS", 0.0)
    story.job()
    assert command("pause", "report", *story.place).out.endswith(" until it is resumed\n")
    resumed = command("resume", "report", *story.place, "--json").document
    assert (resumed["resumed"], resumed["paused"], resumed["ended"].keys()) == (
        True, None, {"at", "until", "by", "reason"},
    )  # fmt: skip
    assert resumed["ended"]["until"] is not None

    answered = command("pause", "report", *story.place, exit_code=1)

    assert answered.err.startswith("report was paused until ")
    assert answered.err.endswith("it can be paused again as soon as one has\n")
    (job,) = command("status", *story.place, "--json", exit_code=1).document["jobs"]
    assert job["paused"] is None
    assert job["next"] is not None


def test_a_pause_ends_in_the_future_and_in_the_zone_of_its_job(command: Command, sqlite_story: Story) -> None:
    sqlite_story.job(timezone="Europe/Berlin")

    answered = command("pause", "report", "--until", "2999-07-01T00:00", *sqlite_story.place, "--json")
    assert answered.document["paused"]["until"] == "2999-06-30T22:00:00Z"

    for until, words in (("2020-01-01", "is not in the future"), ("noon", "is not a time")):
        refused = command("pause", "report", "--until", until, *sqlite_story.place, exit_code=2)
        assert words in refused.err
        assert len(refused.lines) == 1


def test_a_pause_of_a_job_without_cron_ends_in_the_zone_of_the_service(
    command: Command, sqlite_story: Story, tokyo: list[str]
) -> None:
    sqlite_story.job(schedule="manual")

    for place, until in ((tokyo, "2999-11-30T15:00:00Z"), (sqlite_story.place, "2999-12-01T00:00:00Z")):
        answered = command("pause", "report", "--until", "2999-12-01", *place, "--json")
        assert answered.document["paused"]["until"] == until


@pytest.mark.parametrize("typed", ["12", "abc", "0", "9" * 30, str(2**63), "\N{SUPERSCRIPT TWO}"])
def test_a_run_that_there_is_not_cannot_be_cancelled(command: Command, sqlite_story: Story, typed: str) -> None:
    answered = command("cancel", typed, *sqlite_story.place, exit_code=2)

    assert answered.err.startswith(f"error: there is no run '{typed}': ")
    assert len(answered.lines) == 1


def test_a_run_that_has_ended_is_not_cancelled_and_the_answer_says_how_it_ended(command: Command, story: Story) -> None:
    run_id = story.run(story.minute, "succeeded")

    answered = command("cancel", run_id, *story.place, exit_code=1)

    assert answered.err == f"run {run_id} of report has ended before: succeeded\n"
    assert command("cancel", run_id, "--json", *story.place, exit_code=1).document["state"] == "succeeded"


def test_a_run_that_goes_on_is_asked_to_stop_once(command: Command, story: Story) -> None:
    run_id = story.run(story.minute, "running")
    story.attempt(run_id, story.minute, "running", seconds=None)

    first = command("cancel", run_id, "--by", "ann", *story.place).out
    second = command("cancel", run_id, "--by", "bob", *story.place).out

    assert first == second
    assert first.startswith(f"run {run_id} of report is asked to stop, since ")
    assert first.endswith(" by ann\n")
    document = command("runs", "show", run_id, *story.place, "--json").document
    assert (document["state"], document["cancel_requested_by"]) == ("running", "ann")
    assert ", asked for by ann" in command("runs", "show", run_id, *story.place).out


@pytest.mark.parametrize(
    "words",
    [
        ["trigger", "\udcff"],
        ["trigger", "report", "--arg", "x=\udcff"],
        ["pause", "--until", "2030-01-01", "\udcff"],
        ["resume", "\udcff"],
        ["why", "\udcff", "2026-01-01"],
        ["runs", "\udcff"],
        ["runs", "--since", "\udcff"],
        ["status", "--database", "sqlite:///\udcff"],
        ["status", "--database=postgresql://\udcff@localhost/x"],
        ["db", "check", "--database", "sqlite:///\udcff"],
        ["db", "upgrade", "--schema", "\udcff"],
    ],
    ids=repr,
)
def test_what_is_no_text_is_a_mistake(command: Command, sqlite_story: Story, words: list[str]) -> None:
    place = sqlite_story.place if not any("--database" in word for word in words) else []
    wrong = next(word for word in words if "\udcff" in word)
    answered = command(*words, *place, exit_code=2)
    assert answered.err == f"error: {wrong!r} is not UTF-8 text\n"


@pytest.mark.parametrize("words", [["status"], ["runs"], ["resign"], ["trigger", "hello"]])
def test_a_broken_configuration_leaves_the_way_past_it(command: Command, tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("version: 1\njobs: {hello: {command: date, evry: 3s}}\n")
    answered = command(*words, "-c", path, exit_code=2)
    assert answered.lines[-2].startswith(f"{path}:2:")
    assert answered.lines[-1].endswith("--database URL names it without a configuration")

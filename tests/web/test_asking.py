"""What the API is asked to do, as by the commands."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from scheduler_service.moments import iso
from tests.story import Story
from tests.web.serving import TOKEN, Site, serving

TRIGGER = "/api/v1/jobs/report/trigger"


def test_a_trigger_makes_a_run_and_says_where_it_is(story: Story, site: Site) -> None:
    story.job()
    answer = site.post(TRIGGER, {"arguments": {"days": 3}, "by": "deploy"})
    assert answer.status == 201
    run = site.get(answer.headers["location"]).document
    assert run["id"] == answer.document["run"]
    assert (run["kind"], run["state"], run["arguments"], run["requested_by"]) == (
        "manual", "waiting", {"days": 3}, "deploy (api)",
    )  # fmt: skip


def test_a_trigger_needs_no_body(story: Story, site: Site) -> None:
    story.job()
    answer = site.post(TRIGGER)
    assert answer.status == 201
    assert site.get(answer.headers["location"]).document["requested_by"] == "api"


def test_the_same_key_is_the_same_run_from_however_many_it_is_asked_for(story: Story, site: Site) -> None:
    story.job()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: site.post(TRIGGER, {"key": "order-1"}), range(16)))
    assert len({answer.document["run"] for answer in answers}) == 1
    assert sorted(answer.status for answer in answers) == [200] * 15 + [201]
    assert sum(answer.document["new"] for answer in answers) == 1


def test_a_key_of_another_job_is_refused_and_named(story: Story, site: Site) -> None:
    story.job()
    story.job("other")
    run = site.post(TRIGGER, {"key": "k"}).document["run"]
    answer = site.post("/api/v1/jobs/other/trigger", {"key": "k"})
    assert (answer.status, answer.kind) == (409, "key-taken")
    assert (answer.document["run"], answer.document["job"]) == (run, "report")


def test_a_job_that_left_the_configuration_cannot_be_triggered_or_paused(story: Story, site: Site) -> None:
    story.job()
    story.job("gone", present_at=story.ago(days=1))
    for verb in ("trigger", "pause"):
        answer = site.post(f"/api/v1/jobs/gone/{verb}")
        assert (answer.status, answer.kind) == (409, "job-not-configured")


@pytest.mark.parametrize("verb", ["trigger", "pause", "resume"])
def test_an_unknown_job_is_refused(site: Site, verb: str) -> None:
    answer = site.post(f"/api/v1/jobs/nobody/{verb}")
    assert (answer.status, answer.kind) == (404, "no-such-job")


def test_a_job_is_paused_until_a_time_in_its_zone_and_resumed(story: Story, site: Site) -> None:
    story.job("nightly", "30 2 * * *", "Europe/Berlin")
    year = story.now.year + 1
    paused = site.post("/api/v1/jobs/nightly/pause", {"until": f"{year}-01-15T08:00", "reason": "move", "by": "me"})
    assert paused.status == 200
    assert paused.document["paused"]["until"] == f"{year}-01-15T07:00:00Z"
    assert paused.document["paused"] == site.get("/api/v1/jobs/nightly").document["paused"]
    assert (paused.document["paused"]["by"], paused.document["paused"]["reason"]) == ("me (api)", "move")
    assert site.post("/api/v1/jobs/nightly/trigger").document["paused"]
    resumed = site.post("/api/v1/jobs/nightly/resume").document
    row = story.history.job("nightly")
    assert row is not None
    assert row.pause is not None
    ended = {**paused.document["paused"], "until": iso(row.pause.until)}
    assert resumed == {"job": "nightly", "paused": None, "resumed": True, "ended": ended}
    again = site.post("/api/v1/jobs/nightly/resume").document
    assert again == {"job": "nightly", "paused": None, "resumed": False, "ended": None}
    assert site.get("/api/v1/jobs/nightly").document["paused"] is None


def test_a_job_without_cron_is_paused_until_a_time_in_the_zone_of_the_service(
    sqlite_story: Story, tmp_path: Path
) -> None:
    sqlite_story.job("asked", "manual")
    with serving(tmp_path, sqlite_story.url, timezone="Asia/Tokyo") as site:
        paused = site.post("/api/v1/jobs/asked/pause", {"until": "2999-12-01T09:00"})
    assert paused.document["paused"]["until"] == "2999-12-01T00:00:00Z"


def test_a_pause_that_no_leader_has_settled_is_to_be_asked_for_again(story: Story, site: Site) -> None:
    story.job()
    site.post("/api/v1/jobs/report/pause")
    site.post("/api/v1/jobs/report/resume")
    answer = site.post("/api/v1/jobs/report/pause")
    assert (answer.status, answer.kind, answer.headers["retry-after"]) == (409, "pause-not-settled", "1")


@pytest.mark.parametrize("until", ["2020-01-01T00:00Z", "tomorrow", "", "9999-01-01T00:00Z"])
def test_a_pause_must_end_in_the_future(story: Story, site: Site, until: str) -> None:
    story.job()
    answer = site.post("/api/v1/jobs/report/pause", {"until": until})
    assert (answer.status, answer.kind) == (422, "invalid-request")
    assert site.get("/api/v1/jobs/report").document["paused"] is None


def test_a_run_that_waits_is_cancelled_and_one_that_goes_on_is_asked_to_stop(story: Story, site: Site) -> None:
    story.job()
    waits, runs = story.run(story.now, "waiting"), story.run(story.minute, "running")
    for _ in range(2):  # asked again it is as it was asked to be
        answer = site.post(f"/api/v1/runs/{waits}/cancel")
        assert (answer.status, answer.document["state"]) == (200, "cancelled")
        kept = site.get(f"/api/v1/runs/{waits}").document
        assert kept["cancel_requested_by"] == answer.document["cancel_requested_by"] == "api"
        assert kept["cancel_requested_at"] == answer.document["cancel_requested_at"]
        answer = site.post(f"/api/v1/runs/{runs}/cancel", {"by": "me"})
        assert (answer.status, answer.document["state"]) == (200, "running")
        assert answer.document["cancel_requested_by"] == "me (api)"
    assert site.get(f"/api/v1/runs/{runs}").document["cancel_requested_by"] == "me (api)"


def test_a_run_that_has_ended_cannot_be_cancelled(story: Story, site: Site) -> None:
    run = story.run(story.now, "succeeded")
    answer = site.post(f"/api/v1/runs/{run}/cancel")
    assert (answer.status, answer.kind, answer.document["state"]) == (409, "run-ended", "succeeded")
    assert site.post("/api/v1/runs/999999/cancel").kind == "no-such-run"


def test_the_leader_is_asked_to_resign_if_there_is_one(story: Story, site: Site) -> None:
    assert (site.post("/api/v1/resign").status, site.post("/api/v1/resign").kind) == (409, "no-leader")
    story.term(4, "first", story.ago(hours=1))
    story.lease(4, "first", timedelta(minutes=1))
    answer = site.post("/api/v1/resign")
    assert (answer.status, answer.document) == (202, {"asked": {"instance_id": "first", "term": 4}})


@pytest.mark.parametrize(
    "body",
    [
        {"argumets": {}},
        {"arguments": "text"},
        {"arguments": 3},
        {"arguments": ["\ud800"]},
        {"arguments": {"\udfff": 1}},
        {"key": ""},
        {"key": " "},
        {"key": "a\nb"},
        {"key": "a\x00b"},
        {"key": "\ud800"},
        {"key": "k" * 201},
        {"key": 3},
        {"by": "b" * 101},
        {"by": ""},
        {"by": "a\u202eb"},
        [],
        "text",
        3,
    ],
    ids=repr,
)
def test_a_wrong_body_is_refused_and_nothing_is_written(sqlite_story: Story, sqlite_site: Site, body: object) -> None:
    sqlite_story.job()
    answer = sqlite_site.post(TRIGGER, body)
    assert (answer.status, answer.kind) == (422, "invalid-request")
    assert sqlite_story.history.runs() == ()


@pytest.mark.parametrize("arguments", ["text", 3, True])
def test_arguments_that_are_neither_list_nor_map_are_refused_in_plain_words(
    sqlite_story: Story, sqlite_site: Site, arguments: object
) -> None:
    sqlite_story.job()
    problem = sqlite_site.post(TRIGGER, {"arguments": arguments}).document
    assert problem["detail"] == "arguments: give a JSON list or a JSON map"
    assert problem["errors"] == [{"where": "body.arguments", "message": "give a JSON list or a JSON map"}]


def test_what_is_asked_for_in_the_query_is_refused(sqlite_story: Story, sqlite_site: Site) -> None:
    sqlite_story.job()
    answer = sqlite_site.post(f"{TRIGGER}?key=k", {})
    assert (answer.status, answer.kind) == (422, "invalid-request")
    assert sqlite_story.history.runs() == ()


@pytest.mark.parametrize(
    "body",
    [b"{", b"", b"\xff\xfe", b"NaN", b'{"arguments": [NaN]}', b'{"arguments": [-Infinity]}',
     b'{"key": "a", "key": "b"}', b'{"arguments": {"x": 1, "x": 2}}', b"[" * 30_000, b'{"a":' * 10_000,
     b'{"arguments": [1e999]}', b'{"arguments": {"x": [-1e999]}}', b'{"arguments": [' + b"9" * 5000 + b"]}"],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_a_body_that_is_no_json_is_refused(sqlite_story: Story, sqlite_site: Site, body: bytes) -> None:
    sqlite_story.job()
    answer = sqlite_site.ask("POST", TRIGGER, body, token=TOKEN, headers={"Content-Type": "application/json"})
    assert answer.status in ({201} if body == b"" else {400, 422}), answer
    assert len(sqlite_story.history.runs()) == (body == b"")
    if answer.status != 201:
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_form_is_no_request(sqlite_story: Story, sqlite_site: Site, kind: str) -> None:
    """Forms are what a page of somebody else's can send."""
    sqlite_story.job()
    body = json.dumps({"key": "k"}).encode()
    answer = sqlite_site.ask("POST", TRIGGER, body, token=TOKEN, headers={"Content-Type": kind})
    assert answer.status == 422
    assert sqlite_story.history.runs() == ()


@pytest.mark.parametrize("arguments", [[], {}, [None, 1.5, "<script>", "\U0001f600", "\0"], {"nested": {"deep": [[]]}}])
def test_arguments_come_back_as_they_were_given(story: Story, site: Site, arguments: object) -> None:
    story.job()
    answer = site.post(TRIGGER, {"arguments": arguments})
    assert answer.status == 201
    assert site.get(answer.headers["location"]).document["arguments"] == arguments

"""What the API shows: the ledger, in documents that are as they are described."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, create_model

from scheduler_service.ledger.history import Coming, Scheduled
from scheduler_service.schedule import parse
from scheduler_service.web.api import shapes
from tests.story import Story
from tests.waiting import wait_until
from tests.web.serving import Site, serving

SCRIPT = "<script>alert('x')</script>"


def told(story: Story) -> None:
    """Three replicas, a leader, four jobs, and runs of every kind."""
    story.term(1, "first", story.ago(hours=2), story.ago(hours=1))
    story.term(2, "second", story.ago(hours=1))
    story.lease(2, "second", timedelta(minutes=1))
    story.replica("first", "other")
    story.replica("second")
    story.replica("third", seen_at=story.ago(hours=1))
    story.job("report")
    story.job("a.b-c_d", "30 2 * * *", "Europe/Berlin", paused_at=story.ago(minutes=3), paused_by="me")
    story.job("off", "every 5m", enabled=False)
    story.job("by-hand", "manual")
    for minutes in (4, 3, 2):
        run = story.run(story.minute - timedelta(minutes=minutes), "succeeded")
        story.output(story.attempt(run, story.ago(minutes=minutes), "succeeded"), "done\n")
    failed = story.run(story.minute - timedelta(minutes=1), "failed")
    story.output(story.attempt(failed, story.ago(minutes=1), "failed", error=SCRIPT, exit_code=3), SCRIPT)
    story.run(
        story.minute - timedelta(minutes=30), "skipped", "paused", kind="range",
        until=story.minute - timedelta(minutes=10), job_id="a.b-c_d",
    )  # fmt: skip
    story.run(story.minute, "missed", "coalesced", job_id="off")
    story.run(
        story.ago(seconds=30), "waiting", "requested", kind="manual", job_id="by-hand", requested_by=SCRIPT,
        request_key="k", arguments='{"text": "<script>", "half": "\\ud800"}',
    )  # fmt: skip


def strict(shape: type[BaseModel]) -> type[BaseModel]:
    """The shape, with no key but its own: a document must not say what is not described."""
    fields: dict[str, Any] = {}
    for name, field in shape.model_fields.items():
        fields[name] = (_strict_type(field.annotation), field)
    return create_model(f"Strict{shape.__name__}", __config__={"extra": "forbid"}, **fields)


def _strict_type(annotation: Any) -> Any:
    arguments = getattr(annotation, "__args__", ())
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return strict(annotation)
    if len(arguments) == 1 and getattr(annotation, "__origin__", None) is list:
        return list[_strict_type(arguments[0])]  # type: ignore[misc]
    if len(arguments) == 2 and arguments[1] is type(None):
        return _strict_type(arguments[0]) | None
    return annotation


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("status", shapes.Status),
        ("jobs", shapes.Jobs),
        ("jobs/a.b-c_d", shapes.JobDetails),
        ("jobs/report/ticks", shapes.Ticks),
        ("jobs/report/why?at=2026-01-01T00:00Z", shapes.Why),
        ("runs", shapes.Runs),
        ("runs/1", shapes.RunDetails),
        ("leadership", shapes.Leadership),
        ("replicas", shapes.Replicas),
        ("next", shapes.NextTicks),
    ],
)
def test_an_answer_has_the_shape_that_is_described(
    sqlite_story: Story, sqlite_site: Site, path: str, shape: type[BaseModel]
) -> None:
    told(sqlite_story)
    answer = sqlite_site.get(f"/api/v1/{path}")
    assert answer.status == 200, answer
    strict(shape).model_validate(answer.document)


def test_status_says_who_leads_and_counts_the_jobs(story: Story, site: Site) -> None:
    told(story)
    status = site.get("/api/v1/status").document
    assert status["leader"]["instance_id"] == "second"
    assert status["config_drift"]
    assert [(one["instance_id"], one["role"]) for one in status["replicas"]] == [
        ("first", "standby"), ("second", "leader"), ("third", "standby"),
    ]  # fmt: skip
    assert status["job_counts"] == {"all": 4, "enabled": 3, "paused": 1, "running": 0, "stuck": 0}


def test_replicas_that_are_silent_or_drifted_are_marked(story: Story, site: Site) -> None:
    told(story)
    replicas = site.get("/api/v1/replicas").document["replicas"]
    assert {one["instance_id"]: (one["live"], one["drifted"]) for one in replicas} == {
        "first": (True, True),
        "second": (True, False),
        "third": (False, False),
    }


def test_jobs_come_in_pages_and_no_job_twice(story: Story, site: Site) -> None:
    told(story)
    seen, after = [], ""
    while after is not None:
        page = site.get(f"/api/v1/jobs?limit=1&after={after}").document
        seen += [job["job"] for job in page["jobs"]]
        after = page["after"]
    assert seen == ["a.b-c_d", "by-hand", "off", "report"]


def test_jobs_that_need_attention_are_those_whose_newest_finished_run_went_wrong(story: Story, site: Site) -> None:
    told(story)
    story.run(story.now, "running")  # what runs now says nothing yet
    jobs = site.get("/api/v1/jobs?attention=true").document["jobs"]
    assert [job["job"] for job in jobs] == ["off", "report"]
    story.run(story.now + timedelta(seconds=1), "succeeded")
    jobs = site.get("/api/v1/jobs?attention=true").document["jobs"]
    assert [job["job"] for job in jobs] == ["off"]


def test_a_job_whose_code_goes_on_after_its_end_needs_attention(story: Story, site: Site) -> None:
    story.job()
    story.run(story.minute, "succeeded", slot_held=True, slot=0)
    (job,) = site.get("/api/v1/jobs?attention=true").document["jobs"]
    assert (job["job"], job["stuck"]) == ("report", 1)


def test_a_job_that_left_the_configuration_is_not_listed_but_can_be_looked_at(story: Story, site: Site) -> None:
    story.job()
    story.job("gone", present_at=story.ago(days=1))
    assert [job["job"] for job in site.get("/api/v1/jobs").document["jobs"]] == ["report"]
    assert site.get("/api/v1/jobs/gone").status == 200
    assert site.get("/api/v1/status").document["job_counts"]["all"] == 1


def test_a_job_shows_its_schedule_pause_and_last_run(story: Story, site: Site) -> None:
    told(story)
    job = site.get("/api/v1/jobs/a.b-c_d").document
    assert (job["schedule"], job["timezone"], job["paused"]["by"], job["next"]) == (
        "30 2 * * *", "Europe/Berlin", "me", None,
    )  # fmt: skip
    assert job["last"]["state"] == "skipped"


def test_ticks_are_those_to_come_and_the_decisions_on_those_that_came(story: Story, site: Site) -> None:
    told(story)
    story.run(story.now, "succeeded", kind="manual")  # asked for: no tick
    document = site.get("/api/v1/jobs/report/ticks?count=2&limit=3").document
    assert len(document["next"]) == 2
    assert document["next"] == sorted(document["next"])
    assert [run["state"] for run in document["decided"]] == ["failed", "succeeded", "succeeded"]
    rest = site.get(f"/api/v1/jobs/report/ticks?limit=3&after={document['after']}").document
    assert [run["state"] for run in rest["decided"]] == ["succeeded"]
    assert rest["after"] is None


def test_why_explains_a_tick_in_the_zone_of_its_job(story: Story, site: Site) -> None:
    told(story)
    answer = site.get("/api/v1/jobs/a.b-c_d/why?at=2026-01-15T02:30").document
    assert answer["scheduled_at"] == "2026-01-15T01:30:00Z"
    assert answer["decision"] == "not_accountable"
    assert site.get("/api/v1/jobs/report/why?at=2026-01-15T01:00:00%2B01:00").document["decision"] == "not_accountable"


def test_a_job_without_cron_is_asked_about_in_the_zone_of_the_service(sqlite_story: Story, tmp_path: Path) -> None:
    sqlite_story.job("hourly", "every 1h")
    sqlite_story.job("nightly", "0 2 * * *", "Europe/Berlin")
    with serving(tmp_path, sqlite_story.url, timezone="Asia/Tokyo") as site:
        for job, at, zone, moment in (
            ("hourly", "2026-01-15T05:00", "Asia/Tokyo", "2026-01-14T20:00:00Z"),
            ("nightly", "2026-01-15T02:00", "Europe/Berlin", "2026-01-15T01:00:00Z"),
        ):
            assert site.get(f"/api/v1/jobs/{job}/why?at={at}").document["scheduled_at"] == moment
            page = site.get(f"/jobs/{job}/why?at={at}").body.decode()
            assert f'<h1 id="why-title">{at.replace("T", " ")}:00 {zone}</h1>' in page
            assert f"<dt>UTC</dt><dd>{moment[:-1].replace('T', ' ')}</dd>" in page
            for shown in (page, site.get(f"/jobs/{job}").body.decode()):
                assert f'<label for="at">Time, in {zone}</label>' in shown


@pytest.mark.parametrize("at", ["yesterday", "2026-13-01", "1066-10-14T09:00Z", "2026-01-15T02:30:00 01:00", "%00"])
def test_why_refuses_what_is_no_time(sqlite_story: Story, sqlite_site: Site, at: str) -> None:
    sqlite_story.job()
    answer = sqlite_site.get(f"/api/v1/jobs/report/why?at={at.replace(' ', '%20')}")
    assert (answer.status, answer.kind) == (422, "invalid-request")
    assert answer.document["detail"].startswith("at: ")


@pytest.mark.parametrize("at", ["yesterday", "9999-12-31T23:30:00Z", "3000-01-01", "0001-01-01T00:00", "%00"])
def test_the_page_of_a_tick_refuses_what_the_api_does(sqlite_story: Story, sqlite_site: Site, at: str) -> None:
    sqlite_story.job("early", "0 9 * * *", "Asia/Tokyo")
    page = sqlite_site.get(f"/jobs/early/why?at={at}")
    assert page.status == 400
    assert b"is not a time" in page.body or b"is out of range" in page.body
    assert sqlite_site.get(f"/api/v1/jobs/early/why?at={at}").status == 422


@pytest.mark.parametrize("at", ["1970-01-01", "2999-12-31T23:59:59"])
def test_the_page_of_a_tick_shows_the_first_and_the_last_that_can_be_asked_for(
    sqlite_story: Story, sqlite_site: Site, at: str
) -> None:
    sqlite_story.job("early", "0 9 * * *", "Asia/Tokyo")
    assert sqlite_site.get(f"/jobs/early/why?at={at}").status == 200


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 7),
        ("?job=report", 4),
        ("?job=a.b-c_d", 1),
        ("?job=nobody", 0),
        ("?job=%00", 0),
        ("?state=failed", 1),
        ("?state=lost", 0),
        ("?kind=manual", 1),
        ("?kind=range", 1),
        ("?kind=manual&state=waiting", 1),
        ("?job=report&state=succeeded", 3),
        ("?since=15m", 7),  # the range began before and reaches into it
        ("?since=5m", 6),
        ("?since=150s&until=90s&job=report", 1),
        ("?until=9m", 1),
    ],
)
def test_runs_are_chosen_by_job_state_kind_and_time(story: Story, site: Site, query: str, count: int) -> None:
    story.now, story.minute = story.minute, story.minute  # the story is told from the full minute
    told(story)
    if "150s" in query:
        since, until = (story.minute - timedelta(seconds=seconds) for seconds in (150, 90))
        query = f"?since={since.isoformat()[:19]}Z&until={until.isoformat()[:19]}Z&job=report"
    runs = site.get(f"/api/v1/runs{query}").document["runs"]
    assert len(runs) == count
    assert [run["scheduled_at"] for run in runs] == sorted((run["scheduled_at"] for run in runs), reverse=True)


def test_moments_without_an_offset_are_in_the_zone_that_the_service_has_now(
    sqlite_story: Story, sqlite_site: Site
) -> None:
    sqlite_story.run(datetime(2026, 1, 15, 12, tzinfo=UTC), "succeeded")
    reloader = sqlite_site.view.parts.reloader
    since_half_past_twelve = "/api/v1/runs?since=2026-01-15T12:30"
    assert sqlite_site.get(since_half_past_twelve).document["runs"] == []

    written = reloader.config.path.read_text()
    reloader.config.path.write_text(written.replace('"UTC"', '"Europe/Berlin"'))
    reloader.step(asked=True)

    assert len(sqlite_site.get(since_half_past_twelve).document["runs"]) == 1


def test_pages_of_runs_hold_still_while_runs_are_added(story: Story, site: Site) -> None:
    # All at the same moment, as on a full minute: the id tells them apart.
    expected = [story.run(story.minute, "succeeded", job_id=f"job-{number}") for number in range(10)][::-1]
    seen, query = [], ""
    while query is not None:
        page = site.get(f"/api/v1/runs?limit=3{query}").document
        seen += [run["id"] for run in page["runs"]]
        query = None if page["after"] is None else f"&after={page['after']}"
        story.run(story.now + timedelta(seconds=len(seen)), "succeeded")
        story.run(story.minute, "succeeded", job_id=f"late-{len(seen)}")
    assert seen == expected


@pytest.mark.parametrize("after", ["x", "1", "1.", "-.1", f"1.{10**18}", f"{10**18 - 1}.1", "%00"])
def test_a_cursor_that_is_none_of_ours_is_refused(sqlite_site: Site, after: str) -> None:
    answer = sqlite_site.get(f"/api/v1/runs?after={after}")
    assert (answer.status, answer.kind) == (422, "invalid-request")


def test_a_run_shows_its_attempts_and_what_they_wrote(story: Story, site: Site) -> None:
    told(story)
    (failed,) = site.get("/api/v1/runs?state=failed").document["runs"]
    answer = site.get(f"/api/v1/runs/{failed['id']}")
    run = answer.document
    assert run["output"] == run["error"] == run["attempts"][0]["output"] == SCRIPT
    assert run["exit_code"] == 3
    # A script is text wherever it stands: no browser takes the answer for a page.
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_arguments_that_utf_8_cannot_say_are_escaped(story: Story, site: Site) -> None:
    told(story)
    (run,) = site.get("/api/v1/runs?kind=manual").document["runs"]
    assert run["arguments"] == {"text": "<script>", "half": "\ud800"}


@pytest.mark.parametrize(
    "path",
    [
        "jobs/nobody",
        "jobs/nobody/ticks",
        "jobs/nobody/why?at=2026-01-01T00:00Z",
        "runs/999999",
        "runs/9223372036854775807",
    ],
)
def test_what_is_not_there_is_a_problem_that_names_it(site: Site, path: str) -> None:
    answer = site.get(f"/api/v1/{path}")
    assert answer.status == 404
    assert answer.kind in {"no-such-job", "no-such-run"}
    assert answer.document["instance"] == f"/api/v1/{path.partition('?')[0]}"
    assert answer.document.keys() == {"type", "title", "status", "detail", "instance"}


def test_leadership_is_told_newest_first_in_pages(story: Story, site: Site) -> None:
    for term in range(1, 6):
        story.term(term, f"replica-{term}", story.ago(hours=6 - term))
    page = site.get("/api/v1/leadership?limit=3").document
    assert [term["term"] for term in page["terms"]] == [5, 4, 3]
    page = site.get(f"/api/v1/leadership?limit=3&after={page['after']}").document
    assert [term["term"] for term in page["terms"]] == [2, 1]
    assert page["after"] is None


def test_next_mixes_the_jobs_and_leaves_out_what_will_not_run(story: Story, site: Site) -> None:
    told(story)
    story.job("often", "every 10s")
    document = site.get("/api/v1/next?limit=20").document
    ticks = document["ticks"]
    assert {tick["job"] for tick in ticks} == {"often", "report"}
    assert [tick["scheduled_at"] for tick in ticks] == sorted(tick["scheduled_at"] for tick in ticks)
    assert sum(tick["job"] == "often" for tick in ticks) > 15
    assert document["pending"] == 0


def test_next_has_the_zone_of_the_cron_before_that_of_the_service(tmp_path: Path, sqlite_story: Story) -> None:
    sqlite_story.job("daily", "every 1d")
    sqlite_story.job("nightly", "30 2 * * *", "Europe/Berlin")
    with serving(tmp_path, sqlite_story.url, timezone="Asia/Tokyo") as site:
        ticks = {tick["job"]: tick for tick in site.get("/api/v1/next").document["ticks"]}
    assert {job: (tick["timezone"], tick["local"][11:16]) for job, tick in ticks.items()} == {
        "daily": ("Asia/Tokyo", "09:00"),
        "nightly": ("Europe/Berlin", "02:30"),
    }


def test_ticks_that_are_not_known_in_time_are_counted_and_known_the_next_time(sqlite_story: Story) -> None:
    for number in range(5):
        sqlite_story.job(f"job-{number}", f"{number} * * * *")
    jobs = sqlite_story.history.schedules(None, sqlite_story.now)
    coming = Coming()
    looks = iter([False, False, True])
    ticks, pending = coming.first(jobs, sqlite_story.now, 10, until=lambda: next(looks))
    assert (len({tick.job_id for tick in ticks}), pending) == (2, 3)
    ticks, pending = coming.first(jobs, sqlite_story.now, 5, until=lambda: False)
    assert pending == 0
    expected = sorted((parse(job.canonical, job.timezone).after(sqlite_story.now), job.job_id) for job in jobs)
    assert [(tick.scheduled_at, tick.job_id) for tick in ticks] == expected


def test_ticks_that_an_answer_leaves_out_are_computed_after_it(sqlite_story: Story) -> None:
    now = sqlite_story.now
    jobs = [
        Scheduled(f"job-{number}", f"{number} * * * *", "UTC", now + timedelta(days=1) if number % 2 else None)
        for number in range(6)
    ]
    coming = Coming()
    assert coming.first(jobs, now, 10, until=lambda: True) == ([], 6)

    def nothing_is_pending() -> bool:
        ticks, pending = coming.first(jobs, now, 6, until=lambda: True)  # an answer that computes nothing itself
        assert all(tick.scheduled_at > (now + timedelta(days=1) if int(tick.job_id[-1]) % 2 else now) for tick in ticks)
        return pending == 0

    wait_until(nothing_is_pending)


def test_a_remembered_tick_is_forgotten_once_it_has_passed(sqlite_story: Story) -> None:
    sqlite_story.job("often", "every 10s")
    job = sqlite_story.history.job("often")
    assert job is not None
    coming, now = Coming(), sqlite_story.now
    for _ in range(5):
        following = coming.next_tick(job, now)
        assert following == job.next_tick(now)
        assert following is not None
        assert coming.next_tick(job, following - timedelta(microseconds=1)) == following
        now = following


def test_a_database_that_refuses_is_a_problem_to_ask_again_about(sqlite_story: Story, sqlite_site: Site) -> None:
    with sqlite_story.database.connect() as connection:
        connection.exec_driver_sql("alter table run rename to elsewhere")
    answer = sqlite_site.get("/api/v1/runs")
    assert (answer.status, answer.kind, answer.headers["retry-after"]) == (503, "database-unavailable", "1")


@pytest.mark.parametrize(
    "path",
    ["jobs?limit=0", "jobs?limit=201", "jobs?attention=perhaps", "runs?limit=501", "runs?state=nice", "runs?kind=x",
     "runs/0", "runs/x", "runs/99999999999999999999", "jobs/UPPER", "jobs/report/ticks?count=-1", "leadership?after=-1",
     "jobs/report/why", "runs?since=soon", f"runs?since={'9' * 90}d"],
)  # fmt: skip
def test_a_wrong_parameter_is_a_problem_that_says_which(sqlite_site: Site, path: str) -> None:
    answer = sqlite_site.get(f"/api/v1/{path}")
    assert (answer.status, answer.kind) == (422, "invalid-request")
    assert answer.document["detail"]


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("runs?jobb=report", "job, state, kind, since, until, limit, after"),
        ("runs?job=report&secret", "job, state, kind, since, until, limit, after"),
        ("runs?Job=report", "job, state, kind, since, until, limit, after"),
        ("jobs/report/ticks?number=3", "count, limit, after"),
        ("status?limit=3", "none"),
    ],
)
def test_a_parameter_that_is_not_known_is_refused_with_those_that_are(sqlite_site: Site, path: str, known: str) -> None:
    answer = sqlite_site.get(f"/api/v1/{path}")
    assert (answer.status, answer.kind) == (422, "invalid-request")
    assert f": {known} may be sent" in answer.document["detail"]
    assert "secret" not in answer.document["detail"]

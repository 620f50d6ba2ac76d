"""A job's schedule that this replica cannot read: another one wrote it, of a later version or with other time zones."""

from __future__ import annotations

import pytest

from tests.story import Story
from tests.web.serving import Site

UNREADABLE = {"later": {"schedule": "@lunar 5"}, "martian": {"timezone": "Mars/Base"}}
TICK = "2026-11-20T10:00:00Z"


@pytest.fixture(params=UNREADABLE)
def job_id(request: pytest.FixtureRequest, sqlite_story: Story) -> str:
    """Such a job, beside one that can be read."""
    sqlite_story.job("report")
    sqlite_story.job(request.param, **UNREADABLE[request.param])
    return str(request.param)


def test_it_is_listed_without_a_next_tick_among_those_that_have_one(sqlite_site: Site, job_id: str) -> None:
    jobs = {one["job"]: one["next"] for one in sqlite_site.get("/api/v1/jobs").document["jobs"]}
    assert jobs[job_id] is None
    assert jobs["report"] is not None
    assert {one["job"] for one in sqlite_site.get("/api/v1/next").document["ticks"]} == {"report"}
    assert sqlite_site.get(f"/api/v1/jobs/{job_id}").document["next"] is None
    assert sqlite_site.get(f"/api/v1/jobs/{job_id}/ticks").document["next"] == []


def test_its_pages_are_shown(sqlite_site: Site, sqlite_story: Story, job_id: str) -> None:
    run_id = sqlite_story.run(sqlite_story.ago(minutes=3), "missed", "policy", job_id=job_id)
    for path in ("/", f"/jobs/{job_id}", f"/runs/{run_id}", f"/jobs/{job_id}/why?at={TICK}"):
        answer = sqlite_site.get(path)
        assert (answer.status, b"is not known" in answer.body) == (200, "/runs/" not in path), path


def test_why_says_that_it_cannot_be_read_and_still_what_a_row_says(
    sqlite_site: Site, sqlite_story: Story, job_id: str
) -> None:
    path = f"/api/v1/jobs/{job_id}/why?at="
    absent = sqlite_site.get(path + TICK).document
    assert (absent["decision"], absent["previous"], absent["next"]) == ("unreadable", None, None)
    assert "is not known" in absent["explanation"]
    sqlite_story.run(sqlite_story.minute, "missed", "policy", job_id=job_id)
    known = sqlite_site.get(path + sqlite_story.minute.isoformat().replace("+00:00", "Z")).document
    assert (known["decision"], known["reason"]) == ("missed", "policy")


def test_what_is_asked_of_it_can_be_said_with_an_offset(sqlite_site: Site, job_id: str) -> None:
    path = f"/api/v1/jobs/{job_id}/pause"
    assert sqlite_site.post(path, {"until": "2030-01-01T00:00:00Z"}).status == 200
    assert sqlite_site.get(f"/api/v1/jobs/{job_id}").document["next"] is None
    assert sqlite_site.get(f"/jobs/{job_id}").status == 200
    without = sqlite_site.post(path, {"until": "2031-01-01T00:00:00"})
    if job_id == "martian":
        assert (without.status, without.kind) == (422, "invalid-request")
        assert "the zone 'Mars/Base' is not known here: add Z" in without.document["detail"]
    else:
        assert without.status == 200

"""The first visitor of a replica is the replica itself: once, and not before it is decided who leads."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest

from scheduler_service.database import StoreUnavailable
from scheduler_service.web.warming import Warming
from tests.story import Story
from tests.waiting import wait_until
from tests.web.serving import LIMIT_SECONDS, Site, serving


@pytest.fixture(autouse=True)
def thaw():  # type: ignore[no-untyped-def]
    """Let the garbage collector see again what a replica has no more use for seeing, but for what outlives tests."""
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def warming_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "warming"]


def test_statements_and_templates_are_used_before_anybody_visits(sqlite_story: Story, tmp_path: Path) -> None:
    now = sqlite_story.now
    sqlite_story.job("report")
    sqlite_story.attempt(sqlite_story.run(now, "succeeded"), now, "succeeded")
    with serving(tmp_path, sqlite_story.url) as site:
        assert site.get("/livez").status == 200  # the application is made
        assert not site.view.pages._database._engines  # which has asked nothing
        site.view.parts.events.emit("leader_observed", leader="somebody", term=1)
        wait_until(lambda: site.view.pages._database._engines and not warming_threads(), LIMIT_SECONDS)
        (engine,) = site.view.pages._database._engines.values()
        known = set(engine._compiled_cache or ())
        for path in ("/", "/leadership", "/jobs/report", "/runs/1", "/api/v1/status", "/api/v1/runs", "/api/v1/jobs"):
            assert site.get(path).status == 200
        assert set(engine._compiled_cache or ()) == known
        assert engine.pool.checkedin() <= 1  # type: ignore[attr-defined]


def test_it_begins_once_and_not_before_it_is_decided_who_leads(sqlite_site: Site) -> None:
    visits: list[str] = []
    Warming(sqlite_site.view, lambda: visits.append(threading.current_thread().name))
    events = sqlite_site.view.parts.events
    events.emit("thread_crashed", thread="nobody", error="another event")
    assert visits == []
    events.emit("leader_elected", term=1, lock_id=7, how="free", crash_detection=False)
    events.emit("leader_observed", leader="somebody", term=2)
    wait_until(lambda: visits and not warming_threads(), LIMIT_SECONDS)
    assert visits == ["warming"]


def test_a_database_that_is_away_is_no_matter(sqlite_site: Site) -> None:
    ended = threading.Event()

    def visit() -> None:
        ended.set()
        raise StoreUnavailable("away")

    told = len(sqlite_site.told)
    Warming(sqlite_site.view, visit)
    sqlite_site.view.parts.events.emit("leader_observed", leader="somebody", term=1)
    assert ended.wait(LIMIT_SECONDS)
    wait_until(lambda: not warming_threads(), LIMIT_SECONDS)
    assert [event.name for event in sqlite_site.told[told:]] == ["leader_observed"]

"""Pages in a real browser, on replicas that are killed: they follow without a reload."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.fleet import Fleet
from tests.web.pages.browser import Browser
from tests.web.pages.cluster import cluster, page_of

pytestmark = pytest.mark.browser

PICTURES = os.environ.get("SCHEDULER_TEST_PICTURES")  # a folder to leave pictures in, to be looked at


@pytest.fixture
def mortal(postgres_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """Three replicas of this test's own."""
    with cluster(tmp_path, postgres_url) as fleet:
        fleet.start(3)
        yield fleet


def test_a_page_follows_a_leader_that_is_killed_without_a_reload(mortal: Fleet, browser: Browser) -> None:
    leader = mortal.leader()
    term = mortal.term(leader)
    witness = next(one for one in mortal.replicas if one is not leader)
    browser.open(page_of(witness) + "/")
    browser.wait_for_text("#live", "live")
    assert browser.text("#leader") == leader.instance
    browser.script("window.never_reloaded = true;")
    browser.find("#q").send_keys("typed")

    leader.kill()
    successor = mortal.next_leader(term)

    browser.wait_for_text("#leader", successor.instance)
    assert int(browser.text("#term")) == mortal.term(successor)
    assert browser.driver.title.startswith(f"{successor.instance} leads")
    spoken = "return document.getElementById('announce').textContent"
    browser.wait(
        lambda: successor.instance in browser.script(spoken) or "alarm" in browser.script(spoken), "a word of it"
    )
    browser.wait_for_text("[data-part=replicas] tr.gone", leader.instance)
    browser.wait_for_text(".concerns", "has given no sign of life")
    assert browser.count(".timeline .term") == 2
    # What the person was at is as it was.
    assert browser.script("return window.never_reloaded && document.activeElement.id") == "q"
    assert browser.script("return document.querySelector('#q').value") == "typed"
    assert browser.complaints() == []
    if PICTURES:
        _take_pictures(browser, Path(PICTURES))


def test_a_page_says_that_it_is_not_live_and_is_again_when_its_replica_is_back(mortal: Fleet, browser: Browser) -> None:
    replica = mortal.replicas[0]
    browser.open(page_of(replica) + "/")
    browser.wait_for_text("#live", "live")
    replica.freeze()
    try:
        browser.wait_for_text("#live", "not live")
        assert browser.script("return document.documentElement.classList.contains('stale')")
    finally:
        replica.thaw()
    browser.wait(lambda: browser.text("#live") == "live", "the page to be live again")
    assert not browser.script("return document.documentElement.classList.contains('stale')")


def _take_pictures(browser: Browser, folder: Path) -> None:
    browser.script("document.activeElement.blur(); document.querySelector('#q').value = '';")
    for name, look in {
        "light": {},
        "dark": {"dark": True},
        "phone": {"width": 390, "height": 844, "phone": True},
    }.items():
        browser.appearance(**look)
        browser.picture(folder / f"status-page-{name}.png", whole=name != "phone")

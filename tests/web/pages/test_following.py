"""Pages in a real browser, on replicas that are killed: they follow without a reload."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.fleet import Fleet
from tests.web.pages.browser import Browser
from tests.web.pages.cluster import JOBS, cluster, page_of

pytestmark = pytest.mark.browser

LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"dark": True},
    "phone": {"width": 390, "height": 844, "phone": True},
}
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
        _take_pictures(browser, page_of(witness), Path(PICTURES))


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


def test_a_replica_with_another_configuration_is_marked_until_it_has_the_same(mortal: Fleet, browser: Browser) -> None:
    leader = mortal.leader()
    browser.open(page_of(leader) + "/")
    browser.wait_for_text("#live", "live")
    assert browser.count("[data-part=replicas] .tag.warn") == 0
    shared, other = mortal.config_path, mortal.folder / "other.yaml"
    other.write_text(mortal.text({**JOBS, "only-here": {"command": "true", "every": "1h"}}))
    mortal.config_path = other
    (odd,) = mortal.start()

    browser.wait_for_text(f"[data-part=replicas] tr[data-key='{odd.instance}'] .tag.warn", "differs")
    browser.wait_for_text(".concerns", odd.instance)
    assert browser.count("[data-part=replicas] .tag.warn") == 1  # those that have what the leader has are not

    other.write_text(shared.read_text())  # it reloads by itself
    browser.wait(lambda: browser.count("[data-part=replicas] .tag.warn") == 0, "no replica to differ")
    assert browser.count(f"[data-part=replicas] tr[data-key='{odd.instance}']") == 1
    assert browser.complaints() == []


def _take_pictures(browser: Browser, base: str, folder: Path) -> None:
    """Show every page as each kind of screen has it."""
    browser.open(f"{base}/?show=failing#jobs")
    browser.wait(lambda: browser.count("ul.jobs li a"), "a job that fails")
    browser.open(f"{base}/jobs/flaky-import")
    failed = browser.wait(lambda: browser.all("tr:has(.state.failed) td:last-child a"), "a run that failed")
    run, why = (one.get_attribute("href") for one in failed[:2])
    for page, url in {"page": f"{base}/", "job": f"{base}/jobs/flaky-import", "run": run, "why": why}.items():
        for name, look in LOOKS.items():
            browser.appearance(**look)
            browser.open(url)
            browser.wait_for_text("#live", "live")
            browser.picture(folder / f"status-{page}-{name}.png", whole=name != "phone")

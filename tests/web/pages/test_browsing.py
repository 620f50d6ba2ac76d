"""Pages in a real browser: what people click, type, and are shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.fleet import Fleet
from tests.web.pages.browser import Browser, Key, chromium
from tests.web.pages.cluster import SCRIPT, TOKEN, page_of

pytestmark = pytest.mark.browser


@pytest.fixture
def base(fleet: Fleet) -> str:
    """A standby's pages: everything works from any replica."""
    leader = fleet.leader()
    return page_of(next(one for one in fleet.replicas if one is not leader))


def press(browser: Browser, title: str) -> None:
    """Press the button of an action."""
    buttons = browser.wait(
        lambda: [one for one in browser.all("form.action button") if one.text == title and one.is_displayed()],
        f"a button {title}",
    )
    buttons[0].click()


def trigger_with(browser: Browser, base: str, typed: str) -> None:
    """Type arguments, and trigger the job."""
    browser.open(f"{base}/jobs/greeting")
    browser.find("form[data-key=trigger] summary").click()
    browser.find("form[data-key=trigger] input").send_keys(typed)
    press(browser, "Trigger")


def give_token(browser: Browser, token: str = TOKEN) -> None:
    browser.find("#token-dialog #token").send_keys(token, Key.ENTER)


def test_a_job_is_triggered_and_its_output_is_read(base: str, browser: Browser) -> None:
    browser.open(f"{base}/jobs/greeting")
    press(browser, "Trigger")
    give_token(browser)
    browser.wait_for_text("#said", "Trigger: done.")
    browser.find("#said a").click()
    browser.wait_for_text("#run-title", "succeeded")
    browser.wait_for_text("details.output", "hello from the run")
    assert browser.complaints() == []


def test_the_token_is_asked_for_once_stays_out_of_addresses_and_can_be_forgotten(base: str, browser: Browser) -> None:
    browser.open(f"{base}/jobs/greeting")
    press(browser, "Trigger")
    give_token(browser)
    browser.wait_for_text("#said", "done")
    browser.open(f"{base}/jobs/invoices")
    press(browser, "Pause")
    browser.wait_for_text("#paused", "paused")
    press(browser, "Resume")
    browser.wait(lambda: browser.count("#paused") == 0, "the pause to end")
    assert browser.count("#token-dialog[open]") == 0
    assert not [url for url in browser.requested() if TOKEN in url]
    assert browser.script("return document.cookie") == ""
    browser.find("#forget").click()
    press(browser, "Pause")
    browser.find("#token-dialog #token")


def test_a_wrong_token_is_refused_and_asked_for_again(base: str, browser: Browser) -> None:
    browser.open(f"{base}/jobs/invoices")
    press(browser, "Pause")
    give_token(browser, "guessed")
    browser.wait_for_text("#token-problem", "refused")
    browser.find("#token-dialog button[value=cancel]").click()
    browser.wait(lambda: browser.count("#token-dialog[open]") == 0, "the dialog to close")
    assert browser.count("#paused") == 0


@pytest.mark.parametrize(
    "odd", ["\N{HORIZONTAL ELLIPSIS}", "\N{RIGHT DOUBLE QUOTATION MARK}", "\N{ZERO WIDTH SPACE}", "\f"]
)
def test_a_token_with_characters_that_came_by_copying_is_refused_and_not_kept(
    base: str, browser: Browser, odd: str
) -> None:
    browser.open(f"{base}/jobs/invoices")
    press(browser, "Pause")
    browser.script("document.getElementById('token').value = arguments[0]", TOKEN[:8] + odd + TOKEN[8:])
    browser.find("#token-dialog button[value=use]").click()
    browser.wait_for_text("#token-problem", "not visible ASCII")
    assert browser.script("return sessionStorage.getItem('token')") is None
    give_token(browser)  # what was refused does not stand in the way of the right one
    browser.wait_for_text("#paused", "paused")
    press(browser, "Resume")
    browser.wait(lambda: browser.count("#paused") == 0, "the pause to end")


def test_a_job_is_paused_with_a_reason_that_is_shown_as_it_was_written(base: str, browser: Browser) -> None:
    browser.open(f"{base}/jobs/nightly-report")
    browser.find("form[data-key=pause] summary").click()
    browser.find("form[data-key=pause] input[name=reason]").send_keys(SCRIPT)
    press(browser, "Pause")
    give_token(browser)
    browser.wait_for_text("[data-part=job] .box.note", SCRIPT)
    browser.open(f"{base}/?show=paused")
    browser.wait_for_text(".concerns", SCRIPT)
    browser.wait_for_text(".jobs", "nightly-report")
    assert "pwned" not in browser.driver.title
    browser.open(f"{base}/jobs/nightly-report")
    press(browser, "Resume")
    browser.wait(lambda: browser.count("#paused") == 0, "the pause to end")


def test_a_run_that_goes_on_is_cancelled(base: str, browser: Browser) -> None:
    browser.open(f"{base}/jobs/long-task")
    press(browser, "Trigger")
    give_token(browser)
    browser.find("#said a").click()
    browser.wait_for_text("#run-title", "running")
    press(browser, "Cancel this run")
    browser.wait_for_text("#run-title", "cancelled")
    browser.wait_for_text("details.output", "begun")


def test_arguments_that_are_no_json_are_sent_nowhere(base: str, browser: Browser) -> None:
    trigger_with(browser, base, "{days: 7}")
    browser.wait_for_text("#said", "not JSON")
    assert not [url for url in browser.requested() if "/api/" in url]


def test_what_the_api_refuses_is_said(base: str, browser: Browser) -> None:
    trigger_with(browser, base, "7")
    give_token(browser)
    browser.wait_for_text("#said", "Trigger: arguments: give a JSON list or a JSON map")
    assert browser.find("#said").get_attribute("data-bad") is not None


def test_arguments_arrive_as_they_were_typed(base: str, browser: Browser) -> None:
    typed = '{"a": 9007199254740993, "b": 1.0}'
    trigger_with(browser, base, typed)
    give_token(browser)
    browser.wait_for_text("#said", "Trigger: done.")
    browser.find("#said a").click()
    browser.wait_for_text("[data-part=run]", typed)


def test_arguments_that_the_api_refuses_stay_to_be_mended(base: str, browser: Browser) -> None:
    typed = '{"a": 1, "a": 2}'
    trigger_with(browser, base, typed)
    give_token(browser)
    browser.wait_for_text("#said", "'a' is given twice")
    assert browser.find("form[data-key=trigger] input").get_property("value") == typed


def test_arguments_add_no_keys_of_their_own(base: str, browser: Browser) -> None:
    trigger_with(browser, base, '{"a": 1}, "by": "x"')
    browser.wait_for_text("#said", "not JSON")
    assert not [url for url in browser.requested() if "/api/" in url]


def test_a_script_in_a_description_and_an_output_is_text(fleet: Fleet, base: str, browser: Browser) -> None:
    fleet.wait_for("run_failed", job="always-fails")
    browser.open(f"{base}/jobs/always-fails")
    browser.wait_for_text(".description", SCRIPT)
    browser.wait(lambda: browser.count("tbody a[href^='/runs/']"), "a run")
    browser.find("tbody a[href^='/runs/']").click()
    browser.wait_for_text("details.output pre", SCRIPT)
    assert "pwned" not in browser.driver.title
    assert browser.complaints() == []


def test_why_a_tick_did_not_run_is_asked_in_the_zone_of_the_job(base: str, browser: Browser) -> None:
    browser.open(f"{base}/jobs/nightly-report")
    field = browser.find("#at")
    field.clear()
    field.send_keys("2026-01-05 02:30", Key.ENTER)
    browser.wait_for_text("#why-title", "2026-01-05 02:30:00 Europe/Berlin")
    browser.wait_for_text("#decision", "not accountable")
    browser.find("a[rel=next]").click()
    browser.wait_for_text("#why-title", "2026-01-06 02:30:00 Europe/Berlin")


def test_jobs_are_found_by_name_by_description_and_by_tag(base: str, browser: Browser) -> None:
    for sought, found in {"nightly": "nightly-report", "somebody is alive": "heartbeat", "shop": "sync-orders"}.items():
        browser.open(f"{base}/")
        browser.find("#q").send_keys(sought, Key.ENTER)
        browser.wait(lambda: browser.count("ul.jobs > li") == 1, f"one job for {sought!r}")
        assert found in browser.text("ul.jobs")


SHOWS_FOCUS = """
const one = document.activeElement, cell = one.querySelector(".cell");
return getComputedStyle(one).outlineStyle !== "none" || (cell && getComputedStyle(cell).strokeWidth === "2px");
"""


def test_everything_can_be_reached_by_keyboard(base: str, browser: Browser) -> None:
    browser.open(f"{base}/")
    browser.wait(lambda: browser.count(".strip a"), "runs")

    def tab_to(selector: str) -> None:
        for _ in range(120):
            browser.press(Key.TAB)
            if browser.script("return document.activeElement.matches(arguments[0])", selector):
                assert browser.script(SHOWS_FOCUS), f"{selector} does not show that it has the focus"
                return
        raise AssertionError(f"the tab key does not reach {selector}")

    tab_to(".skip")
    tab_to("#theme")
    browser.press(Key.ENTER)
    assert browser.script("return document.documentElement.dataset.theme") == "light"
    tab_to("#q")
    tab_to("ul.jobs h3 a[href='/jobs/flaky-import']")
    browser.press(Key.ENTER)
    browser.wait_for_text("#job-title", "flaky-import")
    tab_to("form[data-key=trigger] button")
    tab_to("#at")
    tab_to(".chart a")
    here = browser.script("return document.activeElement.getAttribute('href')")
    browser.press(Key.LEFT)
    browser.wait(lambda: browser.script("return document.activeElement.getAttribute('href')") != here, "the arrow")


def test_nothing_is_asked_of_anybody_else_and_nothing_complains(base: str, browser: Browser) -> None:
    for path in (
        "/",
        "/jobs/heartbeat",
        "/jobs/heartbeat/why?at=2026-01-01",
        "/leadership",
        "/runs/1",
        "/?show=failing",
    ):
        browser.open(base + path)
        browser.wait_for_text("#live", "live")
    assert [url for url in browser.requested() if not url.startswith(base + "/")] == []
    assert browser.complaints() == []


def test_no_page_is_wider_than_a_phone(base: str, browser: Browser) -> None:
    browser.appearance(width=360, height=740, phone=True)
    for path in ("/", "/jobs/always-fails", "/jobs/nightly-report/why?at=2026-01-01", "/leadership", "/runs/1"):
        browser.open(base + path)
        browser.wait_for_text("#live", "live")
        assert browser.script("return document.documentElement.scrollWidth") <= 360, path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_has_contrast(base: str, browser: Browser, dark: bool) -> None:
    browser.appearance(dark=dark)
    for path in ("/", "/jobs/always-fails", "/runs/1", "/leadership"):
        browser.open(base + path)
        browser.wait_for_text("#live", "live")
        assert browser.script(CONTRAST) == [], path


# WCAG's formula over every text that is shown, on the nearest ground that is not transparent.
CONTRAST = """
const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
const light = (colour) => {
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = numbers(colour).slice(0, 3).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  for (let one = element; one; one = one.parentElement) {
    const colour = getComputedStyle(one).backgroundColor;
    if ((numbers(colour)[3] ?? 1) > 0) return colour;
  }
};
const bad = [];
for (const element of document.querySelectorAll("main *, header *, footer *")) {
  if (element.closest("svg, [hidden], .unseen, .skip") || !element.checkVisibility()) continue;
  if (![...element.childNodes].some((one) => one.nodeType === 3 && one.nodeValue.trim())) continue;
  const style = getComputedStyle(element), one = light(style.color), two = light(ground(element));
  const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
  const name = element.className || element.nodeName;
  if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${name}: ${element.textContent.trim().slice(0, 30)}`);
}
return [...new Set(bad)];
"""


@pytest.fixture
def plain_browser(tmp_path: Path) -> Iterator[Browser]:
    with chromium(tmp_path, javascript=False) as browser:
        yield browser


def test_without_javascript_a_page_is_complete_and_reloads_itself(base: str, plain_browser: Browser) -> None:
    plain_browser.open(f"{base}/?q=nightly")
    assert plain_browser.find("#leader").text
    assert "nightly-report" in plain_browser.find("ul.jobs").text
    assert plain_browser.find("[data-part=replicas] .role.leads").text == "leader"
    # WebDriver's text leaves noscript out.
    assert "reloads every 10 s" in plain_browser.find("#live").get_property("innerText")
    assert '<meta http-equiv="refresh" content="10">' in plain_browser.driver.page_source
    plain_browser.find("ul.jobs a").click()
    assert "scheduler-service trigger nightly-report" in plain_browser.find("[data-part=act]").get_property("innerText")
    assert not [one for one in plain_browser.all("form.action button") if one.is_displayed()]

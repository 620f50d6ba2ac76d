"""A real Chromium, headless, and everything that it asks for and complains about."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported where a browser is opened: it takes a second, in every process that shares the tests
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
LIMIT_SECONDS = 60.0
POLL_SECONDS = 0.15  # each look takes browser, driver and test some milliseconds
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
)


class Key(StrEnum):
    """Keys without a letter, as WebDriver writes them."""

    TAB = "\ue004"
    ENTER = "\ue007"
    LEFT = "\ue012"


class Browser:
    """One window, fresh: no cookie, no storage, no history."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self._requested: list[str] = []

    def renew(self) -> None:
        """Be as new: to start another Chromium takes two seconds of a processor, and another window half of one."""
        self.script("if (location.protocol === 'http:') { sessionStorage.clear(); localStorage.clear(); }")
        for command, parameters in {
            "Storage.clearDataForOrigin": {"origin": "*", "storageTypes": "all"},
            "Network.clearBrowserCache": {},
            "Page.resetNavigationHistory": {},
            "Emulation.clearDeviceMetricsOverride": {},
            "Emulation.setEmulatedMedia": {"media": "", "features": []},
        }.items():
            self.driver.execute_cdp_cmd(command, parameters)
        self.requested()
        self.complaints()
        self._requested.clear()

    def rest(self) -> None:
        """Leave the page, which would go on asking, for one that asks nothing and that the same renderer can show."""
        origin = self.script("return location.origin")
        self.open(f"{origin}/livez" if origin.startswith("http:") else "about:blank")

    def open(self, url: str) -> None:
        self.driver.get(url)

    def find(self, selector: str) -> WebElement:
        """Return the first element that is there and visible, waiting for it."""
        found: WebElement = self.wait(
            lambda: next((one for one in self.all(selector) if one.is_displayed()), None),
            f"a visible {selector}",
        )
        return found

    def count(self, selector: str) -> int:
        return len(self.all(selector))

    def text(self, selector: str) -> str:
        """Return the text of an element, which may be replaced just now."""
        return str(self.wait(lambda: self.find(selector).text or " ", f"text of {selector}")).strip()

    def wait(self, condition: Callable[[], Any], what: str = "") -> Any:
        """Return what `condition` returns once it is true."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.wait import WebDriverWait

        waiting = WebDriverWait(self.driver, LIMIT_SECONDS, POLL_SECONDS, [StaleElementReferenceException])
        return waiting.until(lambda _: condition(), f"not within {LIMIT_SECONDS:g} s: {what}")

    def wait_for_text(self, selector: str, text: str) -> None:
        self.wait(lambda: text in self.text(selector), f"{text!r} in {selector}, which says {self.text(selector)!r}")

    def all(self, selector: str) -> list[WebElement]:
        """Return what is there, visible or not."""
        return self.driver.find_elements("css selector", selector)

    def press(self, key: Key) -> None:
        """Press a key where the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(key).perform()

    def script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def appearance(self, *, dark: bool = False, width: int = 1280, height: int = 900, phone: bool = False) -> None:
        """Be a screen of this size, with this preference."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone},
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write what is seen, or the whole page, as PNG."""
        answer = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole}
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    def requested(self) -> list[str]:
        """Return the address of everything that was asked for so far."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requested.append(message["params"]["request"]["url"])
        # Before the first page is opened the window shows one that comes with the browser.
        return [url for url in self._requested if not url.startswith(("chrome:", "chrome-untrusted:", "data:"))]

    def complaints(self) -> list[str]:
        """Return what was written to the console as a warning or an error."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def chromium(profile: Path, *, javascript: bool = True) -> Iterator[Browser]:
    """Give a browser, and end it."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Not the page that comes with it, which is busy for seconds.
    prefs: dict[str, Any] = {"session.restore_on_startup": 4, "session.startup_urls": ["about:blank"]}
    if not javascript:
        prefs["profile.managed_default_content_settings.javascript"] = 2
    options.add_experimental_option("prefs", prefs)
    driver = Chrome(options, ChromeService(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()

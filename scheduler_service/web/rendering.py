"""Make HTML of values, with headers that let a page load nothing from elsewhere and run nothing of its text.

Rendered pages are kept for a second, and only as long as nothing happened: a hundred screens on the same page
cost as much as one.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from fastapi import Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from scheduler_service import __version__
from scheduler_service.web import wording

KEPT_PAGES = 64
KEPT_SECONDS = 1.0

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Cookie, Authorization",
}


class Renderer:
    """Renders the templates of this package; every text from outside is escaped."""

    def __init__(self, **known: Any) -> None:
        self._environment = Environment(
            loader=PackageLoader("scheduler_service.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(wording.FILTERS)
        self._environment.globals.update(version=__version__, letters=wording.LETTERS, **known)

    def load(self) -> None:
        """Compile all templates."""
        for name in self._environment.list_templates(extensions=["html"]):
            self._environment.get_template(name)

    def text(self, template: str, **values: Any) -> str:
        """Return a template filled in."""
        return self._environment.get_template(template).render(**values)

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return an answer made of a template."""
        return HTMLResponse(self.text(template, **values), status, headers=HEADERS)


class Kept:
    """Pages that were made a moment ago.  Of those who want the same one at once, one makes it."""

    def __init__(self, is_current: Callable[[float], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._is_current = is_current  # whether what was read from then on is up to date
        self._clock = clock
        self._pages: OrderedDict[str, tuple[float, Response]] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}

    def get(self, key: str, make: Callable[[], Response]) -> Response:
        """Return the page `key`."""
        if (page := self.fresh(key)) is not None:
            return page
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        try:
            with making:
                if (page := self.fresh(key)) is not None:
                    return page
                began = self._clock()
                page = make()
                if page.status_code == 200:
                    with self._lock:
                        self._pages[key] = began, page
                        self._pages.move_to_end(key)
                        while len(self._pages) > KEPT_PAGES:
                            self._pages.popitem(last=False)
                return page
        finally:
            with self._lock:
                self._making.pop(key, None)

    def fresh(self, key: str) -> Response | None:
        """Return the page `key` if it was made a moment ago; this waits for nobody who makes one."""
        with self._lock:
            began, page = self._pages.get(key, (0.0, None))
        if page is None or self._clock() - began > KEPT_SECONDS or not self._is_current(began):
            return None
        return page

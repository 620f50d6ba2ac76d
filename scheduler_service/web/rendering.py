"""Make HTML of values.

Rendered pages are kept for a second, and only as long as nothing happened: a hundred screens on the same page
cost as much as one.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from fastapi import Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from scheduler_service import __version__
from scheduler_service.web import wording

OK = 200
KEPT_PAGES = 64
KEPT_SECONDS = 1.0

HEADERS = {"Cache-Control": "no-store", "Vary": "Cookie, Authorization"}  # beside those of every answer


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
    """Pages that were made a moment ago.  All methods belong to the server's event loop.

    Of those who want the same page at once one makes it, on a thread; the others wait for it and take none.  They
    share what goes wrong too: while the database hangs, each would otherwise wait for it in turn.
    """

    def __init__(self, is_current: Callable[[float], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._is_current = is_current  # whether what was read from then on is up to date
        self._clock = clock
        self._pages: OrderedDict[str, tuple[float, Response]] = OrderedDict()
        self._making: dict[str, tuple[float, asyncio.Task[Response]]] = {}

    async def get(self, key: str, make: Callable[[], Response]) -> Response:
        """Return the page `key`."""
        if (page := self.fresh(key)) is not None:
            return page
        if (making := self._making.get(key)) is not None:
            began, task = making
            page = await asyncio.shield(task)
            if page.status_code != OK or self._is_current(began):
                return page
            # Something happened since it was read.  Whoever begins now, or began meanwhile, reads that.
            if (page := self.fresh(key)) is not None:
                return page
            making = self._making.get(key)
        if making is None:
            began = self._clock()
            task = asyncio.create_task(self._make(key, began, make))
            making = self._making[key] = began, task
        return await asyncio.shield(making[1])

    async def _make(self, key: str, began: float, make: Callable[[], Response]) -> Response:
        try:
            page = await run_in_threadpool(make)
        finally:
            del self._making[key]
        if page.status_code == OK:
            self._pages[key] = began, page
            self._pages.move_to_end(key)
            while len(self._pages) > KEPT_PAGES:
                self._pages.popitem(last=False)
        return page

    def fresh(self, key: str) -> Response | None:
        """Return the page `key` if it was made a moment ago."""
        began, page = self._pages.get(key, (0.0, None))
        if page is None or self._clock() - began > KEPT_SECONDS or not self._is_current(began):
            return None
        return page

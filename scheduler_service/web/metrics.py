"""`/metrics`, for Prometheus."""

from __future__ import annotations

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response

from scheduler_service.metrics import CONTENT_TYPE
from scheduler_service.web.auth import require_reader
from scheduler_service.web.repeating import repeat_while
from scheduler_service.web.view import View


def metrics_routes(view: View) -> APIRouter:
    """Return the metrics of one replica."""
    router = APIRouter(tags=["metrics"])

    # Not on the event loop: with many jobs it takes a while to write, and probes are answered meanwhile.  On a thread
    # of its own: those that serve pages all wait for the database when it hangs, which is when a scrape matters.
    limiter = CapacityLimiter(1)
    check = require_reader(view)  # a dependency would be asked on one of those threads

    @router.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        """Return the metrics in Prometheus' text format, with no question to the database."""
        check(request)
        told = view.parts.metrics
        text = told.kept() or await to_thread.run_sync(told.text, limiter=limiter)
        repeat_while(request, lambda: told.kept() is text)
        return Response(text, media_type=CONTENT_TYPE)

    return router

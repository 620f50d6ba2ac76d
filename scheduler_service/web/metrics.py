"""`/metrics`, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from scheduler_service.metrics import CONTENT_TYPE
from scheduler_service.web.auth import require_reader
from scheduler_service.web.view import View


def metrics_routes(view: View) -> APIRouter:
    """Return the metrics of one replica."""
    router = APIRouter(tags=["metrics"])

    # Not on the event loop: with many jobs it takes a while to write, and probes are answered meanwhile.
    @router.get("/metrics", dependencies=[Depends(require_reader(view))], include_in_schema=False)
    def metrics() -> Response:
        """Return the metrics in Prometheus' text format, with no question to the database."""
        return Response(view.parts.metrics.text(), media_type=CONTENT_TYPE)

    return router

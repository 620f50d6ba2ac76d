"""Put the routes together into one application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp

from scheduler_service import __version__
from scheduler_service.web.api import asking_routes, openapi_routes, reading_routes
from scheduler_service.web.compression import Compressed
from scheduler_service.web.health import health_routes
from scheduler_service.web.limits import Bounded
from scheduler_service.web.metrics import metrics_routes
from scheduler_service.web.pages import page_routes
from scheduler_service.web.problems import answer_with_problems
from scheduler_service.web.view import View


def create_app(view: View) -> ASGIApp:
    """Return the application of one replica."""
    app = FastAPI(
        title="scheduler-service",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # would send people where the header Host says
    )
    answer_with_problems(app, view.parts.events)
    app.include_router(health_routes(view))
    app.include_router(metrics_routes(view))
    app.include_router(reading_routes(view))
    app.include_router(asking_routes(view))
    app.include_router(openapi_routes(view, app))
    app.include_router(page_routes(view, app))
    return Bounded(Compressed(app))

"""Put the routes together into one application."""

from __future__ import annotations

from fastapi import FastAPI

from scheduler_service import __version__
from scheduler_service.web.health import health_routes
from scheduler_service.web.pages import page_routes
from scheduler_service.web.view import View


def create_app(view: View) -> FastAPI:
    """Return the application of one replica."""
    app = FastAPI(title="scheduler-service", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(health_routes(view))
    app.include_router(page_routes(view))
    return app

"""The description of the API, made from its routes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from scheduler_service import __version__
from scheduler_service.web.api.routing import PREFIX, guarded_router
from scheduler_service.web.api.shapes import ProblemShape
from scheduler_service.web.auth import require_reader
from scheduler_service.web.documents import Document
from scheduler_service.web.view import View

DESCRIPTION = """\
What the commands of `scheduler-service` show and ask for, for scripts.  Moments are ISO 8601 in UTC, by the
database's clock.  What goes wrong is answered by problem documents (RFC 9457).  Every replica answers for the
whole service: the ledger is shared."""


def openapi_routes(view: View, app: FastAPI) -> APIRouter:
    """Return the route of the description of `app`."""
    router = guarded_router(require_reader(view), writing=False)

    @router.get("/openapi.json", include_in_schema=False)
    def openapi() -> Response:
        return Document(description(view, app))

    return router


def description(view: View, app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document."""
    if app.openapi_schema is None:
        document = get_openapi(
            title="scheduler_service", version=__version__, description=DESCRIPTION, routes=app.routes
        )
        components = document.setdefault("components", {})
        shape = ProblemShape.model_json_schema(ref_template="#/components/schemas/{model}")
        components.setdefault("schemas", {}).update(shape.pop("$defs", {}))
        components["schemas"]["ProblemShape"] = shape
        components["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer", "description": "http.token: reads and writes."},
            "read_token": {"type": "http", "scheme": "bearer", "description": "http.read_token: reads."},
        }
        for path, operations in document["paths"].items():
            if path.startswith(PREFIX):
                for method, operation in operations.items():
                    operation["security"] = _security(view, method)
        app.openapi_schema = document
    return app.openapi_schema


def _security(view: View, method: str) -> list[dict[str, list[str]]]:
    if method != "get":
        return [{"token": []}]
    return [{"read_token": []}, {"token": []}] if view.read_token is not None else [{}]

"""What goes wrong, as problem documents (RFC 9457): for scripts a type, for people what to do."""

from __future__ import annotations

import traceback
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from scheduler_service.database import StoreUnavailable
from scheduler_service.events import Events
from scheduler_service.web.documents import as_json

MEDIA_TYPE = "application/problem+json"
URN = "urn:scheduler-service:problem:"
RETRY_SECONDS = 1  # what to wait before asking an unavailable database again


class Problem(Exception):  # noqa: N818  # an answer, by the name that its standard gives it
    """An answer that is not what was asked for.  `kind` names it for scripts; without one its status says it all."""

    def __init__(
        self, status: int, detail: str, *, kind: str | None = None, headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.kind = kind
        self.headers = headers or {}
        self.more = more

    def document(self, instance: str) -> dict[str, Any]:
        """Return it as JSON; `instance` is the path that was asked for."""
        return {
            "type": "about:blank" if self.kind is None else URN + self.kind,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            **self.more,
        }

    def response(self, instance: str) -> Response:
        """Return it as an answer."""
        return Response(as_json(self.document(instance)), self.status, self.headers, MEDIA_TYPE)


def unavailable(error: StoreUnavailable) -> Problem:
    """Return what to say when the database did not answer."""
    headers = {"Retry-After": str(RETRY_SECONDS)}
    return Problem(503, f"The database does not answer: {error}", kind="database-unavailable", headers=headers)


def answer_with_problems(app: FastAPI, events: Events) -> None:
    """Let every error leave `app` as a problem document; what was not foreseen is told to `events` too."""

    @app.exception_handler(Problem)
    async def ours(request: Request, problem: Problem) -> Response:
        return problem.response(request.url.path)

    @app.exception_handler(StoreUnavailable)
    async def no_database(request: Request, error: StoreUnavailable) -> Response:
        return unavailable(error).response(request.url.path)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # What was sent is not repeated: it may be long, and it may be a secret.
        errors = [
            {"where": ".".join(str(part) for part in one["loc"]), "message": one["msg"]} for one in error.errors()
        ]
        # By its name alone, which says enough to a person; of a body that is wrong as a whole there is no name.
        names = [one["where"].partition(".")[2] or one["where"] for one in errors]
        detail = "; ".join(f"{name}: {one['message']}" for name, one in zip(names[:3], errors, strict=False))
        return Problem(422, detail, kind="invalid-request", errors=errors).response(request.url.path)

    @app.exception_handler(HTTPException)
    async def by_framework(request: Request, error: HTTPException) -> Response:
        details = {
            404: "There is nothing here.  The API is described at /api/v1/openapi.json.",
            405: "This path does not know that method: see the header Allow.",
        }
        detail = details.get(error.status_code, str(error.detail))
        return Problem(error.status_code, detail, headers=dict(error.headers or {})).response(request.url.path)

    @app.exception_handler(Exception)
    async def our_fault(request: Request, error: Exception) -> Response:
        # Whoever asked learns nothing of our insides.
        told = "".join(traceback.format_exception(error))
        events.emit("request_failed", method=request.method, path=request.url.path, error=told)
        detail = "This is a fault of scheduler_service: its log says more."
        return Problem(500, detail).response(request.url.path)

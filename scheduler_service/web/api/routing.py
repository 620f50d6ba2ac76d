"""What all routes of the API share: who may use them, strict JSON, and what may be answered in the place of it all."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from scheduler_service.strict_json import read_json
from scheduler_service.web.auth import Check
from scheduler_service.web.problems import MEDIA_TYPE, Problem

PREFIX = "/api/v1"
SCHEMA = "#/components/schemas/ProblemShape"

JobId = Annotated[
    str, Path(pattern=r"^[a-z0-9][a-z0-9_.-]{0,99}$", description="The id of a job.", examples=["backup"])
]
RunId = Annotated[int, Path(ge=1, le=2**63 - 1, description="The id of a run.")]


class StrictRequest(Request):
    """A request whose body must be JSON, not what Python takes for JSON."""

    async def json(self) -> Any:
        """Return what the body says."""
        try:
            return read_json(await self.body())
        except HTTPException:
            raise
        except (ValueError, RecursionError) as error:
            said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise HTTPException(400, f"The body is not JSON: {said}.") from None


def guarded_router(check: Check, *, writing: bool) -> APIRouter:
    """Return a router whose routes ask `check` before they look at anything else."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answer = super().get_route_handler()
            known = [parameter.alias for parameter in self.dependant.query_params]

            async def guarded(request: Request) -> Response:
                check(request)
                if not request.query_params.keys() <= set(known):
                    raise _unknown_parameter(known)
                return await answer(StrictRequest(request.scope, request.receive))

            return guarded

    statuses = (400, 401, 403, 413, 422, 503) if writing else (401, 422, 503)
    return APIRouter(prefix=PREFIX, route_class=Guarded, redirect_slashes=False, responses=problems(*statuses))


def _unknown_parameter(known: Sequence[str]) -> Problem:
    # Not passed over, as no misspelt key of a body is; and not repeated: it may be a secret.
    detail = f"The query has a parameter that is not known here: {', '.join(known) or 'none'} may be sent."
    return Problem(422, detail, kind="invalid-request")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of answers that are problem documents."""
    descriptions = {
        400: "The body is not JSON.",
        401: "The token is missing or wrong.",
        403: "Writing is off, or the token may only read.",
        404: "There is no such job or run.",
        409: "It cannot be done as things stand; `type` and `detail` say why.",
        413: "The body is too large.",
        422: "A part of the request is wrong.",
        503: "The database does not answer, or too much is asked at once: ask again.",
    }
    return {
        status: {"description": descriptions[status], "content": {MEDIA_TYPE: {"schema": {"$ref": SCHEMA}}}}
        for status in statuses
    }


def no_such_run(run_id: int) -> Problem:
    """Return what to say about a run that there is not."""
    return Problem(404, f"There is no run {run_id}: {PREFIX}/runs lists them.", kind="no-such-run")

"""Probes: is the replica alive, is it ready, does it lead?  None of them queries anything."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from scheduler_service.web.view import View

OK, UNAVAILABLE = 200, 503


class StuckThread(BaseModel):
    """A thread that took no step for longer than it may."""

    thread: str
    seconds: float


class Liveness(BaseModel):
    """Whether all threads take their steps."""

    alive: bool
    instance_id: str
    stuck: list[StuckThread]


class Readiness(BaseModel):
    """Whether the replica could lead, and what is in the way."""

    ready: bool
    instance_id: str
    reasons: list[str]


class Leading(BaseModel):
    """Whether the replica leads, and in which term."""

    leader: bool
    instance_id: str
    term: int | None


def health_routes(view: View) -> APIRouter:
    """Return the probes of one replica."""
    router = APIRouter(tags=["health"])

    @router.get("/livez", response_model=Liveness, responses=_or(Liveness, "A thread is stuck: restart the replica."))
    async def livez() -> JSONResponse:
        """Answer 200 while all threads take their steps, else 503: restart this replica."""
        stuck = view.health.stuck()
        body = {
            "alive": not stuck,
            "instance_id": view.instance_id,
            "stuck": [{"thread": one.thread, "seconds": round(one.seconds, 3)} for one in stuck],
        }
        return JSONResponse(body, UNAVAILABLE if stuck else OK)

    @router.get(
        "/readyz",
        response_model=Readiness,
        responses=_or(Readiness, "It starts, drains, or has no database."),
    )
    async def readyz() -> JSONResponse:
        """Answer 200 if the replica could lead: started, not draining, the database answers.  A standby is ready."""
        reasons = view.health.not_ready_because()
        body = {"ready": not reasons, "instance_id": view.instance_id, "reasons": reasons}
        return JSONResponse(body, UNAVAILABLE if reasons else OK)

    @router.get("/leader", response_model=Leading, responses=_or(Leading, "It does not lead."))
    async def leader() -> JSONResponse:
        """Answer 200 on the leader and 503 on a standby, for a load balancer."""
        term = view.health.term()
        body = {"leader": term is not None, "instance_id": view.instance_id, "term": term}
        return JSONResponse(body, UNAVAILABLE if term is None else OK)

    return router


def _or(model: type[BaseModel], description: str) -> dict[int | str, dict[str, Any]]:
    return {UNAVAILABLE: {"model": model, "description": description}}

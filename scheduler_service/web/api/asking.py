"""What may be asked for, as by the commands; see `ledger.requests`.

Each of them can be sent again without harm, but a trigger without a key.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, NoReturn

from fastapi import APIRouter, Body
from starlette.responses import Response

from scheduler_service.ledger.history import Pause
from scheduler_service.ledger.history.documents import pause_document, resumed_document
from scheduler_service.ledger.requests import (
    ARGUMENTS_LIMIT,
    CancelledRun,
    Ended,
    KeyTaken,
    NoSuchJob,
    NoSuchRun,
    NotConfigured,
    NotInFuture,
    NotSettled,
    arguments_problem,
    text_problem,
)
from scheduler_service.model import State
from scheduler_service.moments import iso
from scheduler_service.web.api import shapes
from scheduler_service.web.api.reading import moment, no_such_job
from scheduler_service.web.api.routing import PREFIX, JobId, RunId, guarded_router, no_such_run, problems
from scheduler_service.web.auth import require_writer
from scheduler_service.web.documents import Document
from scheduler_service.web.problems import Problem
from scheduler_service.web.view import View

CREATED, ACCEPTED = 201, 202

TriggerBody = Annotated[shapes.TriggerRequest, Body(default_factory=shapes.TriggerRequest)]
PauseBody = Annotated[shapes.PauseRequest, Body(default_factory=shapes.PauseRequest)]
PlainBody = Annotated[shapes.Request, Body(default_factory=shapes.Request)]


def asking_routes(view: View) -> APIRouter:
    """Return the routes that write."""
    router = guarded_router(require_writer(view), writing=True)
    requests = view.requests

    @router.post(
        "/jobs/{job}/trigger",
        response_model=shapes.Triggered,
        status_code=CREATED,
        tags=["jobs"],
        responses={200: {"model": shapes.Triggered, "description": "The run of this key."}, **problems(404, 409)},
    )
    def trigger(job: JobId, asked: TriggerBody) -> Response:
        """Ask for a run of a job, now; the leader starts it within about a second."""
        answer = requests.trigger(job, by=_asker(asked), arguments=_arguments(asked), key=_text("key", asked.key))
        if isinstance(answer, NoSuchJob | NotConfigured):
            _refuse_job(answer)
        if isinstance(answer, KeyTaken):
            detail = f"The key {answer.key!r} belongs to run {answer.run_id} of the job {answer.job_id!r}."
            raise Problem(409, detail, kind="key-taken", run=answer.run_id, job=answer.job_id)
        return Document(
            {"job": job, "run": answer.run_id, "new": answer.new, "paused": answer.paused},
            CREATED if answer.new else 200,
            {"Location": f"{PREFIX}/runs/{answer.run_id}"},
        )

    @router.post("/jobs/{job}/pause", response_model=shapes.Paused, tags=["jobs"], responses=problems(404, 409))
    def pause(job: JobId, asked: PauseBody) -> Response:
        """Let no run of a job start from now on, or change until when and why; what runs goes on."""
        until = _until(job, asked.until)
        answer = requests.pause(job, by=_asker(asked), until=until, reason=_text("reason", asked.reason))
        if isinstance(answer, NoSuchJob | NotConfigured):
            _refuse_job(answer)
        if isinstance(answer, NotInFuture):
            detail = f"until: {iso(until)} is not in the future: by the database's clock it is {iso(answer.now)}."
            raise Problem(422, detail, kind="invalid-request")
        if isinstance(answer, NotSettled):
            raise Problem(
                409,
                f"The job was paused until {iso(answer.ended_at)}, and no leader has settled that yet: ask again.",
                kind="pause-not-settled",
                headers={"Retry-After": "1"},
            )
        paused = Pause(answer.at, answer.until, answer.by, answer.reason)
        return Document({"job": job, "paused": pause_document(paused)})

    @router.post("/jobs/{job}/resume", response_model=shapes.Resumed, tags=["jobs"], responses=problems(404))
    def resume(job: JobId, asked: PlainBody) -> Response:
        """End the pause of a job; one that is not paused is left as it is."""
        answer = requests.resume(job, by=_asker(asked))
        if isinstance(answer, NoSuchJob):
            _refuse_job(answer)
        return Document(resumed_document(job, answer))

    @router.post("/runs/{run}/cancel", response_model=shapes.Cancelled, tags=["runs"], responses=problems(404, 409))
    def cancel(run: RunId, asked: PlainBody) -> Response:
        """Keep a run from starting, or ask it to stop, which it learns within a second or so."""
        answer = requests.cancel(run, by=_asker(asked))
        if isinstance(answer, NoSuchRun):
            raise no_such_run(run)
        if isinstance(answer, Ended) and answer.state is not State.CANCELLED:
            detail = f"Run {run} of {answer.job_id} has ended before: {answer.state.value}."
            raise Problem(409, detail, kind="run-ended", state=answer.state.value, job=answer.job_id)
        waits = isinstance(answer, CancelledRun | Ended)
        return Document(
            {
                "run": run,
                "job": answer.job_id,
                "state": (State.CANCELLED if waits else State.RUNNING).value,
                "cancel_requested_at": iso(answer.at),
                "cancel_requested_by": answer.by,
            }
        )

    @router.post(
        "/resign", response_model=shapes.Resigning, status_code=ACCEPTED, tags=["service"], responses=problems(409)
    )
    def resign(asked: PlainBody) -> Response:
        """Ask the leader to hand over to another replica."""
        answer = requests.resign(by=_asker(asked))
        if answer is None:
            raise Problem(409, "Nobody leads: there is nobody to ask.", kind="no-leader")
        return Document({"asked": {"instance_id": answer.leader_id, "term": answer.term}}, ACCEPTED)

    def _until(job: str, text: str | None) -> datetime | None:
        if text is None:
            return None
        row = view.history.job(job)
        if row is None:
            raise no_such_job(job)
        return moment("until", text, row.zone(view.timezone))

    return router


def _asker(asked: shapes.Request) -> str:
    """Return who asks, for people to read: what came through the API cannot pass for a person at a machine."""
    return "api" if asked.by is None else f"{_text('by', asked.by)} (api)"


def _text(name: str, text: str | None) -> str | None:
    if text is not None and (problem := text_problem(text)) is not None:
        raise Problem(422, f"{name}: {problem}.", kind="invalid-request")
    return text


def _arguments(asked: shapes.TriggerRequest) -> str | None:
    if asked.arguments is None:
        return None
    if (problem := arguments_problem(asked.arguments)) is not None:
        raise Problem(422, f"arguments: they {problem}.", kind="invalid-request")
    # Escaped, so that any database can hold it.
    text = json.dumps(asked.arguments)
    if len(text) > ARGUMENTS_LIMIT:
        detail = f"arguments: they have {len(text)} characters; {ARGUMENTS_LIMIT} are kept at most."
        raise Problem(422, detail, kind="invalid-request")
    return text


def _refuse_job(answer: NoSuchJob | NotConfigured) -> NoReturn:
    if isinstance(answer, NoSuchJob):
        raise no_such_job(answer.job_id)
    raise Problem(
        409,
        f"The job {answer.job_id!r} is not in the configuration any more: a leader last had it at "
        f"{iso(answer.present_at)}.",
        kind="job-not-configured",
    )

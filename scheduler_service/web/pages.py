"""The pages for people.

    /                     who leads, what needs attention, replicas, leaderships, jobs
    /jobs/{job}           its settings, next ticks, runs and decisions; trigger, pause, resume
    /jobs/{job}/why?at=   what became of one tick, and why
    /runs/{id}            attempts and what they wrote; cancel
    /leadership           all terms; resign
    /jobs /runs           lead to the overview, which lists them
    /events               what happens, as server-sent events
    /sign-in /sign-out    where http.read_token is set

They are complete without JavaScript.  With it they follow what happens, and have buttons, which call the API
with the token that a person types.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import RedirectResponse, Response

from scheduler_service.database import StoreUnavailable
from scheduler_service.ledger.history import Chosen, JobRow, why
from scheduler_service.ledger.history.pages import JOBS_SHOWN, Show, Wanted
from scheduler_service.model import JobSpec, Kind
from scheduler_service.moments import MomentError, read_moment
from scheduler_service.schedule import ScheduleError, due_at
from scheduler_service.watch import Unsettled
from scheduler_service.web import drawing, watching
from scheduler_service.web.attention import concerns
from scheduler_service.web.nowhere import Nowhere
from scheduler_service.web.rendering import HEADERS, Kept, Renderer
from scheduler_service.web.repeating import repeat_while
from scheduler_service.web.session import Session, asked_for, typed_form
from scheduler_service.web.surveying import Surveyor
from scheduler_service.web.view import View
from scheduler_service.web.warming import Warming
from scheduler_service.web.watching import Watch, Watching, too_many

RUNS_SHOWN = 50  # of a job, on its page
NEXT_SHOWN = 5
TERMS_SHOWN = 100
SEARCH_LIMIT = 100  # characters
NAMED_LIMIT = 1000  # jobs found by description or tag
WRONG_TOKEN_SECONDS = 0.5  # whoever guesses shall wait
GREATEST_ID = 2**63 - 1
STATIC_SECONDS = 3600
MEDIA_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def page_routes(view: View, app: FastAPI) -> APIRouter:  # one line for each page
    """Return the pages of one replica; where no route leads, `app` answers a browser with a page too."""
    router = APIRouter(include_in_schema=False)
    session, watch = Session(view), Watch(view)
    pages = _Pages(view, session)
    kept = Kept(lambda began: began >= watch.changed_at, view.parts.clock.monotonic)
    static = _static_files()
    Warming(view, pages.first_visit)

    async def guarded(request: Request, make: Callable[[], Response]) -> Response:
        if not session.admits(request):
            return pages.sign_in(401, asked_for(request))
        key = f"{request.url.path}?{request.url.query}"
        # Most of many viewers need no other thread, each of which would wait its turn among those that run jobs.
        page = await kept.get(key, lambda: pages.safely(make))
        repeat_while(request, lambda: kept.fresh(key) is page)
        return page

    @router.get("/")
    async def overview(request: Request) -> Response:
        query = request.query_params
        return await guarded(
            request, lambda: pages.overview(query.get("q", ""), query.get("show", ""), query.get("page", ""))
        )

    @router.get("/jobs")
    @router.get("/runs")
    async def listed() -> Response:
        return RedirectResponse("/#jobs", 303, HEADERS)

    @router.get("/jobs/{job_id}")
    async def job(request: Request, job_id: str) -> Response:
        return await guarded(request, lambda: pages.job(job_id, request.query_params.get("before", "")))

    @router.get("/jobs/{job_id}/why")
    async def job_why(request: Request, job_id: str) -> Response:
        return await guarded(request, lambda: pages.why(job_id, request.query_params.get("at", "")))

    @router.get("/runs/{run_id}")
    async def run(request: Request, run_id: str) -> Response:
        return await guarded(request, lambda: pages.run(run_id))

    @router.get("/leadership")
    async def leadership(request: Request) -> Response:
        return await guarded(request, lambda: pages.leadership(request.query_params.get("before", "")))

    @router.api_route("/events", methods=["GET", "HEAD"])
    async def events(request: Request) -> Response:
        if not session.admits(request):
            return Response("sign in first\n", 401, media_type="text/plain")
        if request.method == "HEAD":  # it has an end
            return too_many() if watch.full else Response(media_type=watching.MEDIA_TYPE, headers=watching.HEADERS)
        return Watching(watch)

    @router.get("/sign-in")
    async def ask(request: Request) -> Response:
        return pages.sign_in(200) if not session.admits(request) else RedirectResponse("/", 303)

    @router.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        if session.open_to_all:
            return RedirectResponse("/", 303)
        token, back = await typed_form(request)
        if token is None or not session.knows(token):
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
            return pages.sign_in(403, back, refused=True)
        response = RedirectResponse(back, 303, HEADERS)
        session.open(request, response)
        return response

    @router.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        response = RedirectResponse("/sign-in", 303, HEADERS)
        session.close(request, response)
        return response

    @router.get("/static/{name}")
    async def static_file(name: str) -> Response:
        if name not in static:
            return pages.nothing_here("There is no such file.")
        headers = {**HEADERS, "Cache-Control": f"public, max-age={STATIC_SECONDS}"}
        return Response(static[name], media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers=headers)

    @router.get("/favicon.ico")
    async def favicon() -> Response:
        return RedirectResponse("/static/leader.svg", 301)

    def nowhere(request: Request) -> Response:
        if not session.admits(request):
            return pages.sign_in(401, asked_for(request))
        return pages.nothing_here("There is no such page.")

    app.router.default = Nowhere(app.router.default, nowhere)
    return router


class _Pages:
    """Makes the pages; each reads what it shows, on the thread that asks."""

    def __init__(self, view: View, session: Session) -> None:
        self._view = view
        self._specs: tuple[Any, Mapping[str, JobSpec]] = (None, {})
        self._surveyor = Surveyor(view.pages, view.parts.clock)
        self._renderer = Renderer(
            service=view.name,
            instance_id=view.instance_id,
            acts=view.token is not None,
            guarded=not session.open_to_all,
            lease_seconds=view.parts.reloader.config.election.lease_duration.total_seconds(),
        )

    def first_visit(self) -> None:
        """Make a page of each kind, and ask what the API asks most, for nobody: see `warming`."""
        history = self._view.history
        self._renderer.load()
        self.overview("", "", "")
        self.leadership("")
        now, leader = history.now_and_leader()
        history.standing(with_jobs=False)
        history.job_counts(leader, now)
        for job in history.job_page(leader, limit=1, now=now):
            self.job(job.job_id, "")
        for row in history.run_page(Chosen(), limit=1):
            self.run(str(row.id))
            self.why(row.job_id, row.scheduled_at.isoformat())

    def safely(self, make: Callable[[], Response]) -> Response:
        """Return the page, or one that says that the database does not answer."""
        try:
            return make()
        except StoreUnavailable as error:
            return self._renderer.page(
                "unavailable.html",
                503,
                error=str(error),
                term=self._view.health.term(),
                reasons=self._view.health.not_ready_because(),
                now=datetime.now(UTC),
            )

    def overview(self, text: str, show: str, page: str) -> Response:
        view = self._view
        failing, late = self._surveyor.failing(), self._late()
        shown = Show(show) if show in {one.value for one in Show} else Show.ALL
        text = text.strip()[:SEARCH_LIMIT].replace("\0", "")
        wanted = Wanted(
            shown,
            text,
            self._named(text),
            tuple(one.job_id for one in failing) if shown is Show.FAILING else (),
            _number(page, 1, 1_000_000),
        )
        overview = view.pages.overview(wanted, failing)
        standing, now = overview.standing, overview.standing.now
        return self._page(
            "overview.html",
            now=now,
            overview=overview,
            standing=standing,
            leader=standing.leader,
            lost_after_seconds=view.lost_after_seconds,
            drifted={one.instance_id for one in standing.drifted(view.lost_after_seconds)},
            concerns=concerns(
                overview,
                tuple(late.values()),
                lost_after_seconds=view.lost_after_seconds,
                not_ready=view.health.not_ready_because(),
            ),
            pieces=drawing.timeline(overview.terms, standing.leader, now),
            jobs=[self._job_line(job, overview.recent.get(job.job_id, ()), late, now) for job in standing.jobs],
            failing_count=len(failing),
            page_count=max(1, -(-overview.found_count // JOBS_SHOWN)),
            shows=list(Show),
        )

    def job(self, job_id: str, before: str) -> Response:
        view = self._view
        job = view.history.job(job_id)
        if job is None:
            return self.nothing_here(f"No leader ever had a job named {job_id}.")
        earlier_than = _number(before, 0, GREATEST_ID) or None
        rows = view.pages.recent(job_id, limit=RUNS_SHOWN + 1, before=earlier_than)
        standing = view.pages.people()
        late = self._late()
        shown = rows[:RUNS_SHOWN]
        return self._page(
            "job.html",
            now=standing.now,
            leader=standing.leader,
            line=self._job_line(job, tuple(reversed(shown)), late, standing.now),
            job=job,
            zone=job.zone(view.timezone),
            spec=self._spec(job_id),
            rows=shown,
            chart=drawing.strip(tuple(reversed(shown)), drawing.CHART_HEIGHT),
            next_ticks=self._next_ticks(job, standing.now),
            first_page=earlier_than is None,
            older=shown[-1].id if len(rows) > RUNS_SHOWN else None,
        )

    def why(self, job_id: str, at: str) -> Response:
        job = self._view.history.job(job_id)
        if job is None:
            return self.nothing_here(f"No leader ever had a job named {job_id}.")
        zone = job.zone(self._view.timezone)
        moment, problem = _moment(at, zone)
        answer = None
        if moment is not None:
            try:
                answer = why(self._view.history, job, moment)
            except (ScheduleError, OverflowError) as error:
                problem = f"that cannot be answered: {error}"
        return self._page(
            "why.html",
            status=400 if problem else 200,
            now=self._view.history.now(),
            job=job,
            zone=zone,
            answer=answer,
            asked=at,
            problem=problem,
        )

    def run(self, run_id: str) -> Response:
        found = self._view.history.run(_number(run_id, 0, GREATEST_ID)) if run_id.isdecimal() else None
        if found is None:
            return self.nothing_here("There is no such run; old ones are removed (the history setting).")
        row, attempts = found
        job = self._view.history.job(row.job_id)
        return self._page(
            "run.html",
            now=self._view.history.now(),
            row=row,
            attempts=tuple(reversed(attempts)),
            timezone=job.zone(self._view.timezone) if job is not None else "UTC",
            tick=row.kind is not Kind.MANUAL,
        )

    def leadership(self, before: str) -> Response:
        standing = self._view.pages.people()
        earlier_than = _number(before, 0, GREATEST_ID) or None
        terms = self._view.pages.term_page(limit=TERMS_SHOWN + 1, before=earlier_than)
        shown = terms[:TERMS_SHOWN]
        return self._page(
            "leadership.html",
            now=standing.now,
            leader=standing.leader,
            terms=shown,
            pieces=drawing.timeline(shown[:24], standing.leader, standing.now) if earlier_than is None else (),
            older=shown[-1].term if len(terms) > TERMS_SHOWN else None,
        )

    def sign_in(self, status: int, back: str = "/", *, refused: bool = False) -> Response:
        now = datetime.now(UTC)
        return self._page("sign_in.html", status=status, now=now, signing_in=True, refused=refused, back=back)

    def nothing_here(self, message: str) -> Response:
        return self._page("nothing.html", status=404, now=datetime.now(UTC), message=message)

    def _page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        return self._renderer.page(template, status, **values)

    def _late(self) -> Mapping[str, Unsettled]:
        """Return the ticks that the leader should have decided long ago, by job: what this replica's watch saw last."""
        seen = self._view.parts.watch.seen
        return {} if seen is None else {one.job_id: one for one in seen.late}

    def _spec(self, job_id: str) -> JobSpec | None:
        """Return a job as this replica's configuration has it."""
        jobs = self._view.parts.reloader.config.jobs
        known = self._specs
        if known[0] is not jobs:
            known = self._specs = jobs, {one.id: one for one in jobs}
        return known[1].get(job_id)

    def _named(self, text: str) -> tuple[str, ...]:
        """Return the jobs that have the text in their description or among their tags."""
        if not text:
            return ()
        sought = text.casefold()
        jobs = self._view.parts.reloader.config.jobs
        found = [
            one.id for one in jobs if sought in one.description.casefold() or sought in map(str.casefold, one.tags)
        ]
        return tuple(found[:NAMED_LIMIT])

    def _job_line(self, job: JobRow, rows: Any, late: Any, now: datetime) -> dict[str, Any]:
        try:
            words, upcoming = job.schedule.explain(), job.next_tick(now)
        except ScheduleError as error:  # of a later version, or a zone that this replica does not know
            words, upcoming = f"{job.canonical} ({error})", None
        return {
            "job": job,
            "words": words,
            "next": upcoming,
            "pause": job.paused(now),
            "strip": drawing.strip(rows),
            "late": late.get(job.job_id),
        }

    def _next_ticks(self, job: JobRow, now: datetime) -> list[tuple[datetime, datetime]]:
        """Return the next ticks and when each is due."""
        spec = self._spec(job.job_id)
        jitter = spec.jitter if spec is not None else timedelta(0)
        found: list[tuple[datetime, datetime]] = []
        moment = job.next_tick(now)
        while moment is not None and len(found) < NEXT_SHOWN:
            found.append((moment, due_at(job.job_id, moment, jitter)))
            moment = job.schedule.after(moment)
        return found


def _number(text: str, least: int, most: int) -> int:
    """Return what somebody typed, or the least."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 19:
        return least
    return min(max(int(text), least), most)


def _moment(text: str, timezone: str) -> tuple[datetime | None, str | None]:
    """Return the moment that somebody asks for, in `timezone` unless it has an offset, or what is wrong."""
    if not text.strip():
        return None, None
    try:
        return read_moment(text[:64], timezone), None
    except MomentError as error:
        return None, str(error)


def _static_files() -> dict[str, bytes]:
    folder = files("scheduler_service.web") / "static"
    return {one.name: one.read_bytes() for one in folder.iterdir() if one.name.rpartition(".")[2] in MEDIA_TYPES}

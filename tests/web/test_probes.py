"""Probes: what a replica says of itself while its database is away, a thread of it is stuck, and it leaves."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from scheduler_service.config import load
from scheduler_service.database import Database
from scheduler_service.database import sqlite as driver
from scheduler_service.events import Event, Events
from scheduler_service.service import Health, Parts, Phase, Service, assemble
from scheduler_service.web import Server, view_of
from scheduler_service.web.app import create_app
from tests.faults.fleet import FAST_ELECTION, LIMIT_SECONDS, Fleet, Replica
from tests.servers import PostgresServer
from tests.waiting import wait_until

PROMPT_SECONDS = 0.05  # what is promised for /livez
TRIALS = 40
JOBS = {"note": {"run": "tally:nothing", "every": "500ms"}}
ANY_PORT = {"enabled": True, "port": 0}


def probe(url: str, path: str) -> tuple[int, Any, float]:
    """Return status, document and the seconds that it took."""
    address = urlsplit(url)
    began = time.perf_counter()
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=LIMIT_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read()), time.perf_counter() - began
    finally:
        connection.close()


def url_of(replica: Replica) -> str:
    return str(replica.wait_for("service_started")["http"])


def answers(url: str, path: str, status: int) -> Callable[[], bool]:
    return lambda: probe(url, path)[0] == status


@pytest.fixture
def fleet(tmp_path: Path, own_server: PostgresServer) -> Iterator[Fleet]:
    with Fleet(tmp_path, own_server.url, JOBS, http=ANY_PORT) as fleet:
        yield fleet


def test_one_of_several_replicas_on_a_machine_leads_and_all_are_ready(fleet: Fleet) -> None:
    replicas = fleet.start(3)
    leader = fleet.leader()
    for replica in replicas:
        url = url_of(replica)
        wait_until(answers(url, "/readyz", 200))
        assert probe(url, "/livez")[:2] == (200, {"alive": True, "instance_id": replica.instance, "stuck": []})
        status, document, _ = probe(url, "/leader")
        assert (status == 200) == document["leader"] == (replica is leader)


@pytest.mark.parametrize("hurt", ["stop", "pause"])
def test_livez_answers_at_once_while_the_database_is_away(fleet: Fleet, own_server: PostgresServer, hurt: str) -> None:
    (replica,) = fleet.start()
    url = url_of(replica)
    wait_until(answers(url, "/readyz", 200))
    probe(url, "/api/v1/status")
    own_server.stop("immediate") if hurt == "stop" else own_server.pause()
    asking = [threading.Thread(target=probe, args=(url, "/api/v1/status")) for _ in range(20)]
    for thread in asking:  # whoever asks for what only the database knows holds up no probe
        thread.start()
    wait_until(answers(url, "/readyz", 503))
    told = [probe(url, "/livez") for _ in range(TRIALS)]
    assert {status for status, _, _ in told} == {200}
    # The median: on a busy machine single answers wait for a processor.
    assert sorted(seconds for _, _, seconds in told)[TRIALS // 2] < PROMPT_SECONDS
    assert probe(url, "/leader")[0] == 503
    assert "does not answer" in probe(url, "/readyz")[1]["reasons"][0]
    for thread in asking:
        thread.join(LIMIT_SECONDS)
    status, problem, _ = probe(url, "/api/v1/status")
    assert (status, problem["type"]) == (503, "urn:scheduler-service:problem:database-unavailable")
    assert probe(url, "/livez")[0] == 200
    own_server.start() if hurt == "stop" else own_server.resume()
    wait_until(answers(url, "/readyz", 200), LIMIT_SECONDS)
    wait_until(answers(url, "/api/v1/status", 200), LIMIT_SECONDS)


def test_a_replica_that_drains_is_not_ready_at_once_and_alive_to_its_end(
    tmp_path: Path, own_server: PostgresServer
) -> None:
    jobs = {"long": {"command": "touch began; sleep 4", "every": "1h", "working_directory": str(tmp_path)}}
    election = {**FAST_ELECTION, "lease_duration": "2100ms", "renewal_interval": "500ms"}
    with Fleet(tmp_path, own_server.url, jobs, election=election, http=ANY_PORT) as fleet:
        (replica,) = fleet.start()
        url = url_of(replica)
        wait_until(answers(url, "/leader", 200))
        _trigger(own_server.url, "long")
        wait_until((tmp_path / "began").exists, LIMIT_SECONDS)
        replica.terminate()
        replica.wait_for("service_draining")
        status, document, _ = probe(url, "/readyz")
        assert (status, document["reasons"]) == (503, ["the replica is draining"])
        seen = set()
        while replica.alive:
            try:
                seen.add((probe(url, "/livez")[0], probe(url, "/readyz")[0]))
            except (OSError, http.client.HTTPException):
                break  # the port is closed last
        assert seen == {(200, 503)}
        assert replica.wait() == 0


def _trigger(url: str, job: str) -> None:
    from scheduler_service.ledger.requests import Requests, Triggered

    database = Database(url)
    requests = Requests(database, 1)
    wait_until(lambda: isinstance(requests.trigger(job, by="test", key="once"), Triggered))
    database.dispose()


def conduct(folder: Path, url: str, act: Callable[[Parts, str, list[Event]], None]) -> None:
    """Run a replica on this thread, as the command does, and meanwhile `act` on another."""
    path = folder / "config.yaml"
    election = {
        "lease_duration": "1500ms", "renewal_interval": "200ms", "jitter_range": "100ms",
        "attempt_timeout": "300ms", "safety_margin": "100ms",
    }  # fmt: skip
    jobs = {"note": {"command": "true", "every": "1h"}}
    path.write_text(json.dumps({"version": 1, "database": {"url": url}, "election": election, "jobs": jobs}))
    told: list[Event] = []
    events = Events()
    events.subscribe(told.append)
    config = load(path)
    parts = assemble(config, events)
    view = view_of(config, parts)
    server = Server(lambda: create_app(view), host="127.0.0.1", port=0, events=events, close=view.close)
    failures: list[BaseException] = []

    def act_and_end() -> None:
        try:
            wait_until(lambda: any(event.name == "leader_elected" for event in told))
            act(parts, server.url, told)
        except BaseException as error:
            failures.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    other = threading.Thread(target=act_and_end)
    other.start()
    Service(config, parts, server).run()
    other.join(LIMIT_SECONDS)
    if failures:
        raise failures[0]


@pytest.mark.parametrize("thread", ["elector", "dispatcher", "scheduler"])
def test_livez_says_which_thread_is_stuck_and_that_it_goes_on(
    sqlite_url: str, tmp_path: Path, thread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def act(parts: Parts, url: str, _: list[Event]) -> None:
        assert probe(url, "/livez")[0] == 200
        # A call that outlasts every limit it was given, on a real thread of the replica.
        target: Any = {"elector": parts.elector._store, "dispatcher": parts.ledger, "scheduler": parts.timetable}[
            thread
        ]
        name = {"elector": "renew", "dispatcher": "poll", "scheduler": "_leading"}[thread]
        former = getattr(target, name)

        def hang(*arguments: Any, **more: Any) -> Any:
            release.wait(LIMIT_SECONDS)
            return former(*arguments, **more)

        monkeypatch.setattr(target, name, hang)
        try:
            wait_until(answers(url, "/livez", 503), LIMIT_SECONDS)
            _, document, _ = probe(url, "/livez")
            assert not document["alive"]
            assert [one["thread"] for one in document["stuck"]] == [thread]
            assert probe(url, "/readyz")[0] == 503
            if thread == "elector":
                assert probe(url, "/leader")[0] == 503  # trust ran out by itself
        finally:
            release.set()
        wait_until(answers(url, "/livez", 200), LIMIT_SECONDS)

    conduct(tmp_path, sqlite_url, act)


def test_a_thread_that_waits_for_a_resolver_is_alive_and_one_that_waits_for_ever_is_told(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a resolver that is away holds the threads that connect, each in the middle of it."""
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"version": 1, "jobs": {"note": {"command": "true", "every": "1h"}}}))
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    stepped = SimpleNamespace(stepped_at=clock.now, phase=Phase.READY)
    database, threads = Database(sqlite_url, clock=cast(Any, clock)), ("elector", "dispatcher")
    steps = dict.fromkeys(("progress", "timetable", *threads), stepped)
    health = Health(load(path), cast(Any, SimpleNamespace(clock=clock, database=database, **steps)))
    went_in, answers, connect = threading.Semaphore(0), threading.Event(), driver.connect

    def resolve(*arguments: Any, **more: Any) -> Any:
        went_in.release()
        assert answers.wait(LIMIT_SECONDS)
        return connect(*arguments, **more)

    monkeypatch.setattr(driver, "connect", resolve)
    connecting = [threading.Thread(target=lambda: database.own_connection().close(), name=one) for one in threads]
    for thread in connecting:
        thread.start()
    try:
        for _ in connecting:
            assert went_in.acquire(timeout=LIMIT_SECONDS)
        clock.now += 200.0
        assert {one.thread for one in health.stuck()} == {"conductor", "scheduler"}, "who does not connect is stuck"
        clock.now += 200.0
        assert {one.thread for one in health.stuck()} >= set(threads), "nobody waits for ever"
    finally:
        answers.set()
        for thread in connecting:
            thread.join(LIMIT_SECONDS)
    assert {one.thread for one in health.stuck()} == {"conductor", "scheduler"}, "what comes after it has its time"
    clock.now += 25.0
    assert {one.thread for one in health.stuck()} >= set(threads)


def test_livez_answers_that_a_replica_lives_whose_resolver_hangs(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers_again = threading.Event()

    def act(parts: Parts, url: str, _: list[Event]) -> None:
        connect = driver.connect

        def resolve(*arguments: Any, **more: Any) -> Any:
            answers_again.wait(LIMIT_SECONDS)
            return connect(*arguments, **more)

        monkeypatch.setattr(driver, "connect", resolve)
        try:
            parts.elector._store.close()
            # Its lease lasts for 1.5 s, which is the time that a step of it has.
            wait_until(lambda: parts.clock.monotonic() - parts.elector.stepped_at > 2.0, LIMIT_SECONDS)
            assert probe(url, "/livez")[0] == 200
            assert probe(url, "/leader")[0] == 503
        finally:
            answers_again.set()
        wait_until(answers(url, "/leader", 200), LIMIT_SECONDS)

    conduct(tmp_path, sqlite_url, act)

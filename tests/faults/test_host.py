"""A leader gets next to no processor time, a job holds its interpreter, a job forks it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.evidence import Books, tally_jobs
from tests.faults.fleet import Fleet, Replica
from tests.faults.stories import World
from tests.servers import PostgresServer

HELD_SECONDS = 5  # the lease lasts 3 s, and after 4 s of silence a replica's runs are given up
RUNNING_SECONDS, STOPPED_SECONDS = 0.02, 0.38  # a twentieth of a processor


@pytest.fixture
def world(tmp_path: Path, own_server: PostgresServer) -> Iterator[World]:
    """Three replicas at work, with two jobs more, which do as usual until their gates are there."""
    tally = tmp_path / "tally"

    def job(run: str, gate: str, **kwargs: object) -> dict[str, object]:
        kwargs = {"path": str(tally), "gate": str(tmp_path / gate), **kwargs}
        return {"run": run, "kwargs": kwargs, "every": "200ms", "catch_up": "all", "overlap": "skip"}

    jobs = {
        **tally_jobs(tally),
        "exclusive-holding": job("tally:note_and_hold", "hold", seconds=HELD_SECONDS),
        "exclusive-forking": job("tally:note_and_fork", "fork"),
    }
    with Fleet(tmp_path, own_server.url, jobs, history={"keep_runs": 1_000_000}) as fleet:
        fleet.start(3)
        world = World(fleet, Books(own_server.url), tally, own_server)
        world.settled_past_now()
        yield world


def test_while_a_job_holds_the_interpreter_past_the_lease_another_leads_and_nothing_runs_twice(world: World) -> None:
    _hold_the_interpreter(world)
    world.assert_all_is_well()


def test_what_a_job_has_forked_holds_no_lease_up_and_has_no_way_to_the_database(world: World) -> None:
    _fork_and_kill(world)
    world.assert_all_is_well()


@pytest.mark.long
def test_a_leader_that_gets_a_twentieth_of_a_processor_runs_nothing_twice(world: World) -> None:
    for _ in range(3):
        _starve(world)
    world.assert_all_is_well()


def _hold_the_interpreter(world: World) -> None:
    """A job's C call lets no other thread of the leader run until its lease is over and its runs are given up."""
    leader = world.fleet.leader()
    term = world.fleet.term(leader)
    world.frozen_pids.add(leader.pid)  # as good as stopped
    (world.fleet.folder / "hold").touch()
    world.fleet.next_leader(term)
    leader.wait_for("leadership_lost", term=term)
    world.settled_past_now()


def _fork_and_kill(world: World) -> None:
    """A job forks the leader, which is killed then: the copies keep neither its session nor its lease alive."""
    leader = world.fleet.leader()
    term, mark = world.fleet.term(leader), world.fleet.mark()
    gate = world.fleet.folder / "fork"
    gate.touch()
    written = gate.with_suffix(".pids")
    world.fleet.wait_until(lambda: written.exists() and written.read_text().count("\n") == 2)
    copies = [psutil.Process(int(line)) for line in written.read_text().split()]
    assert [copy.net_connections() for copy in copies] == [[], []]
    assert leader.process.poll() is None
    leader.kill()
    world.fleet.next_leader(term)
    # A socket that somebody still held would have let the lease expire.
    assert next(line for _, line in world.fleet.said("leader_elected", mark))["how"] == "session_gone"
    assert all(map(_lives, copies))
    gate.with_suffix(".end").touch()
    world.fleet.wait_until(lambda: not any(map(_lives, copies)))
    world.fleet.start()
    world.settled_past_now()


def _starve(world: World) -> None:
    """The leader runs for a twentieth of the time, and everybody's work goes on."""
    leader = world.leader_in_a_run()
    world.frozen_pids.add(leader.pid)
    with _starved(leader):
        for _ in range(3):
            world.settled_past_now()
    world.settled_past_now()


@contextlib.contextmanager
def _starved(replica: Replica) -> Iterator[None]:
    """Stop a process and let it go on, again and again, as a quota of processor time does."""
    enough = threading.Event()

    def turn() -> None:
        while not enough.is_set():
            replica.freeze()
            enough.wait(STOPPED_SECONDS)
            replica.thaw()
            enough.wait(RUNNING_SECONDS)

    thread = threading.Thread(target=turn, name="starving")
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False

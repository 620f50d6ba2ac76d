"""What is done to a leader, and what everybody waits for afterwards.

Each function hurts the leader once, waits until somebody leads and every job is settled past the
moment of the fault, and leaves as many replicas as there were.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.faults.evidence import Account, Books, compare, going_on, longest_pause, tally_jobs
from tests.faults.fleet import FAST_ELECTION, LIMIT_SECONDS, Fleet, Replica
from tests.relay import Relay
from tests.servers import PostgresServer


@dataclass
class World:
    """Replicas at work on ten jobs, their tally and their ledger."""

    fleet: Fleet
    books: Books
    tally: Path
    server: PostgresServer | None = None
    frozen_pids: set[int] = field(default_factory=set)
    lines: dict[int, Relay] = field(default_factory=dict)  # to the database, by number of the replica

    @classmethod
    def at_work(
        cls,
        folder: Path,
        url: str,
        server: PostgresServer | None = None,
        replicas_url: str | None = None,
        election: Mapping[str, str] = FAST_ELECTION,
    ) -> World:
        """Return a world whose replicas are not started yet; they may have a way of their own to the database."""
        tally = folder / "tally"
        jobs = tally_jobs(tally)
        fleet = Fleet(folder, replicas_url or url, jobs, election=election, history={"keep_runs": 1_000_000})
        return cls(fleet, Books(url), tally, server)

    @classmethod
    @contextlib.contextmanager
    def behind_lines(
        cls,
        folder: Path,
        url: str,
        server: PostgresServer | None = None,
        election: Mapping[str, str] = FAST_ELECTION,
    ) -> Iterator[World]:
        """Give three replicas at work, each with a line of its own to the database."""
        world = cls.at_work(folder, url, server, "${DATABASE}", election)
        with contextlib.ExitStack() as closing:
            closing.enter_context(world.fleet)
            for number in (1, 2, 3):
                line = world.lines[number] = closing.enter_context(Relay(url))
                world.fleet.start(1, {"DATABASE": line.url})
            world.settled_past_now()
            yield world

    def hurt(self, fault: Fault) -> None:
        """Let something happen and pass; print for how long nothing was decided meanwhile."""
        before = self.fleet.wait_until(self._now)
        fault(self)
        pause = longest_pause(self.books, before, self.books.now())
        print(f"{fault.__name__:40} nothing decided for {pause:.2f} s")

    def settled_past_now(self) -> None:
        """Wait until every job is settled up to the present."""
        now = self.fleet.wait_until(self._now)
        self.fleet.wait_until(lambda: (until := self.books.settled_until()) is not None and until > now)

    def finish(self) -> Account:
        """Let everything come to an end; return what became of all ticks."""
        self.come_to_an_end()
        return compare(self.books, self.tally, self.fleet, self.frozen_pids)

    def come_to_an_end(self) -> None:
        """Wait until what was due has run or is given up, and everybody has drained."""
        now = self.books.now()
        self.settled_past_now()
        # Exclusive jobs run what they owe one after another: minutes, where the machine is busy.
        self.fleet.wait_until(lambda: not self.books.waits_since_before(now), limit_seconds=5 * LIMIT_SECONDS)
        living = {replica.instance for replica in self.fleet.replicas if replica.alive}
        # What the dead left open is closed by whoever leads.
        self.fleet.wait_until(lambda: self.books.open_holders() <= living)
        self.fleet.drain()

    def assert_all_is_well(self) -> None:
        """Fail unless ledger and side effects equal the schedule."""
        account = self.finish()
        print(f"{account.tick_count} ticks: {dict(account.states)}")
        assert not account.problems, "\n".join(account.problems[:20])
        # No outage here is long enough to make a tick late, so all that are owed run.
        assert account.states["missed"] == 0
        assert account.states["succeeded"] > 0

    def leader_in_a_run(self) -> Replica:
        """Return the leader while it runs a job."""
        leader = self.fleet.leader()
        self.fleet.wait_until(lambda: going_on(self.tally, leader.pid))
        return leader

    def _now(self) -> object:
        try:
            return self.books.now()
        except Exception:
            return None


def kill(world: World) -> None:
    """SIGKILL in the middle of a run."""
    leader = world.leader_in_a_run()
    term = world.fleet.term(leader)
    leader.kill()
    world.fleet.next_leader(term)
    world.fleet.start()
    world.settled_past_now()


def terminate(world: World) -> None:
    """SIGTERM: it gives the lease back, finishes its runs and ends."""
    leader = world.leader_in_a_run()
    term = world.fleet.term(leader)
    leader.terminate()
    world.fleet.next_leader(term)
    assert leader.wait() == 0
    world.fleet.start()
    world.settled_past_now()


def freeze_past_the_lease(world: World) -> None:
    """SIGSTOP until another leads, then SIGCONT."""
    leader, term = _freeze(world)
    world.fleet.next_leader(term)
    leader.thaw()
    leader.wait_for("leadership_lost", term=term)
    world.settled_past_now()


def freeze_until_given_up(world: World) -> None:
    """SIGSTOP in the middle of a run until that run is closed as lost, then SIGCONT."""
    mark = world.fleet.mark()
    leader, term = _freeze(world)
    world.fleet.next_leader(term)
    if going_on(world.tally, leader.pid):
        world.fleet.wait_for("attempt_lost", since=mark, holder=leader.instance)
    leader.thaw()
    leader.wait_for("leadership_lost", term=term)
    world.settled_past_now()


def restart_fast(world: World) -> None:
    """pg_ctl restart -m fast."""
    _server(world).restart("fast")
    world.settled_past_now()


def restart_immediately(world: World) -> None:
    """pg_ctl restart -m immediate: the server recovers as after a crash."""
    _server(world).restart("immediate")
    world.settled_past_now()


def outage_past_the_lease(world: World) -> None:
    """The server is down until the leader has given its term up."""
    leader = world.fleet.leader()
    term = world.fleet.term(leader)
    _server(world).stop("fast")
    leader.wait_for("leadership_lost", term=term)
    _server(world).start()
    world.fleet.next_leader(term)
    world.settled_past_now()


def stall_past_the_lease(world: World) -> None:
    """Every process of the server is stopped until the leader has given its term up."""
    leader = world.fleet.leader()
    term = world.fleet.term(leader)
    _server(world).pause()
    leader.wait_for("leadership_lost", term=term)
    _server(world).resume()
    world.fleet.next_leader(term)
    world.settled_past_now()


def end_session(world: World) -> None:
    """pg_terminate_backend of the session that leads."""
    world.fleet.leader()
    mark = world.fleet.mark()
    # By the row: the logs may lag behind it, and a session whose leader was just deposed is nobody's.
    ((leader_id, ended),) = world.books.rows("select leader_id, pg_terminate_backend(guard_pid) from {p}leader_lease")
    assert ended
    world.fleet.wait_until(
        lambda: any(
            entry["instance"] == leader_id
            for event in ("leadership_suspect", "leadership_lost")
            for _, entry in world.fleet.said(event, mark)
        )
    )
    world.settled_past_now()


def freeze_the_guards_sessions(world: World) -> None:
    """The server's processes that wait for the leader's end are stopped, and it is killed: its lease has to expire."""
    leader = world.leader_in_a_run()
    term = world.fleet.term(leader)
    with _stopped_sessions(world, "application_name like '% guard'"):
        leader.kill()
        world.fleet.next_leader(term)
    world.fleet.start()
    world.settled_past_now()


def freeze_the_postmaster(world: World) -> None:
    """The process that takes connections is stopped alone, and the leader killed: who is connected takes over."""
    leader = world.leader_in_a_run()
    term = world.fleet.term(leader)
    postmaster = _server(world).processes()[0]
    postmaster.suspend()
    leader.kill()
    world.fleet.next_leader(term)
    postmaster.resume()
    world.fleet.start()
    world.settled_past_now()


def freeze_for_less_than_the_lease(world: World) -> None:
    """SIGSTOP in the middle of a run until the lease has a second less to go, then SIGCONT."""
    leader = world.leader_in_a_run()
    ((remaining,),) = world.books.rows(_REMAINING)
    leader.freeze()
    world.fleet.wait_until(lambda: world.books.rows(_REMAINING)[0][0] < remaining - 1.0)
    leader.thaw()
    world.settled_past_now()


def freeze_the_leaders_session(world: World) -> None:
    """The server's process that serves the leader's election is stopped until the leader leads on another."""
    leader = world.fleet.leader()
    mark = world.fleet.mark()
    with _stopped_sessions(world, "pid = (select guard_pid from {p}leader_lease)"):
        world.fleet.wait_for_doubt(leader, mark)
        world.settled_past_now()
    # The stopped session holds the lock that others wait for; when it has ended, the new one takes it.
    world.fleet.wait_until(lambda: world.books.rows("select guard_pid from {p}leader_lease")[0][0])


Fault = Callable[[World], None]
ON_PROCESSES: tuple[Fault, ...] = (kill, terminate)
ON_POSTGRESQL: tuple[Fault, ...] = (
    kill,
    terminate,
    freeze_past_the_lease,
    freeze_until_given_up,
    restart_fast,
    restart_immediately,
    outage_past_the_lease,
    stall_past_the_lease,
    end_session,
)
ON_SESSIONS: tuple[Fault, ...] = (freeze_the_guards_sessions, freeze_the_postmaster)
# Shorter than a lease of PATIENT_ELECTION: who leads goes on.
SHORT: tuple[Fault, ...] = (freeze_for_less_than_the_lease, freeze_the_leaders_session)

PATIENT_ELECTION = {**FAST_ELECTION, "lease_duration": "60s"}
_REMAINING = "select extract(epoch from expires_at - clock_timestamp())::float8 from {p}leader_lease"


def _freeze(world: World) -> tuple[Replica, int]:
    leader = world.leader_in_a_run()
    world.frozen_pids.add(leader.pid)
    term = world.fleet.term(leader)
    leader.freeze()
    return leader, term


def _server(world: World) -> PostgresServer:
    assert world.server is not None
    return world.server


@contextlib.contextmanager
def _stopped_sessions(world: World, which: str) -> Iterator[None]:
    """SIGSTOP the server's processes of some sessions."""
    rows = world.books.rows(f"select pid from pg_stat_activity where {which}")
    assert rows
    processes = [psutil.Process(row[0]) for row in rows]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

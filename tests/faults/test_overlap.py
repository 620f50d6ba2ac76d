"""Jobs that take far longer than the time between their ticks, while leaders are killed, frozen and drained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.faults.evidence import Books, going_on
from tests.faults.fleet import FAST_ELECTION, Fleet, Replica
from tests.faults.overlapping import examine, long_jobs, seconds_until_it_ran_again
from tests.servers import PostgresServer

LOST_AFTER_SECONDS = float(FAST_ELECTION["lost_after"].removesuffix("s"))


class Story:
    """Three replicas at work on long jobs."""

    def __init__(self, folder: Path, url: str, seconds: float, interval: timedelta) -> None:
        self.tally = folder / "tally"
        self.interval = interval
        jobs = long_jobs(self.tally, seconds, interval)
        self.fleet = Fleet(folder, url, jobs, history={"keep_runs": 1_000_000})
        self.books = Books(url)
        self.frozen_pids: set[int] = set()
        self.gaps: list[float] = []

    def leader_at_work(self) -> tuple[Replica, int]:
        """Return the leader while it runs the job that skips, and its term."""
        leader = self.fleet.leader()
        self.fleet.wait_until(lambda: self.runs_skip(leader.pid))
        return leader, self.fleet.term(leader)

    def runs_skip(self, pid: int) -> bool:
        open_fences = going_on(self.tally, pid)
        rows = self.books.rows(
            "select a.id from {p}run_attempt a join {p}run r on r.id = a.run_id"
            " where r.job_id = 'skip' and a.state = 'running'"
        )
        return bool({row[0] for row in rows} & open_fences)

    def kill(self) -> None:
        leader, term = self.leader_at_work()
        leader.kill()
        killed_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.fleet.next_leader(term)
        self.fleet.start()
        self.gaps.append(
            self.fleet.wait_until(lambda: seconds_until_it_ran_again(self.tally, "skip", leader.pid, killed_at))
        )

    def freeze(self) -> None:
        leader, term = self.leader_at_work()
        self.frozen_pids.add(leader.pid)
        leader.freeze()
        self.fleet.next_leader(term)
        leader.thaw()
        leader.wait_for("leadership_lost", term=term)
        self.settled_past_now()

    def drain(self) -> None:
        leader, term = self.leader_at_work()
        leader.terminate()
        self.fleet.next_leader(term)
        assert leader.wait() == 0
        self.fleet.start()
        self.settled_past_now()

    def settled_past_now(self) -> None:
        now = self.books.now()
        self.fleet.wait_until(lambda: (until := self.books.settled_until()) is not None and until > now)

    def assert_all_is_well(self) -> None:
        self.settled_past_now()
        living = {replica.instance for replica in self.fleet.replicas if replica.alive}
        self.fleet.wait_until(lambda: self.books.open_holders() <= living)
        self.fleet.drain()
        found = examine(self.books, self.tally, self.fleet, self.interval, self.frozen_pids)
        for job, states in found.states.items():
            print(f"{job:8} {dict(states)}")
        print("seconds from a leader's death to the next run of its job:", [round(gap, 2) for gap in self.gaps])
        assert not found.problems, "\n".join(found.problems[:20])
        assert all(found.states[job] for job in ("skip", "queue", "replace", "slots", "again"))


FAULTS: tuple[Callable[[Story], None], ...] = (Story.kill, Story.freeze, Story.drain)


@pytest.fixture
def story(tmp_path: Path, own_server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[Story]:
    """Three replicas at work."""
    seconds, milliseconds = request.param
    story = Story(tmp_path, own_server.url, seconds, timedelta(milliseconds=milliseconds))
    with story.fleet:
        story.fleet.start(3)
        yield story


@pytest.mark.parametrize("story", [(1.0, 200)], ids=["1s every 200ms"], indirect=True)
def test_long_jobs_keep_their_overlap_policy_whatever_happens_to_the_leader(story: Story) -> None:
    for fault in FAULTS:
        fault(story)
    story.assert_all_is_well()


@pytest.mark.long
@pytest.mark.parametrize("story", [(3.0, 500)], ids=["3s every 500ms"], indirect=True)
def test_long_jobs_keep_their_overlap_policy_through_five_rounds_of_faults(story: Story) -> None:
    for _ in range(5):
        for fault in FAULTS:
            fault(story)
    story.assert_all_is_well()
    # The leader's death is noticed within milliseconds; then its silence is waited for, to be sure of it.
    assert all(gap <= LOST_AFTER_SECONDS + 1.0 for gap in story.gaps), story.gaps

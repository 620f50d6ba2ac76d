"""The ledger as people read it: who leads, what ran, and why a tick did or did not.

    History.standing   leader, replicas and jobs at one moment of the database
    History.runs       rows of the ledger, the newest tick first
    History.run_page, job_page, term_page   the same and more, in pages
    History.run        one of them, with its attempts and what they wrote
    why                what was decided for one tick, by whom, and why, in a sentence or two

Nothing here writes, takes a lock or needs a lease, and it works on the tables alone: the configuration
need not be at hand.  Each read is a few statements, so rows that change between them may disagree by a
moment.  All of them raise StoreUnavailable when the database did not answer.
"""

from scheduler_service.ledger.history.coming import Coming, ComingTick
from scheduler_service.ledger.history.listing import Chosen, JobCounts, RunPlace
from scheduler_service.ledger.history.reading import History
from scheduler_service.ledger.history.values import (
    AttemptRow,
    JobRow,
    LastRun,
    Leader,
    Pause,
    ReplicaRow,
    RunRow,
    Standing,
    TermRow,
)
from scheduler_service.ledger.history.why import Answer, why

__all__ = [
    "Answer",
    "AttemptRow",
    "Chosen",
    "Coming",
    "ComingTick",
    "History",
    "JobCounts",
    "JobRow",
    "LastRun",
    "Leader",
    "Pause",
    "ReplicaRow",
    "RunPlace",
    "RunRow",
    "Standing",
    "TermRow",
    "why",
]

"""Bugs of one line, each of which a named test must notice.

    python -m tests.mutations --jobs 2

A suite that is green says little until it is known to turn red.  Each mutation takes away one line that
carries an invariant or a promise of docs/guarantees.md; it is applied to a copy of the tree, and its tests
must fail there.  Where a mutation's text has changed, the list has to follow: that is an error, not a pass.
"""

from __future__ import annotations

from tests.mutations import asking, election, ending, fencing, settling, starting, ticks
from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = (
    *election.MUTATIONS,
    *fencing.MUTATIONS,
    *settling.MUTATIONS,
    *ticks.MUTATIONS,
    *starting.MUTATIONS,
    *ending.MUTATIONS,
    *asking.MUTATIONS,
)

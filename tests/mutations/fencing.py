"""Bugs of the fence, and of what the tables refuse by themselves (I4)."""

from __future__ import annotations

from tests.mutations.mutation import Edit, Mutation, mutation

_LEASES = "scheduler_service/leases/postgresql.py"
_STATEMENTS = "scheduler_service/ledger/statements.py"
_SQLITE = "scheduler_service/ledger/sqlite.py"
_FIRST = "scheduler_service/migrations/versions/r0001_election_and_ledger.py"
_SECOND = "scheduler_service/migrations/versions/r0002_slots_and_requests.py"
_TABLES = "scheduler_service/tables/definitions.py"
_DISPATCHER = "scheduler_service/dispatcher/__init__.py"
_FENCE = "tests/postgres/test_fence.py::"
_LEDGER = "tests/contract/test_ledger.py::"
_CONTRACT = "tests/contract/test_dispatcher.py::"
_DEFENCES = "tests/contract/test_defences.py::"
_FENCED = _LEDGER + "test_what_a_leader_writes_is_fenced_when_its_term_is_over"
_SQLITE_FENCE = "where id = :lock_id and term = :term and leader_id = :me and expires_at > {now}"


def _not_unique(name: str, bug: str, index: str, columns: str, test: str, *, revision: str = _FIRST) -> Mutation:
    """Return a mutation that takes the uniqueness of an index from the tables, and from what they are compared with.

    `index` is what stands before the columns in the revision.
    """
    _, known, _ = index.split('"', 2)
    listed = f"[{columns}]" if index.startswith("op.") else columns
    texts = (revision, f"{index}{listed}, unique=True"), (_TABLES, f'"{known}", {columns}, unique=True')
    edits = tuple(Edit(path, text, text.replace("True", "False")) for path, text in texts)
    return Mutation(name, bug, edits, (test,))


MUTATIONS = (
    # The fence (I4)
    mutation(
        "fence-without-term",
        "no term in the fence: whoever has the name may write",
        _LEASES,
        " where id = :id and term = :term and leader_id = :me and expires_at > clock_timestamp() for key share",
        " where id = :id and leader_id = :me and expires_at > clock_timestamp() for key share",
        _FENCED,
        _FENCE + "test_nothing_is_written_under_a_lease",
    ),
    mutation(
        "fence-without-leader",
        "no leader's name in the fence: the term alone may write",
        _LEASES,
        " where id = :id and term = :term and leader_id = :me and expires_at > clock_timestamp() for key share",
        " where id = :id and term = :term and expires_at > clock_timestamp() for key share",
        _FENCED,
        _FENCE + "test_nothing_is_written_under_a_lease",
    ),
    mutation(
        "fence-without-expiry",
        "no expiry in the fence: a lapsed term may write until it is replaced",
        _LEASES,
        " where id = :id and term = :term and leader_id = :me and expires_at > clock_timestamp() for key share",
        " where id = :id and term = :term and leader_id = :me for key share",
        _FENCED,
        _FENCE + "test_nothing_is_written_under_a_lease",
    ),
    mutation(
        "fence-without-lock",
        "the fence looks whether the lease is there (EXISTS) and does not lock its row",
        _LEASES,
        "expires_at > clock_timestamp() for key share",
        "expires_at > clock_timestamp()",
        _FENCE + "test_a_takeover_waits_for_the_fenced_statement_and_nothing_is_written_after_it",
        _FENCE + "test_release_waits_for_the_fenced_statement",
        _FENCE + "test_a_fenced_statement_waits_for_the_takeover_and_writes_nothing",
    ),
    mutation(
        "fence-stalls-renewals",
        "the fence locks the row for itself: renewals wait for every statement of the leader",
        _LEASES,
        "expires_at > clock_timestamp() for key share",
        "expires_at > clock_timestamp() for share",
        _FENCE + "test_renewals_do_not_wait_for_a_fenced_statement",
    ),
    mutation(
        "fence-sqlite-without-term",
        "SQLite: no term in the fence",
        _SQLITE,
        _SQLITE_FENCE,
        "where id = :lock_id and leader_id = :me and expires_at > {now}",
        _FENCED,
    ),
    mutation(
        "fence-sqlite-without-leader",
        "SQLite: no leader's name in the fence",
        _SQLITE,
        _SQLITE_FENCE,
        "where id = :lock_id and term = :term and expires_at > {now}",
        _FENCED,
    ),
    mutation(
        "fence-sqlite-without-expiry",
        "SQLite: no expiry in the fence",
        _SQLITE,
        _SQLITE_FENCE,
        "where id = :lock_id and term = :term and leader_id = :me",
        _FENCED,
    ),
    mutation(
        "settle-unfenced",
        "settling reads the fence and does not heed it",
        _STATEMENTS,
        "    from fence, json_to_recordset(cast(:spans as json))",
        "    from json_to_recordset(cast(:spans as json))",
        _LEDGER + "test_a_deposed_leader_settles_and_starts_nothing",
    ),
    mutation(
        "start-unfenced",
        "starting reads the fence and does not heed it",
        _STATEMENTS,
        "    from fence, wanted w left join free on",
        "    from wanted w left join free on",
        _LEDGER + "test_a_deposed_leader_settles_and_starts_nothing",
    ),
    Mutation(
        "adopt-unfenced",
        "adopting a configuration reads the fence and does not heed it",
        (
            Edit(
                _STATEMENTS,
                "  select * from fence, unnest(:jobs, :schedules,",
                "  select * from unnest(:jobs, :schedules,",
            ),
            Edit(_STATEMENTS, "as noted_at\n    from fence, newest)", "as noted_at\n    from newest)"),
        ),
        (_LEDGER + "test_a_deposed_leader_adopts_loses_and_prunes_nothing",),
    ),
    mutation(
        "lost-unfenced",
        "giving a replica up reads the fence and does not heed it",
        _STATEMENTS,
        "  select :gone as instance_id from fence\n   where not exists",
        "  select :gone as instance_id\n   where not exists",
        _LEDGER + "test_a_deposed_leader_adopts_loses_and_prunes_nothing",
    ),
    mutation(
        "prune-unfenced",
        "pruning reads the fence and does not heed it",
        _STATEMENTS,
        "  select r.id from fence, chosen s\n",
        "  select r.id from chosen s\n",
        _LEDGER + "test_a_deposed_leader_adopts_loses_and_prunes_nothing",
    ),
    mutation(
        "fenced-untold",
        "a leader whose statement was fenced goes on",
        _DISPATCHER,
        "        self._leadership.deposed(lease.term)",
        "        pass",
        _CONTRACT + "test_a_leader_frozen_between_computing_and_writing_writes_nothing",
    ),
    # What the tables refuse by themselves
    _not_unique(
        "no-unique-lease-term",
        "no unique (id, term) on the lease: a takeover does not wait for the fence's row lock",
        'op.create_index("leader_lease_id_term", "leader_lease", ',
        '"id", "term"',
        _FENCE + "test_a_takeover_waits_for_the_fenced_statement_and_nothing_is_written_after_it",
    ),
    _not_unique(
        "no-unique-tick",
        "no unique (job, tick) on runs",
        'index("run_tick", "run", ',
        '"lock_id", "job_id", "scheduled_at"',
        _DEFENCES + "test_the_tables_refuse",
    ),
    _not_unique(
        "no-unique-slot",
        "no unique slot of a job that runs alone",
        'index("run_slot", "run", ',
        '"lock_id", "job_id"',
        _DEFENCES + "test_the_tables_refuse",
    ),
    _not_unique(
        "no-unique-slot-number",
        "no unique number of a slot that is held",
        'index("run_slot_number", "run", ',
        '"lock_id", "job_id", "slot"',
        _DEFENCES + "test_the_tables_refuse",
        revision=_SECOND,
    ),
    _not_unique(
        "no-unique-attempt",
        "no unique (run, attempt): one start of a run may stand twice",
        'index("run_attempt_run", "run_attempt", ',
        '"run_id", "attempt"',
        _DEFENCES + "test_the_tables_refuse",
    ),
    _not_unique(
        "no-unique-key",
        "no unique key of a trigger",
        'index("run_request_key", "run", ',
        '"lock_id", "request_key"',
        "tests/contract/test_requests.py::test_the_same_key_is_one_run_however_many_ask_at_once",
    ),
    mutation(
        "fence-index-unnoticed",
        "`db check` does not see that the index is gone on which every fence rests",
        _FIRST,
        'op.create_index("leader_lease_id_term", "leader_lease", ["id", "term"], unique=True',
        'op.create_index("leader_lease_id_term", "leader_lease", ["id", "term"], unique=False',
        "tests/contract/test_migrations.py::test_upgrade_makes_exactly_the_tables_that_the_code_expects",
    ),
)

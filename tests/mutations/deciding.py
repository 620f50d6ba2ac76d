"""Bugs of the fence and of settling: what is decided for a tick, under whose term, and once (I4, I5, I8, I10)."""

from __future__ import annotations

from tests.mutations.mutation import Edit, Mutation, mutation

_LEASES = "scheduler_service/leases/postgresql.py"
_STATEMENTS = "scheduler_service/ledger/statements.py"
_SQLITE = "scheduler_service/ledger/sqlite.py"
_FIRST = "scheduler_service/migrations/versions/r0001_election_and_ledger.py"
_SECOND = "scheduler_service/migrations/versions/r0002_slots_and_requests.py"
_TABLES = "scheduler_service/tables/definitions.py"
_DISPATCHER = "scheduler_service/dispatcher/__init__.py"
_SETTLING = "scheduler_service/dispatcher/settling.py"
_POLICY = "scheduler_service/policy.py"
_SERIES = "scheduler_service/schedule/series.py"
_FENCE = "tests/postgres/test_fence.py::"
_LEDGER = "tests/contract/test_ledger.py::"
_CONTRACT = "tests/contract/test_dispatcher.py::"
_OVERLAP = "tests/contract/test_overlap.py::"
_DEFENCES = "tests/contract/test_defences.py::"
_SCHEDULE = "tests/unit/test_schedule.py::"
_VALUES = "tests/unit/test_schedule_values.py::"
_DECISIONS = "tests/unit/test_policy.py::"

_FENCED = _LEDGER + "test_what_a_leader_writes_is_fenced_when_its_term_is_over"
_SQLITE_FENCE = "where id = :lock_id and term = :term and leader_id = :me and expires_at > {now}"


def _index_lost(name: str, table: str, columns: str, bug: str, *tests: str, second: bool = False) -> Mutation:
    """Return a mutation that takes the uniqueness of an index out of the tables and out of what they are compared with.

    `columns` are those of the index after the table, as both files write them.
    """
    revision = _SECOND if second else _FIRST
    made = f'index("{name}", "{table}", {columns}, unique=True'
    known = f'"{name}", {columns}, unique=True'
    edits = (Edit(revision, made, made.replace("True", "False")), Edit(_TABLES, known, known.replace("True", "False")))
    return Mutation(f"no-unique-{name.replace('_', '-')}", bug, edits, tests)


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
        "    from fence, unnest(:jobs, :since, :until,",
        "    from unnest(:jobs, :since, :until,",
        _LEDGER + "test_a_deposed_leader_settles_and_starts_nothing",
    ),
    mutation(
        "fenced-untold",
        "a leader whose statement was fenced goes on",
        _DISPATCHER,
        "        self._leadership.deposed(lease.term)",
        "        pass",
        _CONTRACT + "test_a_leader_frozen_between_computing_and_writing_writes_nothing",
    ),
    Mutation(
        "no-unique-lease-term",
        "no unique (id, term) on the lease: a takeover does not wait for the fence's row lock",
        (
            Edit(
                _FIRST,
                'op.create_index("leader_lease_id_term", "leader_lease", ["id", "term"], unique=True',
                'op.create_index("leader_lease_id_term", "leader_lease", ["id", "term"], unique=False',
            ),
            Edit(
                _TABLES,
                '_index("leader_lease_id_term", "id", "term", unique=True)',
                '_index("leader_lease_id_term", "id", "term", unique=False)',
            ),
        ),
        (_FENCE + "test_a_takeover_waits_for_the_fenced_statement_and_nothing_is_written_after_it",),
    ),
    # Behind the code: what the tables refuse
    Mutation(
        "no-unique-tick",
        "no unique (job, tick) on runs",
        (
            Edit(
                _FIRST,
                'index("run_tick", "run", "lock_id", "job_id", "scheduled_at", unique=True',
                'index("run_tick", "run", "lock_id", "job_id", "scheduled_at", unique=False',
            ),
            Edit(
                _TABLES,
                '"run_tick", "lock_id", "job_id", "scheduled_at", unique=True',
                '"run_tick", "lock_id", "job_id", "scheduled_at", unique=False',
            ),
        ),
        (_DEFENCES + "test_the_tables_refuse",),
    ),
    _index_lost(
        "run_slot",
        "run",
        '"lock_id", "job_id"',
        "no unique slot of a job that runs alone",
        _DEFENCES + "test_the_tables_refuse",
    ),
    _index_lost(
        "run_attempt_run",
        "run_attempt",
        '"run_id", "attempt"',
        "no unique (run, attempt): one start of a run may stand twice",
        _DEFENCES + "test_the_tables_refuse",
    ),
    _index_lost(
        "run_request_key",
        "run",
        '"lock_id", "request_key"',
        "no unique key of a trigger",
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
    # Each tick is decided once (I5)
    mutation(
        "settle-without-swap",
        "no compare and swap: a span that is settled may be settled again",
        _STATEMENTS,
        "s.job_id = j.job_id and s.settled_until = j.since\n",
        "s.job_id = j.job_id\n",
        _LEDGER + "test_a_span_is_decided_once[postgresql]",
    ),
    mutation(
        "settle-without-swap-sqlite",
        "SQLite: no compare and swap",
        _SQLITE,
        "job_id = :job and settled_until = :since and paused_at is :paused_at",
        "job_id = :job and :since = :since and paused_at is :paused_at",
        _LEDGER + "test_a_span_is_decided_once[sqlite]",
    ),
    mutation(
        "settle-over-pause",
        "a pause that is committed between computing and settling is not seen",
        _STATEMENTS,
        "s.paused_at is not distinct from j.paused_at and s.paused_until is not distinct from j.paused_until",
        "true",
        _LEDGER + "test_a_pause_committed_between_computing_and_settling_is_seen[postgresql]",
        _LEDGER + "test_a_resume_committed_between_computing_and_settling_is_seen[postgresql]",
    ),
    mutation(
        "settle-over-pause-sqlite",
        "SQLite: a pause that is committed between computing and settling is not seen",
        _SQLITE,
        "settled_until = :since and paused_at is :paused_at\n",
        "settled_until = :since and (paused_at is :paused_at or 1)\n",
        _LEDGER + "test_a_pause_committed_between_computing_and_settling_is_seen[sqlite]",
    ),
    mutation(
        "settle-ahead",
        "settling goes past the database's time",
        _STATEMENTS,
        "and j.until >= s.settled_until and j.until <= clock_timestamp()",
        "and j.until >= s.settled_until",
        _LEDGER + "test_settling_never_goes_past_the_databases_time[postgresql]",
    ),
    mutation(
        "settle-ahead-sqlite",
        "SQLite: settling goes past the database's time",
        _SQLITE,
        "        if self.stamp(one.until) > now:\n            return False\n",
        "",
        _LEDGER + "test_settling_never_goes_past_the_databases_time[sqlite]",
    ),
    mutation(
        "settle-back",
        "`settled_until` may go back",
        _STATEMENTS,
        "and j.until >= s.settled_until and j.until <= clock_timestamp()",
        "and j.until <= clock_timestamp()",
        _LEDGER + "test_what_is_settled_stays_so[postgresql]",
    ),
    mutation(
        "settle-back-sqlite",
        "SQLite: `settled_until` may go back",
        _SQLITE,
        "and paused_until is :paused_until and settled_until <= :until returning",
        "and paused_until is :paused_until returning",
        _LEDGER + "test_what_is_settled_stays_so[sqlite]",
    ),
    mutation(
        "absent-since-ever",
        "all jobs count as absent after all replicas were down: a week's ticks are forgotten",
        _STATEMENTS,
        "s.present_at < newest.present_at - :absent)\n  returning",
        "s.present_at < clock_timestamp() - :absent)\n  returning",
        _LEDGER + "test_all_replicas_down_for_a_week_is_no_absence[postgresql]",
    ),
    mutation(
        "prune-unsettled",
        "pruning takes rows above `settled_until`, whose ticks may be settled again",
        _STATEMENTS,
        "     and coalesce(r.until, r.scheduled_at) <= s.settled_until\n",
        "",
        _LEDGER + "test_pruning_leaves_what_is_not_settled[postgresql]",
    ),
    mutation(
        "prune-unsettled-sqlite",
        "SQLite: pruning takes rows above `settled_until`",
        _SQLITE,
        "                                and coalesce(until, scheduled_at) <= :settled_until\n",
        "                                and :settled_until is not null\n",
        _LEDGER + "test_pruning_leaves_what_is_not_settled[sqlite]",
    ),
    mutation(
        "prune-unread",
        "pruning removes a lost run that waits again since it was chosen",
        _STATEMENTS,
        "   where r.id = old.id and r.state not in ('waiting', 'running') and not r.slot_held returning r.id),",
        "   where r.id = old.id returning r.id),",
        "tests/postgres/test_requests.py::test_a_run_that_is_tried_again_after_all_is_not_pruned",
    ),
    mutation(
        "prune-newest-term",
        "pruning removes the term that leads, from which the next is counted",
        _STATEMENTS,
        "t.lock_id = :lock_id and t.term < fence.term",
        "t.lock_id = :lock_id and t.term <= fence.term",
        _LEDGER + "test_pruning_leaves_the_term_that_leads[postgresql]",
    ),
    mutation(
        "prune-newest-term-sqlite",
        "SQLite: pruning removes the term that leads",
        _SQLITE,
        "where lock_id = :lock_id and term < :term and acquired_at < :before",
        "where lock_id = :lock_id and term <= :term and acquired_at < :before",
        _LEDGER + "test_pruning_leaves_the_term_that_leads[sqlite]",
    ),
    # The leader's hand
    mutation(
        "settle-unasked",
        "the lease is not asked for again before what was computed is settled",
        _DISPATCHER,
        "        if not settlements or self._current() is None:",
        "        if not settlements:",
        _CONTRACT + "test_a_lease_that_turns_suspect_between_two_statements_stops_the_next",
    ),
    mutation(
        "start-unasked",
        "the lease is not asked for again before what was read is started",
        _DISPATCHER,
        "        if not runs or self._current() is None:",
        "        if not runs:",
        _CONTRACT + "test_a_lease_that_turns_suspect_between_two_statements_stops_the_next",
    ),
    mutation(
        "poll-unasked",
        "the lease is not asked for again after settling",
        _DISPATCHER,
        "        if self._current() is None:\n            return\n        poll =",
        "        poll =",
        _CONTRACT + "test_a_lease_that_turns_suspect_between_two_statements_stops_the_next",
    ),
    mutation(
        "edit-forgets-past",
        "after an edit the past is settled under the new schedule instead of the stored one",
        _DISPATCHER,
        "            past = schedules.parse(state.schedule, state.timezone)",
        "            past = spec.schedule",
        _CONTRACT + "test_a_changed_schedule_owes_nothing_for_its_past",
        _OVERLAP + "test_what_was_due_before_an_edit_is_decided_under_the_old_schedule",
    ),
    mutation(
        "edit-settled-later",
        "an edited job is settled at its next tick, so that the new schedule holds for the time before it too",
        _DISPATCHER,
        "            self._settle_soon(state.job_id for state in self._states.values() if self._is_edited(state))",
        "            pass",
        _OVERLAP + "test_a_changed_schedule_holds_from_the_moment_it_is_taken_up",
    ),
    mutation(
        "no-first-sweep",
        "a new leader waits for timers instead of settling what nobody settled",
        _DISPATCHER,
        "            self._settled_all_at = self._clock.monotonic() - SETTLE_ALL_SECONDS",
        "            self._settled_all_at = self._clock.monotonic()",
        _CONTRACT + "test_a_late_tick_is_settled_and_started",
    ),
    mutation(
        "early-timer-lost",
        "a job whose timer goes off before the database's clock is there is not looked at again",
        _DISPATCHER,
        "        if not settlement.enabled or settlement.until >= moment:",
        "        if True:",
        _CONTRACT + "test_a_timer_that_goes_off_early_loses_no_tick",
    ),
    mutation(
        "changed-unread",
        "a job that was changed from elsewhere is not read again",
        _DISPATCHER,
        "            self._read_again(changed)",
        "            pass",
        _CONTRACT + "test_a_pause_committed_between_computing_and_settling_holds",
    ),
    mutation(
        "stale-starts",
        "runs that waited under a former leader are started however old they are",
        _SETTLING,
        "not _keeps_its_place(spec, run, now)] if anew else []",
        "not _keeps_its_place(spec, run, now)] if False else []",
        _CONTRACT + "test_a_stale_waiting_run_does_not_start_under_the_next_leader",
    ),
    mutation(
        "holder-unwatched",
        "a tick is skipped because of a run whose replica has not been heard of",
        _SETTLING,
        "if one.holder_seen_at is None or one.holder_seen_at < believed_after:",
        "if False:",
        _CONTRACT + "test_a_run_of_a_replica_that_vanished_holds_its_job_until_it_is_lost",
    ),
    mutation(
        "coalesced-across-pause",
        "the ticks of a pause are coalesced with those after it",
        _SETTLING,
        "    return decisions + decide(spec, past, pause_to, until, now, open_count=open_count), True",
        "    return decisions + decide(spec, past, pause_from, until, now, open_count=open_count), True",
        _CONTRACT + "test_after_a_pause_its_ticks_are_skipped_and_the_next_runs",
    ),
    mutation(
        "pause-unbounded",
        "a pause that is over swallows what came due after its end",
        _SETTLING,
        "    if resumed_at is None or resumed_at > until:",
        "    if resumed_at is None or resumed_at <= until:",
        _CONTRACT + "test_after_a_pause_its_ticks_are_skipped_and_the_next_runs",
    ),
    # Decisions
    mutation(
        "overlap-started",
        "a tick runs beside the run that still goes on",
        _POLICY,
        "Reason.OVERLAP) if open_count >= limit else decisions",
        "Reason.OVERLAP) if open_count > limit else decisions",
        _CONTRACT + "test_a_tick_that_comes_due_while_the_job_runs_is_skipped",
        _DECISIONS + "test_a_tick_that_comes_due_while_the_job_runs_is_skipped",
    ),
    mutation(
        "queue-unlimited",
        "the queue takes one tick more than its limit",
        _POLICY,
        "limit + spec.queue_limit - open_count)",
        "1 + limit + spec.queue_limit - open_count)",
        _DECISIONS + "test_a_queue_takes_as_many_ticks_as_it_has_room_for",
    ),
    mutation(
        "replaced-by-oldest",
        "of several ticks that replace a run the oldest does",
        _POLICY,
        "older = set(map(id, chosen[:-limit]))",
        "older = set(map(id, chosen[limit:]))",
        _DECISIONS + "test_ticks_decided_together_replace_all_but_the_newest_that_fit",
    ),
    mutation(
        "coalesced-to-oldest",
        "of several late ticks the oldest runs instead of the newest",
        _POLICY,
        "        return (held + new)[-count:]",
        "        return (held + new)[:count]",
        _DECISIONS + "test_segments_agree_with_a_walk_over_every_tick",
    ),
    mutation(
        "window-ignored",
        "a tick is caught up however old it is",
        _POLICY,
        "now - max(spec.catch_up_window, spec.misfire_grace))",
        "now - max(timedelta(days=3650), spec.misfire_grace))",
        _DECISIONS + "test_known_answers",
    ),
    # Ticks are a pure function of the schedule (I8)
    mutation(
        "jitter-in-identity",
        "jitter is part of a tick's identity",
        _POLICY,
        "        return Decision(tick, self._due(tick), kind, State.WAITING, Reason.QUEUED)",
        "        return Decision(self._due(tick), self._due(tick), kind, State.WAITING, Reason.QUEUED)",
        _DECISIONS + "test_segments_agree_with_a_walk_over_every_tick",
    ),
    mutation(
        "jitter-settled-early",
        "ticks that jitter makes due later are settled with the others",
        _POLICY,
        "            return tick - MICROSECOND\n    return now",
        "            return now\n    return now",
        "tests/testing/test_simulation.py::test_a_job_is_started_when_jitter_makes_it_due",
    ),
    mutation(
        "jitter-by-process",
        "jitter differs from process to process",
        "scheduler_service/schedule/jitter.py",
        "int.from_bytes(blake2b(key, digest_size=8).digest())",
        "abs(hash(key))",
        _VALUES + "test_jitter_spreads_jobs_and_ticks_and_is_the_same_in_every_process",
    ),
    mutation(
        "interval-from-start",
        "an interval is counted from the last question instead of the epoch",
        _SERIES,
        "            tick = EPOCH + self.offset + self.interval * (self._number(after) + 1)",
        "            tick = after + self.interval",
        _VALUES + "test_an_interval_ticks_at_its_multiples_since_the_epoch",
    ),
    mutation(
        "interval-newest-counted-on",
        "the newest ticks of an interval are counted one too far",
        _SERIES,
        "for number in range(oldest, newest + 1)]",
        "for number in range(oldest, newest + 2)]",
        _VALUES + "test_the_newest_of_a_years_ticks_are_found_by_arithmetic",
    ),
    mutation(
        "at-twice",
        "a single moment that is settled already comes again (`at` on both sides of `settled_until`)",
        _SERIES,
        "(moment for moment in self.moments if moment > after)",
        "(moment for moment in self.moments if moment >= after)",
        _VALUES + "test_a_single_moment_comes_once",
    ),
    mutation(
        "at-never",
        "a single moment that falls on `settled_until` comes on neither side",
        _SERIES,
        "[moment for moment in self.ticks(after) if moment <= until][:count]",
        "[moment for moment in self.ticks(after) if moment < until][:count]",
        _VALUES + "test_a_single_moment_comes_once",
    ),
    mutation(
        "gap-lost",
        "a time that the clock skips in spring is no tick",
        _SERIES,
        "            if since == stretch.start and self._made_up(stretch, walls):",
        "            if False and self._made_up(stretch, walls):",
        _SCHEDULE + "test_a_fixed_time_in_a_gap_comes_once_at_the_first_moment_after_it",
    ),
    mutation(
        "overlap-doubled",
        "a time that the clock shows twice in autumn is two ticks",
        _SERIES,
        "            wall = max(wall, stretch.shown)\n",
        "",
        _SCHEDULE + "test_with_and_without_seconds_a_daily_job_is_neither_lost_nor_doubled",
    ),
    mutation(
        "star-follows-walls",
        "a job with a star in its hours stands still while the clock goes back",
        "scheduler_service/schedule/fields.py",
        'follows_real_time=minute.startswith("*") or hour.startswith("*")',
        'follows_real_time=minute.startswith("*") and hour.startswith("*")',
        _SCHEDULE + "test_a_star_in_either_field_is_enough",
    ),
    mutation(
        "star-restricts",
        "a day field that starts with a star counts as restricted, so that days of the other field come besides",
        "scheduler_service/schedule/fields.py",
        '    if base == "*":\n        return item\n',
        '    if base == "*":\n        return f"{field.low}-{field.high}/{step}"\n',
        _SCHEDULE + "test_a_known_answer_is_given",
    ),
    # Wall clocks decide nothing (I10)
    mutation(
        "timers-by-wall-clock",
        "timers go off by this machine's wall clock, whatever the database's says",
        "scheduler_service/timetable.py",
        "                return due - self._offset",
        "                return due",
        "tests/unit/test_timetable.py::test_a_timer_goes_off_when_the_database_says_so",
    ),
    mutation(
        "timers-without-lease",
        "timers go off while the lease is suspect",
        "scheduler_service/timetable.py",
        "        if armed is None or not self._leading():",
        "        if armed is None:",
        "tests/unit/test_timetable.py::test_without_a_trusted_lease_nothing_goes_off",
    ),
    mutation(
        "steps-believed-late",
        "a step of the database's clock is averaged away",
        "scheduler_service/clock.py",
        "                if old_low <= high and low <= old_high:",
        "                if True:",
        "tests/unit/test_clock.py::test_a_step_of_the_databases_clock_is_followed",
    ),
)

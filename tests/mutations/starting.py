"""Bugs of starting: an attempt at most once, and as many at a time as there are slots (I3, I7)."""

from __future__ import annotations

from tests.mutations.mutation import Edit, Mutation, mutation

_STATEMENTS = "scheduler_service/ledger/statements.py"
_SQLITE = "scheduler_service/ledger/sqlite.py"
_ENDINGS = "scheduler_service/ledger/sqlite_endings.py"
_READING = "scheduler_service/ledger/reading.py"
_STARTER = "scheduler_service/dispatcher/starting.py"
_HOUSE = "scheduler_service/housekeeping.py"
_WORKERS = "scheduler_service/workers/__init__.py"
_LEDGER = "tests/contract/test_ledger.py::"
_ATTEMPTS = "tests/contract/test_attempts.py::"
_DISPATCHER = "tests/contract/test_dispatcher.py::"
_RACES = "tests/postgres/test_requests.py::"
_WORKING = "tests/runner/test_workers.py::"

_WANTED = Edit(
    _STATEMENTS,
    "   where r.state = 'waiting' and r.due_at <= clock_timestamp() and r.cancel_requested_at is null\n",
    "   where r.due_at <= clock_timestamp() and r.cancel_requested_at is null\n",
)
_PICKED = Edit(
    _STATEMENTS,
    "where r.id = w.id and coalesce(r.state) = 'waiting' and r.cancel_requested_at is null  -- coalesce: as above\n",
    "where r.id = w.id and r.cancel_requested_at is null\n",
)

MUTATIONS = (
    # One attempt starts at most once (I3)
    Mutation(
        "start-without-waiting",
        "a run is started without a look whether it still waits",
        (_WANTED, _PICKED),
        (_LEDGER + "test_a_run_that_is_started_twice_starts_once",),
    ),
    Mutation(
        "start-from-snapshot",
        "whether a run still waits is looked at before its row is locked, and not after",
        (_PICKED,),
        (_RACES + "test_a_start_behind_another_starts_nothing",),
    ),
    mutation(
        "start-without-waiting-sqlite",
        "SQLite: a run is started without a look whether it still waits",
        _SQLITE,
        "where id = :run and state = 'waiting' and cancel_requested_at is null and due_at",
        "where id = :run and cancel_requested_at is null and due_at",
        _LEDGER + "test_a_run_that_is_started_twice_starts_once",
    ),
    mutation(
        "behind-all-that-waits",
        "what has just come due waits until all has started that waited before",
        "scheduler_service/dispatcher/__init__.py",
        "        self._starter.look_at_newest(self._specs, self._states.untried)\n",
        "",
        _DISPATCHER + "test_what_has_just_come_due_does_not_wait_behind_all_that_waits",
    ),
    mutation(
        "newest-before-all",
        "what has just come due takes all of the room, however long others have waited",
        _STARTER,
        "        for pair in itertools.zip_longest(*lanes):\n",
        "        for pair in (self._newest, self._candidates):\n",
        _DISPATCHER + "test_what_has_just_come_due_does_not_wait_behind_all_that_waits",
    ),
    mutation(
        "newest-out-of-order",
        "what has just come due passes by older runs of its own job",
        _STARTER,
        "                    first.setdefault(run.job_id, run)\n",
        "                    first[run.job_id] = run\n",
        _DISPATCHER + "test_what_has_just_come_due_keeps_the_order_of_its_job",
    ),
    mutation(
        "newest-one-at-a-time",
        "where one worker at a time becomes free, each is taken by what has just come due",
        _STARTER,
        "        self._oldest_next ^= len(chosen) % 2 == 1\n",
        "",
        _DISPATCHER + "test_where_one_worker_at_a_time_becomes_free_the_newest_and_the_oldest_take_turns",
    ),
    mutation(
        "newest-forgotten",
        "what has just come due is forgotten when what waits is read again",
        _STARTER,
        "[*still_waiting, *self._just_due][-NEWEST:]",
        "self._just_due",
        _DISPATCHER + "test_what_has_just_come_due_is_not_forgotten_when_what_waits_is_read_again",
    ),
    mutation(
        "late-before-settled",
        "a new leader starts all that is late as fast as it can, before all jobs are settled",
        _STARTER,
        "now + OLDEST_SECONDS",
        "0.0",
        _DISPATCHER + "test_a_new_leader_settles_before_it_starts_all_that_is_late",
    ),
    mutation(
        "late-behind-a-held-job",
        "a new leader starts what is late seldom for as long as there is a job that it cannot settle yet",
        "scheduler_service/dispatcher/__init__.py",
        "self._agenda.ready_among(self._states.untried)",
        "bool(self._states.untried)",
        _DISPATCHER + "test_a_job_that_a_new_leader_cannot_settle_yet_delays_no_start",
    ),
    mutation(
        "used-up",
        "when what was read is used up, what waits beyond it is left until the next second",
        "scheduler_service/dispatcher/__init__.py",
        "        if more or used_up:",
        "        if more:",
        _DISPATCHER + "test_when_what_was_read_is_used_up_and_others_wait_they_are_read_at_once",
    ),
    mutation(
        "among-all",
        "where what waits of some jobs is asked for, all that waits is read",
        _READING,
        """{chosen.replace("job_id", "w.job_id")} {excluded}""",
        "{excluded}",
        _LEDGER + "test_what_waits_of_some_jobs_can_be_read",
    ),
    mutation(
        "catch-up-first",
        "what is late is started before what is on time, in their order",
        "scheduler_service/ledger/reading.py",
        "then 1 else 0 end, r.due_at, r.id) as place",
        "then 0 else 0 end, r.due_at, r.id) as place",
        _LEDGER + "test_what_is_on_time_starts_before_what_is_caught_up_on",
    ),
    mutation(
        "start-early",
        "a run is started before it is due",
        _STATEMENTS,
        "   where r.state = 'waiting' and r.due_at <= clock_timestamp() and r.cancel_requested_at is null\n",
        "   where r.state = 'waiting' and r.cancel_requested_at is null\n",
        _LEDGER + "test_a_run_that_is_not_due_yet_waits[postgresql]",
    ),
    mutation(
        "start-paused",
        "a run of a job that was paused since it was read is started",
        _STATEMENTS,
        "     and (s.paused_at is null or s.paused_at > clock_timestamp() or s.paused_until <= clock_timestamp())\n",
        "",
        _LEDGER + "test_waiting_runs_of_a_paused_job_wait[postgresql]",
        _DISPATCHER + "test_what_was_read_a_moment_ago_is_looked_at_again_before_it_starts",
    ),
    mutation(
        "start-forgotten",
        "a start whose reply was lost is not asked after",
        "scheduler_service/dispatcher/__init__.py",
        "        self._starter.answer_claims()\n",
        "",
        _DISPATCHER + "test_a_start_whose_answer_is_lost_begins_exactly_once",
        _DISPATCHER + "test_a_start_whose_reply_is_lost_is_run_though_the_term_is_over",
    ),
    mutation(
        "claim-anyones",
        "what a start did is looked up by anything but its claim",
        _READING,
        "where claim_id = :claim and state = 'running' order by id",
        "where :claim = :claim and state = 'running' order by id",
        _LEDGER + "test_what_a_start_did_whose_reply_was_lost_is_found_by_its_claim",
    ),
    mutation(
        "claim-unknown",
        "an attempt on its way to a worker is taken for one that never began",
        _HOUSE,
        " not in ours and one.claim_id not in claims\n",
        " not in ours\n",
        _DISPATCHER + "test_a_claim_on_its_way_is_left_alone",
    ),
    mutation(
        "unstart-anyones",
        "attempts of another replica are taken back as never begun",
        _STATEMENTS,
        "where id = any (:attempts) and instance_id = :me and state = 'running' returning run_id, attempt)",
        "where id = any (:attempts) and state = 'running' returning run_id, attempt)",
        _LEDGER + "test_an_attempt_of_another_is_not_unstarted[postgresql]",
    ),
    mutation(
        "begin-unasked",
        "a worker begins whatever it has, however long ago it was started",
        _WORKERS,
        "            if sure and now - asked_at < self._begin_within_seconds:",
        "            if sure:",
        _WORKING + "test_what_is_no_longer_open_is_given_back_and_never_begun",
    ),
    mutation(
        "queue-by-id",
        "what waits is started by id instead of by when it is due",
        _READING,
        "then 1 else 0 end, r.due_at, r.id) as place",
        "then 1 else 0 end, r.id) as place",
        _LEDGER + "test_the_oldest_due_starts_first",
    ),
    mutation(
        "turn-by-id",
        "of the ticks of one job the one decided first runs first, instead of the oldest",
        _READING,
        "row_number() over (partition by w.job_id order by w.scheduled_at, w.id) as turn",
        "row_number() over (partition by w.job_id order by w.id) as turn",
        _LEDGER + "test_the_oldest_tick_of_a_job_starts_first",
    ),
    # Slots (I7)
    mutation(
        "slots-uncounted",
        "free slots are told by their numbers alone: runs that began without one are not counted",
        _STATEMENTS,
        "(free.slot is not null and w.turn <= w.max_running - w.held)",
        "(free.slot is not null)",
        _ATTEMPTS + "test_runs_that_began_without_a_limit_count_once_there_is_one[postgresql]",
    ),
    mutation(
        "slots-uncounted-sqlite",
        "SQLite: free slots are told by their numbers alone",
        _SQLITE,
        "if slot not in held), None) if len(rows) < limit else None",
        "if slot not in held), None)",
        _ATTEMPTS + "test_runs_that_began_without_a_limit_count_once_there_is_one[sqlite]",
    ),
    mutation(
        "slot-free-at-timeout",
        "the slot is free at the time-out, though the thread goes on",
        _STATEMENTS,
        "slot_held = r.slot_held and not e.returned",
        "slot_held = false",
        _LEDGER + "test_a_thread_that_goes_on_keeps_its_slot[postgresql]",
    ),
    mutation(
        "slot-free-at-timeout-sqlite",
        "SQLite: the slot is free at the time-out, though the thread goes on",
        _ENDINGS,
        "        if outcome.returned:",
        "        if True:",
        _LEDGER + "test_a_thread_that_goes_on_keeps_its_slot[sqlite]",
    ),
    mutation(
        "stuck-retried",
        "a run is tried again while the thread of its last attempt still goes on",
        _READING,
        "                     and not (w.slot_held and s.max_running is not null)\n",
        "",
        _ATTEMPTS + "test_a_stuck_run_with_a_slot_to_spare_leaves_it_to_the_others",
    ),
    mutation(
        "slot-kept-by-lost",
        "the slot of a stuck thread is never free again when its replica is gone",
        _STATEMENTS,
        "where r.lock_id = :lock_id and r.slot_held and a.instance_id = gone.instance_id and a.state <> 'running'),",
        "where r.lock_id = :lock_id and r.slot_held and a.instance_id = gone.instance_id and false),",
        _LEDGER + "test_a_vanished_replica_frees_the_slot_that_a_stuck_thread_held[postgresql]",
    ),
)

"""Bugs of how attempts end: results, retries, cancelled and lost runs, and what a job leaves behind."""

from __future__ import annotations

from tests.mutations.mutation import Edit, Mutation, mutation

_STATEMENTS = "scheduler_service/ledger/statements.py"
_SQLITE = "scheduler_service/ledger/sqlite.py"
_ENDINGS = "scheduler_service/ledger/sqlite_endings.py"
_HOUSE = "scheduler_service/housekeeping.py"
_RESULTS = "scheduler_service/results.py"
_POLICY = "scheduler_service/policy.py"
_LEDGER = "tests/contract/test_ledger.py::"
_ATTEMPTS = "tests/contract/test_attempts.py::"
_DISPATCHER = "tests/contract/test_dispatcher.py::"
_RACES = "tests/postgres/test_requests.py::"
_WRITING = "tests/runner/test_results.py::"
_TRANSACTIONS = "scheduler_service/ledger/transactions.py"

MUTATIONS = (
    # How a replica ends
    mutation(
        "message-wakes-nobody",
        "whoever waits for a message finds it when the wait is over: a drain begins when the conductor looks around",
        "scheduler_service/mailbox.py",
        "            self._nothing_came.release()\n",
        "            pass\n",
        "tests/unit/test_mailbox.py::test_whoever_waits_is_woken_by_a_message",
    ),
    # How attempts end
    mutation(
        "finish-without-id",
        "an attempt is closed by its run instead of its own id",
        _STATEMENTS,
        "    from f where a.id = f.id and a.state in ('running', 'lost')",
        "    from f where a.run_id = f.run_id and a.state in ('running', 'lost')",
        _LEDGER + "test_a_late_result_changes_only_its_own_row_once_a_newer_attempt_runs[postgresql]",
    ),
    mutation(
        "finish-any-attempt",
        "a late result ends the run though a newer attempt of it goes on",
        _STATEMENTS,
        " where r.id = e.run_id and r.attempt = e.attempt\n   and case",
        " where r.id = e.run_id\n   and case",
        _LEDGER + "test_a_late_result_changes_only_its_own_row_once_a_newer_attempt_runs[postgresql]",
    ),
    mutation(
        "finish-any-attempt-sqlite",
        "SQLite: a late result ends the run though a newer attempt of it goes on",
        _ENDINGS,
        "where id = :run and attempt = :number and state in ('running', 'lost', 'waiting')",
        "where id = :run and :number = :number and state in ('running', 'lost', 'waiting')",
        _LEDGER + "test_a_late_result_changes_only_its_own_row_once_a_newer_attempt_runs[sqlite]",
    ),
    mutation(
        "finish-twice",
        "a result that is told a second time replaces the first",
        _STATEMENTS,
        "    from f where a.id = f.id and a.state in ('running', 'lost')",
        "    from f where a.id = f.id",
        _LEDGER + "test_finish_sent_again_changes_nothing[postgresql]",
    ),
    mutation(
        "late-result-dropped",
        "a result that comes after `lost` is dropped",
        _STATEMENTS,
        "    from f where a.id = f.id and a.state in ('running', 'lost')",
        "    from f where a.id = f.id and a.state = 'running'",
        _LEDGER + "test_a_late_result_turns_lost_into_what_really_happened[postgresql]",
    ),
    mutation(
        "late-result-dropped-sqlite",
        "SQLite: a result that comes after `lost` is dropped",
        _ENDINGS,
        "where id = :attempt and state in ('running', 'lost') returning finished_at",
        "where id = :attempt and state = 'running' returning finished_at",
        _LEDGER + "test_a_late_result_turns_lost_into_what_really_happened[sqlite]",
    ),
    mutation(
        "results-given-up",
        "results are dropped when the database has not answered for a while",
        _RESULTS,
        "            if problem is None:\n                self._forget(batch)",
        "            if problem is None or self._failed_count:\n                self._forget(batch)",
        _WRITING + "test_results_wait_through_an_outage_of_any_length",
    ),
    mutation(
        "return-dropped",
        "that a stuck function has returned is forgotten with the result that was being written",
        _RESULTS,
        "                if self._waiting[one.attempt.id] is one:",
        "                if True:",
        _WRITING + "test_the_second_follows_a_first_that_is_being_written",
    ),
    mutation(
        "refused-row-blocks",
        "one row that the database refuses holds up all others",
        _RESULTS,
        "            if _may_pass(problem):\n                return self._pause(problem)\n        return self",
        "            return self._pause(problem)\n        return self",
        _WRITING + "test_one_refused_row_does_not_hold_up_the_others",
    ),
    # Retries
    mutation(
        "retry-from-start",
        "the wait before a retry is counted from the attempt's start",
        _STATEMENTS,
        "f.started_at + make_interval(secs => f.seconds) + make_interval(secs => f.retry) as again_at",
        "f.started_at + make_interval(secs => f.retry) as again_at",
        _ATTEMPTS + "test_a_run_to_be_tried_again_waits_so_long_after_its_end[postgresql]",
    ),
    mutation(
        "retry-from-start-sqlite",
        "SQLite: the wait before a retry is counted from the attempt's start",
        _ENDINGS,
        "state in ('running', 'lost') returning finished_at",
        "state in ('running', 'lost') returning started_at",
        _ATTEMPTS + "test_a_run_to_be_tried_again_waits_so_long_after_its_end[sqlite]",
    ),
    mutation(
        "retry-once-more",
        "a run is started once more than its job allows",
        _POLICY,
        "    if attempt >= retry.attempts or state",
        "    if attempt > retry.attempts or state",
        "tests/unit/test_policy.py::test_a_failed_run_is_tried_again_later_and_later",
    ),
    mutation(
        "rerun-once-more",
        "a lost run is started once more than its job allows",
        _STATEMENTS,
        "where l.job_id = w.job_id and w.attempt < l.starts) as again",
        "where l.job_id = w.job_id and w.attempt <= l.starts) as again",
        _ATTEMPTS + "test_a_run_of_a_vanished_replica_is_run_again_as_often_as_it_may",
    ),
    # Cancelled runs never go back to waiting
    mutation(
        "cancelled-retried",
        "a run that somebody cancels is tried again when it fails",
        _STATEMENTS,
        "when e.again_at is not null and r.cancel_requested_at is null then 'waiting' else e.state end,",
        "when e.again_at is not null then 'waiting' else e.state end,",
        _ATTEMPTS + "test_a_run_that_somebody_cancels_is_not_tried_again[postgresql]",
    ),
    mutation(
        "cancelled-retried-sqlite",
        "SQLite: a run that somebody cancels is tried again when it fails",
        _ENDINGS,
        "set state = case when :again and cancel_requested_at is null then 'waiting' else :state end,",
        "set state = case when :again then 'waiting' else :state end,",
        _ATTEMPTS + "test_a_run_that_somebody_cancels_is_not_tried_again[sqlite]",
    ),
    mutation(
        "cancelled-rerun",
        "a run that somebody cancels is run again when its replica is lost",
        _STATEMENTS,
        "when o.again and r.cancel_requested_at is null then 'waiting' else 'lost' end,",
        "when o.again then 'waiting' else 'lost' end,",
        _ATTEMPTS + "test_a_cancelled_run_is_lost_and_not_run_again[postgresql]",
    ),
    mutation(
        "cancelled-rerun-by-snapshot",
        "whether somebody cancels a lost run is looked at before its row is locked",
        _STATEMENTS,
        "where l.job_id = w.job_id and w.attempt < l.starts) as again\n"
        "            from left_open join {p}run w on w.id = left_open.run_id) o\n"
        "   where r.id",
        "where l.job_id = w.job_id and w.attempt < l.starts) as again, w.cancel_requested_at as asked\n"
        "            from left_open join {p}run w on w.id = left_open.run_id) o\n"
        "   where r.cancel_requested_at is not distinct from o.asked and r.id",
        _RACES + "test_a_loss_behind_a_cancel_does_not_run_the_run_again",
    ),
    mutation(
        "cancelled-waits",
        "a run that somebody cancels on its way to a worker waits again",
        _STATEMENTS,
        "set state = case when r.cancel_requested_at is null then 'waiting' else 'cancelled' end,",
        "set state = 'waiting',",
        _ATTEMPTS + "test_a_cancelled_run_that_never_began_is_over[postgresql]",
    ),
    mutation(
        "cancelled-waits-sqlite",
        "SQLite: a run that somebody cancels on its way to a worker waits again",
        _ENDINGS,
        "set state = case when cancel_requested_at is null then 'waiting' else 'cancelled' end,",
        "set state = 'waiting',",
        _ATTEMPTS + "test_a_cancelled_run_that_never_began_is_over[sqlite]",
    ),
    mutation(
        "cancelled-unheard",
        "a replica does not ask the runs to stop that somebody cancels",
        _HOUSE,
        "            if one.cancelled_by is not None and",
        "            if False and",
        "tests/contract/test_overlap.py::test_a_run_that_somebody_cancels_is_asked_to_stop_by_the_replica_that_runs_it",
    ),
    # Lost runs
    mutation(
        "lost-by-the-silent",
        "a leader that heard nothing itself counts the silence of others on",
        _HOUSE,
        "            self._watched.clear()  # while",
        "            pass  # while",
        _DISPATCHER + "test_a_single_look_that_fails_begins_the_count_anew",
    ),
    mutation(
        "lost-by-the-frozen",
        "a leader that stood still counts that time as the silence of others",
        _HOUSE,
        "        seconds = min(now - self._heard_at, self._lost_after_seconds / 3)\n",
        "        seconds = now - self._heard_at\n",
        _DISPATCHER + "test_a_wait_in_which_a_leader_heard_nothing_gives_up_nobody",
        _DISPATCHER + "test_a_pruning_that_stalls_gives_up_nobody",
    ),
    mutation(
        "lost-at-once",
        "a replica is given up at the first look",
        _HOUSE,
        "            if watched.silent_seconds < self._lost_after_seconds:",
        "            if watched.silent_seconds < 0:",
        _DISPATCHER + "test_a_run_of_a_replica_that_vanished_holds_its_job_until_it_is_lost",
    ),
    mutation(
        "lost-though-signed-in",
        "a replica is given up that has signed in since it was looked at",
        _STATEMENTS,
        "where p.instance_id = :gone and p.seen_at is distinct from :seen)),",
        "where p.instance_id = :gone and :seen <> :seen)),",
        _LEDGER + "test_a_replica_that_signed_in_meanwhile_loses_nothing[postgresql]",
    ),
    mutation(
        "lost-though-signed-in-sqlite",
        "SQLite: a replica is given up that has signed in since it was looked at",
        _SQLITE,
        "            if rows and rows[0][0] != self.stamp(seen_at):\n                return []\n",
        "",
        _LEDGER + "test_a_replica_that_signed_in_meanwhile_loses_nothing[sqlite]",
    ),
    Mutation(
        "lost-though-alive",
        "signs of life are not compared, neither by the leader nor by its statement",
        (
            Edit(
                _HOUSE,
                "same = known is not None and known.seen_at == peer.seen_at",
                "same = known is not None",
            ),
            Edit(
                _STATEMENTS,
                "where p.instance_id = :gone and p.seen_at is distinct from :seen)),",
                "where p.instance_id = :gone and :seen <> :seen)),",
            ),
        ),
        (_DISPATCHER + "test_a_run_whose_replica_lives_on_as_a_standby_is_not_lost[postgresql]",),
    ),
    mutation(
        "lost-untold",
        "a lost run is not named",
        _HOUSE,
        "            for one in lost:\n",
        "            for one in lost[:0]:\n",
        _DISPATCHER + "test_a_run_of_a_replica_that_vanished_holds_its_job_until_it_is_lost",
    ),
    mutation(
        "lost-goes-on",
        "a run that was marked lost is not asked to stop where it goes on",
        _HOUSE,
        "                self._workers.stop_run(attempt_id, MARKED_LOST)",
        "                pass",
        _DISPATCHER + "test_a_run_marked_lost_is_asked_to_stop_where_it_goes_on",
    ),
    mutation(
        "lost-takes-back",
        "a run that stops because it was marked lost takes the rerun back that waits",
        "scheduler_service/workers/tasks.py",
        "self.stopping.reason in (REPLICA_ENDS, MARKED_LOST)",
        "self.stopping.reason == REPLICA_ENDS",
        _DISPATCHER + "test_a_run_that_stops_because_it_was_marked_lost_takes_back_no_rerun",
    ),
    mutation(
        "begun-after-the-drain",
        "a start that is answered after the grace of a drain begins",
        "scheduler_service/workers/__init__.py",
        "            if self._closed:\n                return\n",
        "",
        "tests/runner/test_workers.py::test_once_they_are_closed_nothing_begins_that_has_not_and_what_has_goes_on",
    ),
    mutation(
        "begun-though-forgotten",
        "a worker that asked the ledger whether it may begin does so after a drain has given its attempt back",
        "scheduler_service/workers/__init__.py",
        "not self._closed and task.stopping.reason != MARKED_LOST",
        "task.stopping.reason != MARKED_LOST",
        "tests/runner/test_workers.py::"
        "test_once_they_are_closed_a_worker_that_asks_whether_it_may_begin_begins_nothing[True]",
    ),
    mutation(
        "unbegun-is-lost",
        "what nobody has begun when a drain ends counts as lost",
        "scheduler_service/service/__init__.py",
        "            self._parts.housekeeping.reconcile(begins=False)\n",
        "            pass\n",
        "tests/cli/test_drain.py::"
        "test_a_start_that_is_not_answered_before_the_grace_is_over_begins_nothing_and_its_run_waits_again",
    ),
    mutation(
        "forfeit-given-back",
        "runs with `on_leadership_lost: cancel` are ended when the lease is given back",
        "scheduler_service/forfeits.py",
        "        if reason in REASONS:",
        "        if reason:",
        "tests/unit/test_forfeits.py::test_a_term_that_we_gave_back_ends_nothing",
    ),
    # A job's own transaction
    Mutation(
        "transaction-of-the-lost",
        "rows of a job are kept whose attempt and run are closed already",
        (
            Edit(
                _TRANSACTIONS,
                "   where id = :attempt_id and state = 'running'\n",
                "   where id = :attempt_id\n",
            ),
            Edit(
                _TRANSACTIONS,
                "and r.state = 'running' and r.cancel_requested_at is null\nreturning r.id",
                "and r.cancel_requested_at is null\nreturning r.id",
            ),
        ),
        ("tests/postgres/test_transactions.py::test_nothing_is_kept_of_a_run_that_is_over",),
    ),
    mutation(
        "transaction-of-the-cancelled",
        "rows of a job that somebody cancels are kept",
        _TRANSACTIONS,
        "and r.state = 'running' and r.cancel_requested_at is null\nreturning r.id",
        "and r.state = 'running'\nreturning r.id",
        "tests/postgres/test_transactions.py::test_nothing_is_kept_of_a_run_that_is_over",
    ),
    # Processes
    mutation(
        "child-outlives-replica",
        "a child's guardian does not see the end of a replica whose descriptors somebody else holds",
        "scheduler_service/runner/supervisor.py",
        "        alone = alone or replica in ready\n",
        "",
        "tests/runner/test_processes.py::"
        "test_a_process_that_holds_the_replicas_descriptors_does_not_keep_its_children_alive",
    ),
    mutation(
        "drain-waits-first",
        "a drain waits for what runs before it gives the lease back",
        "scheduler_service/service/__init__.py",
        "        self._parts.elector.stop(STOP_SECONDS)\n        if self._lease",
        "        self._finish_runs(deadline)\n        self._parts.elector.stop(STOP_SECONDS)\n        if self._lease",
        "tests/cli/test_drain.py::test_a_drain_gives_the_lease_back_first_and_lets_the_run_finish",
    ),
)

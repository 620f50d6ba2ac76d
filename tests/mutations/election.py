"""Bugs of the election: trust, terms, the lease in the database, the leader's session (I1, I2, I6, I9)."""

from __future__ import annotations

from tests.mutations.mutation import mutation

_MACHINE = "scheduler_service/elector/machine.py"
_ELECTOR = "scheduler_service/elector/__init__.py"
_LISTENERS = "scheduler_service/elector/announcements.py"
_POSTGRESQL = "scheduler_service/leases/postgresql.py"
_SQLITE = "scheduler_service/leases/sqlite.py"
_GUARD = "scheduler_service/guard.py"
_SESSION = "scheduler_service/database/postgresql.py"
_UNIT = "tests/unit/test_elector.py::"
_CONTRACT = "tests/contract/test_elector.py::"
_LEASES = "tests/contract/test_leases.py::"
_GUARDING = "tests/postgres/test_guard.py::"
_DATABASE = "tests/postgres/test_database.py::"

_HISTORY = "coalesce((select max(term) from {prefix}leader_term where lock_id = :id), 0)"
_NEXT_TERM = f"greatest(nextval(:sequence), 1 + {_HISTORY})"
_RENEWS = """where id = :id and term = :term and leader_id = :me and expires_at > clock_timestamp()
returning resign_term is not distinct from term as resign_requested, resign_by, clock_timestamp() as database_time,
          true as armed"""
_RENEWS_AND_ARMS = _RENEWS.replace("true as armed", "tried.locked as armed")

MUTATIONS = (
    mutation(
        "leader-without-time",
        "who leads can be seen before the database's time is known, by which it is judged: whoever asks then crashes",
        _MACHINE,
        "            self._learn(sent, observation.database_time)  # before any thread can",
        "            self.observation = observation\n            self._learn(sent, observation.database_time)  #",
        _UNIT + "test_who_leads_can_be_asked_in_the_middle_of_the_first_look",
    ),
    # Trust (I1, I6)
    mutation(
        "trust-from-reply",
        "trust counted from the reply of a renewal instead of its request",
        _MACHINE,
        "lease = replace(lease, trusted_until=self._trust_from(sent), armed=renewal.armed)",
        "lease = replace(lease, trusted_until=self._trust_from(self._clock.monotonic()), armed=renewal.armed)",
        _UNIT + "test_trust_counts_from_before_the_request",
    ),
    mutation(
        "trust-from-acquired",
        "trust counted from the reply that the lease was acquired",
        _MACHINE,
        "            trusted_until=self._trust_from(sent),\n",
        "            trusted_until=self._trust_from(self._clock.monotonic()),\n",
        _UNIT + "test_trust_counts_from_before_the_request",
    ),
    mutation(
        "trust-without-margin",
        "trust as long as the lease, without the safety margin",
        _MACHINE,
        "return sent + self.timing.lease_seconds - self.timing.margin_seconds",
        "return sent + self.timing.lease_seconds",
        _UNIT + "test_the_free_lease_is_won_and_trusted_until_a_margin_before_it_expires",
    ),
    mutation(
        "trust-unbounded",
        "a leader is whoever was told so last: trust never runs out",
        _MACHINE,
        "        return lease if lease.trusted(self._clock.monotonic()) else None",
        "        return lease",
        _UNIT + "test_trust_runs_out_by_itself",
        _UNIT + "test_a_frozen_leader_does_not_lead_after_thawing",
    ),
    mutation(
        "suspect-leads",
        "an error of the database ends nothing until trust has run out",
        _MACHINE,
        "self._standing = Standing(Role.SUSPECT, lease, since=now)",
        "self._standing = Standing(Role.LEADER, lease, since=now)",
        _UNIT + "test_an_error_ends_trust_at_once_and_an_answer_resumes_the_same_term",
    ),
    mutation(
        "release-trusted",
        "whoever gives the lease back trusts it until the row is deleted",
        _MACHINE,
        " or lease is None or lease.term <= self._revoked.term:\n            return None\n        return lease if",
        " or lease is None:\n            return None\n        return lease if",
        _UNIT + "test_release_ends_trust_before_the_row_is_deleted",
    ),
    mutation(
        "refusal-ignored",
        "a renewal that found no row counts as one",
        _MACHINE,
        '                return self._step_down(lease, "deposed")\n            if self._clock',
        "                return 0.0\n            if self._clock",
        _UNIT + "test_a_renewal_that_finds_no_row_ends_the_term",
    ),
    mutation(
        "fenced-ignored",
        "a fenced statement does not end the term",
        _MACHINE,
        '                self._revoked = Revocation(term, "fenced", give_back=False)',
        "                pass",
        _UNIT + "test_a_fenced_statement_ends_the_term_at_once",
    ),
    mutation(
        "withdrawn-leads",
        "a lease that is won while withdrawing is led",
        _MACHINE,
        "Standing(Role.RELEASING if withdrawn else Role.LEADER, lease",
        "Standing(Role.LEADER, lease",
        _UNIT + "test_a_term_won_after_withdrawing_is_given_back_and_nobody_hears_of_it",
    ),
    mutation(
        "release-impatient",
        "a release that waits for a statement of ours is given up at once",
        _MACHINE,
        "            if self._clock.monotonic() < lease.trusted_until + self.timing.margin_seconds:",
        "            if self._clock.monotonic() < lease.trusted_until - self.timing.lease_seconds:",
        _UNIT + "test_release_is_tried_again_while_a_statement_of_ours_holds_the_row",
    ),
    mutation(
        "no-standing-back",
        "whoever released takes the lease again before the others had a turn",
        _MACHINE,
        "return self._withdrawn or not self._ready() or self._clock.monotonic() < self._not_before",
        "return self._withdrawn or not self._ready()",
        _UNIT + "test_whoever_released_stands_back_one_round_and_may_lead_again",
    ),
    mutation(
        "former-session",
        "the end of any leader's session, also of a former one, is taken for that of this term's",
        _MACHINE,
        "if observation.armed and observation.term == self._gone_term:",
        "if observation.armed and self._gone_term:",
        _UNIT + "test_the_end_of_a_former_leaders_session_means_nothing",
    ),
    mutation(
        "one-attempt-fits",
        "timings are accepted in which one lost renewal costs the lease",
        "scheduler_service/elector/timing.py",
        "self.jitter_seconds + 2 * self.attempt_seconds",
        "self.jitter_seconds + self.attempt_seconds",
        _UNIT + "test_settings_that_cannot_work_are_refused_with_what_would",
    ),
    mutation(
        "wall-clock",
        "deadlines counted on the wall clock",
        "scheduler_service/clock.py",
        "return time.clock_gettime(self._id)",
        "return time.time()",
        "tests/unit/test_clock.py::test_the_boot_clock_counts_suspended_time_and_no_steps",
    ),
    mutation(
        "suspend-uncounted",
        "deadlines counted on a clock that stops while the machine is suspended",
        "scheduler_service/clock.py",
        'getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)',
        "time.CLOCK_MONOTONIC",
        "tests/unit/test_clock.py::test_the_boot_clock_counts_suspended_time_and_no_steps",
    ),
    mutation(
        "leader-by-wall-clock",
        "whether another's lease is over judged by this machine's wall clock",
        _MACHINE,
        "self.database_time.now() >= _expiry(leader)",
        "datetime.now(leader.database_time.tzinfo) >= _expiry(leader)",
        _UNIT + "test_who_leads_is_judged_by_the_databases_time",
    ),
    # Threads (I9)
    mutation(
        "listener-on-elector",
        "listeners are called from the thread that renews the lease",
        _LISTENERS,
        "            if self._listeners:\n                self._deliver(message, self._listeners)",
        "        for one in self._listeners if isinstance(message, Elected) else ():\n"
        "            self._tell_elected(one, message.lease)",
        _CONTRACT + "test_a_listener_that_hangs_holds_no_renewal_up",
    ),
    mutation(
        "crashed-leads",
        "an elector whose thread has crashed goes on leading",
        _ELECTOR,
        '            self.abandon("crashed")',
        "            pass",
        _CONTRACT + "test_a_thread_that_crashes_leads_no_more",
    ),
    mutation(
        "fork-leads",
        "a forked child takes itself for the leader that its parent is",
        "scheduler_service/elector/forking.py",
        "os.register_at_fork(after_in_child=_after_fork)",
        "",
        _CONTRACT + "test_a_forked_child_is_no_leader_has_a_name_of_its_own_and_can_stand_for_itself",
    ),
    # Terms only grow (I2)
    mutation(
        "term-from-row",
        "a new lease's term from the row alone: deleting the row brings an old one back",
        _POSTGRESQL,
        _NEXT_TERM,
        "1 + 0 * nextval(:sequence)",
        _LEASES + "test_terms_grow_across_release_expiry_cleanup_and_deletion[postgresql]",
    ),
    mutation(
        "term-without-sequence",
        "a new lease's term from the tables alone: deleting their rows brings an old one back",
        _POSTGRESQL,
        _NEXT_TERM,
        _NEXT_TERM.replace("nextval(:sequence)", "0 * nextval(:sequence)"),
        "tests/postgres/test_election.py::"
        "test_no_term_comes_back_after_a_crash_of_the_server_and_the_deletion_of_every_row",
    ),
    mutation(
        "term-from-sequence",
        "a new lease's term from the sequence alone: one that was restored behind the tables brings an old one back",
        _POSTGRESQL,
        _NEXT_TERM,
        "nextval(:sequence)",
        "tests/postgres/test_terms.py::test_a_sequence_that_fell_behind_brings_no_term_back[deleted]",
    ),
    mutation(
        "term-replaced-by-sequence",
        "a replaced lease's term from the sequence alone, be it behind the row's",
        _POSTGRESQL,
        "term = greatest(l.term + 1, excluded.term)",
        "term = excluded.term",
        "tests/postgres/test_terms.py::test_a_sequence_that_fell_behind_brings_no_term_back[pruned]",
    ),
    mutation(
        "term-from-row-sqlite",
        "SQLite: a new lease's term from the row alone",
        _SQLITE,
        '"term": max(last_term, row_term) + 1}',
        '"term": row_term + 1}',
        _LEASES + "test_terms_grow_across_release_expiry_cleanup_and_deletion[sqlite]",
    ),
    # The lease in the database
    mutation(
        "lapsed-revived",
        "a renewal brings a lapsed term back to life",
        _POSTGRESQL,
        _RENEWS_AND_ARMS,
        _RENEWS_AND_ARMS.replace(" and expires_at > clock_timestamp()", ""),
        _LEASES + "test_a_lapsed_term_is_never_revived[postgresql]",
    ),
    mutation(
        "lapsed-revived-armed",
        "a renewal brings a lapsed term that is watched back to life",
        _POSTGRESQL,
        _RENEWS,
        _RENEWS.replace(" and expires_at > clock_timestamp()", ""),
        _GUARDING + "test_a_term_that_is_watched_is_renewed_by_its_whole_token_and_in_time",
    ),
    mutation(
        "renewal-without-leader",
        "a renewal by the term alone, without the leader's name",
        _POSTGRESQL,
        _RENEWS_AND_ARMS,
        _RENEWS_AND_ARMS.replace(" and leader_id = :me", ""),
        _LEASES + "test_a_token_is_term_and_leader[postgresql-renew]",
    ),
    mutation(
        "renewal-armed-without-leader",
        "a renewal of a term that is watched by the term alone",
        _POSTGRESQL,
        _RENEWS,
        _RENEWS.replace(" and leader_id = :me", ""),
        _GUARDING + "test_a_term_that_is_watched_is_renewed_by_its_whole_token_and_in_time",
    ),
    mutation(
        "release-without-leader",
        "a release by the term alone, without the leader's name",
        _POSTGRESQL,
        "delete from {prefix}leader_lease where id = :id and term = :term and leader_id = :me returning id, term)",
        "delete from {prefix}leader_lease where id = :id and term = :term returning id, term)",
        _LEASES + "test_a_token_is_term_and_leader[postgresql-release]",
    ),
    mutation(
        "release-unheard",
        "a release leaves the session's lock held, so that standbys wait for the lease to expire",
        _POSTGRESQL,
        "        self._unlock(self._live())\n        return gone",
        "        return gone",
        _GUARDING + "test_a_released_term_leaves_no_lock_behind",
    ),
    mutation(
        "lapsed-revived-sqlite",
        "SQLite: a renewal brings a lapsed term back to life",
        _SQLITE,
        " where id = :id and term = :term and leader_id = :me and expires_at > {now}\n",
        " where id = :id and term = :term and leader_id = :me\n",
        _LEASES + "test_a_lapsed_term_is_never_revived[sqlite]",
    ),
    mutation(
        "clock-set-back",
        "a lease that ends further away than a lease lasts, because the clock was set back, still stands",
        _POSTGRESQL,
        "(l.expires_at <= clock_timestamp() or "
        "l.expires_at > clock_timestamp() + make_interval(secs => l.lease_seconds))",
        "(l.expires_at <= clock_timestamp())",
        _LEASES + "test_a_lease_that_ends_further_away_than_a_lease_lasts_has_expired[postgresql]",
    ),
    mutation(
        "cleanup-of-living",
        "cleaning up removes a lease that has not expired",
        _POSTGRESQL,
        "expires_at < clock_timestamp() - make_interval(secs => :after)",
        "expires_at < clock_timestamp() + 9 * make_interval(secs => :after)",
        _LEASES + "test_cleanup_removes_what_expired_a_while_ago[postgresql]",
    ),
    # The leader's session
    mutation(
        "session-alive",
        "a watched term is taken over though its session lives",
        _POSTGRESQL,
        "else pg_try_advisory_xact_lock_shared(:class, (l.term % 2147483647)::int)",
        "else true",
        _GUARDING + "test_a_term_whose_session_is_gone_is_taken_over_before_it_expires",
    ),
    mutation(
        "unarmed-taken",
        "a term that nobody can watch is taken over before it expires",
        _POSTGRESQL,
        # Of a term that is not watched both are null, and either tells it.
        "when l.guard_pid is null or l.guard_boot is distinct from pg_postmaster_start_time() then false",
        "when false then false",
        _GUARDING + "test_an_unarmed_term_is_not_taken_over_before_it_expires",
    ),
    mutation(
        "other-incarnation",
        "a session lock of another incarnation of the server is believed",
        _POSTGRESQL,
        "when l.guard_pid is null or l.guard_boot is distinct from pg_postmaster_start_time() then false",
        "when l.guard_pid is null then false",
        _GUARDING + "test_a_term_armed_in_another_incarnation_of_the_server_is_not_taken_over_before_it_expires",
    ),
    mutation(
        "guard-keeps-lock",
        "a standby that waits for the leader's session keeps the lock when it gets it",
        _GUARD,
        "perform pg_advisory_xact_lock_shared({number}, {key});",
        "perform pg_advisory_lock_shared({number}, {key});",
        _GUARDING + "test_a_guard_frozen_in_its_wait_keeps_nobody_from_the_lock",
    ),
    mutation(
        "guard-cries-wolf",
        "a wait for the leader's session that reaches its limit is taken for its end",
        _GUARD,
        "return self._clock.monotonic() - began < WAIT_SECONDS",
        "return True",
        _GUARDING + "test_a_wait_that_reaches_its_limit_tells_nothing_and_logs_no_error",
    ),
    # The limits of a session
    mutation(
        "no-lock-timeout",
        "no lock_timeout: a statement waits for a lock until its session is given up",
        _SESSION,
        '        "lock_timeout": _milliseconds(answer_seconds * _LOCK_SHARE),\n',
        "",
        _DATABASE + "test_a_session_has_every_limit_set",
    ),
    mutation(
        "no-statement-timeout",
        "no statement_timeout: a slow statement costs the session",
        _SESSION,
        '        "statement_timeout": _milliseconds(answer_seconds * _STATEMENT_SHARE),\n',
        "",
        _DATABASE + "test_a_slow_statement_costs_the_statement_and_not_the_session",
    ),
    mutation(
        "isolation-of-the-role",
        "sessions run at whatever isolation the role has, under which a fence may read an old row",
        _SESSION,
        '        "default_transaction_isolation": "read committed",\n',
        "",
        _DATABASE + "test_a_session_has_every_limit_set",
    ),
    mutation(
        "no-keepalives",
        "the server does not notice a client that vanished: its session's lock outlives the host",
        _SESSION,
        '        "tcp_user_timeout": _milliseconds(answer_seconds),\n',
        "",
        _DATABASE + "test_a_session_has_every_limit_set",
    ),
    mutation(
        "power-cut-forgets",
        "SQLite: a commit may be forgotten after a power cut",
        "scheduler_service/database/sqlite.py",
        '"pragma synchronous = full"',
        '"pragma synchronous = normal"',
        "tests/unit/test_database_sqlite.py::test_a_file_is_opened_for_many_readers_and_a_writer_that_forgets_nothing",
    ),
)

"""Bugs of ticks: which there are, what is decided for each, and by whose clock (I8, I10)."""

from __future__ import annotations

from tests.mutations.mutation import mutation

_POLICY = "scheduler_service/policy.py"
_SERIES = "scheduler_service/schedule/series.py"
_CONTRACT = "tests/contract/test_dispatcher.py::"
_SCHEDULE = "tests/unit/test_schedule.py::"
_VALUES = "tests/unit/test_schedule_values.py::"
_DECISIONS = "tests/unit/test_policy.py::"

MUTATIONS = (
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
        "    return Decision(tick, due, kind, State.WAITING, Reason.QUEUED)",
        "    return Decision(due, due, kind, State.WAITING, Reason.QUEUED)",
        _DECISIONS + "test_segments_agree_with_a_walk_over_every_tick",
    ),
    mutation(
        "single-tick-on-time",
        "a single tick is on time, however late it is",
        _POLICY,
        "if all(moment >= now - spec.misfire_grace for moment in due):",
        "if all(moment >= after for moment in due):",
        _DECISIONS + "test_known_answers",
    ),
    mutation(
        "jitter-settled-early",
        "ticks that jitter makes due later are settled with the others",
        _POLICY,
        "            return tick - MICROSECOND\n    return now",
        "            return now\n    return now",
        _DECISIONS + "test_a_tick_that_jitter_makes_due_later_is_not_decided_yet",
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
        "timers-from-now",
        "a new leader's timers are set from when they are set on, instead of from its election",
        "scheduler_service/timetable.py",
        "            first = min(since - offset, datetime.now(UTC))",
        "            first = datetime.now(UTC)",
        "tests/unit/test_timetable.py::test_what_came_due_between_the_election_and_the_arming_goes_off_at_once",
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

"""Bugs of what people see and send: requests, tokens, pages, the log, reloads."""

from __future__ import annotations

from tests.mutations.mutation import mutation

_REQUESTS = "scheduler_service/ledger/requests.py"
_AUTH = "scheduler_service/web/auth.py"
_SESSION = "scheduler_service/web/session.py"
_RELOADING = "scheduler_service/reloading/__init__.py"
_ASKING = "tests/contract/test_requests.py::"
_WEB = "tests/web/test_auth.py::"
_PAGES = "tests/web/pages/test_reading.py::"
_EDITS = "tests/unit/test_reloading.py::"

MUTATIONS = (
    mutation(
        "pause-swallows",
        "a new pause takes the place of one that is over and not settled, and swallows the time between",
        _REQUESTS,
        "or_(job_state.c.paused_at.is_(None), _lasts(), owes_nothing)",
        "or_(job_state.c.paused_at.is_(None), true(), owes_nothing)",
        _ASKING + "test_a_pause_that_is_over_is_not_begun_anew_before_it_is_settled",
    ),
    mutation(
        "pause-begins-anew",
        "a pause of a job that is paused moves its beginning",
        _REQUESTS,
        "(_lasts(), func.coalesce(job_state.c.paused_at, database_time())), else_=database_time()",
        "(_lasts(), database_time()), else_=database_time()",
        _ASKING + "test_a_pause_of_a_paused_job_keeps_its_beginning",
    ),
    mutation(
        "resume-decides",
        "resuming clears the pause instead of leaving what it covered to the leader",
        _REQUESTS,
        ".values(paused_until=database_time(), resumed_by=by)",
        ".values(paused_until=database_time(), resumed_by=by, settled_until=database_time())",
        _ASKING + "test_resuming_ends_the_pause_and_leaves_the_rest_to_the_leader",
    ),
    mutation(
        "cancel-waits",
        "a run that waits and is cancelled goes on waiting",
        _REQUESTS,
        "state=case((waits, State.CANCELLED.value), else_=run.c.state)",
        "state=run.c.state",
        _ASKING + "test_a_waiting_run_is_cancelled_at_once",
    ),
    mutation(
        "cancel-last-asker",
        "of several who cancel a run the last is kept",
        _REQUESTS,
        "case((run.c.cancel_requested_at.is_(None), by), else_=run.c.cancel_requested_by)",
        "by",
        _ASKING + "test_a_running_run_is_asked_to_stop_and_the_first_who_asked_is_kept",
    ),
    mutation(
        "trigger-key-of-all",
        "a key that another job used starts nothing and says nothing",
        _REQUESTS,
        "if known is not None and known.job_id != job_id:",
        "if False:",
        _ASKING + "test_the_same_key_for_another_job_is_refused_and_names_its_run",
    ),
    # Who may write
    mutation(
        "write-by-cookie",
        "a browser's cookie counts for writing: pages of others may write through it (CSRF)",
        _AUTH,
        "        given = given_token(request)\n        if same(given, view.token):\n            return\n",
        '        given = given_token(request) or request.cookies.get("token")\n'
        "        if same(given, view.token):\n            return\n",
        _WEB + "test_there_is_no_way_to_write_without_the_token",
    ),
    mutation(
        "write-without-token",
        "writing is open where no token is configured",
        _AUTH,
        "        if view.token is None:\n            raise Problem(",
        "        if view.token is None:\n            return\n        if view.token == '':\n            raise Problem(",
        _WEB + "test_writing_is_off_without_a_token_in_the_configuration",
    ),
    mutation(
        "write-by-reader",
        "the token for reading may write",
        _AUTH,
        "        if same(given, view.token):\n            return\n",
        "        if same(given, view.token) or same(given, view.read_token):\n            return\n",
        _WEB + "test_the_token_for_reading_does_not_write",
    ),
    mutation(
        "two-tokens",
        "of two tokens in one request one has to be right",
        _AUTH,
        "    if len(given) != 1:\n        return None\n    scheme, _, token = given[0]",
        "    if not given:\n        return None\n    scheme, _, token = given[-1]",
        _WEB + "test_a_token_that_is_sent_twice_is_no_token",
    ),
    mutation(
        "read-without-token",
        "reading needs no token where one is configured",
        _AUTH,
        "        if view.read_token is None:\n            return\n        given",
        "        if view.read_token is not None:\n            return\n        given",
        _WEB + "test_reading_needs_its_token_if_there_is_one_and_probes_never_do",
    ),
    mutation(
        "forged-cookie",
        "a cookie's signature is not looked at",
        _SESSION,
        "        return genuine and int(until) > now",
        "        return int(until) > now",
        _PAGES + "test_a_forged_cookie_opens_nothing",
    ),
    mutation(
        "endless-cookie",
        "a cookie holds for ever",
        _SESSION,
        "        return genuine and int(until) > now",
        "        return genuine",
        "tests/web/pages/test_session.py::test_a_cookie_is_over_when_it_says",
    ),
    mutation(
        "cookie-to-others",
        "the cookie is sent along from other sites",
        _SESSION,
        '            httponly=True,\n            samesite="strict",',
        '            httponly=True,\n            samesite="none",',
        _PAGES + "test_whoever_signs_in_reads_on_every_replica_and_writes_on_none",
    ),
    # What nobody may read
    mutation(
        "secrets-logged",
        "secrets of the configuration are not blotted out in the log",
        "scheduler_service/logs/__init__.py",
        "            return without(self._render(entry), self._secrets)",
        "            return self._render(entry)",
        "tests/runner/test_log_thread.py::test_secrets_are_in_no_line_whoever_says_them",
    ),
    mutation(
        "password-repeated",
        "a password that the driver repeats is shown",
        "scheduler_service/database/errors.py",
        '        said = said.replace(secret, "***")',
        "        pass",
        "tests/unit/test_database.py::test_a_password_that_the_driver_repeats_is_blotted_out",
    ),
    # Reloads
    mutation(
        "wrong-edit-adopted",
        "an edit whose functions cannot be called is taken",
        _RELOADING,
        "            self._reject(problems, asked=asked)\n            return\n        self._accept(",
        "            self._reject(problems, asked=asked)\n        self._accept(",
        _EDITS + "test_a_wrong_edit_of_a_function_changes_nothing",
    ),
    mutation(
        "half-written-adopted",
        "a file is read while it is being written",
        _RELOADING,
        "        return same or now - self._seen_at >= IMPATIENT_SECONDS",
        "        return True",
        _EDITS + "test_an_edit_is_taken_when_it_was_the_same_in_two_looks",
        _EDITS + "test_a_half_written_file_is_no_edit",
    ),
    mutation(
        "torn-read-adopted",
        "a file that changed while it was read is believed",
        _RELOADING,
        "            if before == (after := look(self._paths, self._patterns)):",
        "            if after := look(self._paths, self._patterns):",
        _EDITS + "test_a_file_that_changes_while_it_is_read_is_read_again",
    ),
    mutation(
        "restart-settings-taken",
        "settings that need a restart are taken over by a reload",
        _RELOADING,
        "        config = self._in_force(read.config)",
        "        config = read.config",
        _EDITS + "test_settings_that_need_a_restart_are_named_once_and_ignored",
    ),
)

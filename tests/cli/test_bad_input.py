"""What a person can get wrong: one clear line on stderr, the right exit code, never a traceback.

Real processes, started with `run`, because that is what must say it plainly.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from scheduler_service.cli import running
from scheduler_service.config import load
from tests.cli.conftest import Answered, Command
from tests.postgres.conftest import make_role, stranger
from tests.servers import free_port

__all__ = ["make_role", "stranger"]  # fixtures

JOB = "version: 1\njobs:\n  one: {run: 'one:main', every: 1s, kwargs: {days: 1}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "one.py").write_text("def main(days: int) -> None: ...\n")
    return tmp_path


@pytest.fixture
def refused(process: Command, folder: Path) -> Callable[..., str]:
    """Runs a replica that is refused; returns the one line that says why."""

    def call(config: str | None, exit_code: int, **environment: str) -> str:
        if config is not None:
            (folder / "config.yaml").write_text(config)
        answered = process("run", folder=folder, exit_code=exit_code, **environment)
        return the_line(answered)

    return call


def the_line(answered: Answered) -> str:
    """The last line on stderr, where all others are of the log."""
    assert "Traceback" not in answered.err
    assert answered.out == ""
    *log, line = answered.lines
    assert all(entry.startswith("{") for entry in log), answered.err
    return line


def test_a_missing_file_is_named_with_the_command_that_makes_one(refused: Callable[..., str]) -> None:
    assert refused(None, 2) == "config.yaml: there is no such file; make one with: scheduler-service init"


def test_a_folder_is_not_a_file(refused: Callable[..., str]) -> None:
    assert refused(None, 2, SCHEDULER_CONFIG="jobs") == "jobs: this is a folder; name the file in it"


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ("", "config.yaml:1:1  the file is empty; "),
        (
            "- version: 1\n",
            "config.yaml:1:1  expected settings such as 'version: 1' at the top of the file, got a list",
        ),
        (
            "version: 1\njobs:\n  one:\n    command: ls\n",
            "config.yaml:3:3  jobs.one: has no schedule; add cron, every, at or ",
        ),
        (
            "version: 1\njobs:\n  one:\n    command: ls\n    every: 1s\n    cron: '@daily'\n",
            "config.yaml:6:11  jobs.one.cron: a job has one schedule, and this has cron and every",
        ),
    ],
    ids=["empty", "list", "without a schedule", "with two schedules"],
)
def test_a_file_that_cannot_be_used_says_where_and_why(refused: Callable[..., str], config: str, line: str) -> None:
    assert refused(config, 2).startswith(line)


def test_a_mistake_in_an_included_file_stops_the_start_and_names_that_file(
    refused: Callable[..., str], folder: Path
) -> None:
    (folder / "jobs.d").mkdir()
    (folder / "jobs.d" / "two.yaml").write_text("jobs:\n  one: {command: ls, every: 1s}\n")

    line = refused(f"{JOB}include: jobs.d/*.yaml\n", 2)

    assert line == "jobs.d/two.yaml:2:3  jobs.one: is set twice; config.yaml:3 sets it too: keep one"


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("1 / 0\n", "jobs/one.py cannot be loaded: ZeroDivisionError: division by zero (jobs/one.py:1)"),
        ("def mein(): ...\n", "jobs/one.py has no function 'main'; did you mean 'mein'?"),
        ("def main(): ...\n", "main() has no parameter 'days'; it has none"),
    ],
    ids=["raises on import", "no such function", "wrong arguments"],
)
def test_a_function_that_cannot_be_called_stops_the_start(
    refused: Callable[..., str], folder: Path, module: str, line: str
) -> None:
    (folder / "jobs" / "one.py").write_text(module)

    answer = refused(JOB, 2)

    assert answer.startswith("config.yaml:3:")
    assert answer.endswith(line)
    assert not (folder / "scheduler.db").exists()


def test_a_database_that_does_not_answer_is_waited_for_and_given_up(refused: Callable[..., str]) -> None:
    url = f"postgresql://me:secret@127.0.0.1:{free_port()}/none"

    line = refused(f"{JOB}database: {{url: '{url}', startup_timeout: 1s}}\n", 69)

    assert line.startswith("error: no database within 1s (database.startup_timeout): ")
    assert "Connection refused" in line
    assert "secret" not in line


def failure(answered: Answered) -> tuple[int, str]:
    """The exit code and the error of the log's last line."""
    told = json.loads([line for line in answered.lines if line.startswith("{")][-1])
    assert (told["event"], told["level"]) == ("service_failed", "error")
    return told["exit_code"], told["error"]


def test_what_ends_a_start_stands_in_the_log_too(process: Command, folder: Path) -> None:
    nowhere = f"database: {{url: 'postgresql://127.0.0.1:{free_port()}/none', startup_timeout: 0s}}\n"
    for config, exit_code in ((JOB.replace("one:main", "one:mein"), 2), (JOB + nowhere, 69)):
        (folder / "config.yaml").write_text(config)
        answered = process("run", folder=folder, exit_code=exit_code)
        assert failure(answered) == (exit_code, the_line(answered).removeprefix("error: "))


def test_a_fault_of_ours_stands_in_the_log_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_down(*_: object) -> tuple[int, bool]:
        raise RuntimeError("unforeseen")

    (folder / "config.yaml").write_text(JOB)
    for its_process in ("sys.setswitchinterval", "gc.set_threshold"):  # and this one is a test's
        monkeypatch.setattr(its_process, lambda *_: None)
    monkeypatch.setattr(running, "_run", break_down)

    with pytest.raises(RuntimeError):
        running._logged(load(folder / "config.yaml"), None)

    assert failure(Answered(70, "", capsys.readouterr().err)) == (70, "RuntimeError: unforeseen")


def test_a_wrong_password_is_not_shown(refused: Callable[..., str], stranger: str) -> None:
    line = refused(f"{JOB}database: {{url: '{stranger.replace('few', 'hidden')}', startup_timeout: 1s}}\n", 69)

    assert "hidden" not in line


def test_a_password_that_is_not_encoded_is_refused_and_not_shown(process: Command, folder: Path) -> None:
    url = "postgresql://me:p@s3cret@127.0.0.1/none"
    (folder / "config.yaml").write_text(f"{JOB}database: {{url: '{url}'}}\n")

    for words in (["check"], ["run"], ["status"], ["db", "check"], ["status", "--database", url]):
        line = process(*words, folder=folder, exit_code=2).err
        assert "write letters such as @" in line
        assert "s3cret" not in line


def test_a_database_without_rights_says_which_and_what_to_do(refused: Callable[..., str], stranger: str) -> None:
    line = refused(f"{JOB}database: {{url: '{stranger}'}}\n", 69)

    assert "permission denied for database" in line
    assert "scheduler-service db upgrade" in line


def test_tables_of_another_version_are_refused(
    refused: Callable[..., str], process: Command, folder: Path, migrated_postgres_url: str
) -> None:
    with psycopg.connect(migrated_postgres_url) as connection:
        connection.execute("update scheduler.alembic_version set version_num = '9999'")

    line = refused(f"{JOB}database: {{url: '{migrated_postgres_url}'}}\n", 69)
    looked = process("status", "--database", migrated_postgres_url, folder=folder, exit_code=69)

    for answer in (line, the_line(looked)):
        assert "is at revision 9999" in answer
        assert "a later version made it" in answer


def test_tables_that_nobody_may_make_are_asked_for(refused: Callable[..., str]) -> None:
    line = refused(f"{JOB}database: {{create_tables: false}}\n", 69)

    assert "has none of our tables: run `scheduler-service db upgrade`, or set database.create_tables: true" in line


def test_who_looks_before_the_first_replica_is_told_that_it_makes_the_tables(
    process: Command, folder: Path, postgres_url: str
) -> None:
    (folder / "empty.db").touch()
    for url in (postgres_url, f"sqlite:///{folder}/empty.db"):
        line = the_line(process("status", "--database", url, folder=folder, exit_code=69))

        assert "has none of our tables: a replica makes them when it starts" in line
        assert line.endswith("unless database.create_tables is false: then `scheduler-service db upgrade` does")


def test_a_folder_of_the_database_that_is_not_there_is_named(refused: Callable[..., str]) -> None:
    line = refused(f"{JOB}database: {{url: 'sqlite:///none/scheduler.db', startup_timeout: 1s}}\n", 69)

    assert "none of the database does not exist: create it, or name another file" in line


def test_looking_asks_for_rights_too(
    process: Command, folder: Path, command: Command, postgres_url: str, stranger: str
) -> None:
    command("db", "upgrade", "--database", postgres_url)

    line = the_line(process("status", "--database", stranger, folder=folder, exit_code=69))

    assert "permission denied for schema scheduler" in line
    assert "few" not in line

"""A stream that is closed or full: what can be said is said in one line, and nothing ends in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import PROCESS_SECONDS, process_environment

CONFIG = "version: 1\njobs:\n  one: {command: 'true', every: 1s}\n"
FULL = Path("/dev/full")
NO_SPACE = "error: the output cannot be written: No space left on device\n"

needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


def shell(folder: Path, words: str, unbuffered: str = "", encoding: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command as a shell does that redirects its streams."""
    return subprocess.run(
        ["/bin/sh", "-c", f"exec '{sys.executable}' -m scheduler_service {words}"],
        cwd=folder,
        env=process_environment(PYTHONUNBUFFERED=unbuffered, PYTHONIOENCODING=encoding),
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("closed", [">&-", "<&- >&-"])
def test_a_closed_stdout_takes_nothing_and_spoils_nothing(folder: Path, closed: str) -> None:
    for words in ("check", "next"):
        done = shell(folder, f"{words} {closed}")
        assert (done.returncode, done.stderr) == (0, "")


def test_a_replica_needs_no_stderr(folder: Path) -> None:
    (folder / "config.yaml").write_text(f"{CONFIG}database: {{create_tables: false}}\n")

    done = shell(folder, "run 2>&-")

    assert (done.returncode, done.stdout) == (69, "")  # it came as far as the tables, which are not there


def test_no_stream_at_all_leaves_the_exit_code(folder: Path) -> None:
    assert shell(folder, "check <&- >&- 2>&-").returncode == 0
    assert shell(folder, "check -c none.yaml <&- >&- 2>&-").returncode == 2


def test_a_path_may_have_any_bytes_and_is_shown_escaped(folder: Path) -> None:
    (folder / "config.yaml").rename(folder / os.fsdecode(b"\xff.yaml"))

    for option in ("-c $(printf '\\377').yaml", "-c$(printf '\\377').yaml", "--config=$(printf '\\377').yaml"):
        done = shell(folder, f"check {option}")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("\\udcff.yaml: 1 job, nothing wrong\n")


@pytest.mark.parametrize(("encoding", "shown"), [("latin-1", "\\u65e5"), ("utf-8", "日")])
def test_what_stdout_has_no_letters_for_is_escaped(folder: Path, encoding: str, shown: str) -> None:
    (folder / "config.yaml").rename(folder / "日.yaml")

    done = shell(folder, "check -c 日.yaml", encoding=encoding)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{shown}.yaml: 1 job, nothing wrong\n")


@needs_full
@pytest.mark.parametrize("words", ["check", "check --json", "next", "--help", "schema"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_line(folder: Path, words: str, unbuffered: str) -> None:
    done = shell(folder, f"{words} >/dev/full", unbuffered)

    assert (done.returncode, done.stderr) == (1, NO_SPACE)


@needs_full
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_where_neither_stream_takes_anything_the_exit_code_tells(folder: Path, unbuffered: str) -> None:
    assert shell(folder, "check >/dev/full 2>&1", unbuffered).returncode == 1
    assert shell(folder, "check -c none.yaml 2>/dev/full", unbuffered).returncode == 1

"""The commands: what a person types, and what a script reads.

    data         to stdout, once, as a table or with --json as one document; moments are ISO 8601 in UTC
    the rest     to stderr: problems, progress, logs
    exit code    0 done · 1 the answer is no · 2 the person's mistake · 69 no database · 70 our mistake;
                 1 too where the data cannot be written

A person's mistake is answered in lines that say what to do, never by a traceback.

Each command's module is loaded when the command is used: `--help` needs no database driver, and `check` only
where the configuration has a URL to look at.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn, TextIO

import click

from scheduler_service import __version__

PROGRAM = "scheduler-service"
OURS = 70
EXIT_SECONDS = 3.0  # for what Python does at its end, and what jobs' modules have asked it to do
# what a write may be answered with, where opening a file would have named the file
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EPIPE)

# name: (module, what it does)
COMMANDS = {
    "init": ("setting_up", "Write a small config.yaml and jobs/example.py."),
    "run": ("running", "Run one replica in the foreground."),
    "check": ("planning", "Read the configuration, load the jobs, show problems."),
    "next": ("planning", "Show coming ticks."),
    "status": ("looking", "Show who leads, the replicas and the jobs."),
    "runs": ("looking", "Show what ran, was missed or skipped."),
    "why": ("looking", "Say what was decided for a tick, and why."),
    "trigger": ("triggering", "Ask for a run of a job, now."),
    "pause": ("requesting", "Let no run of a job start."),
    "resume": ("requesting", "End the pause of a job."),
    "cancel": ("requesting", "Keep a run from starting, or ask it to stop."),
    "resign": ("requesting", "Ask the leader to hand over."),
    "health": ("probing", "Ask a replica on this machine how it is."),
    "exec": ("trying", "Run one job here and now, to try it out."),
    "db": ("tables", "Make, compare or print the tables."),
    "schema": ("setting_up", "Print the JSON Schema of the configuration."),
}


class _Commands(click.Group):
    """The commands above, each imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # the same
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from scheduler_service.cli.output import did_you_mean  # noqa: PLC0415  # only for a mistake

            ctx.fail(f"there is no command {name!r}{did_you_mean(name, COMMANDS)}")
        _require_text(args)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # the same
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=f"{PROGRAM} COMMAND --help"
)
@click.version_option(__version__, prog_name=PROGRAM)
def commands() -> None:
    """Run periodic jobs on any number of replicas: one leads, every tick is decided once."""


def _require_text(words: list[str]) -> None:
    """Mistake for bytes that are not UTF-8 in the words of a command: only the path of a file may have such."""
    from scheduler_service.cli.output import Mistake  # noqa: PLC0415  # as above

    for before, word in pairwise(words):
        is_path = words[0] == "init" or before in ("-c", "--config") or word.startswith(("-c", "--config="))
        if not is_path and any("\ud800" <= letter <= "\udfff" for letter in word):
            raise Mistake(f"{word!r} is not UTF-8 text")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit; `arguments` are those of the process unless given."""
    try:
        _answer(arguments)
    except SystemExit as ended:
        _end_soon(ended.code if isinstance(ended.code, int) else 0)
        raise


def _end_soon(code: int) -> None:
    """End the process in a while if it has not ended by then: Python waits for threads that jobs left, for ever."""
    never = _thread.allocate_lock()
    never.acquire()

    def end() -> None:
        never.acquire(timeout=EXIT_SECONDS)  # on the boot clock, whatever becomes of the wall clock meanwhile
        os._exit(code)

    _thread.start_new_thread(end, ())  # not by `threading`, which knows that the end has come


def _answer(arguments: Sequence[str] | None) -> NoReturn:
    _listen_as_first_process()
    _open_closed_streams()
    _escape_on_stdout()
    try:
        commands.main(args=None if arguments is None else list(arguments), prog_name=PROGRAM)
    except Exception as error:  # whatever was not foreseen is our mistake, and says so
        if isinstance(error, OSError) and error.filename is None and error.errno in UNWRITABLE:
            _drop_unwritten(sys.stdout)
            with contextlib.suppress(OSError):
                click.echo(f"error: the output cannot be written: {error.strerror}", err=True)
            _drop_unwritten(sys.stderr)
            sys.exit(1)
        traceback.print_exc()
        click.echo(
            "error: this is a fault of scheduler_service, not yours: please report it with the lines above", err=True
        )
        sys.exit(OURS)
    sys.exit(0)


def _listen_as_first_process() -> None:
    """Let SIGTERM end the first process of a container, as it ends any other, until a command has its own way.

    The kernel gives that one no signal for which it has no handler: asked to stop while it loads, it would start.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))


def _open_closed_streams() -> None:
    """Let what was closed for us (`>&-`) lead to the null device, before a file or socket takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # the lowest free number is taken first
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8", errors="replace"))  # noqa: PTH123, SIM115  # kept to the end


def _escape_on_stdout() -> None:
    """Let stdout escape what its encoding has no letters for, as stderr does, instead of refusing it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_unwritten(stream: TextIO) -> None:
    """Forget what `stream` would not take: Python would try again at exit, and complain in its own words."""
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)

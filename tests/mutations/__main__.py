"""The command: apply each mutation to a copy of the tree, and see whether its tests notice."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.mutations import MUTATIONS
from tests.mutations.mutation import MisfitError, Mutation
from tests.mutations.trial import Outcome, Trials, Verdict
from tests.servers import find_server

ROOT = Path(__file__).parents[2]
_WITHOUT_DATABASE = ("tests/unit/", "tests/simulation/", "tests/runner/")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when every mutation was caught, 1 when one was not, 2 when list and tree do not fit together."""
    options = _options(arguments)
    chosen = [one for one in MUTATIONS if not options.only or one.name in options.only]
    if unknown := set(options.only) - {one.name for one in chosen}:
        print(f"no such mutation: {', '.join(sorted(unknown))}; --list names all", file=sys.stderr)
        return 2
    if options.list:
        for one in chosen:
            print(f"{one.name:34} {one.bug}\n{'':34} {', '.join(one.paths)}\n{'':34} {', '.join(one.tests)}")
        return 0
    try:
        for one in chosen:
            one.texts(ROOT)
        verdicts = list(_try(chosen, options.jobs, why=options.why))
    except MisfitError as error:
        print(error, file=sys.stderr)
        return 2
    escaped = [one for one in verdicts if one.outcome is not Outcome.CAUGHT]
    print(f"\n{len(verdicts) - len(escaped)} of {len(verdicts)} mutations caught")
    for one in escaped:
        print(f"\n{one.outcome.value}: {one.mutation.bug} ({one.mutation.name})\n{one.words}")
    return 1 if escaped else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these mutations alone")
    parser.add_argument("--list", action="store_true", help="name the mutations, their files and tests, and end")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at once (1)")
    parser.add_argument("--why", action="store_true", help="show what the tests said")
    return parser.parse_args(arguments)


def _try(mutations: Sequence[Mutation], jobs: int, *, why: bool) -> Iterator[Verdict]:
    """Try the mutations, print a line for each that has ended, and yield what became of it."""
    with tempfile.TemporaryDirectory(prefix="scheduler-mutations-") as folder, _database(mutations) as environ:
        began = time.monotonic()
        trials = Trials(ROOT, Path(folder), environ)
        trials.pass_unmutated(mutations, jobs)
        print(f"without a mutation every named test passes ({time.monotonic() - began:.0f} s)\n", flush=True)
        print("| mutation | file | caught by | s |\n| --- | --- | --- | --- |", flush=True)
        pool = ThreadPoolExecutor(jobs)
        try:
            for done in as_completed([pool.submit(trials.attempt, one) for one in mutations]):
                verdict = done.result()
                by = ", ".join(test.partition("::")[2] for test in verdict.caught_by) or verdict.outcome.value
                paths = ", ".join(verdict.mutation.paths)
                print(f"| {verdict.mutation.bug} | {paths} | {by} | {verdict.seconds:.1f} |", flush=True)
                if why:
                    print(f"    {verdict.mutation.name}: {verdict.words[:600]}", flush=True)
                yield verdict
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _database(mutations: Sequence[Mutation]) -> Iterator[Mapping[str, str]]:
    """Start the server that all tests share, if any of them may need one."""
    if all(test.startswith(_WITHOUT_DATABASE) for one in mutations for test in one.tests):
        yield os.environ
        return
    server = find_server()
    try:
        yield {**os.environ, "SCHEDULER_TEST_DATABASE_URL": server.url}
    finally:
        server.close()


if __name__ == "__main__":
    sys.exit(main())

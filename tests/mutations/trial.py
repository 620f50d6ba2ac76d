"""Try mutations, each in a copy of the tree.

    the tree --copy--> base --the named tests must pass--> base with its bytecode
                                                              |  copy, one text changed
                                                              v
                       caught  <--each named test fails--  its tests
                       survived <------- one passes -------'

The tree itself is only read.  What fails before its test has begun, or because the changed text makes no
sense, has caught nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from xml.etree import ElementTree

from tests.mutations.mutation import MisfitError, Mutation

LIMIT_SECONDS = 300.0  # for the tests of one mutation, which take some seconds
_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "*.db", "*.db-*", "build", "dist")
_CI = ".ci"
_NONSENSE = ("SyntaxError", "syntax error at", "NameError", "UndefinedColumn", "UndefinedFunction", "ImportError")


class Outcome(Enum):
    """What became of a mutation."""

    CAUGHT = "caught"
    SURVIVED = "SURVIVED"
    NONSENSE = "NONSENSE"  # it fails, but not because of what its test looks at
    UNENDING = "DID NOT END"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutation, by which tests, after how long, and what they said."""

    mutation: Mutation
    outcome: Outcome
    caught_by: tuple[str, ...]
    seconds: float
    words: str


@dataclass(frozen=True, slots=True)
class _Case:
    """One test, with one choice of its parameters."""

    passed: bool
    failed: bool  # in the test itself, not on the way to it
    words: str


class Trials:
    """Trials in copies of `root`, made below `folder`.  `environ` is that of the tests."""

    def __init__(self, root: Path, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = dict(environ)
        self._base = folder / "base"
        shutil.copytree(root, self._base, ignore=_LEFT_OUT)
        if (root / _CI).is_dir():
            shutil.copytree(root / _CI, self._base / _CI)
        self._require_copy()

    def pass_unmutated(self, mutations: Iterable[Mutation], jobs: int = 1) -> None:
        """Run the tests that the mutations name; MisfitError with those that do not pass as things are."""
        named = sorted({test for mutation in mutations for test in mutation.tests})
        cases, said = self._run(self._base, named, LIMIT_SECONDS * len(named), jobs)
        if not cases and jobs > 1:  # several processes keep to themselves why none of them began
            cases, said = self._run(self._base, named, LIMIT_SECONDS * len(named))
        bad = [test for test in named if not (found := _of(test, cases)) or not all(case.passed for case in found)]
        if bad:
            raise MisfitError("these tests do not pass without any mutation: " + ", ".join(bad) + f"\n{said}")

    def attempt(self, mutation: Mutation) -> Verdict:
        """Run a mutation's tests in a copy that has it; MisfitError if it no longer applies."""
        texts = mutation.texts(self._base)
        tree = self._folder / mutation.name
        shutil.copytree(self._base, tree)
        try:
            for path, text in texts.items():
                changed = tree / path
                changed.write_text(text)
                for compiled in changed.parent.glob(f"__pycache__/{changed.stem}.*.pyc"):
                    compiled.unlink()
            began = time.monotonic()
            try:
                cases, said = self._run(tree, mutation.tests, LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                return Verdict(mutation, Outcome.UNENDING, (), time.monotonic() - began, "")
            return _judge(mutation, cases, time.monotonic() - began, said)
        finally:
            shutil.rmtree(tree, ignore_errors=True)

    def _run(
        self, tree: Path, tests: Sequence[str], limit_seconds: float, jobs: int = 1
    ) -> tuple[dict[str, _Case], str]:
        """Return the tests as they ended, and what pytest printed; TimeoutExpired if it takes too long."""
        report = tree / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={report}"]
        command += ["-m", "long or not long"]  # what is named is run
        command += ["-n", str(jobs)] if jobs > 1 else []
        # A group of its own, so that all of it can be ended; through a file, which nobody holds open.
        with (tree / "output.txt").open("w+") as output:
            process = subprocess.Popen(
                [*command, *tests],
                cwd=tree,
                env=self._environment(tree),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                process.wait(limit_seconds)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
            output.seek(0)
            said = output.read()[-4000:]
        return (_cases(report), said) if report.exists() else ({}, said)

    def _require_copy(self) -> None:
        """Make sure that a copy's tests find the copy, not the tree that is installed."""
        code = "import scheduler_service; print(scheduler_service.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self._base,
            env=self._environment(self._base),
            capture_output=True,
            text=True,
            check=True,
        )
        if not Path(done.stdout.strip()).is_relative_to(self._base):
            raise MisfitError(f"tests in a copy of the tree would use {done.stdout.strip()} instead of the copy")

    def _environment(self, tree: Path) -> dict[str, str]:
        return {**self._environ, "PYTHONPATH": str(tree)}


def _cases(report: Path) -> dict[str, _Case]:
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failure = case.find("failure")
        others = [case.find(kind) for kind in ("error", "skipped")]
        known = found.get(_key(case))
        if known is not None and known.failed:
            continue  # an error on the way out, after the test itself has failed
        message = next((one.get("message", "") for one in (failure, *others) if one is not None), "")
        text = failure.text or "" if failure is not None else ""
        words = next((line for line in text.splitlines() if line.startswith("E ")), message)
        passed = failure is None and others == [None, None]
        found[_key(case)] = _Case(passed, failure is not None, " ".join(words.split()))
    return found


def _key(case: ElementTree.Element) -> str:
    return f"{case.get('classname')}.{case.get('name')}"


def _of(test: str, cases: Mapping[str, _Case]) -> list[_Case]:
    """Return the cases of a test that is named as pytest names it, with or without its parameters."""
    path, _, name = test.partition("::")
    key = f"{path.removesuffix('.py').replace('/', '.')}.{name.replace('::', '.')}"
    return [case for known, case in cases.items() if known == key or known.startswith(f"{key}[")]


def _judge(mutation: Mutation, cases: Mapping[str, _Case], seconds: float, said: str) -> Verdict:
    failed = {test: [case for case in _of(test, cases) if case.failed] for test in mutation.tests}
    words = "; ".join(case.words for found in failed.values() for case in found) or said
    if not all(failed.values()):
        # Where no test came to its end, the text is at fault, not the tests.
        whole = any(case.passed or case.failed for case in cases.values())
        outcome = Outcome.SURVIVED if whole else Outcome.NONSENSE
        return Verdict(mutation, outcome, (), seconds, words)
    if any(nonsense in case.words for found in failed.values() for case in found for nonsense in _NONSENSE):
        return Verdict(mutation, Outcome.NONSENSE, (), seconds, words)
    return Verdict(mutation, Outcome.CAUGHT, mutation.tests, seconds, words)

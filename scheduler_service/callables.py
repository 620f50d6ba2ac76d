"""Find the function of a `run:` job, and check that its arguments fit.

    cleanup:prune           jobs/cleanup.py, loaded as the module jobs.cleanup
    reports.daily:main      jobs/reports/daily.py, else the installed package reports
    cleanup:service.prune   an attribute of an attribute

The jobs folder never goes on `sys.path`: a `jobs/logging.py` shadows nothing.  Modules in it reach each
other as `jobs.helper`, or relatively.  One folder is the package `jobs` at a time; asking for another one
exchanges its modules, so two folders in one process do not mix, as long as their functions import at the top.

A module of the folder is loaded as its file is now, never from cached bytecode, and leaves none behind: a
cache is told apart by size and whole seconds, and a file that is edited twice in one second may have the same.

Loading a module runs a person's code: whatever it raises, SystemExit too, becomes a CallableError of one line.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from scheduler_service.signatures import known_call

PACKAGE = "jobs"
REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
MACHINERY = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>", importlib.__file__, __file__)
LONGEST = 300  # characters of another's message

_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_lock = threading.RLock()
_active: Path | None = None
_inactive: dict[Path, dict[str, ModuleType]] = {}


class _AsWritten(importlib.machinery.SourceFileLoader):
    """Loads what stands in the file now."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _Finder:
    """Finds the modules of the package `jobs` as the usual finders do, and has them loaded as written."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if path is None or not name.startswith(f"{PACKAGE}."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = _AsWritten(spec.loader.name, spec.loader.path)
            spec.cached = None
        return spec


class CallableError(Exception):
    """A function is not there, cannot be loaded or cannot be called so: what, where, and what to do.

    `key` is the setting that is wrong: `run`, `args` or `kwargs`; `name` is the argument, if it is one of `kwargs`.
    """

    def __init__(self, message: str, key: str = "run", name: str | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.name = name


@dataclass(frozen=True, slots=True)
class ArgumentProblem:
    """One way in which arguments do not fit; `key` and `name` as in CallableError."""

    key: str
    message: str
    name: str | None = None


def find(reference: str, jobs_folder: Path) -> Callable[..., Any]:
    """Return the function that `reference`, module:function, names; CallableError if there is none."""
    if (problem := reference_problem(reference)) is not None:
        raise CallableError(problem)
    name, _, attributes = reference.partition(":")
    folder = _real(jobs_folder)
    module, label = _loaded(name, folder) or _load(name, folder)
    found: Any = module
    for attribute in attributes.split("."):
        owner = found
        try:
            found = getattr(owner, attribute)
        except AttributeError:
            what = f"{label} has no function" if owner is module else f"{_name(owner)} in {label} has no attribute"
            raise CallableError(f"{what} {attribute!r}; {_alternatives(attribute, owner)}") from None
    return _checked(found, attributes, label)


@functools.lru_cache(4096)
def reference_problem(reference: str) -> str | None:
    """Return what is wrong with the form of `reference` and what to write instead, or None; loads nothing."""
    module, colon, function = reference.partition(":")
    bare = module.removesuffix(".py")
    if REFERENCE.fullmatch(reference) and bare == module:
        return None
    stem = bare.replace("/", ".").replace("-", "_").strip(".").removeprefix(f"{PACKAGE}.")
    better = f"{stem}:{function or 'main'}"
    if not REFERENCE.fullmatch(better):
        better = "cleanup:prune"
    if colon and "-" in bare and "/" not in bare:
        return f"{reference!r} cannot be a module: rename {bare}.py to {stem}.py and write {better}"
    return f"{reference!r} is not module:function; write, for example, {better}"


def argument_problems(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[ArgumentProblem, ...]:
    """Return everything that keeps `function` from being called with `args` and `kwargs`."""
    known = known_call(function)
    signature, context = known.signature, known.context
    if signature is None or (known.needs_nothing and not args and not kwargs):
        return ()
    name = _name(function)
    problems: list[ArgumentProblem] = []
    parameters = [p for p in signature.parameters.values() if p.name != context]
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_more = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if len(args) > len(by_position) and not takes_more:
        problems.append(
            ArgumentProblem("args", f"{name}() takes {_count(len(by_position))} by position, not {len(args)}")
        )
    given = {p.name for p in by_position[: len(args)]}
    for key in kwargs:
        if key == context:
            problems.append(ArgumentProblem("kwargs", f"{key!r} is filled in by the service: remove it", key))
        elif key in given and key in by_name:
            problems.append(ArgumentProblem("kwargs", f"{name}() gets {key!r} from args already", key))
        elif key not in by_name and not takes_any and key in {p.name for p in by_position}:
            problems.append(ArgumentProblem("kwargs", f"{name}() takes {key!r} by position: move it into args", key))
        elif key not in by_name and not takes_any:
            hint = _close(key, by_name) or (f"it has {_listed(by_name)}" if by_name else "it has none")
            problems.append(ArgumentProblem("kwargs", f"{name}() has no parameter {key!r}; {hint}", key))
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    missing = [p for p in needed if p.name not in given and (p.kind is p.POSITIONAL_ONLY or p.name not in kwargs)]
    for parameter in missing:
        where = "args" if parameter.kind is parameter.POSITIONAL_ONLY else "kwargs"
        problems.append(ArgumentProblem("run", f"{name}() needs {parameter.name!r}: give it in {where}"))
    return tuple(problems)


def check_arguments(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise CallableError if `function` cannot be called with `args` and `kwargs`."""
    for problem in argument_problems(function, args, kwargs):
        raise CallableError(problem.message, problem.key, problem.name)


def bind(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], context: object
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what to call `function` with: `args` and `kwargs`, and `context` where it asks for a RunContext.

    TypeError if they do not fit.
    """
    known = known_call(function)
    signature, name = known.signature, known.context
    if signature is None or name is None:
        return tuple(args), dict(kwargs)
    if known.takes_context_alone and not args and not kwargs:
        return (context,), {}
    arguments = {**known.others.bind(*args, **kwargs).arguments, name: context}
    bound = inspect.BoundArguments(signature, {p: arguments[p] for p in signature.parameters if p in arguments})
    return bound.args, bound.kwargs


def context_parameter(function: Callable[..., Any]) -> str | None:
    """Return the name of the parameter annotated RunContext, or None."""
    return known_call(function).context


def _loaded(name: str, folder: Path) -> tuple[ModuleType, str] | None:
    """Return a module of the folder that is there already, and what to call it in a message.

    Without the lock, which may be held by a module that takes long to load, and without looking for the file, which
    may be away for a moment: jobs go on with what is loaded.
    """
    module = sys.modules.get(f"{PACKAGE}.{name}")
    spec = module.__spec__ if module is not None else None
    if module is None or spec is None or getattr(spec, "_initializing", False):
        return None
    label = _labels(name, folder).get(spec.origin)
    return None if label is None else (module, label)


def _real(folder: Path) -> Path:
    """Return the folder that this leads to now: the same object each time, which knows its hash."""
    try:
        status = folder.stat()  # one call instead of one for each part of the path: each run asks
    except OSError:
        return Path(os.path.realpath(folder))
    return _resolved(folder, status.st_dev, status.st_ino, status.st_ctime_ns)


@functools.lru_cache(16)
def _resolved(folder: Path, *_: int) -> Path:
    return Path(os.path.realpath(folder))


@functools.lru_cache(4096)
def _labels(name: str, folder: Path) -> Mapping[str | None, str]:
    """Return what to call a module in a message, by the files that it may come from."""
    return {str(file): _label(file, folder) for file in _files(name, folder)}


def _files(name: str, folder: Path) -> tuple[Path, Path]:
    """Return where a module may be, the likelier first."""
    path = folder.joinpath(*name.split("."))
    return path.with_name(f"{path.name}.py"), path / "__init__.py"


def _load(name: str, folder: Path) -> tuple[ModuleType, str]:
    with _lock:
        return _load_locked(name, folder)


def _load_locked(name: str, folder: Path) -> tuple[ModuleType, str]:
    """Return the module and what to call it in a message."""
    _activate(folder)
    path = folder.joinpath(*name.split("."))
    for file in _files(name, folder):
        if file.is_file():
            label = _label(file, folder)
            return _import(f"{PACKAGE}.{name}", label, folder), label
    problem = f"no such module: looked for {path}.py"
    if "." in name:
        try:
            return _import(name, name, folder), name
        except _NotInstalledError as error:
            problem += f", and no package {str(error)!r} is installed"
    if not folder.is_dir():
        raise CallableError(f"{problem}; the jobs folder does not exist: make it, or set service.jobs_folder")
    close = _close(path.name, (file.stem for file in path.parent.glob("*.py") if file.stem != "__init__"))
    if not close and "." not in name:
        close = "outside of the jobs folder only dotted names are looked for, as in package.module"
    raise CallableError(problem + (f"; {close}" if close else ""))


class _NotInstalledError(Exception):
    """The module that was asked for, or a package around it, is itself not there."""


def _import(name: str, label: str, folder: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and name == label and f"{name}.".startswith(f"{missing}."):
            raise _NotInstalledError(missing) from None
        raise CallableError(f"{label} cannot be loaded: {_described(error, folder)}") from error


def _activate(folder: Path) -> None:
    """Make `folder` the package `jobs`; the modules of the folder that was it before are kept aside."""
    global _active  # noqa: PLW0603  # sys.modules, which it describes, is as global
    if folder == _active and PACKAGE in sys.modules:
        importlib.invalidate_caches()  # a file may be newer than the finder's listing of the folder
        return
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == PACKAGE}
    for name in ours:
        del sys.modules[name]
    if _active is not None:
        _inactive[_active] = ours
    _active = folder
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    if folder in _inactive:
        sys.modules.update(_inactive.pop(folder))
        return
    start = folder / "__init__.py"
    loader = _AsWritten(PACKAGE, str(start)) if start.is_file() else None
    spec = importlib.machinery.ModuleSpec(PACKAGE, loader, origin=str(start) if loader else None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    spec.has_location = loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    if loader is not None:
        try:
            loader.exec_module(package)
        except BaseException as error:
            _active = None
            del sys.modules[PACKAGE]
            if isinstance(error, KeyboardInterrupt):
                raise
            raise CallableError(f"{_label(start, folder)} cannot be loaded: {_described(error, folder)}") from error


def _described(error: BaseException, folder: Path) -> str:
    """Return the last line of the traceback, and where in the person's code it came from."""
    if isinstance(error, SystemExit):
        text = f"it ends the process (SystemExit: {error.code})"
    else:
        lines = traceback.format_exception_only(error)  # of a SyntaxError the source first, indented; notes last
        text = next(line for line in lines if not line.startswith(" ")).splitlines()[0]
    text = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno))
    frames = [frame for frame in frames if frame[0] not in MACHINERY]
    inside = [frame for frame in frames if Path(frame[0]).is_relative_to(folder)]
    for file, line in (inside or frames)[-1:]:
        text += f" ({_label(Path(file), folder)}:{line})"
    if isinstance(error, ModuleNotFoundError) and error.name and _is_beside(error.name, folder):
        text += f"; write 'from {PACKAGE} import {error.name}'"
    return text


def _label(file: Path, folder: Path) -> str:
    return f"{folder.name}/{file.relative_to(folder).as_posix()}" if file.is_relative_to(folder) else str(file)


def _is_beside(name: str, folder: Path) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()


def _checked(found: Any, attributes: str, label: str) -> Callable[..., Any]:
    if isinstance(found, FunctionType) and not found.__code__.co_flags & _GENERATORS:  # nearly all are
        return found
    what = f"{attributes!r} in {label}"
    inner = found
    while isinstance(inner, functools.partial):
        inner = inner.func
    if inspect.isclass(inner):
        raise CallableError(f"{what} is a class: name a function, or an instance that can be called")
    if not callable(inner):
        raise CallableError(f"{what} is of type {type(inner).__name__}: name a function")
    called = inner if inspect.isroutine(inner) else type(inner).__call__
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise CallableError(f"{what} is a generator: calling it would run nothing; name a function without 'yield'")
    function: Callable[..., Any] = found
    return function


def _alternatives(name: str, owner: Any) -> str:
    module = getattr(owner, "__name__", None) if inspect.ismodule(owner) else None
    functions = [
        key
        for key, value in sorted(vars(owner).items() if hasattr(owner, "__dict__") else ())
        if not key.startswith("_")
        and callable(value)
        and not inspect.isclass(value)
        and (module is None or getattr(value, "__module__", module) in (module, "functools"))
    ]
    return _close(name, functions) or (f"it has {_listed(functions)}" if functions else "it has none")


def _close(name: str, known: Iterable[str]) -> str:
    folded = {key.casefold(): key for key in known}
    matches = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"did you mean {folded[matches[0]]!r}?" if matches else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def _count(count: int) -> str:
    return "no arguments" if count == 0 else "1 argument" if count == 1 else f"{count} arguments"


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__

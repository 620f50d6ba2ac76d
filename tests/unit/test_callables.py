from __future__ import annotations

import functools
import importlib
import itertools
import logging
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import pytest

from scheduler_service.callables import (
    CallableError,
    argument_problems,
    bind,
    check_arguments,
    context_parameter,
    find,
)

if TYPE_CHECKING:
    from nowhere import RunContext, RunContextual, context


@pytest.fixture
def jobs(tmp_path):
    """Return a function that writes files into a jobs folder and returns the folder."""

    def write(files: dict[str, str], name: str = "jobs") -> Path:
        for file, text in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def refusal(reference: str, folder: Path) -> str:
    with pytest.raises(CallableError) as caught:
        find(reference, folder)
    message = str(caught.value).replace(str(folder.resolve().parent) + "/", "")
    assert "\n" not in message
    return message


def test_a_function_is_found_in_the_jobs_folder(jobs):
    folder = jobs({"cleanup.py": "def prune(): return __name__\n"})
    assert find("cleanup:prune", folder)() == "jobs.cleanup"
    assert find("jobs.cleanup:prune", folder) is find("cleanup:prune", folder)


def test_a_loaded_function_is_found_while_another_module_takes_long_to_load(jobs):
    folder = jobs(
        {
            "quick.py": "def main(): ...\n",
            "slow.py": "import quick_or_not\ndef main(): ...\n",
        }
    )
    quick = find("quick:main", folder)
    loading, go_on = threading.Event(), threading.Event()
    in_time = []

    class Finder:
        @staticmethod
        def find_spec(name, *_):
            if name == "quick_or_not":
                loading.set()
                in_time.append(go_on.wait(30))

    sys.meta_path.insert(0, Finder)
    thread = threading.Thread(target=lambda: refusal("slow:main", folder))
    thread.start()
    try:
        assert loading.wait(30)
        assert find("quick:main", folder) is quick
    finally:
        go_on.set()
        thread.join()
        sys.meta_path.remove(Finder)
    assert in_time == [True]


def test_a_loaded_function_stays_although_its_file_is_away(jobs):
    folder = jobs({"cleanup.py": "def prune(): ...\n"})
    prune = find("cleanup:prune", folder)
    (folder / "cleanup.py").unlink()
    assert find("cleanup:prune", folder) is prune


def test_the_jobs_folder_shadows_nothing(jobs):
    before = list(sys.path)
    folder = jobs(
        {"logging.py": "def main(): return 'ours'\n", "uses.py": "import logging\ndef main(): return logging\n"}
    )
    assert find("logging:main", folder)() == "ours"
    assert find("uses:main", folder)() is logging
    assert importlib.import_module("logging") is logging
    assert sys.path == before


def test_modules_of_the_folder_reach_each_other(jobs):
    folder = jobs(
        {
            "helper.py": "VALUE = 7\n",
            "absolute.py": "import jobs.helper\nfrom jobs import helper\n"
            "def main(): return helper.VALUE, helper is jobs.helper\n",
            "relative.py": "from .helper import VALUE\ndef main(): return VALUE\n",
            "reports/__init__.py": "from . import daily\n",
            "reports/daily.py": "from ..helper import VALUE\ndef main(): return VALUE + 1\n",
            "plain/deep.py": "from jobs.helper import VALUE\ndef main(): return VALUE + 2\n",
        }
    )
    assert find("absolute:main", folder)() == (7, True)
    assert find("relative:main", folder)() == 7
    assert find("reports.daily:main", folder)() == 8
    assert find("plain.deep:main", folder)() == 9


def test_the_folder_may_be_a_package(jobs):
    folder = jobs({"__init__.py": "SHARED = 3\n", "job.py": "from jobs import SHARED\ndef main(): return SHARED\n"})
    assert find("job:main", folder)() == 3


def test_two_folders_do_not_mix(jobs):
    text = "from jobs import helper\nfrom .helper import VALUE\ndef main(): return VALUE, helper.VALUE\n"
    first = jobs({"job.py": text, "helper.py": "VALUE = 1\n"}, "first")
    second = jobs({"job.py": text, "helper.py": "VALUE = 2\n"}, "second")
    one, two = find("job:main", first), find("job:main", second)
    assert (one(), two()) == ((1, 1), (2, 2))
    assert find("job:main", first) is one
    assert find("job:main", second) is two
    third = jobs({"other.py": ""}, "third")
    assert "looked for third/job.py" in refusal("job:main", third)


def test_a_dotted_name_that_is_not_in_the_folder_is_an_installed_package(jobs, tmp_path):
    folder = jobs({"reports/weekly.py": "def main(): pass\n"})
    assert find("os.path:exists", folder) is find("os.path:exists", tmp_path / "missing")
    assert find("logging.handlers:QueueListener.stop", folder) is logging.handlers.QueueListener.stop


def test_a_module_is_loaded_once(jobs):
    folder = jobs({"job.py": "TIMES = []\ndef main(): return TIMES\ndef other(): return TIMES\n"})
    assert find("job:main", folder)() is find("job:other", folder)()


def test_a_file_written_later_is_found(jobs):
    folder = jobs({"job.py": "def main(): pass\n"})
    find("job:main", folder)
    refusal("later:main", folder)
    jobs({"later.py": "def main(): pass\n"})
    assert find("later:main", folder)


ACCEPTED = """
import asyncio, functools
def plain(a): return a
async def coroutine(): pass
class Callable:
    def __call__(self, a): return a
    def method(self, a): return a
    @staticmethod
    def static(a): return a
instance = Callable()
partial = functools.partial(plain, 1)
lambdas = lambda: 1
@functools.lru_cache
def cached(): pass
"""


@pytest.mark.parametrize(
    "name", ["plain", "coroutine", "instance", "instance.method", "Callable.static", "partial", "lambdas", "cached"]
)
def test_whatever_can_be_called_and_runs_is_accepted(jobs, name):
    assert callable(find(f"job:{name}", jobs({"job.py": ACCEPTED})))


REFUSED = """
import functools
class Job: pass
class Many:
    def __call__(self): yield 1
def generator(): yield 1
async def async_generator(): yield 1
partial = functools.partial(generator)
instance = Many()
value = 5
made = functools.partial(Job)
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Job", "'Job' in jobs/job.py is a class: name a function, or an instance that can be called"),
        ("made", "'made' in jobs/job.py is a class: name a function, or an instance that can be called"),
        ("value", "'value' in jobs/job.py is of type int: name a function"),
        ("generator", "'generator' in jobs/job.py is a generator: calling it would run nothing; "
         "name a function without 'yield'"),
        ("async_generator", "'async_generator' in jobs/job.py is a generator: calling it would run nothing; "
         "name a function without 'yield'"),
        ("partial", "'partial' in jobs/job.py is a generator: calling it would run nothing; "
         "name a function without 'yield'"),
        ("instance", "'instance' in jobs/job.py is a generator: calling it would run nothing; "
         "name a function without 'yield'"),
        ("generatr", "jobs/job.py has no function 'generatr'; did you mean 'generator'?"),
        ("GENERATOR", "jobs/job.py has no function 'GENERATOR'; did you mean 'generator'?"),
        ("zzz", "jobs/job.py has no function 'zzz'; it has async_generator, generator, instance, made, partial"),
        ("Job.start", "Job in jobs/job.py has no attribute 'start'; it has none"),
    ],
)  # fmt: skip
def test_what_would_run_nothing_is_refused(jobs, name, message):
    assert refusal(f"job:{name}", jobs({"job.py": REFUSED})) == message


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("cleanup", "'cleanup' is not module:function; write, for example, cleanup:main"),
        ("cleanup.py:prune", "'cleanup.py:prune' is not module:function; write, for example, cleanup:prune"),
        ("jobs/cleanup.py", "'jobs/cleanup.py' is not module:function; write, for example, cleanup:main"),
        ("my-job:main", "'my-job:main' cannot be a module: rename my-job.py to my_job.py and write my_job:main"),
        ("a b:c", "'a b:c' is not module:function; write, for example, cleanup:prune"),
        (":", "':' is not module:function; write, for example, cleanup:prune"),
        ("cleanp:prune", "no such module: looked for jobs/cleanp.py; did you mean 'cleanup'?"),
        ("zzz:prune", "no such module: looked for jobs/zzz.py; outside of the jobs folder only dotted names are looked "
         "for, as in package.module"),
        ("json:dumps", "no such module: looked for jobs/json.py; outside of the jobs folder only dotted names are "
         "looked for, as in package.module"),
        ("reports.dayly:main", "no such module: looked for jobs/reports/dayly.py, and no package 'reports' is "
         "installed; did you mean 'daily'?"),
        ("os.nothing:main", "no such module: looked for jobs/os/nothing.py, and no package 'os.nothing' is installed"),
        ("shadow.inner:main", "jobs/shadow/inner.py cannot be loaded: ModuleNotFoundError: No module named "
         "'jobs.shadow.inner'; 'jobs.shadow' is not a package"),
    ],
)  # fmt: skip
def test_a_module_that_is_not_there_is_named_with_the_file_looked_for(jobs, reference, message):
    folder = jobs({"cleanup.py": "", "reports/daily.py": "", "shadow.py": "", "shadow/inner.py": ""})
    assert refusal(reference, folder) == message


def test_a_missing_folder_is_told(tmp_path):
    assert refusal("cleanup:prune", tmp_path / "jobs") == (
        "no such module: looked for jobs/cleanup.py; "
        "the jobs folder does not exist: make it, or set service.jobs_folder"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 1\nx / 0\n", "ZeroDivisionError: division by zero (jobs/job.py:2)"),
        ("def main(:\n", "SyntaxError: invalid syntax (jobs/job.py:1)"),
        ("import sys\nsys.exit(3)\n", "it ends the process (SystemExit: 3) (jobs/job.py:2)"),
        ("import json\n\njson.loads('{')\n", "json.decoder.JSONDecodeError: Expecting property name enclosed in double "
         "quotes: line 1 column 2 (char 1) (jobs/job.py:3)"),
        ("import helper\n", "ModuleNotFoundError: No module named 'helper' (jobs/job.py:1); "
         "write 'from jobs import helper'"),
        ("import nothing_of_that_name\n", "ModuleNotFoundError: No module named 'nothing_of_that_name' "
         "(jobs/job.py:1)"),
        ("from jobs import broken\n", "KeyError: 'deep' (jobs/broken.py:2)"),
        ("raise ValueError('one\\ntwo')\n", "ValueError: one (jobs/job.py:1)"),
        ("raise ValueError('x' * 5000)\n", "ValueError: " + "x" * 288 + "… (jobs/job.py:1)"),
        ("e = ValueError('what')\ne.add_note('note')\nraise e\n", "ValueError: what (jobs/job.py:3)"),
        ("class E(BaseException): pass\nraise E('base')\n", "jobs.job.E: base (jobs/job.py:2)"),
    ],
)  # fmt: skip
def test_what_a_module_raises_becomes_one_line_with_its_place(jobs, text, problem):
    folder = jobs({"job.py": text, "helper.py": "", "broken.py": "\nraise KeyError('deep')\n"})
    assert refusal("job:main", folder) == f"jobs/job.py cannot be loaded: {problem}"
    assert refusal("job:main", folder) == f"jobs/job.py cannot be loaded: {problem}"


def test_a_broken_package_file_of_the_folder_is_told_and_can_be_mended(jobs):
    folder = jobs({"__init__.py": "1 / 0\n", "job.py": "def main(): pass\n"})
    problem = "jobs/__init__.py cannot be loaded: ZeroDivisionError: division by zero (jobs/__init__.py:1)"
    assert refusal("job:main", folder) == problem
    jobs({"__init__.py": "OK = True\n"})
    assert find("job:main", folder)


def test_an_interrupt_while_loading_is_not_swallowed(jobs):
    folder = jobs({"job.py": "raise KeyboardInterrupt\n"})
    with pytest.raises(KeyboardInterrupt):
        find("job:main", folder)


def example(folder: str, days: int = 30, *, dry: bool = False) -> None: ...
def with_context(ctx: RunContext, folder: str) -> None: ...
def nothing() -> None: ...
def anything(*items: Any, **settings: Any) -> None: ...
def by_position(first: int, /, second: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "problems"),
    [
        (example, ["a"], {}, []),
        (example, [], {"folder": "a", "dry": True}, []),
        (example, [], {}, [("run", None, "example() needs 'folder': give it in kwargs")]),
        (example, ["a", 1, 2], {}, [("args", None, "example() takes 2 arguments by position, not 3")]),
        (example, ["a"], {"folder": "b"}, [("kwargs", "folder", "example() gets 'folder' from args already")]),
        (example, ["a"], {"dayz": 1}, [("kwargs", "dayz", "example() has no parameter 'dayz'; did you mean 'days'?")]),
        (example, [], {"q": 1, "w": 2}, [
            ("kwargs", "q", "example() has no parameter 'q'; it has folder, days, dry"),
            ("kwargs", "w", "example() has no parameter 'w'; it has folder, days, dry"),
            ("run", None, "example() needs 'folder': give it in kwargs"),
        ]),
        (nothing, [1], {"x": 1}, [
            ("args", None, "nothing() takes no arguments by position, not 1"),
            ("kwargs", "x", "nothing() has no parameter 'x'; it has none"),
        ]),
        (anything, [1, 2], {"x": 1}, []),
        (by_position, [1], {"second": 2}, []),
        (by_position, [], {"first": 1, "second": 2}, [
            ("kwargs", "first", "by_position() takes 'first' by position: move it into args"),
            ("run", None, "by_position() needs 'first': give it in args"),
        ]),
        (with_context, ["a"], {}, []),
        (with_context, ["a"], {"ctx": 1}, [("kwargs", "ctx", "'ctx' is filled in by the service: remove it")]),
        (functools.partial(example, "a"), [], {"days": 1}, []),
        (functools.partial(example, "a"), [], {"dayz": 1}, [
            ("kwargs", "dayz", "example() has no parameter 'dayz'; did you mean 'days'?"),
        ]),
        (min, [1, 2, 3, 4], {"unknown": 1}, []),
    ],
)  # fmt: skip
def test_arguments_are_checked_against_the_signature(function, args, kwargs, problems):
    found = argument_problems(function, args, kwargs)
    assert [(problem.key, problem.name, problem.message) for problem in found] == problems
    if problems:
        with pytest.raises(CallableError) as caught:
            check_arguments(function, args, kwargs)
        assert (caught.value.key, caught.value.name, str(caught.value)) == problems[0]
    else:
        check_arguments(function, args, kwargs)


def test_arguments_are_refused_exactly_when_the_call_would_fail():
    def none(): ...
    def one(a): ...
    def optional(a, b=1): ...
    def keyword(a, *, c): ...
    def positional(a, /, b): ...
    def rest(a, *b, c=1): ...
    def settings(a, /, **b): ...
    def everything(a, /, b, c=1, *d, e, f=2, **g): ...

    judged = set()
    for function in (none, one, optional, keyword, positional, rest, settings, everything):
        for count, size in itertools.product(range(4), range(4)):
            for names in itertools.combinations("abcdefg", size):
                args, kwargs = list(range(count)), dict.fromkeys(names, 0)
                try:
                    function(*args, **kwargs)
                    fits = True
                except TypeError:
                    fits = False
                judged.add(fits)
                assert (argument_problems(function, args, kwargs) == ()) == fits, (function.__name__, args, kwargs)
    assert judged == {True, False}


class Fake:
    """Stands for the real RunContext: it is known by its name."""


Fake.__name__ = "RunContext"
Context = Fake


def context_functions():
    def text(ctx: RunContext):
        return ctx

    def quoted(ctx: context.RunContext | None = None):
        return ctx

    def other(ctx: RunContextual):
        return ctx

    def bare(ctx):
        return ctx

    def many(*ctx: RunContext):
        return ctx

    def real(ctx):
        return ctx

    real.__annotations__ = {"ctx": Context}

    def maybe(ctx):
        return ctx

    maybe.__annotations__ = {"ctx": Optional[Context]}  # noqa: UP045  # both spellings are tried

    def union(ctx):
        return ctx

    union.__annotations__ = {"ctx": Context | None}
    return [(text, "ctx"), (quoted, "ctx"), (other, None), (bare, None), (many, None), (real, "ctx"), (maybe, "ctx"),
            (union, "ctx"), (functools.partial(text), "ctx")]  # fmt: skip


@pytest.mark.parametrize(("function", "name"), context_functions())
def test_the_parameter_for_the_context_is_known_by_its_annotation(function, name):
    assert context_parameter(function) == name


def test_the_context_goes_where_the_function_wants_it():
    context = object()

    def first(ctx: RunContext, a, b=2):
        return ctx, a, b

    def last(a, b=2, *, ctx: RunContext):
        return ctx, a, b

    def between(a, ctx: RunContext | None = None, b=2):
        return ctx, a, b

    def only(ctx: RunContext, /, *rest):
        return ctx, *rest

    def optional(a=1, ctx: RunContext | None = None):
        return ctx, a

    def without(a, b=2):
        return None, a, b

    class Instance:
        def __call__(self, ctx: RunContext, a):
            return ctx, a

    def call(function, args=(), kwargs=None):
        args, kwargs = bind(function, args, kwargs or {}, context)
        return function(*args, **kwargs)

    assert call(first, [1]) == (context, 1, 2)
    assert call(first, [1], {"b": 3}) == (context, 1, 3)
    assert call(first, [], {"a": 1}) == (context, 1, 2)
    assert call(last, [1, 3]) == (context, 1, 3)
    assert call(between, [1, 3]) == (context, 1, 3)
    assert call(only, [1, 3]) == (context, 1, 3)
    assert call(optional) == (context, 1)
    assert call(without, [1]) == (None, 1, 2)
    assert call(Instance(), [1]) == (context, 1)
    with pytest.raises(TypeError):
        bind(first, [], {}, context)

"""What is read from a configuration file, and what is said about a wrong one."""

from __future__ import annotations

import json
import os
import pickle
import random
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_service.config import Config, ConfigError, Problem, check_callables, format_problems, load
from scheduler_service.config.settings import SECTIONS
from scheduler_service.config.values import duration, duration_text, size, size_text
from scheduler_service.model import Retry
from tests.unit import config_golden

EMPTY = ":1:1  the file is empty; the smallest useful one has version: 1, then jobs: with one job in it"
JOBS = "jobs: {a: {command: x, every: 5m}}\n"


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a configuration and returns its path."""

    def write(text: str | bytes, name: str = "config.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def problems(path: Path, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    return [line.removeprefix(str(path)) for line in str(caught.value).splitlines()]


# Golden files


@pytest.mark.parametrize("name", config_golden.names())
def test_a_file_is_understood_or_answered_exactly_as_expected(name):
    expected = (config_golden.FOLDER / f"{name}.expected").read_text(encoding="utf-8")
    assert config_golden.outcome(name) == expected


def test_there_are_golden_files_for_good_and_for_bad():
    names = config_golden.names()
    assert len(names) >= 60
    assert {path.stem for path in config_golden.FOLDER.glob("*.expected")} == set(names)
    assert 10 <= sum(name.startswith("valid_") for name in names) <= len(names) - 50


def test_problems_come_in_order_of_position_and_show_no_secret():
    for name in config_golden.names():
        if not name.startswith(("valid_", "relation_lease_smallest")):
            with pytest.raises(ConfigError) as caught:
                load(config_golden.FOLDER / f"{name}.yaml", config_golden.ENVIRON)
            assert "s3cret" not in str(caught.value)
            files = [str(path) for path in caught.value.files]
            places = [(files.index(p.file), p.line, p.column) for p in caught.value.problems]
            assert places == sorted(places)
            assert all(line >= 1 for _, line, _ in places)


def test_the_example_of_the_design_is_answered_line_by_line(write):
    path = write(
        "version: 1\n" + "\n" * 10 + "jobs:\n  nightly:\n    tiemout: 5m\n    cron: '61 * * * *'\n"
        "  other:\n    cron: * * * * *\n"
    )
    lines = problems(path)
    assert lines[1:4] == [
        ":14:5   jobs.nightly.tiemout: no such setting; did you mean 'timeout'?",
        ":15:11  jobs.nightly.cron: minute '61' is not between 0 and 59",
        ":16:3   jobs.other: has nothing to run; add 'run: module:function' or 'command: …'",
    ]
    assert lines[4] == ":17:11  put the expression in quotes: cron: '* * * * *'"


# Files that are no configuration


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", EMPTY),
        (b" \n\t\n", EMPTY),
        (b"\xef\xbb\xbf", EMPTY),
        (b"version: 1\nname: gr\xfc\xdfe\n", ":2:9  byte 0xfc is not UTF-8; save the file as UTF-8"),
        ("version: 1\n".encode("utf-16"), ":1:1  byte 0xff is not UTF-8; save the file as UTF-8"),
        (b"version: 1\nx: a\x00b\n", ":2:5  character U+0000 cannot stand here; remove it, or write it as an escape in "
         "quotes"),
        (b"x" * (4 * 1024 * 1024 + 1), ": is larger than 4 MiB; is it a configuration?"),
        (b"\x89PNG\r\n", ":1:1  byte 0x89 is not UTF-8; save the file as UTF-8"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_clear_line(write, content, expected):
    assert problems(write(content)) == [expected]


def test_a_missing_file_and_a_folder_are_one_clear_line(tmp_path):
    assert problems(tmp_path / "no.yaml") == [": there is no such file; make one with: scheduler-service init"]
    assert problems(tmp_path) == [": this is a folder; name the file in it"]
    (tmp_path / "file").write_text("")
    assert problems(tmp_path / "file" / "config.yaml") == [": cannot be read: Not a directory"]
    assert problems(Path("a\0b")) == [": cannot be read: embedded null byte"]


def test_a_byte_order_mark_and_the_line_ends_of_windows_do_not_matter(write):
    plain = load(write(f"version: 1\n{JOBS}"), {})
    strange = load(write(f"\ufeffversion: 1\r\n{JOBS.replace(chr(10), chr(13) + chr(10))}"), {})
    assert strange.digests != plain.digests
    assert strange.model_copy(update={"digests": plain.digests}) == plain
    assert problems(write("\ufeffversion: 1\r\nserivce: {}\r\n" + JOBS)) == [
        ":2:1  serivce: no such setting; did you mean 'service'?"
    ]


PIECES = (*"\n\t :-#[]{}'\"&*!|>%@`?,$~<=5", "\n  ", ": ", "- ", "<<: *a", "${", "${X}", "null", "true", "\ufeff",
          "\u2028", "? ", "\\x")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [("config.yaml", "valid_*.yaml", "*.yaml"), ("included.yaml", "include/valid/*.yaml", "include/wrong/*.yaml")],
)
def test_whatever_a_file_holds_the_answer_is_a_config_or_problems(write, name, right, wrong):
    main = write("version: 1\ninclude: included.yaml\n")
    texts = [[path.read_text(encoding="utf-8") for path in config_golden.FOLDER.glob(glob)] for glob in (right, wrong)]
    texts = [sorted(text for text in some if len(text) < 700) for some in texts]
    chance = random.Random(1)
    outcomes = set()
    for _ in range(300):
        text = chance.choice(chance.choice(texts))
        for _ in range(chance.randint(1, 4)):
            start = chance.randrange(len(text) + 1)
            text = text[:start] + chance.choice(PIECES) + text[start + chance.choice((0, 0, 1, 5)) :]
        write(text, name)
        try:
            outcomes.add(type(load(main, config_golden.ENVIRON)))
        except ConfigError as error:
            outcomes.add(ConfigError)
            assert error.problems  # noqa: PT017  # any number of files are wrong, each in its own way
            assert len(str(error).splitlines()) == len(error.problems), text  # noqa: PT017  # as above
    assert outcomes == {Config, ConfigError}


# What is read


def test_the_defaults_are_those_of_the_design(write, tmp_path):
    config = load(write(f"version: 1\n{JOBS}"), {})
    second = timedelta(seconds=1)
    assert (config.service.name, config.service.timezone) == ("scheduler", "UTC")
    assert (config.service.jobs_folder, config.service.shutdown_grace) == (tmp_path / "jobs", 20 * second)
    assert config.database.url.get_secret_value() == f"sqlite:///{tmp_path}/scheduler.db"
    assert (config.database.schema_, config.database.create_tables) == ("scheduler", True)
    assert config.database.startup_timeout == 30 * second
    election = config.election
    assert (election.lock_id, election.lease_duration, election.renewal_interval) == (1, 10 * second, 3 * second)
    assert (election.jitter_range, election.instance_id, election.attempt_timeout) == (2 * second, "auto", 2 * second)
    assert (election.safety_margin, election.crash_detection, election.lost_after) == (second, "auto", 15 * second)
    assert (config.workers.threads, config.workers.processes) == (20, 4)
    assert (config.history.keep_for, config.history.keep_runs) == (timedelta(days=30), 1000)
    assert config.history.output_limit == 65536
    assert (config.http.enabled, config.http.host, config.http.port) == (True, "127.0.0.1", None)
    assert (config.http.token, config.http.read_token) == (None, None)
    assert (config.logging.level, config.logging.format) == ("info", "auto")
    (job,) = config.jobs
    assert (job.misfire_grace, job.catch_up, job.catch_up_window) == (60 * second, "latest", timedelta(days=1))
    assert (job.catch_up_limit, job.overlap, job.queue_limit, job.max_running) == (10, "skip", 10, None)
    assert (job.timeout, job.kill_after, job.retry) == (None, 10 * second, Retry())
    assert (job.on_crash, job.on_leadership_lost, job.isolation) == ("fail", "finish", "thread")
    assert (job.enabled, job.description, job.tags, job.jitter) == (True, "", (), timedelta(0))
    assert (job.retry.attempts, job.retry.delay, job.retry.factor) == (1, 10 * second, 2)
    assert (job.retry.max_delay, job.retry.on) == (timedelta(minutes=10), ("error", "timeout"))


@pytest.mark.parametrize(
    "host", ["localhost", "a.example.com", "0.0.0.0", "::", "::1", "fe80::1%eth0", "::ffff:10.0.0.1", "grüße.example"]
)
def test_whatever_can_be_a_host_is_taken(write, host):
    assert load(write(f"version: 1\nhttp: {{host: '{host}'}}\n{JOBS}"), {}).http.host == host


@pytest.mark.parametrize("host", ["http://x", "//x", "0.0.0.0:8080", "localhost:", "[::1]", "[::1]:80", "a b", "x/y"])
def test_a_host_has_neither_scheme_nor_port(write, host):
    (line,) = problems(write(f"version: 1\nhttp: {{host: '{host}'}}\n{JOBS}"))
    assert line.startswith(":2:14  http.host: expected a host name or address, without http:// and port, got ")


def test_relative_paths_are_relative_to_the_file_not_to_the_current_folder(write, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    write(
        "version: 1\nservice: {jobs_folder: ../shared}\ndatabase: {url: 'sqlite:///data/x.db?timeout=5'}\njobs:\n"
        "  a: {command: x, every: 5m, working_directory: work}\n  b: {command: x, every: 5m, working_directory: /}\n"
    )
    monkeypatch.chdir(tmp_path.parent)
    config = load(Path(tmp_path.name) / "config.yaml", {})
    assert config.path == tmp_path / "config.yaml"
    assert config.service.jobs_folder == tmp_path / "../shared"
    assert config.database.url.get_secret_value() == f"sqlite:///{tmp_path}/data/x.db?timeout=5"
    assert [job.working_directory for job in config.jobs] == [tmp_path / "work", Path("/")]
    assert config.warnings == ()
    assert problems(Path(tmp_path.name) / "no.yaml") == [
        ": there is no such file; make one with: scheduler-service init"
    ]


def test_a_command_whose_program_is_not_there_is_warned_of(write, tmp_path):
    (tmp_path / "bin").mkdir()
    for name, mode in (("mine", 0o755), ("text", 0o644)):
        (tmp_path / "bin" / name).touch()
        (tmp_path / "bin" / name).chmod(mode)
    path = write(
        "version: 1\njobs:\n"
        "  a: {command: [nosuchprogram, x], every: 5m}\n"
        "  b: {command: [sh, -c, x], every: 5m}\n"
        f"  c: {{command: [mine], every: 5m, env: {{PATH: '{tmp_path}/bin'}}}}\n"
        "  d: {command: [sh], every: 5m, env: {PATH: /nope}}\n"
        "  e: {command: [bin/mine], every: 5m, working_directory: .}\n"
        "  f: {command: [bin/text], every: 5m, working_directory: .}\n"
        "  g: {command: [bin/text], every: 5m}\n"  # from where the service will be started
        "  h: {command: [/nope/mine], every: 5m}\n"
        "  i: {command: nosuchprogram, every: 5m}\n"  # a shell's affair
        "  j: {command: ['${P}'], every: 5m}\n"
        "  k: {command: ['/nope/${P}'], every: 5m}\n"
    )
    assert [str(one).removeprefix(f"{path}:").split() for one in load(path, {"P": "s3cret"}).warnings] == [
        [position, f"jobs.{job}.command:", *f"there is no {what}; make it before the job runs".split()]
        for position, job, what in (
            ("3:16", "a", "program 'nosuchprogram' on the PATH"),
            ("6:16", "d", "program 'sh' on the PATH"),
            ("8:16", "f", "executable file 'bin/text'"),
            ("10:16", "h", "executable file '/nope/mine'"),
            ("12:16", "j", "program '***' on the PATH"),  # what a variable holds is not shown
            ("13:16", "k", "executable file '***'"),
        )
    ]


def test_the_environment_of_the_process_is_the_default(write, monkeypatch):
    monkeypatch.setenv("SCHEDULER_TEST_NAME", "from outside")
    assert load(write("version: 1\nservice: {name: '${SCHEDULER_TEST_NAME}'}\n" + JOBS)).service.name == "from outside"


def test_a_file_named_in_a_value_is_read_without_its_last_line_end(write, tmp_path):
    (tmp_path / "password").write_bytes("s3cret ✓\r\n".encode())
    text = "version: 1\nservice: {name: '${file:password}'}\n" + JOBS
    assert load(write(text), {}).service.name == "s3cret ✓"
    for content, reason in (
        (b"\xff", "names a file that is not UTF-8 text"),
        (b"a\0", "names a file that is not text"),
        (b"x" * 65537, "names a file of more than 64 KiB"),
    ):
        (tmp_path / "password").write_bytes(content)
        assert problems(write(text)) == [f":2:17  service.name: '${{file:password}}' {reason}"]


def test_an_alias_is_read_with_the_paths_of_every_place_that_uses_it(write):
    assert problems(write("version: 1\njobs:\n  a: &a {command: x, every: 5}\n  b: *a\n")) == [
        f":3:29  jobs.{job}.every: '5' has no unit; write 5s if seconds are meant, or for example 5m, 1h30m"
        for job in "ab"
    ]


@pytest.mark.parametrize("count", [10, 500])
def test_many_jobs_are_read(write, count):
    job = "  job-{}:\n    command: x\n    every: 5m\n"
    config = load(write("version: 1\njobs:\n" + "".join(job.format(number) for number in range(count))), {})
    assert len(config.jobs) == count


# Secrets

SECRETS = """
version: 1
service: {name: '${SECRET}'}
database: {url: 'postgresql://u:${SECRET}@h/n', schema: '${SECRET}'}
election: {instance_id: '${SECRET}'}
http: {token: '${SECRET}', read_token: 's3cret-in-the-file', host: '${SECRET}'}
jobs:
  a: {run: 'a:b', args: ['${SECRET}'], kwargs: {x: {y: '${SECRET}'}}, every: 5m, description: 'of ${SECRET}'}
  b: {command: 'echo ${SECRET}', env: {A: '${SECRET}'}, cron: '0 0 * * *', tags: ['${SECRET}']}
  c: {command: [echo, '${SECRET}'], every: 5m, working_directory: '/${SECRET}'}
"""


def test_what_comes_from_variables_is_used_and_shown_nowhere(write):
    config = load(write(SECRETS), {"SECRET": "s3cret"})
    assert config.jobs[0].kwargs == {"x": {"y": "s3cret"}}
    assert config.jobs[1].env == {"A": "s3cret"}
    assert config.jobs[2].command == ("echo", "s3cret")
    assert config.database.url.get_secret_value() == "postgresql://u:s3cret@h/n"
    everything = [config, *(getattr(config, name) for name in SECTIONS), *config.jobs]
    for value in [*everything, *pickle.loads(pickle.dumps(everything))]:
        for text in (repr(value), str(value), value.model_dump_json(), value.model_dump_json(by_alias=True)):
            assert "s3cret" not in text
            assert "***" in text or value not in (config.service, *config.jobs)
    assert "s3cret" not in str(config.warnings)


def test_a_password_that_is_not_encoded_is_refused_wherever_it_comes_from(write):
    for url in ("postgresql://u:${SECRET}@h/n", "postgresql://u:p@s3cret@h/n", "${URL}"):
        path = write(f"version: 1\ndatabase: {{url: '{url}'}}\n{JOBS}")
        (problem,) = problems(path, {"SECRET": "p@s3cret", "URL": "postgres://u:p@s3cret/x@h/n"})
        assert problem.startswith(":2:17  database.url: it cannot be told where the password ends: write letters such")
        assert "s3cret" not in problem
        assert "%40" in problem


@pytest.mark.parametrize("first", [*"*&!@%`", "!!", "& ", ""])
@pytest.mark.parametrize(
    "settings",
    ["http: {{token: {}}}", "http:\n  read_token: {}", "database:\n  url: {}", "database: {}",
     "jobs:\n  a: {{command: x, every: 5m, env: {{PASSWORD: {}}}}}"],
)  # fmt: skip
def test_a_secret_that_yaml_takes_for_its_own_is_not_shown(write, settings, first):
    secret = f"{first}postgresql://u:s3cret@h/n"
    for value in (secret, f"{secret} # why", f"{secret} {secret}", f"{first}s3cret"):
        answer = problems(write(f"version: 2\n{settings.format(value)}\n"))
        assert answer
        assert "s3cret" not in str(answer)


@pytest.mark.parametrize("name", ["token", "read_token"])
@pytest.mark.parametrize("value", ["", "~", "null", "''", "' '", "# abc", "&abc", "${EMPTY}", "'${EMPTY}'"])
def test_an_empty_token_is_no_way_to_do_without_one(write, name, value):
    (line,) = problems(write(f"version: 1\nhttp:\n  {name}: {value}\n{JOBS}"), {"EMPTY": ""})
    assert f"  http.{name}: " in line
    assert "a token of ASCII letters, digits and signs" in line
    for none in ("none", "${NONE}"):
        http = load(write(f"version: 1\nhttp:\n  {name}: {none}\n{JOBS}"), {"NONE": "none"}).http
        assert (http.token, http.read_token) == (None, None)


@pytest.mark.parametrize("token", ["grünes-s3cret", "a s3cret", " s3cret", "s3cret\n", "s3cret\nword", "s3cret\x1b"])
def test_a_token_that_clients_cannot_send_alike_is_refused_and_not_shown(write, token):
    for text in (json.dumps(token), "'${TOKEN}'"):
        (line,) = problems(write(f"version: 1\nhttp: {{token: {text}}}\n{JOBS}"), {"TOKEN": token})
        assert line.startswith(":2:15  http.token: ")
        assert "ASCII letters, digits and signs" in line
        assert "s3cret" not in line


def test_the_hash_is_that_of_the_file_before_variables_are_replaced(write):
    hashes = {load(write(SECRETS), {"SECRET": secret}).hash for secret in ("s3cret", "other")}
    assert len(hashes) == 1


SAME = [
    "version: 1\njobs:\n  a: {command: x, every: 5m, tags: [p, q]}\n  b: {command: y, every: 1m}\n"
    "defaults: {catch_up: all}\n",
    "jobs:\n  # moved\n  b:\n    every: '1m'\n    command: \"y\"\n  a: {tags: [p, q], every: 5m, command: x}\n"
    "defaults:\n  catch_up: all # all\nversion: 1\nlogging: {level: debug}\nservice: {name: other}\n",
    "version: 1\njobs:\n  a: {<<: &a {command: x, every: 5m}, tags: [p, q]}\n  b: {<<: *a, command: y, every: 1m}\n"
    "defaults: {catch_up: all}\n",
]
OTHER = [
    SAME[0].replace("5m", "6m"),
    SAME[0].replace("all", "none"),
    SAME[0].replace("[p, q]", "[q, p]"),
    SAME[0].replace("b:", "c:"),
    SAME[0].replace("command: y", "command: '${Y:-y}'"),
    SAME[0] + "service: {timezone: Europe/Berlin}\n",
    SAME[0] + "service: {timezone: '${ZONE:-Europe/Berlin}'}\n",
]


def test_the_hash_tells_jobs_defaults_and_zones_apart_and_nothing_else(write):
    same = {load(write(text), {}).hash for text in SAME}
    assert len(same) == 1
    assert len(same | {load(write(text), {}).hash for text in OTHER}) == 1 + len(OTHER)
    numbers = {load(write(f"version: 1\njobs: {{a: {{run: 'a:b', every: 5m, args: [{value}]}}}}"), {}).hash
               for value in ("5", "'5'", "5.0", "true", "'true'", "null", "''", "[5]", "{5: }")}  # fmt: skip
    assert len(numbers) == 9


# Relations


def lease(path: Path, **durations: timedelta) -> Config:
    lines = "".join(f"  {name}: {duration_text(value)}\n" for name, value in durations.items())
    path.write_text(f"version: 1\nelection:\n{lines}  lost_after: 1d\n{JOBS}")
    return load(path, {})


milliseconds = st.integers(1, 20_000).map(lambda count: timedelta(milliseconds=count))


@settings(max_examples=40, deadline=None)
@given(
    lease_duration=milliseconds, renewal=milliseconds, jitter=milliseconds, attempt=milliseconds, margin=milliseconds
)
def test_the_lease_named_as_the_smallest_works_and_a_millisecond_less_does_not(
    tmp_path_factory, lease_duration, renewal, jitter, attempt, margin
):
    path = tmp_path_factory.getbasetemp() / "lease.yaml"
    others = {"renewal_interval": renewal, "jitter_range": jitter, "attempt_timeout": attempt, "safety_margin": margin}
    try:
        lease(path, lease_duration=lease_duration, **others)
        assert lease_duration - margin >= renewal + jitter + 2 * attempt
    except ConfigError as error:
        assert lease_duration - margin < renewal + jitter + 2 * attempt
        (problem,) = error.problems
        assert problem.path == "election.lease_duration"
        least = duration(problem.message.partition("at least ")[2].partition(",")[0])
        lease(path, lease_duration=least, **others)
        with pytest.raises(ConfigError):
            lease(path, lease_duration=least - timedelta(milliseconds=1), **others)
        if "at most " in problem.message:
            most = duration(problem.message.partition("at most ")[2])
            lease(path, lease_duration=lease_duration, **{**others, "renewal_interval": most})
            more = {**others, "renewal_interval": most + timedelta(milliseconds=1)}
            with pytest.raises(ConfigError):
                lease(path, lease_duration=lease_duration, **more)


# Values


@settings(deadline=None)
@given(st.integers(0, 10**12).map(lambda count: timedelta(milliseconds=count)))
def test_a_duration_is_read_as_it_is_written(value):
    assert duration(duration_text(value)) == value


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_a_size_is_read_as_it_is_written(value):
    assert size(size_text(value)) == value


def test_problems_of_one_report_align():
    problems = [Problem("c.yaml", 3, 5, "a.b", "wrong"), Problem("c.yaml", 100, 25, "", "bad")]
    assert format_problems(problems) == "c.yaml:3:5     a.b: wrong\nc.yaml:100:25  bad"
    assert str(problems[0]) == "c.yaml:3:5    a.b: wrong"
    assert str(Problem("config.yaml", 14, 5, "a", "b")) == "config.yaml:14:5   a: b"


# Functions of jobs

CALLING = """
version: 1
jobs:
  good: {run: "work:main", args: [1], every: 5m}
  module: {run: "wrk:main", every: 5m}
  function: {run: "work:mian", every: 5m}
  missing: {run: "work:main", every: 5m}
  many:
    run: work:main
    args: [1, 2, 3]
    kwargs:
      b: 5
      c: 6
    every: 5m
  raises: {run: "raising:main", every: 5m}
  disabled: {run: "nothing:main", every: 5m, enabled: false}
  variable: {run: "${SECRET}", every: 5m}
  command: {command: x, every: 5m}
"""


def test_functions_and_arguments_are_checked_where_they_stand(write, tmp_path, capsys):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "work.py").write_text("print('loaded')\ndef main(a, b=2): ...\n")
    (tmp_path / "jobs" / "raising.py").write_text("import os\nraise RuntimeError('no')\n")
    config = load(write(CALLING.lstrip()), {"SECRET": "s3cret:main"})
    text = format_problems(check_callables(config)).replace(f"{tmp_path}/", "").replace(str(tmp_path.resolve()), "")
    assert text.splitlines() == [
        "config.yaml:4:17   jobs.module.run: no such module: looked for jobs/wrk.py; did you mean 'work'?",
        "config.yaml:5:19   jobs.function.run: jobs/work.py has no function 'mian'; did you mean 'main'?",
        "config.yaml:6:18   jobs.missing.run: main() needs 'a': give it in kwargs",
        "config.yaml:9:11   jobs.many.args: main() takes 2 arguments by position, not 3",
        "config.yaml:11:7   jobs.many.kwargs.b: main() gets 'b' from args already",
        "config.yaml:12:7   jobs.many.kwargs.c: main() has no parameter 'c'; it has a, b",
        "config.yaml:14:17  jobs.raises.run: jobs/raising.py cannot be loaded: RuntimeError: no (jobs/raising.py:2)",
        "config.yaml:16:19  jobs.variable.run: what its variables hold cannot be called with these arguments, "
        "or is not there",
    ]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "loaded\n")  # stdout belongs to what the command prints


def test_a_jobs_folder_from_a_variable_is_not_shown(write, tmp_path):
    (tmp_path / "s3cret").mkdir()
    (tmp_path / "s3cret" / "work.py").write_text("1 / 0\n")
    text = "version: 1\nservice: {jobs_folder: '${FOLDER}'}\njobs:\n"
    text += "  a: {run: 'work:main', every: 5m}\n  b: {run: 'x:y', every: 5m}\n"
    config = load(write(text), {"FOLDER": "s3cret"})
    assert [problem.message for problem in check_callables(config)] == [
        "work.py cannot be loaded: ZeroDivisionError: division by zero (work.py:1)",
        "no such module: looked for x.py; outside of the jobs folder only dotted names are looked for, "
        "as in package.module",
    ]


def test_functions_that_fit_are_no_problem(write, tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "work.py").write_text("def main(a, b=2): ...\n")
    config = load(write("version: 1\njobs: {a: {run: 'work:main', args: [1], every: 5m}}"), {})
    assert check_callables(config) == ()
    assert os.fspath(tmp_path) not in config.hash

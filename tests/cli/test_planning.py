"""`init`, `check`, `next` and `schema`: what needs no database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler_service.cli import commands, main
from scheduler_service.cli.output import span
from tests.cli.conftest import Command

CONFIG = """\
version: 1
service: {timezone: Europe/Berlin}
jobs:
  report:
    run: report:main
    cron: "45 2 * * *"
  often:
    command: "true"
    every: 10m
  off:
    command: "true"
    every: 1h
    enabled: false
"""
EVERYTHING = ["init", "run", "check", "next", "status", "runs", "why", "db", "schema"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "report.py").write_text("def main(days: int = 1) -> None: ...\n")
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path / "config.yaml"


def test_init_writes_files_that_check_finds_right(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert command("init").out == ""
    assert command("check").out.startswith("config.yaml: 2 jobs, nothing wrong\n")


def test_init_overwrites_nothing(command: Command, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine")

    answered = command("init", tmp_path, exit_code=2)

    assert answered.err == f"error: {tmp_path / 'config.yaml'} exists already; nothing was written\n"
    assert (tmp_path / "config.yaml").read_text() == "mine"
    assert not (tmp_path / "jobs").exists()


def test_check_shows_the_next_three_ticks_of_each_job(command: Command, config: Path) -> None:
    document = command("check", "-c", config, "--json").document

    assert (document["problems"], document["warnings"]) == ([], [])
    assert {job["job"]: len(job["next"]) for job in document["jobs"]} == {"report": 3, "often": 3, "off": 0}
    shown = command("check", "-c", config).out
    assert "disabled" in shown
    assert "45 2 * * * Europe/Berlin" in shown


def test_check_says_which_jobs_run_only_when_asked_for(command: Command, config: Path) -> None:
    config.write_text(f"{CONFIG}  asked: {{command: x, manual: true}}\n")

    line = next(line for line in command("check", "-c", config).out.splitlines() if line.startswith("asked "))
    assert line.split() == ["asked", "manual", "manual"]


def test_check_shows_every_problem_and_where(command: Command, config: Path) -> None:
    config.write_text(CONFIG.replace("cron:", "corn:").replace("every: 10m", "every: 10"))

    answered = command("check", "-c", config, exit_code=2)
    problems = command("check", "-c", config, "--json", exit_code=2).document["problems"]

    assert len(answered.lines) == len(problems) >= 2
    assert all(line.startswith(f"{config}:") for line in answered.lines)
    assert problems[0].keys() == {"file", "line", "column", "path", "message"}
    assert {"jobs.report.corn", "jobs.often.every"} <= {problem["path"] for problem in problems}


def test_check_looks_at_the_functions_too(command: Command, config: Path) -> None:
    config.write_text(CONFIG.replace("report:main", "report:mian"))

    answered = command("check", "-c", config, exit_code=2)

    assert answered.out == ""
    assert answered.lines == [
        f"{config}:5:10  jobs.report.run: jobs/report.py has no function 'mian'; did you mean 'main'?"
    ]


def test_a_warning_goes_to_stderr_and_is_no_failure(command: Command, config: Path) -> None:
    config.write_text("version: 1\njobs: {}\n")

    answered = command("check", "-c", config)

    assert answered.err == f"warning: {config}:2:1    jobs: there are no jobs: this service does nothing\n"
    assert answered.out == f"{config}: 0 jobs, 1 warning\n"
    assert command("check", "-c", config, "--json").document["warnings"][0]["path"] == "jobs"


def test_check_warns_of_a_function_that_cannot_be_stopped(command: Command, config: Path) -> None:
    config.write_text(CONFIG.replace("    run: report:main\n", "    run: report:main\n    timeout: 5m\n"))

    answered = command("check", "-c", config)
    document = command("check", "-c", config, "--json").document

    assert answered.out.startswith(f"{config}: 3 jobs, 1 warning\n")
    assert answered.err.startswith(
        f"warning: {config}:6:14   jobs.report.timeout: a function in a thread goes on until"
    )
    assert [warning["path"] for warning in document["warnings"]] == ["jobs.report.timeout"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://u:s3cret@host:notaport/x", "cannot be read: write postgresql://"),
        ("postgresql://u:s3cret@[::1/x", "cannot be read: write postgresql://"),
        ("postgresql://u:s3cret@host:99999/x", "99999 in the database's URL cannot be a port"),
        ("postgresql://u:s3cret@host/x?nope=1", "'nope' in the database's URL is not a connection parameter"),
        ("sqlite:///two.db?mode=ro", "'mode' in the database's URL is not used with SQLite"),
    ],
)
def test_check_and_run_say_alike_where_a_url_is_wrong(command: Command, config: Path, url: str, reason: str) -> None:
    config.write_text(f"{CONFIG.replace('report:main', 'report:mian')}database:\n  url: {url}\n")

    answered = command("check", "-c", config, exit_code=2)
    problems = command("check", "-c", config, "--json", exit_code=2).document["problems"]

    assert answered.lines[0].startswith(f"{config}:15:8  database.url: ")
    assert answered.lines[1].startswith(f"{config}:5:10  jobs.report.run: ")
    assert reason in answered.lines[0]
    assert "s3cret" not in answered.err
    assert [(problem["line"], problem["path"]) for problem in problems] == [
        (15, "database.url"),
        (5, "jobs.report.run"),
    ]
    logged, _, said = command("run", "-c", config, exit_code=2).err.partition("\n")
    assert json.loads(logged)["event"] == "service_failed"
    assert said == answered.err
    assert not (config.parent / "two.db").exists()


def test_check_reads_included_files_and_names_them(command: Command, config: Path) -> None:
    included = config.parent / "jobs.d" / "more.yaml"
    included.parent.mkdir()
    config.write_text(f"{CONFIG}include: jobs.d/*.yaml\n")
    included.write_text("jobs:\n  more: {command: x, every: 5m}\n")

    assert command("check", "-c", config).out.startswith(f"{config}: 4 jobs, nothing wrong\n")

    included.write_text("jobs:\n  more: {command: x, every: 5}\n  report: {run: 'report:mian', every: 1m}\n")
    problems = command("check", "-c", config, "--json", exit_code=2).document["problems"]

    assert [(problem["file"], problem["line"], problem["path"]) for problem in problems] == [
        (str(included), 2, "jobs.more.every"),
        (str(included), 3, "jobs.report"),
    ]

    included.write_text("jobs:\n  more: {run: 'report:mian', every: 1m}\n")
    answered = command("check", "-c", config, exit_code=2)

    assert answered.lines == [
        f"{included}:2:15  jobs.more.run: jobs/report.py has no function 'mian'; did you mean 'main'?"
    ]


def test_next_has_utc_and_the_local_time_of_the_zone(command: Command, config: Path) -> None:
    ticks = command("next", "report", "-c", config, "--count", 2, "--from", "2026-03-28T12:00:00Z", "--json").document

    assert ticks == [
        {
            "job": "report",
            "scheduled_at": "2026-03-29T01:00:00Z",  # 02:45 does not exist that night
            "local": "2026-03-29T03:00:00+02:00",
            "timezone": "Europe/Berlin",
        },
        {
            "job": "report",
            "scheduled_at": "2026-03-30T00:45:00Z",
            "local": "2026-03-30T02:45:00+02:00",
            "timezone": "Europe/Berlin",
        },
    ]


@pytest.mark.parametrize(
    ("schedule", "timezone", "first", "local"),
    [
        ("cron: '30 2 * * *', timezone: UTC", "UTC", "2026-07-01T02:30:00Z", "2026-07-01T02:30:00+00:00"),
        ("cron: '30 2 * * *'", "Europe/Berlin", "2026-07-01T00:30:00Z", "2026-07-01T02:30:00+02:00"),
        ("every: 1d", "Europe/Berlin", "2026-07-01T00:00:00Z", "2026-07-01T02:00:00+02:00"),
    ],
)
def test_next_has_the_zone_of_the_job_before_that_of_the_service(
    command: Command, config: Path, schedule: str, timezone: str, first: str, local: str
) -> None:
    config.write_text(f"version: 1\nservice: {{timezone: Europe/Berlin}}\njobs: {{tidy: {{command: x, {schedule}}}}}\n")

    ticks = command("next", "tidy", "-c", config, "--count", 1, "--from", "2026-07-01T00:30", "--json").document

    assert ticks == [{"job": "tidy", "scheduled_at": first, "local": local, "timezone": timezone}]


def test_next_reads_the_start_in_the_zone_of_the_job(command: Command, config: Path) -> None:
    config.write_text(
        "version: 1\nservice: {timezone: Europe/Berlin}\n"
        "jobs: {tidy: {command: x, cron: '30 2 * * *', timezone: UTC}}\n"
    )

    (tick,) = command("next", "tidy", "-c", config, "--count", 1, "--from", "2026-07-01T03:00", "--json").document

    assert tick["scheduled_at"] == "2026-07-02T02:30:00Z"


def test_next_of_all_jobs_is_in_order_of_time_and_leaves_out_disabled_ones(command: Command, config: Path) -> None:
    ticks = command("next", "-c", config, "--from", "2026-01-31T02:40", "--json").document

    assert [(tick["job"], tick["local"][:16]) for tick in ticks] == [
        ("often", "2026-01-31T02:40"),  # a tick at that very time belongs to it
        ("report", "2026-01-31T02:45"),
        ("often", "2026-01-31T02:50"),
        ("often", "2026-01-31T03:00"),
        ("report", "2026-02-01T02:45"),
        ("report", "2026-02-02T02:45"),
    ]


def test_next_of_a_disabled_job_says_that_it_will_not_run(command: Command, config: Path) -> None:
    answered = command("next", "off", "-c", config)

    assert len(answered.out.splitlines()) == 4
    assert answered.err == "off is disabled: these ticks will not run\n"


def test_a_misspelt_job_or_command_is_answered_with_the_nearest(command: Command, config: Path) -> None:
    assert "did you mean 'report'?" in command("next", "repotr", "-c", config, exit_code=2).err
    assert "did you mean 'status'?" in command("satus", exit_code=2).err


def test_the_variable_names_the_configuration_unless_an_option_does(
    command: Command, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCHEDULER_CONFIG", str(config))

    assert command("check").out.startswith(f"{config}: 3 jobs")
    assert "no such file" in command("check", "-c", config.parent / "other.yaml", exit_code=2).err


def test_the_schema_is_one_that_names_every_section(command: Command) -> None:
    schema = command("schema").document

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert {"version", "service", "database", "election", "workers", "history", "jobs"} <= schema["properties"].keys()


def test_help_names_every_command_and_loads_none(process: Command, tmp_path: Path) -> None:
    answered = process("--help", folder=tmp_path, PYTHONPROFILEIMPORTTIME="1")

    listed = [line.split()[0] for line in answered.out.partition("Commands:")[2].splitlines() if line.strip()]
    assert [word for word in listed if word in EVERYTHING] == EVERYTHING
    assert " click\n" in answered.err
    for slow in ("sqlalchemy", "pydantic", "apscheduler", "psycopg", "yaml"):
        assert f" {slow}\n" not in answered.err


def test_check_loads_no_database_driver(process: Command, config: Path) -> None:
    answered = process("check", "--json", folder=config.parent, PYTHONPROFILEIMPORTTIME="1")

    assert json.loads(answered.out)["problems"] == []
    assert " yaml\n" in answered.err
    for slow in ("sqlalchemy", "apscheduler", "psycopg", "alembic"):
        assert f" {slow}\n" not in answered.err


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_command_explains_itself(command: Command, name: str) -> None:
    assert command(name, "--help").out.startswith(f"Usage: scheduler-service {name}")


def test_what_nobody_foresaw_is_our_fault_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_down(**_: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(commands, "main", break_down)
    monkeypatch.setattr("scheduler_service.cli._end_soon", lambda _: None)  # this process goes on
    with pytest.raises(SystemExit) as stopped:
        main(["status"])

    assert stopped.value.code == 70
    shown = capsys.readouterr().err
    assert "RuntimeError: unforeseen" in shown
    assert shown.endswith("please report it with the lines above\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0123, "12ms"),
        (3.44, "3.4s"),
        (310, "5m 10s"),
        (7500, "2h 5m"),
        (90_000, "1d 1h"),
        (86_400, "1d"),
    ],
)
def test_a_duration_is_as_short_as_it_is_useful(seconds: float | None, text: str) -> None:
    assert span(seconds) == text

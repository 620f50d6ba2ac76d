"""`check` and `next`: what the configuration says, without a database.

The times are counted from this machine's clock, for a person to look at; the service goes by the database's.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from scheduler_service.cli.options import config_option, json_option, load_config, moment
from scheduler_service.cli.output import Mistake, Problems, did_you_mean, say, shown, write_json, write_table
from scheduler_service.config import Config, ConfigError, Problem, callable_warnings, check_callables
from scheduler_service.model import JobSpec
from scheduler_service.moments import iso, local

SHOWN_BY_CHECK = 3
MOST_TICKS = 10_000


@click.command("check")
@config_option
@json_option
@click.pass_context
def check_command(ctx: click.Context, config_path: Path | None, as_json: bool) -> None:
    """Read the configuration, load the jobs, show problems, warnings and each job's next three ticks.

    Needs no database and runs no job.  Exit code 2 if anything is wrong.
    """
    try:
        config = load_config(config_path)
    except Problems as mistake:
        if not as_json:
            raise
        write_json({"problems": [_problem(problem) for problem in mistake.problems], "warnings": [], "jobs": []})
        ctx.exit(Problems.exit_code)
    problems = check_callables(config)
    if "database.url" in config.places:
        from scheduler_service.database.configured import check_url  # noqa: PLC0415  # loads the drivers: takes 0.2 s

        problems = (*check_url(config), *problems)
    warnings = (*config.warnings, *callable_warnings(config))
    now = datetime.now(UTC)
    ticks = {spec.id: _ticks(spec, now, SHOWN_BY_CHECK) for spec in config.jobs}
    if as_json:
        write_json(
            {
                "problems": [_problem(problem) for problem in problems],
                "warnings": [_problem(warning) for warning in warnings],
                "jobs": [{"job": job, "next": [iso(tick) for tick in coming]} for job, coming in ticks.items()],
            }
        )
        ctx.exit(Problems.exit_code if problems else 0)
    for warning in warnings:
        say(f"warning: {warning}", err=True)
    if problems:
        raise Problems(ConfigError(problems))
    found = _counted(len(warnings), "warning") if warnings else "nothing wrong"
    say(f"{config.file}: {_counted(len(config.jobs), 'job')}, {found}")
    if config.jobs:
        click.echo()
        write_table(
            ["JOB", "SCHEDULE", "NEXT", "THEN", "AND THEN"],
            [[spec.id, _schedule(spec), *_cells(spec, ticks[spec.id])] for spec in config.jobs],
            shrink="SCHEDULE",
        )


@click.command("next")
@config_option
@click.option(
    "--count", type=click.IntRange(1, MOST_TICKS), default=SHOWN_BY_CHECK, show_default=True, help="Ticks of each job."
)
@click.option("--from", "start", metavar="TIME", help="Not before this time, instead of now.")
@json_option
@click.argument("job", required=False)
def next_command(config_path: Path | None, job: str | None, count: int, start: str | None, as_json: bool) -> None:
    """Show the coming ticks of JOB, or of all jobs, with the local time of their zone.

    TIME is ISO 8601; without an offset it is in the zone of the job, or of the service.
    """
    config = load_config(config_path)
    specs = {spec.id: spec for spec in config.jobs}
    if job is not None and job not in specs:
        raise Mistake(f"there is no job {job!r} in {config.file}{did_you_mean(job, specs)}")
    chosen = [specs[job]] if job is not None else [spec for spec in config.jobs if spec.enabled]
    after = datetime.now(UTC)
    if start is not None:
        zone = _zone(config, chosen[0]) if job is not None else config.service.timezone
        after = moment(start, zone) - timedelta(microseconds=1)
    coming = sorted((tick, spec.id) for spec in chosen for tick in spec.schedule.between(after, _far(after), count))
    zones = {spec.id: _zone(config, spec) for spec in chosen}
    if as_json:
        write_json(
            [
                {
                    "job": job_id,
                    "scheduled_at": iso(tick),
                    "local": local(tick, zones[job_id]),
                    "timezone": zones[job_id],
                }
                for tick, job_id in coming
            ]
        )
    elif coming:
        write_table(
            ["JOB", "SCHEDULED AT", "LOCAL", "TIMEZONE"],
            [[job_id, shown(tick), local(tick, zones[job_id]), zones[job_id]] for tick, job_id in coming],
        )
    else:
        say("no tick comes", err=True)
    if job is not None and not specs[job].enabled:
        say(f"{job} is disabled: these ticks will not run", err=True)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _problem(problem: Problem) -> Mapping[str, Any]:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "path": problem.path,
        "message": problem.message,
    }


def _ticks(spec: JobSpec, now: datetime, count: int) -> list[datetime]:
    return spec.schedule.between(now, _far(now), count) if spec.enabled else []


def _cells(spec: JobSpec, ticks: list[datetime]) -> list[str]:
    cells = [shown(tick) for tick in ticks]
    if not cells:
        never = "manual" if spec.schedule.canonical == "manual" else "no more"
        cells = [never if spec.enabled else "disabled"]
    return cells + [""] * (SHOWN_BY_CHECK - len(cells))


def _schedule(spec: JobSpec) -> str:
    zone = spec.schedule.timezone
    return spec.schedule.canonical if zone == "UTC" else f"{spec.schedule.canonical} {zone}"


def _zone(config: Config, spec: JobSpec) -> str:
    # Only cron expressions have a zone of their own; a person reads the others in the service's.
    return spec.schedule.timezone if spec.schedule.has_zone else config.service.timezone


def _far(now: datetime) -> datetime:
    # A schedule that comes at all comes within 50 years.
    return now + timedelta(days=366 * 100)

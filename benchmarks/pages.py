"""How long each call of the API and each page takes over a long history.

    python -m benchmarks.pages [--jobs 10000] [--runs 1000000] [--calls 100] [--explain]

A database of its own is filled as if the jobs had run for weeks: most runs went well, some failed, were missed
or skipped, or wait; each job has ranges and triggered runs.  A real server then answers real requests, one at a
time.  `first` is the first call after the start, when nothing is remembered yet.  --explain prints the plan of
every statement that took part, with its time on the server.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import event, select, text

from scheduler_service import tables
from scheduler_service.config import load
from scheduler_service.database import Database
from scheduler_service.events import Events
from scheduler_service.service import assemble
from scheduler_service.web import Server, View, view_of
from scheduler_service.web.app import create_app
from tests.servers import PostgresServer

FILL_SECONDS = 7200.0
SETTINGS = {"shared_buffers": "256MB", "max_wal_size": "4GB"}  # of a server that shall hold a long history
_numbers = itertools.count()

# Every job has run about once in ten minutes: the newest tick of all jobs is now, and their runs alternate.
POSTGRESQL = """
insert into {p}job_state (lock_id, job_id, schedule, timezone, enabled, accountable_from, settled_until, present_at,
    paused_at, paused_by)
  select 1, 'job-' || lpad(n::text, 5, '0'), {schedule}, case when n % 3 = 0 then 'Europe/Berlin' else 'UTC' end,
    n % 50 <> 0, now() - interval '60 days', now(), now(), case when n % 200 = 1 then now() end,
    case when n % 200 = 1 then 'somebody' end
  from generate_series(0, :jobs - 1) n;
insert into {p}run (lock_id, job_id, scheduled_at, until, due_at, kind, state, reason, attempt, decided_at, decided_by,
    requested_by, request_key)
  select 1, 'job-' || lpad((n % :jobs)::text, 5, '0'), at, case when what = 999 then at + interval '5 minutes' end, at,
    case when what = 999 then 'range' when what >= 990 then 'manual' when what >= 980 then 'catch_up'
         else 'scheduled' end,
    case when what = 999 then 'skipped' when what < 20 then 'failed' when what < 22 then 'timed_out'
         when what < 40 then 'missed' when what < 60 then 'skipped' else 'succeeded' end,
    case when what = 999 then 'paused' when what between 22 and 39 then 'coalesced'
         when what between 40 and 59 then 'overlap' end,
    case when what = 999 or what between 22 and 59 then 0 else 1 end, at + interval '20 milliseconds', 'replica-1',
    case when what between 990 and 998 then 'somebody' end, case when what between 990 and 998 then 'key-' || n end
  from (select n, (n * 7919::bigint + n / :jobs * 31) % 1000 as what,
               now() - (:runs - n) / :jobs * interval '10 minutes' - (n % :jobs) * interval '50 milliseconds' as at
        from generate_series(1::bigint, :runs) n) rows;
insert into {p}run_attempt (run_id, attempt, term, instance_id, started_at, finished_at, state, error, exit_code)
  select id, 1, 1000, 'replica-1', due_at + interval '40 milliseconds', due_at + interval '1 second', state,
    case when state = 'failed' then repeat('Traceback: something went wrong in a line of a file\n', 10) end, 0
  from {p}run where attempt = 1;
insert into {p}run_output (attempt_id, text) select id, repeat('a line of output\n', 20) from {p}run_attempt
  where id % 10 = 0;
insert into {p}leader_term (lock_id, term, leader_id, acquired_at, ended_at, end_reason)
  select 1, n, 'replica-' || n % 3, now() - (1001 - n) * interval '1 hour', now() - (1000 - n) * interval '1 hour',
    'released' from generate_series(1, 1000) n;
insert into {p}leader_lease (id, leader_id, term, expires_at, created_at, lease_seconds)
  values (1, 'replica-1', 1000, now() + interval '1 day', now() - interval '1 hour', 86400);
insert into {p}replica (instance_id, lock_id, host, pid, version, config_hash, config_loaded_at, started_at, seen_at)
  select 'replica-' || n, 1, 'host', n, '0.1.0', 'abc', now(), now() - interval '1 day', now()
  from generate_series(0, 2) n;
update {p}run set state = 'waiting', reason = 'queued', attempt = 0 where id in
  (select id from {p}run order by id desc limit 20);
update {p}run set state = 'running', slot_held = true, slot = 0 where id in
  (select id from {p}run where state = 'succeeded' order by id desc limit 40)
"""
SCHEDULES = "case n % 4 when 0 then '*/5 * * * *' when 1 then (n / 4 % 60) || ' * * * *' "
SCHEDULES += "when 2 then (n / 4 % 60) || ' ' || (n / 240 % 24) || ' * * *' else 'every ' || (1 + n % 59) || 'm' end"

CALLS = {
    "livez": "/livez",
    "status": "/api/v1/status",
    "jobs": "/api/v1/jobs?limit=100",
    "jobs, the last": "/api/v1/jobs?limit=100&after=job-{last}",
    "jobs, attention": "/api/v1/jobs?limit=100&attention=true",
    "job": "/api/v1/jobs/job-00042",
    "job's ticks": "/api/v1/jobs/job-00042/ticks?limit=100&count=100",
    "why": "/api/v1/jobs/job-00042/why?at={tick}",
    "runs": "/api/v1/runs?limit=100",
    "runs, half-way": "/api/v1/runs?limit=100&after={middle}",
    "runs of a job": "/api/v1/runs?limit=100&job=job-00042",
    "runs of no job": "/api/v1/runs?limit=100&job=nobody",
    "runs, failed": "/api/v1/runs?limit=100&state=failed",
    "runs, lost (none)": "/api/v1/runs?limit=100&state=lost",
    "runs, waiting": "/api/v1/runs?limit=100&state=waiting",
    "runs, running": "/api/v1/runs?limit=100&state=running",
    "runs, manual": "/api/v1/runs?limit=100&kind=manual",
    "runs, ranges": "/api/v1/runs?limit=100&kind=range",
    "runs, manual, lost": "/api/v1/runs?limit=100&kind=manual&state=lost",
    "runs of an hour": "/api/v1/runs?limit=100&since=2h&until=1h",
    "runs of a second": "/api/v1/runs?limit=100&since=1s",
    "failed of a job": "/api/v1/runs?limit=100&job=job-00042&state=failed",
    "a run": "/api/v1/runs/{run}",
    "leadership": "/api/v1/leadership",
    "replicas": "/api/v1/replicas",
    "next": "/api/v1/next?limit=100",
    "unknown job": "/api/v1/jobs/nobody",
    # Pages are kept for a second: each call asks for one that nobody asked for before.
    "page: overview": "/?fresh={fresh}",
    "page: kept": "/",
    "page: the last jobs": "/?page=200&fresh={fresh}",
    "page: search": "/?q=77&fresh={fresh}",
    "page: failing": "/?show=failing&fresh={fresh}",
    "page: running": "/?show=running&fresh={fresh}",
    "page: job": "/jobs/job-00042?fresh={fresh}",
    "page: why": "/jobs/job-00042/why?at={tick}&fresh={fresh}",
    "page: run": "/runs/{run}?fresh={fresh}",
    "page: leadership": "/leadership?fresh={fresh}",
}


def main() -> None:
    """Fill a database, ask, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--calls", type=int, default=100, help="how often each call is made")
    parser.add_argument("--url", help="a database that was filled before, or an empty one to fill")
    parser.add_argument("--explain", action="store_true", help="print the plans of the statements")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pages-") as folder, _database(options.url) as url:
        fill(url, options.jobs, options.runs)
        view = _view(Path(folder), url)
        server = Server(lambda: create_app(view), host="127.0.0.1", port=0, events=view.parts.events, close=view.close)
        server.start()
        _measure(view, urlsplit(server.url), options)
        server.stop(1.0)


@contextmanager
def _database(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with PostgresServer(SETTINGS) as server:
        yield server.url


def fill(url: str, jobs: int, runs: int) -> None:
    """Fill an empty database; one that has runs is left as it is."""
    database = Database(url, statement_seconds=FILL_SECONDS)
    tables.upgrade(database)
    with database.connect() as connection:
        prefix = database.prefix
        if connection.execute(select(tables.run.c.id).limit(1)).first() is not None:
            return
        began = time.monotonic()
        for statement in POSTGRESQL.format(p=prefix, schedule=SCHEDULES).split(";\n"):
            connection.execute(text(statement), {"jobs": jobs, "runs": runs})
        connection.execute(text("vacuum analyze"))
    database.dispose()
    print(f"filled with {jobs:,} jobs and {runs:,} runs in {time.monotonic() - began:.0f} s\n")


def _view(folder: Path, url: str) -> View:
    path = folder / "config.yaml"
    path.write_text(f"version: 1\ndatabase: {{url: '{url}'}}\njobs: {{a: {{command: 'true', every: 1h}}}}\n")
    config = load(path)
    return view_of(config, assemble(config, Events()))


def _measure(view: View, address: Any, options: argparse.Namespace) -> None:
    newest = view.history.runs(job_id="job-00042", limit=50)
    middle = newest[-1]
    names = {
        "last": f"{options.jobs - 50:05}",
        "tick": newest[10].scheduled_at.isoformat().replace("+00:00", "Z"),
        "run": middle.id,
        "fresh": "{fresh}",
        "middle": f"{round(middle.scheduled_at.timestamp() * 1e6)}.{middle.id}",
    }
    print(f"{'milliseconds':20} {'first':>8} {'p50':>8} {'p99':>8} {'max':>8} {'bytes':>9}")
    for name, path in CALLS.items():
        ask = asker(address, path.format(**names))
        first, (status, size) = timed(ask)
        if status >= 400 and name != "unknown job":
            print(f"{name:20} answered {status}")
        took = sorted(timed(ask)[0] for _ in range(options.calls))
        figures = (first, statistics.median(took), took[int(len(took) * 0.99) - 1], took[-1])
        print(f"{name:20} " + " ".join(f"{one * 1000:8.1f}" for one in figures) + f" {size:9,}")
    if options.explain:
        for name, path in CALLS.items():
            _explain(view, name, asker(address, path.format(**names)))


def asker(address: Any, path: str) -> Callable[[], tuple[int, int]]:
    """Return what makes a call and returns status and length of the answer; `{fresh}` is another number each time."""
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)

    def ask() -> tuple[int, int]:
        connection.request("GET", path.replace("{fresh}", str(next(_numbers))))
        answer = connection.getresponse()
        return answer.status, len(answer.read())

    return ask


def timed(ask: Callable[[], tuple[int, int]]) -> tuple[float, tuple[int, int]]:
    """Make a call; return how many seconds it took, and its answer."""
    began = time.perf_counter()
    answer = ask()
    return time.perf_counter() - began, answer


def _explain(view: View, name: str, ask: Callable[[], tuple[int, int]]) -> None:
    """Make the call again, and print the plans of what it asked."""
    asked: list[tuple[str, Any]] = []
    database = view.history._database
    (engine,) = database._engines.values()

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any) -> None:
        if "explain" not in statement:
            asked.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    ask()
    event.remove(engine, "before_cursor_execute", note)
    print(f"\n=== {name}")
    with database.connect() as connection:
        for statement, parameters in asked:
            if "FROM" not in statement.split():
                continue
            plan = connection.exec_driver_sql(f"explain (analyze, buffers) {statement}", parameters).scalars()
            print("\n".join(line for line in plan), "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()

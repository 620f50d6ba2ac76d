"""The API is as its OpenAPI document says, whatever it is asked: a replica at work, and requests by the hundred."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import process_environment
from tests.faults.fleet import Fleet, Replica
from tests.web.serving import TOKEN, Site, serving

JOBS = {
    "note": {"run": "tally:nothing", "every": "500ms"},
    "says.script": {"command": "echo '<script>alert(1)</script>'; exit 3", "every": "1s"},
    "sleeps": {"command": "sleep 600", "manual": True},
    "nightly": {"command": "true", "cron": "30 2 * * *", "timezone": "Europe/Berlin"},
}
# What cannot be said in a schema is refused with 422: a time that is none, a pause that ends in the past.
LEFT_OUT = "positive_data_acceptance"
SHORT, LONG = 4, 150  # requests of each kind to each operation
LIMIT_SECONDS = 3600


@pytest.fixture(params=["postgresql", pytest.param("sqlite", marks=pytest.mark.long)])
def replica(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Replica]:
    """A replica that leads and runs jobs."""
    name = "migrated_postgres_url" if request.param == "postgresql" else "sqlite_url"
    http = {"enabled": True, "port": 0, "token": TOKEN}
    with Fleet(tmp_path, request.getfixturevalue(name), JOBS, http=http) as fleet:
        (replica,) = fleet.start()
        replica.wait_for("run_finished")
        yield replica
        # None of what was asked is a fault of ours: not in the log either.
        assert not list(fleet.said("request_failed"))
        assert not list(fleet.said("http_failed"))
        assert replica.alive


def put_to_the_test(replica: Replica, folder: Path, examples: int, seed: int) -> None:
    address = replica.wait_for("service_started")["http"]
    command = [
        sys.executable, "-m", "schemathesis.cli", "--no-color", "run", f"{address}/api/v1/openapi.json",
        "--header", f"Authorization: Bearer {TOKEN}", "--include-path-regex", "^/api/",
        "--checks", "all", "--exclude-checks", LEFT_OUT,
        "--max-examples", str(examples), "--seed", str(seed),
    ]  # fmt: skip
    # What it remembers of a run stays in the test's folder.
    done = subprocess.run(
        command,
        cwd=folder,
        env=process_environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stdout[-8000:]}\n{done.stderr[-2000:]}"


def test_no_request_gets_an_answer_that_is_not_described(replica: Replica, tmp_path: Path) -> None:
    put_to_the_test(replica, tmp_path, SHORT, seed=1)


@pytest.mark.long
def test_no_request_of_very_many_gets_an_answer_that_is_not_described(replica: Replica, tmp_path: Path) -> None:
    put_to_the_test(replica, tmp_path, LONG, seed=random.randrange(2**32))


def test_everything_is_described(migrated_sqlite_url: str, tmp_path: Path) -> None:
    with serving(tmp_path, migrated_sqlite_url) as site:
        document = site.get("/api/v1/openapi.json").document
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["description"], (method, path)
            if path.startswith("/api/"):
                assert operation["security"] == ([{}] if method == "get" else [{"token": []}])
                for status, answer in operation["responses"].items():
                    kinds = set(answer["content"])
                    expected = {"application/json"} if status < "400" else {"application/problem+json"}
                    assert kinds == expected, (method, path, status)
    names = [name for path in document["paths"] for name in ("{job}", "{run}") if name in path]
    assert len(names) >= 8
    json.dumps(document, allow_nan=False)


def test_a_token_for_reading_is_described_where_it_is_needed(migrated_sqlite_url: str, tmp_path: Path) -> None:
    with serving(tmp_path, migrated_sqlite_url, read_token="may-read") as site:
        assert isinstance(site, Site)
        document = site.get("/api/v1/openapi.json", token="may-read").document
    assert document["paths"]["/api/v1/status"]["get"]["security"] == [{"read_token": []}, {"token": []}]

"""Which differences between two configurations a running service cannot take over."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler_service.config import Config, json_schema, load, restart_needed
from scheduler_service.config.restart import TAKEN_OVER
from scheduler_service.config.settings import SECTIONS

JOBS = "jobs: {a: {command: x, every: 5m}}\n"
OTHER = {  # one other value for every setting outside jobs and defaults
    "service": {"name": "x", "timezone": "Europe/Berlin", "jobs_folder": "other", "shutdown_grace": "5s"},
    "database": {
        "url": "postgresql://u:s3cret@h/n", "schema": "other", "create_tables": "false", "startup_timeout": "5s"
    },
    "election": {
        "lock_id": "2", "lease_duration": "20s", "renewal_interval": "2s", "jitter_range": "1s", "instance_id": "x",
        "attempt_timeout": "1s", "safety_margin": "500ms", "crash_detection": "off", "lost_after": "30s",
    },
    "workers": {"threads": "5", "processes": "5"},
    "history": {"keep_for": "1d", "keep_runs": "5", "output_limit": "1KiB"},
    "http": {"enabled": "false", "host": "0.0.0.0", "port": "80", "token": "s3cret", "read_token": "s3cret"},
    "logging": {"level": "debug", "format": "json"},
}  # fmt: skip
SETTINGS = [(section, key, value) for section, keys in OTHER.items() for key, value in keys.items()]


@pytest.fixture
def read(tmp_path: Path):
    """Return a function that reads a configuration with this text after its version."""

    def read(text: str, environ: dict[str, str] | None = None) -> Config:
        (tmp_path / "config.yaml").write_text(f"version: 1\n{text}")
        return load(tmp_path / "config.yaml", environ or {})

    return read


def test_every_setting_of_a_section_is_tried_here():
    properties = json_schema()["properties"]
    assert {section: set(keys) for section, keys in OTHER.items()} == {
        section: set(properties[section]["properties"]) for section in SECTIONS
    }


@pytest.mark.parametrize(("section", "key", "value"), SETTINGS, ids=[f"{s}.{k}" for s, k, _ in SETTINGS])
def test_a_changed_setting_is_named_unless_it_is_taken_over(read, section, key, value):
    old, new = read(JOBS), read(f"{section}: {{{key}: {value}}}\n{JOBS}")

    expected = () if f"{section}.{key}" in TAKEN_OVER else (f"{section}.{key}",)
    assert restart_needed(old, new) == restart_needed(new, old) == expected


def test_jobs_and_defaults_need_no_restart(read, tmp_path):
    (tmp_path / "more.yaml").write_text("jobs: {b: {command: x, every: 5m}}\n")
    old = read(JOBS)
    new = read("include: more.yaml\ndefaults: {overlap: allow}\njobs: {a: {command: y, every: 1m}}\n")

    assert (len(old.jobs), len(new.jobs)) == (1, 2)
    assert restart_needed(old, new) == ()


def test_several_are_named_in_the_order_of_the_sections_and_none_is_shown(read):
    text = "http: {token: '${TOKEN}'}\nworkers: {threads: 5}\nservice: {name: '${NAME}', timezone: Europe/Berlin}\n"
    old, new = (read(text + JOBS, {"TOKEN": word, "NAME": word}) for word in ("s3cret", "other"))

    assert restart_needed(old, new) == ("service.name", "http.token")
    assert restart_needed(new, new) == ()


def test_the_same_value_from_elsewhere_is_no_change(read):
    old, new = read("workers: {threads: 5}\n" + JOBS), read("workers: {threads: '${N}'}\n" + JOBS, {"N": "5"})

    assert restart_needed(old, new) == ()

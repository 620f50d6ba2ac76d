"""The JSON Schema that editors get, the files that `init` writes, and the example: all follow the models."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import yaml

from scheduler_service.callables import find
from scheduler_service.config import check_callables, document, json_schema, load, starter_files
from scheduler_service.config.composites import plain_data
from scheduler_service.config.problems import Report
from scheduler_service.config.sections import fields
from scheduler_service.config.settings import SECTIONS, Job, Policies, RetrySettings
from scheduler_service.config.values import duration
from scheduler_service.context import RunContext
from tests.unit import config_golden

ROOT = Path(__file__).parent.parent.parent
SCHEMA = json_schema()
KEYWORDS = {
    *("$schema", "$defs", "$ref", "title", "description", "default", "type", "enum", "const", "pattern", "minimum"),
    *("maximum", "minItems", "uniqueItems", "items", "properties", "patternProperties", "additionalProperties"),
    *("required", "anyOf", "oneOf", "allOf"),
}


def as_the_service_reads_it(path: Path) -> Any:
    """Return the data of a file, scalars as our resolver takes them."""
    node = document.read(path.read_text(encoding="utf-8"), Report("file"))
    return plain_data(node) if node is not None else None


def faults(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Return where `value` does not follow `schema`: those keywords of JSON Schema that ours uses."""
    assert schema.keys() <= KEYWORDS
    found: list[str] = []
    if "$ref" in schema:
        found += faults(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], path)
    types = schema.get("type")
    if types is not None and not any(is_of(value, name) for name in ([types] if isinstance(types, str) else types)):
        return [f"{path}: not {types}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: not one of {schema['enum']}")
    if "const" in schema and (value != schema["const"] or type(value) is not type(schema["const"])):
        found.append(f"{path}: not {schema['const']}")
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{path}: {value} does not match")
    if is_of(value, "number") and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(f"{path}: out of range")
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0) or (schema.get("uniqueItems") and len(set(value)) < len(value)):
            found.append(f"{path}: wrong items")
        for index, item in enumerate(value):
            found += faults(item, schema.get("items", {}), f"{path}[{index}]")
    if isinstance(value, dict):
        found += [f"{path}: {key} is missing" for key in schema.get("required", ()) if key not in value]
        for key, item in value.items():
            matching = [s for pattern, s in schema.get("patternProperties", {}).items() if re.search(pattern, key)]
            below = schema.get("properties", {}).get(key) or (matching[0] if matching else None)
            more = schema.get("additionalProperties", True)
            if below is None and more is False:
                found.append(f"{path}.{key}: not known")
            else:
                found += faults(item, below or (more if isinstance(more, dict) else {}), f"{path}.{key}")
    found += [fault for part in schema.get("allOf", ()) for fault in faults(value, part, path)]
    if "anyOf" in schema and all(faults(value, part, path) for part in schema["anyOf"]):
        found.append(f"{path}: none of the alternatives")
    if "oneOf" in schema and sum(not faults(value, part, path) for part in schema["oneOf"]) != 1:
        found.append(f"{path}: not exactly one")
    return found


def is_of(value: Any, name: str) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {
        "null": value is None,
        "boolean": isinstance(value, bool),
        "integer": number and isinstance(value, int),
        "number": number,
        "string": isinstance(value, str),
        "array": isinstance(value, list),
        "object": isinstance(value, dict),
    }[name]


def test_the_schema_is_plain_json_and_describes_every_setting():
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert set(SCHEMA["properties"]) == {"version", "include", *SECTIONS, "defaults", "jobs"}
    described = [*SCHEMA["properties"].values(), SCHEMA["$defs"]["job"]]
    for part in described:
        assert part["description"]
        for setting in part.get("properties", {}).values():
            assert setting["description"]
    assert set(SCHEMA["$defs"]["job"]["properties"]) == {key for key, *_ in fields(Job)}
    election = SCHEMA["properties"]["election"]["properties"]
    assert election["lease_duration"]["default"] == "10s"
    assert SCHEMA["properties"]["history"]["properties"]["output_limit"]["default"] == "64KiB"
    assert SCHEMA["properties"]["database"]["properties"]["url"]["default"] == "sqlite:///scheduler.db"
    assert SCHEMA["$defs"]["job"]["properties"]["overlap"]["default"] == "skip"
    assert SCHEMA["$defs"]["job"]["properties"]["retry"]["properties"]["for"]["default"] == ["error", "timeout"]


@pytest.mark.parametrize("name", [name for name in config_golden.names() if name.startswith("valid_")])
def test_what_the_service_accepts_follows_the_schema(name):
    assert faults(as_the_service_reads_it(config_golden.FOLDER / f"{name}.yaml"), SCHEMA) == []


@pytest.mark.parametrize(
    "name",
    ["keys_unknown", "keys_of_other_tools", "values_booleans", "values_durations", "values_sizes", "values_numbers",
     "values_words", "values_references", "values_commands", "values_sections", "relation_schedule_count",
     "relation_what_count", "defaults_hold_policies_only", "version_missing", "version_quoted", "jobs_missing",
     "include_map", "include_wrong"],
)  # fmt: skip
def test_what_an_editor_can_see_to_be_wrong_does_not_follow_the_schema(name):
    assert faults(as_the_service_reads_it(config_golden.FOLDER / f"{name}.yaml"), SCHEMA)


def test_the_files_of_init_are_a_working_configuration(tmp_path, capsys):
    files = starter_files()
    assert set(files) == {"config.yaml", "jobs/example.py"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    config = load(tmp_path / "config.yaml", {})
    assert (check_callables(config), config.warnings) == ((), ())
    assert [job.id for job in config.jobs] == ["hello", "clock"]
    assert find("example:hello", config.service.jobs_folder)(**config.jobs[0].kwargs) == "hello, world"


# The example

EXAMPLE = ROOT / "config.example.yaml"


def test_the_example_runs_as_it_stands():
    config = load(EXAMPLE, {})
    assert (check_callables(config), config.warnings) == ((), ())
    assert config.database.url.get_secret_value() == f"sqlite:///{ROOT}/scheduler.db"
    enabled = [job for job in config.jobs if job.enabled]
    assert len(enabled) >= 4
    assert any(job.schedule.canonical == "every 5s" for job in enabled)
    with_endpoint = load(EXAMPLE, {"CHECK_ENDPOINT": "true", "ENDPOINT_URL": "https://example.com"})
    assert all(job.enabled for job in with_endpoint.jobs)


def test_the_example_follows_the_schema():
    assert faults(as_the_service_reads_it(EXAMPLE), SCHEMA) == []


def test_the_example_shows_how_to_include_files(tmp_path):
    text = EXAMPLE.read_text(encoding="utf-8")
    (tmp_path / "jobs.d").mkdir()
    (tmp_path / "jobs.d" / "more.yaml").write_text("version: 1\njobs: {more: {command: x, every: 5m}}\n")
    (tmp_path / "config.yaml").write_text(text.replace("\n# include:", "\ninclude:"))
    assert [job.id for job in load(tmp_path / "config.yaml", {}).jobs][-1] == "more"
    for name in ("config.yaml", "jobs.d/more.yaml"):
        assert faults(as_the_service_reads_it(tmp_path / name), SCHEMA) == []


@pytest.mark.parametrize("section", SECTIONS)
def test_the_example_shows_every_setting_of_a_section_with_its_default(section):
    text = EXAMPLE.read_text(encoding="utf-8")
    block = text.partition(f"\n{section}:")[2]
    block = re.split(r"\n(?=[a-z])", block)[0]
    written = yaml.load(re.sub(r"(?m)^  # (?=[a-z_]+: )", "  ", f"x:{block}"), Loader=yaml.BaseLoader)["x"]
    for key, _, kind, default in fields(SECTIONS[section]):
        assert key in written, f"{section}.{key}"
        if re.search(rf"(?m)^  # {key}: ", block):
            shown = kind.write(default)
            assert written[key] == (str(shown).lower() if isinstance(shown, bool) else str(shown)), f"{section}.{key}"


def test_the_example_shows_every_setting_of_a_job_with_its_default():
    text = EXAMPLE.read_text(encoding="utf-8").partition("Every setting of a job")[2]
    block = re.sub(r"(?m)^  # ", "", text[text.index("  # some-id") :])
    written = yaml.load(block, Loader=yaml.BaseLoader)["some-id"]
    assert set(written) == {key for key, *_ in fields(Job)}
    for key, name, kind, default in [*fields(Policies), *fields(RetrySettings)]:
        found = written.get(key, written["retry"].get(key))
        if isinstance(default, timedelta):
            assert duration(found) == default, key
        elif name != "retry":
            shown = kind.write(default)
            assert found == (shown if isinstance(shown, list) else str(shown).removesuffix(".0")), key


def test_the_jobs_of_the_example_do_what_they_say(tmp_path, monkeypatch):
    folder = ROOT / "jobs"
    now = datetime.now(UTC)
    run = RunContext("heartbeat", now, now, 7, 8, 1, 9, "replica-1", Event())
    find("heartbeat:beat", folder)(str(tmp_path / "beat.txt"), run=run)
    find("heartbeat:beat", folder)(str(tmp_path / "beat.txt"), run=run)
    assert "replica-1 term 7" in (tmp_path / "beat.txt").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["beat.txt"]

    old, young, other = (tmp_path / name for name in ("old.tar.gz", "young.tar.gz", "old.txt"))
    for path in (old, young, other):
        path.write_text("")
    for path in (old, other):
        os.utime(path, (time.time() - 20 * 86_400,) * 2)
    prune = find("cleanup:prune", folder)
    assert prune(str(tmp_path), "*.tar.gz", 14, run) == 1
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)
    assert prune(str(tmp_path / "missing")) == 0
    with pytest.raises(ValueError, match="less than one"):
        prune(str(tmp_path), days=0)

    check = find("disk:check", folder)
    assert set(asyncio.run(check([str(tmp_path)], 0))) == {str(tmp_path)}
    with pytest.raises(RuntimeError, match="expected 101%"):
        asyncio.run(check([str(tmp_path)], 101))

    answers = []

    class Answer:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            answers.append("closed")

        status = 204

        def read(self, count):
            return b""

    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Answer())
    page = find("endpoint:check", folder)
    assert page("http://localhost/", 1, 204).startswith("204 in ")
    with pytest.raises(RuntimeError, match="answered 204, not 200"):
        page("http://localhost/")
    with pytest.raises(ValueError, match="not an HTTP address"):
        page("file:///etc/passwd")
    assert answers == ["closed", "closed"]

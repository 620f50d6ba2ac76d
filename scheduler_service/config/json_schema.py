"""The JSON Schema of the file, made from the models, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any

from scheduler_service.config import including
from scheduler_service.config.composites import object_schema
from scheduler_service.config.settings import JOB_ID, SECTIONS, Job, Policies
from scheduler_service.config.timing import KINDS
from scheduler_service.config.top import VERSION


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the configuration file.

    An included file follows it, too, if it has a version.  It says what an editor can check: keys, words, forms of
    values.  `check` knows more: zones, cron
    expressions, relations between settings.
    """
    sections = {name: {"description": model.__doc__, **object_schema(model)} for name, model in SECTIONS.items()}
    job = object_schema(Job)
    job["properties"]["manual"] = {**job["properties"]["manual"], "const": True}
    job |= {
        "type": "object",
        "allOf": [
            {"oneOf": [{"required": [key]} for key in ("run", "command")]},
            {"oneOf": [{"required": [key]} for key in KINDS]},
        ],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of scheduler-service",
        "type": "object",
        "additionalProperties": False,
        "required": ["version"],
        "anyOf": [{"required": [key]} for key in ("jobs", "include")],
        "properties": {
            "version": {"description": "The version of this format.", "const": VERSION},
            "include": including.SCHEMA,
            **sections,
            "defaults": {"description": Policies.__doc__, **object_schema(Policies)},
            "jobs": {
                "description": "The jobs by their ids.",
                "type": ["object", "null"],
                "additionalProperties": False,
                "patternProperties": {f"^{JOB_ID}$": {"$ref": "#/$defs/job"}},
            },
        },
        "$defs": {"job": {"description": Job.__doc__, **job}},
    }

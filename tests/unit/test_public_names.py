"""What the package offers by name, and that it costs nothing until it is asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import scheduler_service


@pytest.mark.parametrize("name", scheduler_service.__all__)
def test_a_public_name_is_the_thing_itself(name: str) -> None:
    module = importlib.import_module(f"scheduler_service.{scheduler_service._MODULES[name]}")
    assert getattr(scheduler_service, name) is getattr(module, name)
    assert name in dir(scheduler_service)


def test_every_public_name_has_a_module() -> None:
    assert sorted(scheduler_service._MODULES) == sorted(scheduler_service.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'scheduler_service' has no attribute 'Electro'"):
        scheduler_service.Electro  # noqa: B018


def test_modules_are_still_found_behind_the_names() -> None:
    from scheduler_service import events

    assert events.__name__ == "scheduler_service.events"


def loaded_after(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded because of `statement`, and ours."""
    program = (
        f"import sys; before = set(sys.modules); {statement}\n"
        "print(*sorted({name if name.startswith('scheduler_service') else name.partition('.')[0]"
        " for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_of_it() -> None:
    loaded = loaded_after("import scheduler_service")
    assert {name for name in loaded if name.startswith("scheduler_service")} == {"scheduler_service"}
    assert not loaded & {"sqlalchemy", "pydantic", "psycopg", "typing_extensions", "structlog", "alembic", "asyncio"}


def test_a_job_that_asks_for_its_context_loads_no_database() -> None:
    assert not loaded_after("from scheduler_service import RunContext, current_run") & {"sqlalchemy", "psycopg"}


def test_an_elector_loads_neither_the_scheduler_nor_the_log() -> None:
    loaded = loaded_after("from scheduler_service import Elector, leader_only")
    assert not loaded & {"apscheduler", "structlog", "alembic", "click", "yaml", "fastapi"}

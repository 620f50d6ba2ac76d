"""The house: which module may import which, and which library is known where."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

import scheduler_service

FOLDER = Path(scheduler_service.__file__).parent
ORDER = (scheduler_service.__doc__ or "").partition("order:\n\n")[2].split()
LIBRARIES = {
    "sqlalchemy": {"database", "tables", "leases", "guard", "ledger", "migrations"},
    "psycopg": {"database", "guard"},
    "yaml": {"config"},
    "cronsim": {"schedule"},
    "zoneinfo": {"schedule", "config"},  # by name it finds the host's zones: `schedule.zone` does not
    "alembic": {"tables", "migrations"},
    "apscheduler": {"timetable"},
    "structlog": {"logs"},
    "click": {"cli"},
    "fastapi": {"web"},
    "uvicorn": {"web"},
    "jinja2": {"web"},
    "prometheus_client": {"metrics"},
}


def modules() -> list[Path]:
    return sorted(path for path in FOLDER.rglob("*.py") if path.parent != FOLDER or path.stem != "__init__")


def room(path: Path) -> str:
    return path.relative_to(FOLDER).parts[0].removesuffix(".py")


@functools.cache
def imports(path: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            if node.module == "scheduler_service":
                found |= {f"scheduler_service.{alias.name}" for alias in node.names}
    return frozenset(found)


def ours(path: Path) -> set[str]:
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("scheduler_service.")}
    return rooms - {"__version__"}


def test_every_room_has_its_place() -> None:
    assert {room(path) for path in modules()} - {"__main__", "migrations"} == set(ORDER) & {
        room(path) for path in modules()
    }


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_module_imports_only_from_modules_above_it(path: Path) -> None:
    here = room(path)
    if here == "__main__":
        return
    place = ORDER.index("tables" if here == "migrations" else here)
    below = {name for name in ours(path) if name != "migrations" and ORDER.index(name) > place}
    assert not below


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_known_only_where_it_belongs(library: str) -> None:
    known = {room(path) for path in modules() if any(name.split(".")[0] == library for name in imports(path))}
    assert known <= LIBRARIES[library]


def test_no_module_is_a_drawer_for_anything() -> None:
    assert not {path.stem for path in modules()} & {"utils", "helpers", "common", "base", "manager"}

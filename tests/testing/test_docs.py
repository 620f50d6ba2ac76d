"""docs/testing.md is true: its tests pass in a project that is made of its blocks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.usefixtures("alone")
def test_every_block_of_the_page_works(pytester: pytest.Pytester) -> None:
    ((_, config),) = [block for block in BLOCKS if block[0] == "yaml"]
    python = [text for kind, text in BLOCKS if kind == "python"]
    tests = [text for text in python if "def test_" in text]
    (job,) = [text for text in python if "def test_" not in text]
    pytester.makefile(".yaml", config=config)
    folder = pytester.mkdir("jobs")
    (folder / "report.py").write_text(job)
    pytester.makepyfile(test_page="\n\n".join(tests))
    result = pytester.runpytest_subprocess("-p", "scheduler_service.testing.plugin", "-W", "error")
    result.assert_outcomes(passed="".join(tests).count("def test_"))


def test_the_page_names_what_there_is() -> None:
    from scheduler_service.testing import Runs, World

    for name in re.findall(r"`world\.(\w+)", PAGE):
        assert hasattr(World, name), name
    for name in re.findall(r"`runs\.(\w+)", PAGE):
        assert hasattr(Runs, name), name

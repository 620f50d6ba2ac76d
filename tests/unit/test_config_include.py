"""Further files that a configuration includes: found in any layout, in one order, or answered plainly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scheduler_service.config import Config, ConfigError, check_callables, files, including, load

JOB = "{{command: {0}, every: 5m}}"
MAIN = "version: 1\ninclude: {}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs.d").mkdir()
    return tmp_path


def write(path: Path, *jobs: str) -> Path:
    """Write a file with these jobs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("jobs:\n" + "".join(f"  {job}: {JOB.format(job)}\n" for job in jobs))
    return path


def read(folder: Path, include: str, jobs: str = "") -> Config:
    (folder / "config.yaml").write_text(MAIN.format(include) + jobs)
    return load(folder / "config.yaml", {})


def refused(folder: Path, include: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, include)
    return [line.removeprefix(f"{folder}/") for line in str(caught.value).splitlines()]


def names(config: Config) -> list[str]:
    return [job.id for job in config.jobs]


# Which files


def test_files_come_in_the_order_of_patterns_and_then_of_names_and_each_once(folder: Path) -> None:
    for name in ("c", "a", "b"):
        write(folder / "jobs.d" / f"{name}.yaml", name)
    write(folder / "first.yaml", "first")

    config = read(folder, "[first.yaml, jobs.d/c.yaml, 'jobs.d/*.yaml', 'jobs.d/../jobs.d/a.yaml']", "jobs: {own: "
                  + JOB.format("x") + "}\n")  # fmt: skip

    assert names(config) == ["own", "first", "c", "a", "b"]
    assert [path.name for path in config.files] == ["config.yaml", "first.yaml", "c.yaml", "a.yaml", "b.yaml"]
    assert all(path.is_absolute() for path in (*config.files, *map(Path, config.include)))
    assert config.include[0] == f"{folder}/first.yaml"


def test_a_pattern_may_have_wildcards_at_any_level_or_be_absolute(folder: Path) -> None:
    for team in ("team-a", "team-b", "others"):
        write(folder / team / "jobs" / "x.yaml", team)
    (folder / "team-c").write_text("")

    assert names(read(folder, "team-*/jobs/[xy].yaml")) == ["team-a", "team-b"]
    assert names(read(folder, f"{folder}/*/jobs/?.yaml")) == ["others", "team-a", "team-b"]


def test_a_folder_whose_name_has_wildcards_is_that_folder(tmp_path: Path) -> None:
    write(tmp_path / "[ab]*" / "jobs.d" / "x.yaml", "x")

    config = read(tmp_path / "[ab]*", "jobs.d/*.yaml")

    assert names(config) == ["x"]
    assert config.include == (f"{tmp_path}/[[]ab][*]/jobs.d/*.yaml",)


def test_the_main_file_is_not_included_by_its_own_pattern(folder: Path) -> None:
    write(folder / "more.yaml", "more")

    assert names(read(folder, "'*.yaml'")) == ["more"]


def test_folders_and_other_things_that_match_are_no_files(folder: Path) -> None:
    write(folder / "jobs.d" / "a.yaml", "a")
    (folder / "jobs.d" / "folder.yaml").mkdir()
    os.mkfifo(folder / "jobs.d" / "pipe.yaml")  # opened, it would be waited for without end

    assert names(read(folder, "'jobs.d/*'")) == ["a"]
    assert refused(folder, "jobs.d/pipe.yaml") == ["config.yaml:2:10  include: this is not a file"]


def test_the_volume_of_a_config_map_is_read_through_its_links_and_once(folder: Path) -> None:
    volume = folder / "jobs.d"
    write(volume / "..2026_01_31_12_00_00.1" / "a.yaml", "old")
    (volume / "..data").symlink_to("..2026_01_31_12_00_00.1")
    (volume / "a.yaml").symlink_to("..data/a.yaml")
    assert names(read(folder, "'jobs.d/*'")) == ["old"]
    assert names(read(folder, "'*/*.yaml'")) == ["old"]

    write(volume / "..2026_01_31_13_00_00.2" / "a.yaml", "new")
    (volume / "..new").symlink_to("..2026_01_31_13_00_00.2")
    (volume / "..new").rename(volume / "..data")

    config = read(folder, "'jobs.d/*'")
    assert names(config) == ["new"]
    assert config.files[1:] == (volume / "a.yaml",)


def test_paths_in_an_included_file_are_relative_to_it_also_through_a_link(folder: Path) -> None:
    (folder / "jobs.d" / "word").write_text("x\n")
    (folder / "store").mkdir()
    (folder / "store" / "a.yaml").write_text(
        "jobs: {a: {command: 'echo ${file:word}', every: 5m, working_directory: work}}\n"
    )
    (folder / "jobs.d" / "a.yaml").symlink_to("../store/a.yaml")

    (job,) = read(folder, "jobs.d/a.yaml").jobs

    assert (job.command, job.working_directory) == ("echo x", folder / "jobs.d" / "work")


def test_files_are_called_as_the_main_one_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder / "jobs.d" / "a.yaml", "Wrong")
    (folder / "config.yaml").write_text(MAIN.format("jobs.d/*.yaml"))
    for current, called in ((folder, Path()), (folder.parent, Path(folder.name)), (folder / "jobs.d", Path(".."))):
        monkeypatch.chdir(current)
        with pytest.raises(ConfigError) as caught:
            load(called / "config.yaml", {})
        assert [problem.file for problem in caught.value.problems] == [str(called / "jobs.d" / "a.yaml")]
        assert caught.value.files == (current / called / "config.yaml", folder / "jobs.d" / "a.yaml")
        assert caught.value.include == (str(current / called / "jobs.d" / "*.yaml"),)


# What is wrong


def test_a_link_that_leads_nowhere_is_told_and_not_left_out(folder: Path) -> None:
    (folder / "jobs.d" / "a.yaml").symlink_to("nowhere.yaml")
    nowhere = "jobs.d/a.yaml: there is no such file, or what this link names is not there"

    assert refused(folder, "jobs.d/*.yaml") == [nowhere]
    assert refused(folder, "'*/a.yaml'") == [nowhere]


def test_a_folder_that_cannot_be_looked_into_is_a_problem_and_not_empty(folder: Path) -> None:
    (folder / "round").symlink_to("round")  # the one failure that root meets as well

    assert refused(folder, "['round/*.yaml', round/a.yaml]") == [
        f"config.yaml:2:11  include[0]: {folder}/round cannot be looked into: Too many levels of symbolic links",
        "config.yaml:2:27  include[1]: cannot be read: Too many levels of symbolic links",
    ]


def test_too_many_files_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(including, "MOST_FILES", 3)
    for number in range(3):
        write(folder / "jobs.d" / f"{number}.yaml", f"job-{number}")
    assert len(read(folder, "'*/*.yaml'").jobs) == 3

    write(folder / "jobs.d" / "3.yaml", "job-3")

    assert refused(folder, "'*/*.yaml'") == [
        "config.yaml:2:10  include: with these, more than 3 files are included; write more jobs into each"
    ]


def test_files_that_are_too_long_together_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.LONGEST_TOGETHER == 16 * 1024 * 1024
    monkeypatch.setattr(files, "LONGEST_TOGETHER", 1024 * 1024)
    for number in range(5):
        file = write(folder / "jobs.d" / f"{number}.yaml", f"job-{number}")
        file.write_text(file.read_text() + "#" * (256 * 1024 - 100))

    assert refused(folder, "jobs.d/*.yaml") == [
        "jobs.d/4.yaml: with this one, the included files are larger than 1 MiB together"
    ]


def test_what_is_wrong_with_a_function_is_told_in_the_file_that_names_it(folder: Path) -> None:
    (folder / "jobs").mkdir()
    (folder / "jobs" / "work.py").write_text("def main(a): ...\n")
    (folder / "jobs.d" / "a.yaml").write_text("jobs:\n  a: {run: 'work:main', kwargs: {b: 1}, every: 5m}\n")

    problems = check_callables(read(folder, "jobs.d/*.yaml", "jobs:\n  b: {run: 'work:mian', every: 5m}\n"))

    assert [str(problem).removeprefix(f"{folder}/") for problem in problems] == [
        "config.yaml:4:12   jobs.b.run: jobs/work.py has no function 'mian'; did you mean 'main'?",
        "jobs.d/a.yaml:2:12   jobs.a.run: main() needs 'a': give it in kwargs",
        "jobs.d/a.yaml:2:34   jobs.a.kwargs.b: main() has no parameter 'b'; it has a",
    ]


# Drift


def test_the_hash_is_that_of_the_jobs_in_whichever_files_they_are(folder: Path) -> None:
    write(folder / "jobs.d" / "a.yaml", "a", "b")
    write(folder / "jobs.d" / "c.yaml", "c")
    apart = read(folder, "jobs.d/*.yaml").hash

    write(folder / "jobs.d" / "a.yaml", "a")
    mixed = read(folder, "jobs.d/*.yaml", f"jobs: {{b: {JOB.format('b')}}}\n").hash
    (folder / "config.yaml").write_text("version: 1\n" + write(folder / "all.yaml", "c", "b", "a").read_text())
    together = load(folder / "config.yaml", {}).hash
    write(folder / "jobs.d" / "c.yaml", "d")

    assert apart == mixed == together != read(folder, "jobs.d/*.yaml", f"jobs: {{b: {JOB.format('b')}}}\n").hash

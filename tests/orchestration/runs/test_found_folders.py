"""What is found below a runs folder by what has a name there, in which order, and what is none of it."""

import datetime
import os
from pathlib import Path

import pytest

from orchestration.machine import clock
from orchestration.runs import folder_above, folders
from orchestration.runs.folders import CellFolder, LaunchFolder, RunsFolder

LAUNCH = "20261129T040000.000000-7"


@pytest.fixture
def runs(tmp_path: Path) -> RunsFolder:
    """A runs folder with two grids, a cell in each and in the store, and two launches of one grid."""
    for name in (
        "a/grid.yaml", "b/grid.yaml", "c/other.yaml", ".trash/d/grid.yaml",
        "a/cells/0123456789ab-x/config.yaml", "a/cells/aaaaaaaaaaaa-x/config.yaml", "a/cells/.draft/config.yaml",
        "cells/0123456789ab-x/config.yaml",
        f"a/launches/{LAUNCH}/grid.yaml", "a/launches/20261128T040000.000000-9/grid.yaml", "a/launches/note.txt",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return RunsFolder(tmp_path)


@pytest.fixture
def launch(runs: RunsFolder) -> LaunchFolder:
    return runs.grid("a").launch(LAUNCH)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(found) -> list[str]:
    return [one.name for one in found]


def test_grids_are_the_folders_that_were_launched(runs: RunsFolder) -> None:
    assert names(runs.grids()) == ["a", "b"]
    assert runs.grid("a").runs == runs and runs.grid("new").path == runs.path / "new"
    assert RunsFolder(runs.path / "nowhere").grids() == []


def test_cells_of_a_grid_and_of_the_store_are_found_by_name(runs: RunsFolder) -> None:
    assert names(runs.grid("a").cells()) == ["0123456789ab-x", "aaaaaaaaaaaa-x"]
    assert names(runs.cells()) == ["0123456789ab-x"] and runs.grid("b").cells() == []
    cell = runs.grid("a").cell("0123456789ab-x-y")
    assert (cell.signature, cell.slug, cell.grid, cell.is_in_grid) == ("0123456789ab", "x-y", runs.grid("a"), True)
    assert not CellFolder(runs.path / "copied" / "0123456789ab-x").is_in_grid
    assert runs.cell("n").path == runs.path / "cells" / "n"


def test_launches_are_found_oldest_first_and_a_new_one_comes_last_whatever_the_clock(
    runs: RunsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = runs.grid("a")
    assert names(grid.launches()) == ["20261128T040000.000000-9", LAUNCH]
    behind = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
    monkeypatch.setattr(clock, "utc", lambda: behind)
    following = grid.next_launch()
    assert following.moment == datetime.datetime(2026, 11, 29, 4, 0, 0, 1, tzinfo=datetime.UTC)
    assert runs.grid("b").next_launch().moment == behind
    assert grid.launch("by-hand").moment is None
    assert grid.next_trash().parent == runs.path / ".trash" / "a" and grid.next_trash().name.startswith("20261101T")


def test_launches_that_are_closed_to_this_user_are_none(runs: RunsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert runs.grid("a").launches() == []


def test_jobs_of_a_launch_are_found_by_their_numbers(launch: LaunchFolder) -> None:
    touch(
        launch.jobs_dir, "17_0.0/order.json", "17_0.1/order.json", "18.0/order.json", "17_0_0_log.out", "18_0_log.out"
    )
    touch(launch.jobs_dir, "rm.sh", "19.0")  # no folder
    assert sorted(names(launch.jobs())) == ["17_0.0", "17_0.1", "18.0"]
    assert sorted(names(launch.jobs("17_0"))) == ["17_0.0", "17_0.1"] and launch.jobs("19") == []
    assert names(launch.job_logs()) == ["17_0_0_log.out", "18_0_log.out"]
    assert launch.job_log("17_0") == launch.job_logs()[0]
    assert launch.job("18", 0) == launch.job_named("18.0") == launch.jobs("18")[0]
    assert launch.batch_script("rm").name == "rm.sh" and launch.waiting_task("rm", 2).name == "rm.2.pkl"
    assert launch.waiting_task("rm", 2).parent == launch.batch_script("rm").parent == launch.jobs_dir


def test_submissions_verdicts_and_logs_of_controllers_have_their_places(launch: LaunchFolder) -> None:
    touch(launch.path, "submissions/b.json", "submissions/a.json", "submissions/a.draft", "controllers/5.log")
    touch(launch.path, "controllers/state.json")
    assert names(launch.submission_files()) == ["a.json", "b.json"]
    assert launch.submission_file("a") == launch.submission_files()[0]
    assert names(launch.controllers.logs()) == ["5.log"]
    assert launch.verdict_file("x") == launch.verdicts_dir / "x.json"
    assert launch.grid.path == launch.path.parents[1]


def test_launch_and_grid_of_a_file_are_told_from_its_place(launch: LaunchFolder, runs: RunsFolder) -> None:
    of_launch, of_grid = launch.grid_file, runs.grid("a").grid_file
    assert folder_above.launch_of(of_launch) == launch and folder_above.launch_of(of_grid) is None
    assert folder_above.launch_of(launch.path / "other.yaml") is None
    assert folder_above.grid_of(of_launch) == folder_above.grid_of(of_grid) == runs.grid("a")
    assert folders.launch_with_jobs(launch.jobs_dir) == launch
    assert runs.grid("a").figure_file("states") == runs.path / "a" / "figures" / "states.svg"


def test_files_of_workers_and_checkpoints_of_an_attempt_are_found_by_name(runs: RunsFolder) -> None:
    attempt = runs.grid("a").cell("0123456789ab-x").attempt(3)
    touch(attempt.path, "system-10.jsonl", "system-2.jsonl", "system.jsonl", "checkpoints/step_5/manifest.json")
    touch(attempt.path, "checkpoints/step_9/state.pt", "checkpoints/.step_7.1/manifest.json")
    assert attempt.system_files() == {number: attempt.system_file(number) for number in (2, 10)}
    assert [*attempt.system_files()] == [2, 10]
    assert names(attempt.checkpoints()) == ["step_5"]
    assert attempt.cell_dir.name == "0123456789ab-x" and attempt.path.name == "3"
    assert attempt.above == [*attempt.path.parents[:4]]


def test_cell_above_a_file_is_the_grids_where_the_path_leads_through_it(runs: RunsFolder) -> None:
    of_store, of_grid = runs.cell("0123456789ab-x"), runs.grid("b").cell("0123456789ab-x")
    touch(of_store.path, "attempts/1/log")
    of_grid.path.parent.mkdir()
    of_grid.path.symlink_to(of_store.path)
    for cell in (of_store, of_grid):
        assert folder_above.cell_above(cell.path / "attempts" / "1" / "log") == cell
    assert (
        folder_above.cell_above(runs.grid("a").cell("0123456789ab-x").path / "config.yaml") is None
    )  # has no attempts
    assert of_grid.whole_path == of_grid.path and of_grid.change_file("5").name == "5.diff"
    assert folders.cell_name("s", "x") == "s-x"
    reached = of_grid.attempt(1).above
    assert runs.grid("b").path in reached and runs.path in reached and of_store.path in reached

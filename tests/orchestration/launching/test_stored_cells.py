"""`rankmatch cells`: what the store holds, and how what no grid has any more goes to the trash."""

import errno
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from launcher import Launcher
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.runs import links, store, trash
from orchestration.runs.folders import GridFolder, RunsFolder
from orchestration.runs.run_folder import RunFolder, folders

CELL = "rankmatch-4-s1"


def cells(runs: Path, *words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["cells", *words, "--runs", str(runs)], env={"COLUMNS": "160"})
    if code == 2:
        assert isinstance(done.exception, ValueError), done.output
        return str(done.exception)
    assert done.exit_code == code, (done.exception, done.output)
    return done.output


def stored(runs: Path) -> list[str]:
    return [cell.slug for cell in RunsFolder(runs).cells()]


def test_cells_are_listed_with_what_they_are_and_the_grids_that_have_them(again: Launcher) -> None:
    said = cells(again.runs)
    for cell in RunsFolder(again.runs).cells():
        (line,) = [line for line in said.splitlines() if line.startswith(cell.signature)]
        assert {*cell.slug.replace("-s", "-").split("-"), "done", "small"} <= {*line.split()}
    assert "4 cells, " in said and "no grid has" not in said
    assert len(re.findall(r"\bdone\b", cells(again.runs, CELL))) == 1


def test_size_of_a_cell_is_that_of_its_files(again: Launcher) -> None:
    (cell,) = [cell for cell in RunsFolder(again.runs).cells() if cell.slug == CELL]
    files = [path for path in cell.path.rglob("*") if path.is_file()]
    (line,) = [line for line in cells(again.runs, CELL).splitlines() if line.startswith(cell.signature)]
    assert line.split()[-2] == f"{sum(path.stat().st_size for path in files) / 1e6:.3g}"


def test_printed_command_drops_the_cells_of_a_removed_grid_and_theirs_bring_them_back(again: Launcher) -> None:
    before = stored(again.runs)
    shutil.rmtree(again.runs / "small")
    (command,) = re.findall(r"no grid has 4 of them, .* GB: `(.+?)`", cells(again.runs))
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0 and stored(again.runs) == []
    for back in re.findall(r"`(mv .+?)`", done.output):
        subprocess.run(shlex.split(back), check=True)
    assert stored(again.runs) == before
    assert again() == 0 and "4 cells: 4 keep" in again.printed


def test_cells_that_a_grid_has_stay_when_others_are_dropped(again: Launcher) -> None:
    (link,) = (again.runs / "small" / "cells").glob(f"*-{CELL}")
    link.unlink()
    assert "1 cell moved to" in cells(again.runs, "--drop-unlinked")
    assert len(stored(again.runs)) == 3 and CELL not in stored(again.runs)
    assert "each of these cells is a grid's" in cells(again.runs, "--drop-unlinked")


def test_cell_that_is_being_trained_stays_though_its_grid_was_removed(again: Launcher) -> None:
    (cell,) = [RunFolder(cell.path) for cell in RunsFolder(again.runs).cells() if cell.slug == CELL]
    cell.result_file.unlink()
    cell.claim({})  # by this process, which lives
    shutil.rmtree(again.runs / "small")
    said = cells(again.runs, "--drop-unlinked", code=1)
    assert f"left: {cell.path}: it is being trained" in said and "3 cells moved to" in said
    assert stored(again.runs) == [CELL]


def test_nothing_is_dropped_while_a_grid_cannot_be_looked_at(again: Launcher) -> None:
    grid = GridFolder(again.runs / "small")
    shutil.rmtree(grid.path)
    grid.path.symlink_to(again.runs / "a-disk-that-is-away")
    said = cells(again.runs, "--drop-unlinked", code=2)
    assert "which grids have a cell of" in said and "cannot be read" in said and len(stored(again.runs)) == 4


def test_listing_tells_that_a_folder_cannot_be_looked_at_and_offers_no_drop(again: Launcher) -> None:
    shutil.rmtree(again.runs / "small")
    (again.runs / "far").symlink_to(again.runs / "a-disk-that-is-away")
    said = cells(again.runs)
    assert said.count("unknown") == 4 and "--drop-unlinked" not in said
    assert f"whether more grids have them cannot be told: {again.runs / 'far'}" in " ".join(said.split())


@pytest.mark.parametrize("place", ["archive/small", ".small"])
def test_grid_that_was_put_away_in_the_runs_folder_keeps_its_cells(place: str, again: Launcher) -> None:
    (again.runs / place).parent.mkdir(exist_ok=True)
    (again.runs / "small").rename(again.runs / place)
    assert cells(again.runs).count(f" {place}") == 4
    assert "each of these cells is a grid's" in cells(again.runs, "--drop-unlinked")
    assert len(stored(again.runs)) == 4


def test_store_that_two_runs_folders_share_loses_no_cell_to_either(again: Launcher, tmp_path: Path) -> None:
    real, other = tmp_path / "big" / "cells", tmp_path / "other"
    real.parent.mkdir()
    other.mkdir()
    (again.runs / "cells").rename(real)
    for runs in (again.runs, other):
        (runs / "cells").symlink_to(real)
    assert "nothing is taken out of it" in (said := cells(other)) and "--drop-unlinked" not in said
    assert f"{other / 'cells'} is {real}, which other runs folders may have" in cells(other, "--drop-unlinked", code=2)
    done = CliRunner().invoke(app, ["drop", CELL, "--grid", "small", "--runs", str(again.runs)])
    assert isinstance(done.exception, ValueError) and "nothing is taken out of it" in str(done.exception)
    assert len(stored(again.runs)) == 4 == len(folders(again.runs / "small"))
    assert not (again.runs / ".trash").exists() and not (other / ".trash").exists()


def test_cells_that_go_together_are_looked_for_in_grids_once_under_one_lock(again: Launcher, monkeypatch) -> None:
    shutil.rmtree(again.runs / "small")
    called = []
    for module, name in ((links, "read"), (store, "changing")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda runs, real=real: called.append(real.__name__) or real(runs))
    assert "4 cells moved to" in cells(again.runs, "--drop-unlinked")
    assert called == ["changing", "read"]


def test_cells_that_cannot_be_moved_stay_and_no_empty_trash_is_spoken_of(again: Launcher, monkeypatch) -> None:
    shutil.rmtree(again.runs / "small")

    def refuse(path: Path, target: Path) -> Path:
        raise OSError(errno.EXDEV, "Invalid cross-device link", str(path))

    monkeypatch.setattr(trash.durable, "move", refuse)
    said = cells(again.runs, "--drop-unlinked", code=1)
    assert said.count("left: ") == 4 == len(stored(again.runs)) and "remove that folder" not in said
    assert not [*(again.runs / ".trash").glob("*/*")]


def test_word_that_means_no_cell_and_a_folder_without_cells_are_refused(again: Launcher, tmp_path: Path) -> None:
    assert "must be a signature or a part of a cell's name" in cells(again.runs, "nothing", code=2)
    assert "must hold cells" in cells(tmp_path, code=2)


@pytest.mark.parametrize("option", [(), ("--drop-unlinked",)])
def test_runs_folder_that_is_not_there_is_said_as_one_without_cells(tmp_path: Path, option: tuple[str, ...]) -> None:
    runs = tmp_path / "runs"
    assert cells(runs, *option, code=2) == f"--runs must hold cells in cells; there are none in {runs / 'cells'}"
    assert not runs.exists()

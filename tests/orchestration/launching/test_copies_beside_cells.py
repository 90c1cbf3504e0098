"""A copy or an archive beside a cell, as people make them by hand: it hides nothing, and is told of."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from campaign_life import Life
from launcher import Launcher
from orchestration_fakes import FakeSlurm
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.reproducing import record
from orchestration.results import run_table
from orchestration.runs import cell_names, store
from orchestration.runs.folders import RunsFolder
from orchestration.runs.run_folder import RunFolder, folders
from orchestration.runs.states import CellState

CELL = "rankmatch-4-s0"


def say(*words: object) -> str:
    done = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, (words, done.exception, done.output)
    return done.stdout


def answers(runs: Path) -> list[object]:
    """Return what the readers of cells say; of `status` only the states, since its ages change."""
    of_grid = ("--grid", "small", "--runs", runs)
    said: list[object] = [say("table", *of_grid), say("cells", "--runs", runs)]
    said += [line.split()[:3] for line in say("status", *of_grid).splitlines()]
    said += [str(cell.path) for cell in (*RunsFolder(runs).cells(), *RunsFolder(runs).grid("small").cells())]
    said += [f"{row['run']} {row['best_miou']}" for row in run_table.load(runs).runs.to_pylist()]
    return [*said, str(record.find(CELL, runs).path)]


@pytest.mark.parametrize("place", ["grid", "store"])
def test_no_reader_sees_a_copy_or_an_archive_beside_a_finished_cell(place: str, again: Launcher, capfd) -> None:
    before = answers(again.runs)
    (cell,) = [one for one in folders(again.runs / "small").values() if CELL in one.name]
    real = store.real_path(cell)
    assert real
    beside = cell.path if place == "grid" else real
    shutil.copytree(real, f"{beside}.bak")
    beside.with_name(f"{beside.name}.tar.gz").write_bytes(b"what tar made")
    folders(again.runs / "small"), store.stored(again.runs)
    assert f"{beside} is used, as it has the cell of {beside}.bak too: one of them should be moved" in (
        capfd.readouterr().err
    )
    assert answers(again.runs) == before
    assert again() == 0 and "4 cells: 4 keep" in again.printed


def test_copy_with_a_result_is_used_beside_a_folder_without_one(again: Launcher) -> None:
    (cell,) = [one for one in folders(again.runs / "small").values() if CELL in one.name]
    real = store.real_path(cell)
    assert real
    shutil.copytree(real, f"{cell.path}.bak")
    cell.result_file.unlink()
    used = folders(again.runs / "small")[cell.signature]
    assert used.path == Path(f"{cell.path}.bak") and used.state().status is CellState.DONE


def test_folder_whose_result_cannot_be_looked_for_now_is_not_left_for_one_without_a_result(
    tmp_path: Path, monkeypatch
) -> None:
    without, finished = (tmp_path / name for name in ("aaaaaaaaaaaa-x", "aaaaaaaaaaaa-longer"))
    without.mkdir()
    finished.mkdir()
    real = os.stat

    def stat(path, **kwargs):
        if path == f"{finished}/result.json":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return real(path, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    assert cell_names.one_for_each_cell(str(tmp_path), "result.json") == [finished.name]


def test_finished_cell_is_not_submitted_again_for_a_copy_that_was_made_while_it_trained(
    life: Life, slurm: FakeSlurm
) -> None:
    life.launch()
    cell = life.cell(CELL)
    shutil.copytree(cell.path.resolve(), f"{cell.path}.bak")
    life.done(RunFolder(cell.path))
    num_scripts = len(slurm.scripts)
    assert life.controller() == 0 and len(slurm.scripts) == num_scripts


def test_archive_beside_a_cell_does_not_stop_the_others(life: Life, slurm: FakeSlurm) -> None:
    life.launch()
    cell, lost = life.cell(CELL), life.cell("rankmatch-4-s1")
    cell.path.with_name(f"{cell.path.name}.tar.gz").write_bytes(b"what tar made")
    life.ends(lost, "lost")
    num_scripts = len(slurm.scripts)
    assert life.controller() == 0 and len(slurm.scripts) == num_scripts + 1

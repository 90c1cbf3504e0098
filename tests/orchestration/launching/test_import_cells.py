"""The cells of another runs folder: taken once, verified, and refused where results disagree."""

import json
import shutil
from pathlib import Path

import pytest
from launcher import Launcher
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.launching import import_cells
from orchestration.running.run_cell import launcher
from orchestration.runs.folders import RunsFolder
from orchestration.runs.run_folder import RunFolder


def take(source: Path, runs: Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["import", str(source), "--runs", str(runs)])
    if code == 2:
        assert isinstance(done.exception, ValueError), done.output
        return str(done.exception)
    assert done.exit_code == code, (done.exception, done.output)
    return " ".join(done.output.split())


def cells(runs: Path) -> dict[str, RunFolder]:
    return {cell.slug: RunFolder(cell.path) for cell in RunsFolder(runs).cells()}


def everything(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def there(launched: Launcher) -> Path:
    """A runs folder with four finished cells, which nothing may change."""
    return launched.runs


@pytest.fixture
def own(again: Launcher) -> Path:
    """A copy of it."""
    return again.runs


def test_cells_are_copied_and_kept_by_a_grid_that_asks_for_them(there: Path, fresh: Launcher) -> None:
    before = everything(there / "cells")
    assert "4 cells taken, 0 were here already" in take(there, fresh.runs)
    assert everything(there / "cells") == before == everything(fresh.runs / "cells")
    assert {name: cell.result() for name, cell in cells(fresh.runs).items()} == {
        name: cell.result() for name, cell in cells(there).items()
    }
    assert fresh() == 0 and "4 cells: 4 keep" in fresh.printed
    assert "0 cells taken, 4 were here already" in take(there, fresh.runs)


def test_cells_of_a_folder_of_an_earlier_version_are_taken_too(own: Path, tmp_path: Path) -> None:
    for link in (own / "small" / "cells").iterdir():
        real = link.resolve()
        link.unlink()
        real.rename(link)
    assert "4 cells taken" in take(own, tmp_path / "runs") and len(cells(tmp_path / "runs")) == 4


def test_different_results_of_one_cell_are_refused_before_anything_is_copied(there: Path, own: Path) -> None:
    shutil.rmtree(cells(own)["rankmatch-4-s1"].path)
    other = cells(own)["supervised-4-s0"]
    other.result_file.write_text(json.dumps({**(other.result() or {}), "last_miou": 0.25}))
    said = take(there, own, code=2)
    assert "nothing was taken" in said and str(other.path) in said and str(cells(there)["supervised-4-s0"].path) in said
    assert "last_miou 0.25 and " in said and len(cells(own)) == 3


def test_unfinished_cell_is_replaced_and_lies_in_the_trash(there: Path, own: Path) -> None:
    cell = cells(own)["rankmatch-4-s0"]
    cell.result_file.unlink()
    cell.attempts()[-1].event("stopped", step=1, kind="cancelled")
    assert "1 cells taken, 3 were here already" in take(there, own)
    assert cell.result() == cells(there)["rankmatch-4-s0"].result()
    assert list((own / ".trash" / "cells").glob(f"*/{cell.name}/attempts/1/events.jsonl"))


def test_cell_that_is_trained_here_is_left(there: Path, own: Path) -> None:
    cell = cells(own)["rankmatch-4-s0"]
    cell.result_file.unlink()
    cell.claim(launcher())
    said = take(there, own, code=1)
    assert f"left: {cell.path}, which is being trained" in said and not cell.has_result()


@pytest.mark.parametrize("part", ["weights", "config", "result"])
def test_damaged_cell_is_named_and_not_taken_and_the_others_are(part: str, own: Path, tmp_path: Path) -> None:
    cell = cells(own)["rankmatch-4-s0"]
    best = cell.path / (cell.result() or {})["model"]["path"]
    path = {"weights": best, "config": cell.config_file, "result": cell.result_file}[part]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = take(own, tmp_path / "new", code=1)
    assert "not taken: " in said and path.name in said and "3 cells taken" in said
    assert cells(tmp_path / "new").keys() == {"rankmatch-4-s1", "supervised-4-s0", "supervised-4-s1"}


def test_import_that_was_ended_leaves_nothing_half_done(there: Path, tmp_path: Path, monkeypatch) -> None:
    runs, num = tmp_path / "runs", [0]
    move = import_cells.durable.move

    def ended(source: Path, target: Path) -> Path:
        num[0] += 1
        if num[0] == 3:
            raise KeyboardInterrupt
        return move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(import_cells.durable, "move", ended)
        CliRunner().invoke(app, ["import", str(there), "--runs", str(runs)])
    assert len(cells(runs)) == 2 and all(cell.has_result() for cell in cells(runs).values())
    assert "2 cells taken, 2 were here already" in take(there, runs)
    assert {path.name for path in (runs / "cells").iterdir()} == {cell.name for cell in cells(there).values()}


def test_folder_without_cells_and_the_same_folder_are_refused(there: Path, tmp_path: Path) -> None:
    assert "there are none in" in take(tmp_path, tmp_path / "runs", code=2)
    assert "must be another runs folder than --runs" in take(there, there, code=2)

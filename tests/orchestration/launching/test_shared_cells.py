"""Cells that several grids have: each lives once in the store, and is trained once."""

import errno
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from launcher import SMALL, Launcher
from mlflow import MlflowClient
from typer.testing import CliRunner

from dashboards.live import links, places
from orchestration.commands.main import app
from orchestration.grids import grid, launched
from orchestration.mirror.mlflow_store import PARENT
from orchestration.results import run_table
from orchestration.runs.folders import GridFolder, RunsFolder
from orchestration.runs.run_folder import RunFolder, folders

BY_SEED = """
axes:
  seed: [1, 0]
table:
  rows: [seed]
"""


def say(*words: object, runs: Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, words), "--runs", str(runs)])
    assert done.exit_code == code, (words, done.exception, done.output)
    return " ".join(done.output.split())


def second(launcher: Launcher, name: str = "second", text: str | None = None) -> Launcher:
    """Return another grid in the same runs folder: the same file, or another text."""
    made = Launcher(launcher.file.parent)
    made.file = launcher.file.with_name(f"{name}.yaml")
    made.file.write_text(SMALL.read_text() if text is None else text)
    return made


def by_seed() -> str:
    """Two of the small grid's cells, which are told apart by their seeds alone."""
    head, _, _ = SMALL.read_text().partition("axes:")
    return f"{head.rstrip()}\n  method: rankmatch\n  split: '4'\n{BY_SEED}"


def stored(runs: Path) -> dict[str, list[str]]:
    return {cell.name: sorted(path.name for path in cell.attempts_dir.iterdir()) for cell in RunsFolder(runs).cells()}


def test_second_grid_keeps_the_cells_of_the_first_and_has_its_table(again: Launcher) -> None:
    other, before = second(again), stored(again.runs)
    assert other() == 0
    assert "4 cells: 4 keep" in other.printed and "4 cells are kept from grid small" in other.printed
    assert stored(again.runs) == before and set(map(tuple, before.values())) == {("1",)}
    first, last = ((again.runs / name / "table.csv").read_text() for name in ("small", "second"))
    assert first == last
    for name in before:
        link = again.runs / "second" / "cells" / name
        assert link.readlink() == Path("..", "..", "cells", name)


def test_grid_with_other_axes_names_the_same_cells_its_own_way(again: Launcher) -> None:
    other = second(again, "by_seed", by_seed())
    assert other() == 0 and "2 cells are kept from grid small" in other.printed
    assert [cell.slug for cell in GridFolder(again.runs / "by_seed").cells()] != ["rankmatch-4-s0", "rankmatch-4-s1"]
    assert [cell.axes for cell in launched.load_folder(again.runs / "by_seed").cells] == [{"seed": "1"}, {"seed": "0"}]
    (axes,) = {tuple(cell.axes) for cell in launched.load_folder(again.runs / "small").cells}
    assert axes == ("method", "split", "seed")
    rows = run_table.load(again.runs).runs.to_pylist()
    assert Counter(row["grid"] for row in rows) == {"by_seed": 2, "small": 4}, "the store itself has no rows"
    assert {row["split"] for row in rows} == {"4"} and len({row["signature"] for row in rows}) == 4


def test_experiment_shows_cells_that_another_grid_has_trained_and_says_so(again: Launcher) -> None:
    assert second(again)() == 0
    client = MlflowClient(f"sqlite:///{again.runs}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("second").experiment_id])
    cells = [run for run in runs if "rankmatch.signature" in run.data.tags]
    assert len(cells) == 4 and {run.data.tags["rankmatch.trained_for"] for run in cells} == {"small"}
    assert all("final/best_miou" in run.data.metrics and PARENT not in run.data.tags for run in cells)
    (launch,) = [run for run in runs if "rankmatch.launch" in run.data.tags]
    assert launch.data.metrics["cells_done"] == 4
    first = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert not any("rankmatch.trained_for" in run.data.tags for run in first)


def test_cell_is_recomputed_once_for_all_grids_that_have_it(again: Launcher) -> None:
    assert second(again)() == 0
    assert "recomputing 1 of 4 finished runs" in say("verify", "--count", "1", runs=again.runs)


def test_cell_is_dropped_from_one_grid_while_another_has_it(again: Launcher) -> None:
    other, before = second(again), stored(again.runs)
    assert other() == 0
    said = say("drop", "rankmatch-4-s1", "--grid", "second", runs=again.runs)
    assert "grid small has it too" in said and stored(again.runs) == before
    assert "3 done, 1 not submitted" in say("status", "--grid", "second", runs=again.runs)
    assert "4 done" in say("status", "--grid", "small", runs=again.runs)
    say("drop", "rankmatch-4-s1", "--grid", "small", runs=again.runs)
    assert len(stored(again.runs)) == 3 and list((again.runs / ".trash" / "small").glob("*/*-rankmatch-4-s1"))
    assert "1 submit, 3 keep" in say("plan", "--grid", other.file, "--cluster", "inline", runs=again.runs)


def test_cell_whose_folder_somebody_has_removed_is_trained_anew(again: Launcher) -> None:
    (cell,) = [cell for cell in RunsFolder(again.runs).cells() if cell.slug == "supervised-4-s0"]
    subprocess.run(["rm", "-r", str(cell.path)], check=True)
    assert again() == 0 and "1 submit, 3 keep" in again.printed
    assert cell.result_file.is_file() and (again.runs / "small" / "cells" / cell.name).is_symlink()


def test_unfinished_cell_whose_folder_is_closed_to_this_user_is_left_alone(again: Launcher, monkeypatch) -> None:
    (cell,) = [cell for cell in RunsFolder(again.runs).cells() if cell.slug == "supervised-4-s0"]
    cell.result_file.unlink()
    RunFolder(cell.path).attempts()[-1].event("stopped", step=1, kind="cancelled")
    ask, mine = os.access, cell.attempts_dir.resolve()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).resolve() != mine and ask(path, mode))
    other = second(again)
    assert other() == 1 and "1 give up" in other.printed
    assert "belongs to user 0, and cannot be written here" in " ".join(other.printed.split())
    assert stored(again.runs)[cell.name] == ["1"] and "3 of 4 cells are done" in other.printed


def test_grid_cannot_be_called_as_the_store_is(again: Launcher) -> None:
    other = second(again, "cells")
    with pytest.raises(ValueError, match="must be another than 'cells': that is the folder of all cells"):
        grid.load(str(other.file))


def test_where_there_are_no_symbolic_links_a_grid_has_its_own_cells_and_says_so(fresh, monkeypatch, capfd) -> None:
    def refuse(self: Path, target: object, **more: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert fresh("method=supervised", "seed=0") == 0
    assert "cells of small are not shared with other grids" in capfd.readouterr().err
    (folder,) = folders(fresh.runs / "small").values()
    assert folder.has_result() and not folder.path.is_symlink()


def test_pages_follow_links_to_the_store_and_to_nothing_else(again: Launcher, tmp_path: Path) -> None:
    grid_dir = again.runs / "small"
    names = places.cells(grid_dir)
    assert len(names) == 4 and places.grids(again.runs) == ["small"]
    assert [links.out_of_cell(places.cell_folder(grid_dir, name)) for name in names] == [""] * 4
    link = grid_dir / "cells" / names[0]
    link.unlink()
    link.symlink_to((tmp_path / "outside").absolute())
    (tmp_path / "outside").mkdir()
    assert places.cells(grid_dir) == names[1:] and "leads out of small" in links.out_of_cell(link)

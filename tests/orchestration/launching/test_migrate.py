"""Grids of earlier versions, which hold their cells themselves: read, launched into, and moved into the store."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from launcher import Launcher
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.results import run_table
from orchestration.runs import store
from orchestration.runs.folders import RunsFolder
from orchestration.runs.run_folder import RunFolder, folders
from rankmatch import durable


def say(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, words)])
    if isinstance(done.exception, ValueError) and code == 2:
        return str(done.exception)
    assert done.exit_code == code, (words, done.exception, done.output)
    return " ".join(done.output.split())


def as_before(runs: Path, *names: str) -> None:
    """Give grids the layout of earlier versions: the first its folders, others copies, and no axes in their lists."""
    for name in ("small", *names):
        grid_dir = runs / name
        if name != "small":
            shutil.copytree(runs / "small", grid_dir, ignore=shutil.ignore_patterns("launches"))
            (grid_dir / "launches").mkdir()
        for cell in [] if name != "small" else folders(grid_dir).values():
            real = store.real_path(cell)
            assert real
            cell.path.unlink()
            real.rename(cell.path)
        rows = [json.loads(line) for line in (grid_dir / "index.jsonl").read_text().splitlines()]
        for row in rows:
            row.pop("axes", None)
        (grid_dir / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (runs / "cells").rmdir()


def figures(runs: Path) -> list[tuple[object, ...]]:
    rows = run_table.load(runs).runs.to_pylist()
    return [tuple(row[name] for name in ("grid", "signature", "method", "seed", "status", "best_miou")) for row in rows]


def results(runs: Path, name: str) -> dict[str, object]:
    return {key: cell.result() for key, cell in folders(runs / name).items()}


@pytest.fixture
def old(again: Launcher) -> Launcher:
    as_before(again.runs)
    return again


def test_launch_into_a_grid_of_an_earlier_version_keeps_its_cells_where_they_are(old: Launcher) -> None:
    assert old("seed=[0,1,2]", "method=supervised") == 0
    assert "3 cells: 1 submit, 2 keep" in old.printed
    kinds = {cell.slug: cell.path.is_symlink() for cell in folders(old.runs / "small").values()}
    assert kinds.pop("supervised-4-s2") and not any(kinds.values()) and len(kinds) == 4
    assert "5 cells: 5 done" in say("status", "--grid", "small", "--runs", old.runs)


def test_cells_are_moved_into_the_store_and_nothing_else_changes(old: Launcher) -> None:
    before, table = figures(old.runs), say("table", "--grid", "small", "--runs", old.runs)
    assert "4 cells of 1 grid moved" in say("migrate", old.runs)
    assert len(RunsFolder(old.runs).cells()) == 4 and figures(old.runs) == before
    assert all(cell.path.is_symlink() for cell in folders(old.runs / "small").values())
    assert say("table", "--grid", "small", "--runs", old.runs) == table
    assert old() == 0 and "4 cells: 4 keep" in old.printed
    assert "0 cells of 1 grid moved" in say("migrate", old.runs)


def test_of_two_grids_with_the_same_results_one_folder_is_kept_and_both_link_to_it(again: Launcher) -> None:
    as_before(again.runs, "twin")
    before = results(again.runs, "small")
    said = say("migrate", again.runs)
    assert "4 cells of 2 grids moved" in said and "4 folders of the same cells moved to" in said
    assert results(again.runs, "small") == before == results(again.runs, "twin")
    assert len(list((again.runs / ".trash" / "twin").glob("*/*-s?"))) == 4


def test_different_results_of_one_cell_are_refused_and_nothing_moves(again: Launcher) -> None:
    as_before(again.runs, "twin")
    cell = next(iter(folders(again.runs / "twin").values()))
    result = cell.result()
    cell.result_file.write_text(json.dumps({**result, "best_miou": 0.5}))
    said = say("migrate", again.runs, code=2)
    assert "have different results of one cell (best_miou " in said and str(cell.path) in said
    assert not RunsFolder(again.runs).cells() and not any(
        one.path.is_symlink() for name in ("small", "twin") for one in folders(again.runs / name).values()
    )


def test_finished_cell_is_kept_rather_than_one_that_was_only_begun(again: Launcher) -> None:
    as_before(again.runs, "twin")
    begun = [*folders(again.runs / "small").values()]
    for number, cell in enumerate(begun):
        cell.result_file.unlink()
        cell.attempts()[-1].event("stopped", step=1, kind="cancelled")
        if number:  # this one is in the store already
            store.move_in(cell, RunsFolder(again.runs).cell(cell.name).path)
    say("migrate", again.runs)
    assert all(cell.has_result() for name in ("small", "twin") for cell in folders(again.runs / name).values())


@pytest.mark.parametrize("at", range(1, 9))
def test_migration_can_end_between_any_two_of_its_steps(at: int, again: Launcher, monkeypatch) -> None:
    as_before(again.runs, "twin")
    before = results(again.runs, "small")
    with monkeypatch.context() as patch:
        left = [at]

        def counted(call: Callable[..., object]) -> Callable[..., object]:
            def act(*words: object, **more: object) -> object:
                left[0] -= 1
                if not left[0]:
                    raise KeyboardInterrupt
                return call(*words, **more)

            return act

        patch.setattr(durable, "move", counted(durable.move))
        patch.setattr(Path, "symlink_to", counted(Path.symlink_to))
        patch.setattr(Path, "rename", counted(Path.rename))
        CliRunner().invoke(app, ["migrate", str(again.runs)])
    assert left[0] <= 0
    say("migrate", again.runs)
    for name in ("small", "twin"):
        found = folders(again.runs / name)
        assert results(again.runs, name) == before and all(cell.path.is_symlink() for cell in found.values())
    assert sorted(path.name for path in (again.runs / "small" / "cells").iterdir()) == sorted(
        cell.name for cell in folders(again.runs / "small").values()
    )


def ended_half_way(runs: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """End a migration when the first folder has moved and its link is not yet in place; return the signature."""
    move, moved = durable.move, []

    def end(path: Path, target: Path) -> Path:
        moved.append(move(path, target))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(durable, "move", end)
        CliRunner().invoke(app, ["migrate", str(runs)])
    (cell,) = RunsFolder(runs).cells()
    assert cell.path == moved[0] and cell.signature not in folders(runs / "small")
    return cell.signature


def test_cell_whose_migration_was_ended_stays_its_grids(old: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    signature = ended_half_way(old.runs, monkeypatch)
    said = say("cells", "--drop-unlinked", "--runs", old.runs)
    assert "each of these cells is a grid's" in said and len(RunsFolder(old.runs).cells()) == 1
    shutil.copytree(old.runs / "small", old.runs / "second", ignore=shutil.ignore_patterns("launches", "cells"))
    store.link(old.runs / "second", RunsFolder(old.runs).cells()[0].path, "its-own-word")
    assert "grid small has it too" in say("drop", signature, "--grid", "second", "--runs", old.runs)
    said = say("migrate", old.runs)
    assert "1 link of an earlier call" in said and "4 done" in say("status", "--grid", "small", "--runs", old.runs)


def test_dropped_cell_whose_migration_was_ended_leaves_no_link(old: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    signature = ended_half_way(old.runs, monkeypatch)
    assert "lies in" in say("drop", signature, "--grid", "small", "--runs", old.runs)
    assert not [*(old.runs / "small" / "cells").glob(f"*{signature}*")] and not RunsFolder(old.runs).cells()


def test_link_that_leads_nowhere_is_not_told_as_mended(old: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    ended_half_way(old.runs, monkeypatch)
    shutil.rmtree(RunsFolder(old.runs).cells()[0].path)
    said = say("migrate", old.runs)
    assert "3 cells of 1 grid moved" in said and "of an earlier call" not in said


def test_migration_replaces_no_cell_of_a_store_that_others_may_share(again: Launcher, tmp_path: Path) -> None:
    as_before(again.runs, "twin")
    begun = next(iter(folders(again.runs / "twin").values()))
    begun.result_file.unlink()
    begun.attempts()[-1].event("stopped", step=1, kind="cancelled")
    (tmp_path / "cells").mkdir()
    begun.path.rename(tmp_path / "cells" / begun.name)
    (again.runs / "cells").symlink_to(tmp_path / "cells")
    assert "nothing is taken out of it" in say("migrate", again.runs, code=2)
    assert [path.name for path in (tmp_path / "cells").iterdir()] == [begun.name]
    assert not any(cell.path.is_symlink() for cell in folders(again.runs / "small").values())


def test_migration_waits_for_no_launch(old: Launcher) -> None:
    cell = next(iter(folders(old.runs / "small").values()))
    cell.result_file.unlink()
    RunFolder(cell.path).claim({})
    assert "no cell may be trained meanwhile; of small" in say("migrate", old.runs, code=2)


def test_runs_folder_without_grids_cannot_be_migrated(tmp_path: Path) -> None:
    assert "--runs must hold grids that were launched" in say("migrate", tmp_path, code=2)

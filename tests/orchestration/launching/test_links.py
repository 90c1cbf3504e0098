"""Links of grids to the store: right wherever the folders lie, and where they lead nowhere only that cell suffers."""

import errno
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from launcher import SMALL, Launcher
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.runs import store
from orchestration.runs.folders import GridFolder, RunsFolder
from orchestration.runs.run_folder import RunFolder, folders
from rankmatch import durable


def say(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, words)])
    if isinstance(done.exception, ValueError) and code == 2:
        return str(done.exception)
    assert done.exit_code == code, (words, done.exception, done.output)
    return " ".join(done.output.split())


def second(launcher: Launcher, name: str = "second") -> Launcher:
    made = Launcher(launcher.file.parent)
    made.file = launcher.file.with_name(f"{name}.yaml")
    made.file.write_text(SMALL.read_text())
    return made


def held_by_the_grid(runs: Path, name: str = "small") -> None:
    """Put the cells of a grid back into its own folder, as earlier versions had them."""
    for cell in folders(runs / name).values():
        real = store.real_path(cell)
        assert real
        cell.path.unlink()
        real.rename(cell.path)
    if not any((runs / "cells").iterdir()):
        (runs / "cells").rmdir()


def elsewhere(path: Path, place: Path) -> None:
    """Move a folder, and leave a link in its place that is relative, as people make it."""
    place.parent.mkdir(parents=True)
    shutil.move(path, place)
    path.symlink_to(os.path.relpath(place, path.parent))


@pytest.mark.parametrize("what", ["small", "small/cells"])
def test_migration_of_a_grid_that_lies_elsewhere_keeps_its_cells(what: str, again: Launcher, tmp_path: Path) -> None:
    held_by_the_grid(again.runs)
    elsewhere(again.runs / what, tmp_path / "big" / "disk" / "small")
    assert "4 cells of 1 grid moved" in say("migrate", again.runs)
    assert len(RunsFolder(again.runs).cells()) == 4
    assert "4 done" in say("status", "--grid", "small", "--runs", again.runs)
    assert "0 cells of 1 grid moved" in say("migrate", again.runs)
    assert again() == 0 and "4 cells: 4 keep" in again.printed


@pytest.mark.parametrize("what", ["second", "second/cells"])
def test_launch_into_a_folder_that_lies_elsewhere_keeps_and_trains(what: str, again: Launcher, tmp_path: Path) -> None:
    (again.runs / what).mkdir(parents=True)
    elsewhere(again.runs / what, tmp_path / "big" / "disk" / "second")
    other = second(again)
    assert other("seed=[0,1,2]", "method=supervised") == 0, other.printed
    assert "3 cells: 1 submit, 2 keep" in other.printed and "3 of 3 cells are done" in other.printed
    assert len(RunsFolder(again.runs).cells()) == 5
    assert "3 done" in say("status", "--grid", "second", "--runs", again.runs)


def test_links_that_an_earlier_migration_made_wrongly_are_mended(again: Launcher, tmp_path: Path) -> None:
    elsewhere(again.runs / "small", tmp_path / "big" / "disk" / "small")
    assert "4 not submitted" in say("status", "--grid", "small", "--runs", again.runs)
    assert "4 links of an earlier call" in say("migrate", again.runs)
    assert "4 done" in say("status", "--grid", "small", "--runs", again.runs)


def test_launch_stops_if_a_cell_to_be_kept_cannot_be_reached_through_the_grid(
    again: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "way_to", lambda real, grid: Path("nowhere", real.name))
    with pytest.raises(ValueError, match=r"must lead to the finished run that this launch was to keep.*launch again"):
        second(again)()
    monkeypatch.undo()
    other = second(again)
    assert other() == 0 and "4 cells: 4 keep" in other.printed


def test_cell_is_not_trashed_while_a_link_of_another_grid_leads_nowhere_for_now(again: Launcher) -> None:
    other, before = second(again), [cell.name for cell in RunsFolder(again.runs).cells()]
    assert other() == 0
    (name,) = [name for name in before if name.endswith("supervised-4-s0")]
    link = again.runs / "second" / "cells" / name
    link.unlink()
    link.symlink_to(f"/a/disk/that/is/away/{name}")
    (again.runs / "second" / "grid.yaml").unlink()
    said = say("drop", "supervised-4-s0", "--grid", "small", "--runs", again.runs)
    assert "grid second has it too" in said and [cell.name for cell in RunsFolder(again.runs).cells()] == before


def test_cell_is_not_trashed_if_who_else_has_it_cannot_be_told(again: Launcher) -> None:
    before = [cell.name for cell in RunsFolder(again.runs).cells()]
    (again.runs / "far").symlink_to("/a/disk/that/is/away")
    said = say("drop", "supervised-4-s0", "--grid", "small", "--runs", again.runs, code=2)
    assert "which grids have a cell of" in said and str(again.runs / "far") in said
    assert [cell.name for cell in RunsFolder(again.runs).cells()] == before and len(folders(again.runs / "small")) == 4


@pytest.mark.filterwarnings("ignore::orchestration.machine.damage.DamageWarning")
def test_link_to_itself_harms_its_own_cell_only(again: Launcher) -> None:
    other = second(again)
    assert other() == 0
    (cell,) = [cell for cell in GridFolder(again.runs / "small").cells() if cell.slug == "supervised-4-s0"]
    cell.path.unlink()
    cell.path.symlink_to(cell.name)
    assert "3 done, 1 damaged" in say("status", "--grid", "small", "--runs", again.runs)
    assert "4 done" in say("status", "--grid", "second", "--runs", again.runs)
    assert again() == 1 and "3 keep, 1 damaged" in again.printed and "Too many levels" in again.printed
    assert "4 done" in say("status", "--grid", "second", "--runs", again.runs)
    for words in (
        ["table", "--grid", "small"],
        ["results"],
        ["sync", "--grid", "small"],
        ["compare", "small", "second"],
    ):
        done = CliRunner().invoke(app, [*words, "--runs", str(again.runs)])
        assert done.exit_code in (0, 1) and isinstance(done.exception, SystemExit | None), (words, done.output)
    assert other() == 0 and "4 cells: 4 keep" in other.printed
    say("drop", "supervised-4-s0", "--grid", "small", "--runs", again.runs)
    assert again() == 0 and "4 cells: 4 keep" in again.printed


def test_migration_that_was_ended_leads_all_links_to_the_folder_that_is_kept(
    again: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = second(again)
    assert other() == 0
    (cell,) = [cell for cell in RunsFolder(again.runs).cells() if cell.slug == "supervised-4-s0"]
    own = GridFolder(again.runs / "small").cell(cell.name).path
    own.unlink()
    shutil.copytree(cell.path, own)
    cell.result_file.unlink()
    RunFolder(cell.path).attempts()[-1].event("stopped", step=1, kind="cancelled")
    renamed = cell.path.with_name(f"{cell.signature}-as-second-says")
    cell.path.rename(renamed)
    link = again.runs / "second" / "cells" / cell.name
    link.unlink()
    link.symlink_to(Path("..", "..", "cells", renamed.name))
    real = durable.move

    def ended(path: Path, target: Path) -> Path:
        real(path, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(durable, "move", ended)
    CliRunner().invoke(app, ["migrate", str(again.runs)])
    monkeypatch.undo()
    assert not link.exists()
    say("migrate", again.runs)
    for name in ("small", "second"):
        assert "4 done" in say("status", "--grid", name, "--runs", again.runs)
    assert "0 cells of 2 grids moved" in say("migrate", again.runs)


def test_where_there_are_no_symbolic_links_no_cell_of_the_store_is_promised(
    again: Launcher, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Path, target: object, **more: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", str(self))

    before = [cell.name for cell in RunsFolder(again.runs).cells()]
    monkeypatch.setattr(Path, "symlink_to", refuse)
    other = second(again)
    assert other("method=supervised", "seed=[0,2]") == 0
    assert "2 cells: 2 submit" in other.printed and "2 of 2 cells are done" in other.printed
    assert "cells of second are not shared with other grids" in capfd.readouterr().err
    assert [cell.name for cell in RunsFolder(again.runs).cells()] == before, "nothing is left in the store"
    assert other("method=supervised", "seed=[0,2]") == 0 and "2 cells: 2 keep" in other.printed


def test_grid_in_the_place_of_the_store_is_renamed_by_the_printed_commands(again: Launcher) -> None:
    held_by_the_grid(again.runs)
    (again.runs / "small").rename(again.runs / "cells")
    with pytest.raises(ValueError, match="no grid may be called 'cells' now"):
        second(again)()
    assert not (again.runs / "second").exists()
    said = say("migrate", again.runs, code=2)
    assert "no grid may be called 'cells' now" in said
    subprocess.run(shlex.split(said.split("`")[1]), check=True)
    assert "4 done" in say("status", "--grid", "cells-1", "--runs", again.runs)
    assert "4 cells of 1 grid moved" in say("migrate", again.runs)
    assert "4 done" in say("status", "--grid", "cells-1", "--runs", again.runs)

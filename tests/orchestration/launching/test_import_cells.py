"""The cells of another runs folder: taken once, verified, and refused where results disagree."""

import errno
import json
import shutil
import socket
from pathlib import Path

import pytest
from launcher import Launcher
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.launching import import_cells
from orchestration.machine.processes import ProcessNote, this_process
from orchestration.running.run_cell import launcher
from orchestration.runs import store
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


def without_origins(runs: Path) -> dict[str, int]:
    found = everything(runs / "cells")
    noted = {name for name in found if name.endswith("/imports.jsonl")}
    assert len(noted) == len(cells(runs))
    return {name: time for name, time in found.items() if name not in noted}


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
    assert "4 cells taken, 0 here already" in take(there, fresh.runs)
    assert everything(there / "cells") == before == without_origins(fresh.runs)
    assert {name: cell.result() for name, cell in cells(fresh.runs).items()} == {
        name: cell.result() for name, cell in cells(there).items()
    }
    assert fresh() == 0 and "4 cells: 4 keep" in fresh.printed
    assert "0 cells taken, 4 here already" in take(there, fresh.runs)


def test_imported_cell_says_where_it_comes_from_also_after_a_second_import(
    there: Path, fresh: Launcher, tmp_path: Path
) -> None:
    take(there, tmp_path / "between")
    take(tmp_path / "between", fresh.runs)
    rows = [json.loads(line) for line in cells(fresh.runs)["rankmatch-4-s1"].imports_file.read_text().splitlines()]
    assert [row["runs"] for row in rows] == [str(there), str(tmp_path / "between")]
    assert {row["cell"] for row in rows} == {f"cells/{cells(there)['rankmatch-4-s1'].name}"}
    assert {row["host"] for row in rows} == {socket.gethostname()}
    (weights,) = {(cells(there)["rankmatch-4-s1"].result() or {})["model"]["path"]}
    assert all(row["verified"] == ["signature", f"SHA-256 of {weights}"] for row in rows)
    assert fresh() == 0
    way = f"{tmp_path / 'between'} on {socket.gethostname()}, {rows[1]['time'][:10]}, before that {there} on "
    grid = fresh.runs / "small"
    assert f"- imported from: {way}" in (grid / "report.md").read_text() and way in (grid / "report.html").read_text()
    said = CliRunner().invoke(app, ["describe", "small", "--runs", str(fresh.runs)])
    assert said.exit_code == 0 and f"not trained here: 4 runs imported from {way}" in said.stderr
    again = CliRunner().invoke(app, ["reproduce", "rankmatch-4-s1", "--runs", str(fresh.runs), "--dry-run"])
    assert f"imported     from {way}" in again.output


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
    assert "1 cell taken, 3 here already" in take(there, own)
    assert cell.result() == cells(there)["rankmatch-4-s0"].result()
    assert list((own / ".trash" / "cells").glob(f"*/{cell.name}/attempts/1/events.jsonl"))


def test_unfinished_cell_of_a_store_that_others_may_share_is_not_replaced(there: Path, own: Path, tmp_path) -> None:
    cell = next(iter(cells(own).values()))
    cell.result_file.unlink()
    cell.attempts()[-1].event("stopped", step=1, kind="cancelled")
    (own / "cells").rename(tmp_path / "cells")
    (own / "cells").symlink_to(tmp_path / "cells")
    said = take(there, own, code=1)
    assert "which other runs folders may have too, so nothing is taken out of it" in said
    assert cell.attempts() and not cell.has_result() and not (own / ".trash").exists()


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
    assert "2 cells taken, 2 here already" in take(there, runs)
    assert {path.name for path in (runs / "cells").iterdir()} == {cell.name for cell in cells(there).values()}


def test_cell_that_a_launch_begins_during_the_copy_is_left_to_it_by_whatever_name(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, wanted = tmp_path / "runs", cells(there)["rankmatch-4-s0"]
    copy = import_cells._copy

    def begun(source: Path, target: Path) -> None:
        copy(source, target)
        if source == wanted.path:
            with store.adding(runs / "other") as adder:
                adder.made(wanted.signature, "seed-0")

    monkeypatch.setattr(import_cells, "_copy", begun)
    said = take(there, runs, code=1)
    assert "rankmatch-4-s0" not in cells(runs) and cells(runs)["seed-0"].signature == wanted.signature
    assert f"not taken: {cells(runs)['seed-0'].path} was begun or finished here meanwhile" in said
    assert "3 cells taken" in said and len(cells(runs)) == 4


def test_two_imports_at_a_time_leave_each_other_alone(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, copy, said = tmp_path / "runs", import_cells._copy, []

    def two(source: Path, target: Path) -> None:
        copy(source, target)
        if not said:
            said.append("")
            said.append(take(there, runs))
            assert everything(target) == everything(source)

    monkeypatch.setattr(import_cells, "_copy", two)
    first = take(there, runs, code=1)
    assert "4 cells taken" in said[-1] and "begun or finished here meanwhile" in first
    assert without_origins(runs) == everything(there / "cells")


def test_copy_of_a_killed_import_is_removed_and_that_of_one_at_work_is_not(there: Path, tmp_path: Path) -> None:
    runs, name = tmp_path / "runs", cells(there)["rankmatch-4-s0"].name
    killed, works = (runs / "cells" / f".{name}.{word}.importing" for word in ("00000000", "00000001"))
    for folder, more in ((killed, {"process_started": 1}), (works, {})):
        (folder / name).mkdir(parents=True)
        ProcessNote(**(this_process() | more)).to_file(folder / "importer.json")
    take(there, runs)
    assert not killed.exists() and (works / name).is_dir()


def test_cell_that_cannot_be_written_keeps_no_other_from_being_taken(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = import_cells.durable.move

    def full(source: Path, target: Path) -> Path:
        if "rankmatch-4-s0" in target.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return move(source, target)

    monkeypatch.setattr(import_cells.durable, "move", full)
    said = take(there, tmp_path / "runs", code=1)
    assert f"not taken: {cells(there)['rankmatch-4-s0'].path}: [Errno 28] No space left" in said
    assert "3 cells taken" in said and len(list((tmp_path / "runs" / "cells").iterdir())) == 3


@pytest.mark.parametrize("way", ["absolute", "upwards", "by another link", "folder"])
def test_link_that_leads_out_of_a_cell_is_refused_and_what_it_leads_to_is_not_copied(
    way: str, own: Path, tmp_path: Path
) -> None:
    secret = own / "cells" / "secret"
    secret.mkdir()
    (secret / "key").write_text("only for me")
    cell = cells(own)["rankmatch-4-s0"].path
    (cell / "deep" / "down").mkdir(parents=True)
    (cell / "deep" / "down" / "top").symlink_to("../..")
    made = {
        "absolute": secret / "key",
        "upwards": "../secret/key",
        "by another link": "deep/down/top/../secret/key",
        "folder": "../secret",
    }[way]
    (cell / "notes").symlink_to(made)
    said = take(own, tmp_path / "runs", code=1)
    assert f"not taken: {cell / 'notes'} must not lead out of its cell; it is a link to {made}" in said
    assert "3 cells taken" in said and not list((tmp_path / "runs").rglob("key"))


def test_cell_that_is_a_link_itself_is_copied_and_links_within_it_stay_links(own: Path, tmp_path: Path) -> None:
    cell = cells(own)["rankmatch-4-s0"].path
    (cell / "newest").symlink_to("attempts/1")
    cell.rename(tmp_path / "elsewhere")
    cell.symlink_to(tmp_path / "elsewhere")
    assert "4 cells taken" in take(own, tmp_path / "runs")
    copy = cells(tmp_path / "runs")["rankmatch-4-s0"].path
    assert not copy.is_symlink() and (copy / "newest").readlink() == Path("attempts/1")


def test_two_folders_of_one_cell_are_told_of_and_the_finished_one_is_used(own: Path, capfd) -> None:
    cell = cells(own)["rankmatch-4-s0"]
    for slug in ("a", "z"):
        (own / "cells" / f"{cell.signature}-{slug}").mkdir()
    assert store.stored(own)[cell.signature].path == cell.path
    assert f"{cell.path} is used, as it has the cell of {cell.path.with_name(f'{cell.signature}-z')} too" in (
        capfd.readouterr().err
    )


def test_folder_without_cells_and_the_same_folder_are_refused(there: Path, tmp_path: Path) -> None:
    assert "there are none in" in take(tmp_path, tmp_path / "runs", code=2)
    assert "must be another runs folder than --runs" in take(there, there, code=2)

"""Dropped cells: whatever comes between, each is whole in one place, can be dropped and brought back."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from launcher import Launcher
from mlflow import MlflowClient
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.runs import store, trash
from orchestration.runs.folders import RunsFolder
from orchestration.runs.run_folder import RunFolder
from rankmatch import durable

CELL = "rankmatch-4-s1"


def drop(runs: Path, *words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["drop", *words, "--grid", "small", "--runs", str(runs)])
    if code == 2:
        assert isinstance(done.exception, ValueError), done.output
        return f"{done.output}{done.exception}"
    assert done.exit_code == code, (done.exception, done.output)
    return done.output


def stored(runs: Path) -> dict[str, RunFolder]:
    return {cell.slug: RunFolder(cell.path) for cell in RunsFolder(runs).cells()}


def carry_out(said: str, code: int = 0) -> str:
    for command in re.findall(r"`(.+?)`", said):
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
        assert done.returncode == code, (command, done.stderr)
    return done.stderr


def num_shown(runs: Path) -> int:
    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    return len([run for run in found if "rankmatch.signature" in run.data.tags])


def test_printed_commands_bring_a_dropped_cell_back(again: Launcher) -> None:
    said = drop(again.runs, CELL)
    assert CELL not in stored(again.runs)
    carry_out(said)
    assert again() == 0 and "4 cells: 4 keep" in again.printed


def test_printed_commands_put_no_cell_into_one_that_is_there_again(again: Launcher) -> None:
    said = drop(again.runs, CELL)
    assert again() == 0 and "1 submit, 3 keep" in again.printed
    cell = stored(again.runs)[CELL]
    before = sorted(path.name for path in cell.path.iterdir())
    carry_out(said, code=1)
    assert sorted(path.name for path in cell.path.iterdir()) == before


def test_drop_that_was_ended_between_folder_and_link_is_told_of_and_ended_by_the_same_command(
    again: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(cell: RunFolder) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "unlink", ended)
        CliRunner().invoke(app, ["drop", CELL, "--grid", "small", "--runs", str(again.runs)])
    assert CELL not in stored(again.runs) and list((again.runs / ".trash" / "small").glob(f"*/*-{CELL}/result.json"))
    said = drop(again.runs, CELL)
    assert "was dropped before, and lies in" in said and num_shown(again.runs) == 3
    carry_out(said)
    assert again() == 0 and "4 cells: 4 keep" in again.printed


def test_cell_that_cannot_be_moved_stays_whole_and_the_others_are_dropped(
    again: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = min(cell.name for cell in stored(again.runs).values())
    move = durable.move

    def refuse(path: Path, target: Path) -> Path:
        if path.name == first:
            raise OSError(18, "Invalid cross-device link", str(path))
        return move(path, target)

    monkeypatch.setattr(trash.durable, "move", refuse)
    said = drop(again.runs, "rankmatch", "supervised", code=2)
    assert "1 of 4 cells were not dropped, and are as they were" in said and first in said
    assert [cell.name for cell in stored(again.runs).values()] == [first] and num_shown(again.runs) == 1
    assert (again.runs / "small" / "cells" / first / "result.json").is_file()


def test_cell_of_the_grid_that_only_the_store_holds_is_dropped_too(again: Launcher) -> None:
    (link,) = (again.runs / "small" / "cells").glob(f"*-{CELL}")
    link.unlink()
    said = drop(again.runs, CELL)
    assert CELL not in stored(again.runs) and num_shown(again.runs) == 3
    carry_out(said)
    assert again() == 0 and "4 cells: 4 keep" in again.printed


def test_link_to_a_grid_is_no_other_grid_that_has_its_cells(again: Launcher) -> None:
    (again.runs / "latest").symlink_to("small")
    drop(again.runs, CELL)
    assert CELL not in stored(again.runs)


def test_cell_without_a_folder_anywhere_is_refused(again: Launcher) -> None:
    (link,) = (again.runs / "small" / "cells").glob(f"*-{CELL}")
    subprocess.run(["rm", "-r", str(link.resolve())], check=True)
    assert "must mean a cell with a folder" in drop(again.runs, CELL, code=2)

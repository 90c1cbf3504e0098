"""Each command that a message names is one that works: it is taken from the message and said as it stands there."""

import ast
import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from own_grid import DONE, OwnGrid
from typer.testing import CliRunner

from orchestration.commands import main as cli
from orchestration.commands.main import app
from orchestration.launching import launch_folder
from orchestration.machine.processes import this_process
from orchestration.mirror import page
from orchestration.mirror.mlflow_store import StoreError
from orchestration.mirror.naming import described
from orchestration.mirror.tracking import Mirror
from orchestration.runs.states import CellState

ROOT = Path(cli.__file__).parents[2]
EXECUTED = {
    "launch": "test_finished_cell_is_launched_again_by_the_command_that_its_run_in_mlflow_names",
    "status": "test_launch_that_leaves_a_failed_cell_says_so_last_with_commands_that_work",
    "resume": "test_cells_that_are_left_are_trained_by_the_command_that_status_names",
    "retry": "test_failed_cells_are_retried_by_the_command_that_the_plan_names",
    "sync": "test_rows_that_mlflow_lacks_are_written_by_the_command_that_is_named",
    "cancel": "test_cell_at_work_is_not_dropped_and_the_command_that_ends_it_is_known",
    "mv": "test_dropped_cell_comes_back_by_the_command_that_is_named",
    "ln": "test_dropped_cell_comes_back_by_the_command_that_is_named",
    "cells": "test_cells_that_no_grid_has_are_moved_by_the_command_that_is_named",
    "report": "test_page_that_was_not_written_is_written_by_the_command_that_is_named",
    "tune": "test_search_is_resumed_by_the_command_that_is_named",
    "ui": "test_page_of_mlflow_is_opened_by_the_command_that_a_launch_names",
}
"""The tests of commands that a message gives whole, by the word."""
NAMED = {
    "drop",
    "verify",
    "site detect",
    "data check",
    "data show RUN_FOLDER --step STEP",
    "data pack",
    "data convert",
    "data convert cityscapes",
    "tune",
    "sync",
    "logs",
    "retry",
    "retry --set trainer.num_workers=4",
    "retry --set cluster.mem_gb_per_worker=64",
    "schema plan",
    "schema status",
}
"""Commands that messages name without their arguments, since they cannot know these."""


def said(message: str) -> list[list[str]]:
    """Return the commands in a message."""
    return [shlex.split(words) for words in re.findall(r"`((?:rankmatch|mv|ln) [^`]+)`", message)]


def run(words: list[str]) -> int:
    return CliRunner().invoke(app, words[1:]).exit_code


def constants(tree: ast.AST) -> list[str]:
    """Return the texts of a module that are no docstrings."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def test_commands_in_messages_are_those_that_tests_execute() -> None:
    whole, named = set(), set()
    for path in (*ROOT.glob("orchestration/**/*.py"), *ROOT.glob("rankmatch/**/*.py")):
        text = path.read_text()
        whole |= set(re.findall(r'hints\.command\(\s*["\'](\w+)', text))
        whole |= set(re.findall(r'hints\.shell\("rankmatch", "(\w+)"', text)) | set(
            re.findall(r'hints\.shell\("(mv|ln)"', text)
        )
        named |= {word for one in constants(ast.parse(text)) for word in re.findall(r"`rankmatch ([^`{]+)`", one)}
    assert whole == EXECUTED.keys() and all(test in globals() for test in EXECUTED.values())
    assert named == NAMED
    for words in named:
        assert CliRunner().invoke(app, [*words.partition(" --")[0].split()[:2], "--help"]).exit_code == 0


def test_failed_cells_are_retried_by_the_command_that_the_plan_names(own: OwnGrid, tmp_path, monkeypatch) -> None:
    (command,) = said(own("plan", "--grid", "membranes"))
    monkeypatch.chdir(tmp_path)
    assert run(command) == 1  # it fails again
    assert [len(own.cell(name).attempts()) for name in ("rankmatch-s0", DONE)] == [2, 1]


def test_launch_that_leaves_a_failed_cell_says_so_last_with_commands_that_work(own: OwnGrid, tmp_path) -> None:
    printed = own.launch("method=rankmatch", "seed=[0]", code=1)
    assert "0 of 1 cell is done, 1 failed (1 loss is not finite)" in printed
    status, retry = said(printed)[-2:]
    assert (status[1], retry[1]) == ("status", "retry")
    assert (run(status), run(retry)) == (0, 1)  # it fails again
    printed = own.launch("method=supervised", code=0)
    assert "2 of 2 cells are done" in printed and "failed" not in printed.rpartition("2 of 2 cells")[2]


def test_cells_that_no_grid_has_are_moved_by_the_command_that_is_named(own: OwnGrid, tmp_path, monkeypatch) -> None:
    shutil.rmtree(own.runs / "membranes")
    before = len([*(own.runs / "cells").iterdir()])
    (drop,) = said(own("cells"))
    monkeypatch.chdir(tmp_path)
    assert run(drop) == 0 and before > 0 and not [*(own.runs / "cells").iterdir()]


def test_page_of_mlflow_is_opened_by_the_command_that_a_launch_names(own: OwnGrid, tmp_path, monkeypatch) -> None:
    (command,) = [words for words in said(own.launch("method=supervised")) if words[1] == "ui"]
    shown: list[Path] = []
    monkeypatch.setattr(page, "show", lambda grid_dir, *_, **__: shown.append(grid_dir))  # test_mlflow_ui.py serves it
    monkeypatch.chdir(tmp_path)
    assert run(command) == 0 and shown == [own.runs / "membranes"]


def test_finished_cell_is_launched_again_by_the_command_that_its_run_in_mlflow_names(
    own: OwnGrid, tmp_path, monkeypatch
):
    cell = own.cell(DONE)
    (command,) = said(described(cell, cell.axes(), {}))
    monkeypatch.chdir(tmp_path)
    assert command[1] == "launch" and run(command) == 0
    assert len(cell.attempts()) == 1  # it is kept


def test_cells_that_are_left_are_trained_by_the_command_that_status_names(own: OwnGrid, tmp_path, monkeypatch) -> None:
    assert "left" not in own("status", "--grid", "membranes")  # what failed would fail again
    own("drop", DONE, "--grid", "membranes")
    printed = own("status", "--grid", "membranes")
    assert "1 cell is left and no launch is at work on membranes" in printed
    (command,) = said(printed)
    monkeypatch.chdir(tmp_path)
    assert command[1] == "resume" and run(command) == 1  # the other cells still have failed
    assert own.cell(DONE).state().status is CellState.DONE and "left" not in own("status", "--grid", "membranes")


def test_rows_that_mlflow_lacks_are_written_by_the_command_that_is_named(own: OwnGrid, tmp_path, monkeypatch) -> None:
    def is_away(*arguments: object, **named: object) -> None:
        raise StoreError("it is away")

    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "sync", is_away)
        patch.setattr(Mirror, "end_launch", is_away)
        printed = own.launch(code=1)
    (command,) = {tuple(words) for words in said(printed) if "sync" in words}
    monkeypatch.chdir(tmp_path)
    assert run([*command]) == 0


def test_cell_at_work_is_not_dropped_and_the_command_that_ends_it_is_known(own: OwnGrid, monkeypatch) -> None:
    own.cell("rankmatch-s0").claim(this_process())
    (command,) = said(own("drop", "rankmatch", "--grid", "membranes", code=2))
    assert run(command) == 0


def test_launch_that_is_at_work_is_ended_by_cancel(own: OwnGrid, monkeypatch) -> None:
    ended, kill, own_pid = [], os.kill, os.getpid()
    # a data worker that an earlier test left is ended for real, whenever it is collected
    monkeypatch.setattr("os.kill", lambda *said: ended.append(said) if said[0] == own_pid else kill(*said))
    with launch_folder.only_launch_of(own.runs / "membranes"):
        assert "another launch is at work" in own("drop", DONE, "--grid", "membranes", code=2)
        assert "CELL must be left out" in own("cancel", DONE, "--grid", "membranes", code=2)
        assert f"(process {this_process()['pid']}) was told to end" in own("cancel", "--grid", "membranes")
    assert ended == [(this_process()["pid"], signal.SIGTERM)]


def test_dropped_cell_comes_back_by_the_command_that_is_named(own: OwnGrid) -> None:
    before = own.cell(DONE).result()
    commands = said(own("drop", DONE, "--grid", "membranes"))
    assert "2 runs" in own("results") and "1 submit" in own("plan", "--grid", "membranes")
    assert [words[0] for words in commands] == ["mv", "ln"]
    for words in commands:
        subprocess.run(words, check=True)
    assert own.cell(DONE).result() == before
    assert "2 done, 1 failed" in own("status", "--grid", "membranes")


def test_page_that_was_not_written_is_written_by_the_command_that_is_named(own: OwnGrid, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("orchestration.launching.page.WRITER", ("dashboards.report", "missing"))
        printed = own.launch(code=1)
    (command,) = [words for words in said(printed) if "report" in words]
    monkeypatch.chdir(tmp_path)
    assert run(command) == 0 and (own.runs / "membranes" / "report.html").is_file()


@pytest.mark.parametrize("word", ["retry", "resume"])
def test_search_is_resumed_by_the_command_that_is_named(word: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "few"
    (folder / "launches").mkdir(parents=True)
    (folder / "grid.yaml").write_text((Path(__file__).parents[1] / "search.yaml").read_text())
    done = CliRunner().invoke(app, [word, "--grid", "few", "--runs", str(tmp_path / "runs")])
    (command,) = said(str(done.exception))
    assert run([*command, "--dry-run"]) == 0


@pytest.mark.parametrize("torn", ["config.yaml", "axes.json"])
def test_damaged_description_of_a_cell_is_written_anew_by_the_next_launch_as_its_message_says(
    torn: str, own: OwnGrid
) -> None:
    path = own.cell(DONE).path / torn
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert "damaged" in own("results") and any("launch the grid again" in warning for warning in own.warned)
    own.launch(code=1)
    assert own.cell(DONE).is_described() and "damaged" not in own("results")


def test_index_that_is_gone_is_written_by_the_next_launch_as_its_message_says(own: OwnGrid) -> None:
    (own.runs / "membranes" / "index.jsonl").unlink()
    assert "launch the grid again" in own("status", "--grid", "membranes", code=2)
    own.launch(code=1)
    assert "3 cells: 2 done, 1 failed" in own("status", "--grid", "membranes")


def test_result_that_is_removed_has_the_cell_trained_again_as_its_message_says(own: OwnGrid) -> None:
    path = own.cell(DONE).path / "result.json"
    path.write_text(path.read_text()[:50])
    assert "1 damaged" in own("plan", "--grid", "membranes")
    assert any("restore it, or remove it to have the cell trained again" in warning for warning in own.warned)
    path.unlink()
    own.cell(DONE).attempts()[-1].event("stopped", step=0, kind="cancelled")  # its process is this one, and lives
    own.launch(code=1)
    assert own.cell(DONE).state().status is CellState.DONE

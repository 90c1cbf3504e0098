"""A cell with a step that is not finite is given up, or its next attempt leaves the step out where that is asked."""

import errno
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Never

import pytest
from launcher import Launcher
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.runs.failures import decide
from orchestration.runs.run_folder import RunFolder, folders
from rankmatch import trainer

CELL = ("seed=0", "method=fixmatch")


@pytest.fixture
def nan_at_step_1(monkeypatch) -> None:
    step_of, passes, now = trainer._Run._step, trainer.passes, []

    def step(run, batch):
        now[:] = [run.result.step]
        return step_of(run, batch)

    def spoiled(*views):
        for part in passes(*views):
            yield replace(part, loss=part.loss * math.nan) if now == [1] else part

    monkeypatch.setattr(trainer._Run, "_step", step)
    monkeypatch.setattr(trainer, "passes", spoiled)


def only(launcher: Launcher) -> RunFolder:
    (folder,) = folders(launcher.runs / "small").values()
    return folder


def said(*words: str) -> str:
    shown = CliRunner().invoke(app, [*words], env={"COLUMNS": "250"})
    assert shown.exit_code == 0, shown.output
    return " ".join(shown.output.split())


@pytest.mark.usefixtures("nan_at_step_1")
def test_next_attempt_leaves_the_step_out_if_asked_and_all_that_tells_of_the_cell_says_so(
    fresh: Launcher, tmp_path: Path
) -> None:
    asked = (*CELL, "trainer.when_not_finite=leave_out")
    assert fresh(*asked) == 1
    folder = only(fresh)
    (attempt,) = folder.attempts()
    assert attempt.end().kind == "step is left out" and decide([attempt.end()]).again
    assert attempt.step_to_leave_out() == 1
    assert fresh(*asked) == 0
    assert folder.result()["steps_left_out"] == [1] and folder.result()["attempt"] == 2
    assert 1 not in folder.steps()["step"].to_pylist()
    report = (fresh.runs / "small/report.md").read_text()
    assert f"- {folder.signature} (fixmatch-4-s0) left out step 1, not finite" in report
    assert "¶ a cell made no update" in report and "a step left out" in (fresh.runs / "small/table.csv").read_text()
    where = ("--grid", "small", "--runs", str(fresh.runs))
    assert "left out step 1, not finite (trainer.when_not_finite=leave_out)" in said("status", *where)
    assert "(trainer.when_not_finite=leave_out): 1 of 2 steps." in said("describe", "small", "--runs", str(fresh.runs))
    exported = tmp_path / "runs.json"
    assert "steps left out" in said("results", "--runs", str(fresh.runs))
    said("results", "--runs", str(fresh.runs), "--format", "json", "-o", str(exported))
    assert json.loads(exported.read_text())["steps_left_out"] == [1]


@pytest.mark.usefixtures("nan_at_step_1")
def test_cell_whose_step_cannot_be_written_down_is_given_up_as_it_would_meet_the_step_again(
    fresh: Launcher, monkeypatch
) -> None:
    def full(path: Path) -> Never:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(trainer.bad_steps, "replacing", full)
    assert fresh(*CELL, "trainer.when_not_finite=leave_out") == 1
    (attempt,) = only(fresh).attempts()
    assert attempt.end().kind == "loss is not finite" and not decide([attempt.end()]).again
    assert "so it cannot be left out: No space left on device" in only(fresh).look().failure


@pytest.mark.usefixtures("nan_at_step_1")
def test_cell_is_given_up_where_nobody_asked_and_what_the_step_saw_can_be_drawn(
    fresh: Launcher, tmp_path: Path
) -> None:
    assert fresh(*CELL) == 1
    folder = only(fresh)
    (attempt,) = folder.attempts()
    assert attempt.end().kind == "loss is not finite" and attempt.step_to_leave_out() is None
    assert not decide([attempt.end()]).again
    assert f"its images are in {attempt.bad_step_file}" in folder.look().failure
    words = ["data", "show", str(folder.path), "--step", "1", "-o", str(tmp_path / "seen.png")]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.exception
    assert "as step 1 is trained on them" in shown.output and (tmp_path / "seen.png").is_file()
    too_far = CliRunner().invoke(app, [*words[:4], "9999", *words[5:]])
    assert "the step must be one of 0 to " in str(too_far.exception)

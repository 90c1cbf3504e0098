"""Attempts stopped and killed wherever a file changes: what is left in the end is as if nothing had happened."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attempts_killed
import equal_cells
import pytest
import torch
from attempts_killed import KILLED
from undisturbed import content

from orchestration.grids.cells import Cell, compose, from_yaml, to_yaml
from orchestration.planning import costs
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = equal_cells.SETTINGS | {"trainer.epochs": 3, "trainer.learning_rate": 0.003}
"""Two steps an epoch, with a checkpoint after each of them; the second of three epochs is the best one."""
IN_EVALUATION = 3
"""The question whether to stop, of two before steps and two before images, that is put in an epoch's evaluation."""
EVERY = 7
"""One change in so many is tried; with 1 here all are, in some minutes."""

Order = dict[str, Any]


class Attempts:
    """Carries out attempts in processes of their own."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, attempts_killed.__file__]
        self.server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )

    def __call__(self, folder: RunFolder, **order: int) -> tuple[int, int]:
        """Return the exit code and the number of changes that were made."""
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps({"cell": str(folder.path), **order}) + "\n")
        self.server.stdin.flush()
        answer = json.loads(self.server.stdout.readline())
        return answer["code"], answer["count"]


@pytest.fixture(scope="module")
def attempts() -> Iterator[Attempts]:
    made = Attempts()
    with made.server:  # closes its input, which ends it
        yield made
    assert made.server.returncode == 0


def make(folder: Path, **settings: Any) -> RunFolder:
    cell = Cell(compose(SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}), {"seed": "1"})
    made = RunFolder(folder / "cells" / cell.folder_name)
    made.create(to_yaml(cell.config), cell.axes)
    return made


@pytest.fixture(scope="module")
def undisturbed(attempts: Attempts, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, int]:
    """A cell that was trained in one go, and how many changes that took."""
    folder = make(tmp_path_factory.mktemp("undisturbed"))
    attempts(folder)
    again = make(tmp_path_factory.mktemp("counted"))
    return folder, attempts(again)[1]


def test_undisturbed_run_keeps_rows_samples_and_best_weights_only(undisturbed: tuple[RunFolder, int]) -> None:
    found = content(undisturbed[0])
    pictures = {"0-image.jpg", "0-label.png", "0-prediction.png", "0-difference.png", "pictures.json"}
    assert found["pictures"].keys() == pictures
    assert found["files"] == {
        "best.pt",
        "evaluation.json",
        "events.jsonl",
        "log",
        "owner.json",
        "samples.png",
        "pictures",
        *pictures,
    }
    assert [row["step"] for row in found["steps.arrow"]] == list(range(6))
    assert [row["epoch"] for row in found["epochs.jsonl"]] == [1, 2, 3]


def test_run_killed_at_any_change_of_a_file_and_resumed_equals_the_undisturbed_one(
    undisturbed: tuple[RunFolder, int], attempts: Attempts, tmp_path: Path
) -> None:
    whole, num_changes = content(undisturbed[0]), undisturbed[1]
    for kill_at in range(1, num_changes + 1, EVERY):
        folder = make(tmp_path / str(kill_at))
        assert attempts(folder, kill_at=kill_at)[0] == KILLED
        attempts(folder)
        assert content(folder) == whole, f"killed at change {kill_at} of {num_changes}"


def test_run_stopped_in_an_evaluation_and_killed_at_any_change_after_it_equals_the_undisturbed_one(
    undisturbed: tuple[RunFolder, int], attempts: Attempts, tmp_path: Path
) -> None:
    whole, counted = content(undisturbed[0]), make(tmp_path / "counted")
    attempts(counted, stop_at=IN_EVALUATION)
    assert [path.name for path in counted.path.rglob("step_2*")] == ["step_2_before_evaluation"]
    num_changes = attempts(counted)[1]
    assert content(counted) == whole
    for kill_at in range(1, num_changes + 1, EVERY):
        folder = make(tmp_path / str(kill_at))
        attempts(folder, stop_at=IN_EVALUATION)
        attempts(folder, kill_at=kill_at)
        attempts(folder)
        assert content(folder) == whole, f"killed at change {kill_at} of {num_changes}"


def test_best_model_of_an_earlier_attempt_is_brought_along(
    undisturbed: tuple[RunFolder, int], attempts: Attempts, tmp_path: Path
) -> None:
    folder = make(tmp_path)
    attempts(folder, stop_after=2)
    assert [row["epoch"] for row in folder.epochs()] == [1, 2]
    assert attempts(folder)[0] == 0
    result = folder.result()
    assert result is not None and (result["attempt"], result["best_epoch"]) == (2, 2)
    best = torch.load(folder.path / "attempts" / "2" / "best.pt", weights_only=True)
    assert (best["epoch"], best["step"], best["miou"]) == (2, 4, result["best_miou"])
    assert content(folder) == content(undisturbed[0])


def test_run_stopped_and_killed_again_and_again_equals_the_undisturbed_one(
    undisturbed: tuple[RunFolder, int], attempts: Attempts, tmp_path: Path
) -> None:
    folder = make(tmp_path)
    for order in ({"kill_at": 41}, {"stop_at": 2}, {"kill_at": 13}, {"kill_at": 45}, {"stop_at": 1}, {}):
        attempts(folder, **order)
    assert content(folder) == content(undisturbed[0])
    result = folder.result()
    assert result is not None
    kept = result["provenance"]["attempts"]
    assert [row["first_step"] for row in kept] == sorted({row["first_step"] for row in kept})
    assert kept[0]["first_step"] == 0 and all(row["commit"] == "abc" and row["device"] for row in kept)


def weights_bytes(folder: RunFolder) -> int:
    """Return what weights and checkpoints take of the disk; a file with several names takes it once."""
    found = {path.stat().st_ino: path.stat().st_size for path in folder.path.rglob("*.pt")}
    return sum(found.values())


def test_twenty_five_interrupted_attempts_take_no_more_of_the_disk_than_the_plan_says(
    attempts: Attempts, tmp_path: Path
) -> None:
    folder = make(tmp_path, trainer__epochs=13)
    config, sizes = from_yaml(folder.config()), []
    for _ in range(25):  # every other one ends in an evaluation, and the next one right behind it
        attempts(folder, stop_at=IN_EVALUATION)
        sizes.append(weights_bytes(folder))
    assert len(folder.attempts()) == 25 and folder.state().step == 26
    assert 0 < max(sizes) <= costs.training_bytes(config)
    attempts(folder)
    assert folder.state().status is CellState.DONE
    assert 0 < weights_bytes(folder) <= costs.finished_bytes(config)


def test_finished_cell_keeps_as_many_checkpoints_as_it_is_told_to(attempts: Attempts, tmp_path: Path) -> None:
    folder = make(tmp_path, trainer__keep_checkpoints=1)
    attempts(folder, stop_after=1)
    attempts(folder)
    kept = [path.relative_to(folder.path / "attempts") for path in folder.path.rglob("step_*")]
    assert kept == [Path("2/checkpoints/step_6")]
    assert weights_bytes(folder) <= costs.finished_bytes(from_yaml(folder.config()))

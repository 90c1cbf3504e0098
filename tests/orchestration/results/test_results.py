from pathlib import Path

import pytest

from orchestration.grids.cells import NAMES, Cell, to_yaml
from orchestration.results.run_table import FIELDS, collect
from orchestration.runs.run_folder import RunFolder
from rankmatch.config import NumericsConfig, TrainConfig

OWNER = {"provenance": {"commit": "c0ffee", "split_sha256": "5a", "data_fingerprint": "7b", "host": "here"}}


def cell(seed: int) -> Cell:
    return Cell(TrainConfig(numerics=NumericsConfig(seed=seed, split="1_16")), {"split": "1_16", "seed": str(seed)})


def result(best: float) -> dict[str, object]:
    counts = {"step": 30, "num_steps": 30, "epoch": 3, "num_epochs": 3, "best_epoch": 2, "num_present_classes": 2}
    iou = {"best_class_iou": [best, None, best], "last_class_iou": [0.5, None, 0.5]}
    return {"best_miou": best, "last_miou": 0.5, "duration_s": 7200.0, **counts, **iou}


@pytest.fixture
def grid_dir(tmp_path: Path) -> Path:
    for seed in (0, 1):
        made = RunFolder(tmp_path / "cells" / cell(seed).folder_name)
        made.create(to_yaml(cell(seed).config), cell(seed).axes)
        attempt = made.claim(OWNER)
        attempt.event("started", step=0)
        if seed == 0:
            attempt.publish(result(0.6))
        else:
            attempt.recorder()(9, {"epoch": 1, "num_epochs": 3, "num_steps": 30, "miou": 0.3, "best_miou": 0.3})
            attempt.event("failed", kind="disk full", message="No space left")
    return tmp_path


def test_finished_cell_has_its_numbers(grid_dir: Path) -> None:
    (row,) = collect(grid_dir, [cell(0)]).to_pylist()
    assert (row["signature"], row["split"], row["seed"]) == (cell(0).signature, "1_16", "0")
    assert (row["status"], row["best_miou"], row["best_epoch"], row["last_miou"]) == ("done", 0.6, 2, 0.5)
    assert row["best_class_iou"] == [0.6, None, 0.6]
    assert (row["num_attempts"], row["duration_s"], row["commit"], row["host"]) == (1, 7200.0, "c0ffee", "here")
    assert (row["split_sha256"], row["data_fingerprint"]) == ("5a", "7b")


def test_unfinished_cell_has_its_progress_and_no_numbers(grid_dir: Path) -> None:
    (row,) = collect(grid_dir, [cell(1)]).to_pylist()
    assert (row["status"], row["failure"]) == ("failed", "disk full: No space left")
    assert (row["epoch"], row["num_epochs"], row["step"], row["num_steps"]) == (1, 3, 10, 30)
    assert (row["best_miou"], row["last_miou"]) == (None, None)


def test_rows_keep_the_order_of_the_cells(grid_dir: Path) -> None:
    cells = [cell(2), cell(1), cell(0)]
    table = collect(grid_dir, cells)
    assert table["signature"].to_pylist() == [made.signature for made in cells]
    assert table["status"].to_pylist() == ["missing", "failed", "done"]
    assert table.column_names == ["grid", "signature", *NAMES, *FIELDS]


def test_folder_is_found_by_its_signature_whatever_its_slug(grid_dir: Path) -> None:
    folder = grid_dir / "cells" / cell(0).folder_name
    folder.rename(folder.with_name(f"{cell(0).signature}-renamed"))
    (row,) = collect(grid_dir, [cell(0)]).to_pylist()
    assert (row["status"], row["folder"]) == ("done", f"{cell(0).signature}-renamed")


def test_no_cells_make_an_empty_table(tmp_path: Path) -> None:
    assert collect(tmp_path, []).num_rows == 0

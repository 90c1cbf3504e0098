"""The counts of the evaluation at a run's best epoch: which classes are confused, and with which confidence."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from rankmatch.durable import sync_file, sync_folder
from rankmatch.evaluation import Evaluation
from rankmatch.run_files import EVALUATION

SCHEMA = 1
Counts = Mapping[str, Tensor]
"""Tensors by name, as in a checkpoint."""


def of(evaluation: Evaluation) -> dict[str, Tensor]:
    """Return the counts of an evaluation."""
    assert evaluation.calibration is not None, "`evaluate` counts both"
    return {"confusion": evaluation.confusion, "calibration": evaluation.calibration}


def write(run_dir: Path, counts: Counts | None, epoch: int) -> None:
    """Write the counts of the best epoch; None: a checkpoint of an earlier version did not keep them."""
    if counts is None:
        return
    path = run_dir / EVALUATION
    content = {"schema": SCHEMA, "epoch": epoch, **{name: count.tolist() for name, count in counts.items()}}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
    sync_file(path)
    sync_folder(run_dir)

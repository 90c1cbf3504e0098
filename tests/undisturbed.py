"""What tests of killed runs share: waiting for the moment, and the metrics that come out when nothing happens."""

import time
from collections.abc import Callable
from pathlib import Path

from orchestration.run_cell import launcher, run_cell, train_inline
from orchestration.run_folder import RunFolder
from orchestration.schedulers import JobState

METRICS = ("step", "best_miou", "best_epoch", "last_miou", "best_class_iou", "last_class_iou")


def wait_until(condition: Callable[[], object], timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def metrics(cell: Path) -> list:
    return [RunFolder(cell).result()[key] for key in METRICS]


def has_trained(cell: Path) -> bool:
    return len(RunFolder(cell).epochs()) >= 2


def undisturbed_metrics(cell: Path, folder: Path) -> list:
    """Train the same in this process, from the beginning to the end."""
    copy = folder / "undisturbed" / cell.name
    RunFolder(copy).create(RunFolder(cell).config(), {})
    assert run_cell(copy, train=train_inline, owner=launcher()) is JobState.DONE
    return metrics(copy)

"""Cells of a few steps that are all equal, for tests that cut them short and compare what they end with."""

from pathlib import Path

from orchestration.grids.cells import Cell, compose, to_yaml
from orchestration.runs.run_folder import RunFolder

SETTINGS = {
    "method": "supervised",
    "split": "4",
    "seed": 3,
    "dataset.scenes.num_train": 8,
    "dataset.scenes.num_val": 2,
    "dataset.scenes.size": 32,
    "augment.crop_size": 33,
    "backbone": "mobilenet_v2",
    "backbone.pretrained": False,
    "backbone.width": 0.25,
    "trainer.epochs": 2,
    "trainer.labeled_batch_size": 2,
    "trainer.unlabeled_batch_size": 2,
    "trainer.device": "cpu",
    "trainer.num_threads": 1,
    "trainer.log_every_steps": 1,
    "trainer.checkpoint_every_min": 0,
    "tracking.system_every_s": 0,
    "tracking.num_samples": 1,
}
"""Two epochs of two steps, with a checkpoint before each step and after each epoch; the first epoch is the best."""


def make_cell(folder: Path) -> RunFolder:
    """Make the folder of such a cell below another one."""
    cell = Cell(compose(SETTINGS), {"seed": "3"})
    made = RunFolder(folder / "cells" / cell.folder_name)
    made.create(to_yaml(cell.config), cell.axes)
    return made

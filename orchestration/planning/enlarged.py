"""Cells with more workers: the same batch, divided further, has the same numbers up to rounding; pure."""

from collections.abc import Mapping
from dataclasses import replace

from orchestration.grids.grid import Grid
from orchestration.runs.requests import Larger
from rankmatch.config import TrainConfig


def grid(loaded: Grid, larger: Mapping[str, Larger]) -> Grid:
    """Return a grid whose cells have the workers that they ask for, by signature."""
    workers = {key: one.workers for key, one in larger.items() if one.workers}
    if not workers:
        return loaded
    cells = [
        replace(cell, config=_with_workers(cell.config, workers[cell.signature])) if cell.signature in workers else cell
        for cell in loaded.cells
    ]
    return replace(loaded, cells=cells)


def more_workers(config: TrainConfig) -> int:
    """Return twice a cell's workers; 0 if its batches cannot be divided so, or its numbers depend on them."""
    count = 2 * config.execution.trainer.num_workers
    try:
        return _with_workers(config, count).execution.trainer.num_workers
    except ValueError:
        return 0


def _with_workers(config: TrainConfig, count: int) -> TrainConfig:
    trainer = replace(config.execution.trainer, num_workers=count)
    return replace(config, execution=replace(config.execution, trainer=trainer))

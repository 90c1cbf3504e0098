"""Copies of the split lists that a grid was launched with, read if the original lists are gone."""

import re
from collections.abc import Iterable
from pathlib import Path

from orchestration.grids.cells import Cell
from orchestration.machine import files
from orchestration.machine.damage import tell
from orchestration.runs.folders import GridFolder
from rankmatch.config import TrainConfig
from rankmatch.durable import make_folder

_OF_ALL = ("val.txt", "train.txt")
_OF_SPLIT = ("labeled.txt", "unlabeled.txt")


def keep(cells: Iterable[Cell], grid_dir: Path) -> None:
    """Copy the lists of some cells into the grid's folder, replacing earlier copies."""
    wanted = {
        (root, _place(cell.config, grid_dir), name)
        for cell in cells
        if (root := _there(cell.config)) is not None
        for name in (*_OF_ALL, *(f"{cell.config.numerics.split}/{each}" for each in _OF_SPLIT))
    }
    for root, place, name in sorted(wanted):
        path = place / name
        if root == place or not (root / name).is_file():
            continue
        content = (root / name).read_bytes()
        if not path.is_file() or path.read_bytes() != content:
            make_folder(path.parent)
            files.replace(path, content)


def use_copies(cells: Iterable[Cell], grid_dir: Path) -> None:
    """Let cells whose lists are gone read the copies, and report it."""
    for cell in cells:
        place = _place(cell.config, grid_dir)
        roots = split_roots(cell.config)
        if roots and not any(root.is_dir() for root in roots) and (place / "val.txt").is_file():
            tell(f"the split lists are read from {place}, the copies of the launch: there is no {roots[0]}")
            cell.config.execution.split_root = str(place)


def _there(config: TrainConfig) -> Path | None:
    return next((root for root in split_roots(config) if root.is_dir()), None)


def _place(config: TrainConfig, grid_dir: Path) -> Path:
    return GridFolder(grid_dir).lists_dir / re.sub(r"[^A-Za-z0-9._-]+", "_", config.numerics.dataset.name)


def split_roots(config: TrainConfig) -> list[Path]:
    """Return the folders in which a cell's split lists can be; empty if it needs none."""
    execution = config.execution
    if execution.split_root:
        return [Path(execution.split_root)]
    root = Path(execution.data_root)
    return [root / "splits", root.parent / "splits" / config.numerics.dataset.name] if execution.data_root else []

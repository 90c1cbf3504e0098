"""Copies of the split lists that a grid was launched with, read where the lists themselves are gone."""

import re
from collections.abc import Iterable
from pathlib import Path

from orchestration import costs, files
from orchestration.cells import Cell
from orchestration.damage import tell
from rankmatch.config import TrainConfig

FOLDER = "splits"
_OF_ALL = ("val.txt", "train.txt")
_OF_SPLIT = ("labeled.txt", "unlabeled.txt")


def keep(cells: Iterable[Cell], grid_dir: Path) -> None:
    """Copy the lists of some cells into the grid's folder, in place of earlier ones."""
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
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(path, content)


def lend(cells: Iterable[Cell], grid_dir: Path) -> None:
    """Have cells whose lists are gone read the copies, which is said."""
    for cell in cells:
        place = _place(cell.config, grid_dir)
        roots = costs.split_roots(cell.config)
        if roots and not any(root.is_dir() for root in roots) and (place / "val.txt").is_file():
            tell(f"the split lists are read from {place}, as the launch kept them: there is no {roots[0]}")
            cell.config.execution.split_root = str(place)


def _there(config: TrainConfig) -> Path | None:
    return next((root for root in costs.split_roots(config) if root.is_dir()), None)


def _place(config: TrainConfig, grid_dir: Path) -> Path:
    return grid_dir / FOLDER / re.sub(r"[^A-Za-z0-9._-]+", "_", config.numerics.dataset.name)

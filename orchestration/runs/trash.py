"""Dropped run folders: they stay in a trash below the runs folder until the user removes them."""

from pathlib import Path

from orchestration.runs import hints
from orchestration.runs.folders import GridFolder
from rankmatch import durable


def folder(grid_dir: Path) -> Path:
    """Create a folder for the cells to drop now."""
    place = GridFolder(grid_dir).next_trash()
    durable.make_folder(place)
    return place


def move(cell_dir: Path, place: Path) -> Path:
    """Move a cell's folder there by one rename, so that it is never split between two places."""
    return durable.move(cell_dir, place / cell_dir.name)


def way_back(moved: Path, cell_dir: Path) -> str:
    """Return the command that restores a folder, in backticks."""
    return hints.shell("mv", str(moved), str(cell_dir))

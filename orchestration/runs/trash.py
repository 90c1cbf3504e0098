"""Dropped run folders: they stay in a trash below the runs folder until the user removes them."""

from pathlib import Path

from orchestration.runs import hints, store
from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import RunFolder
from rankmatch import durable


def folder(grid_dir: Path) -> Path:
    """Create a folder for the cells to drop now."""
    place = GridFolder(grid_dir).next_trash()
    durable.make_folder(place)
    return place


def drop(cell: RunFolder, place: Path) -> str:
    """Take a cell out of its grid; return what became of it, and the commands that bring it back.

    Its folder moves to the trash by one rename, so that it is never split between two places, unless another grid has
    the cell too: then that one keeps it.
    """
    real = store.real_path(cell)
    if real is None:
        moved = durable.move(cell.path, place / cell.name)
        return f"{cell.name} lies in {moved}; {_move(moved, cell.path)} brings it back"
    runs = cell.grid.runs.path
    with store.changing(runs):
        others = [grid.name for grid in store.grids_with(runs, cell.signature) if grid.path != cell.grid.path]
        link = hints.shell("ln", "-s", str(cell.path.readlink()), str(cell.path))
        store.unlink(cell)
        if others:
            also = (
                f"grid {', '.join(others)} has it too, so {real} stays, and a launch of {cell.grid.name} keeps it again"
            )
            return f"{cell.name} is out of {cell.grid.name}; {also}; {link} brings it back at once"
        moved = durable.move(real, place / real.name)
        return f"{cell.name} lies in {moved}; {_move(moved, real)} and then {link} bring it back"


def _move(moved: Path, back: Path) -> str:
    return hints.shell("mv", str(moved), str(back))

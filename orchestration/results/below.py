"""Which run folders lie below a root, through links where a grid lies on another disk."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestration.runs.folders import CellFolder, GridFolder, RunsFolder, cell_names

_CELLS = GridFolder.cells_dir.name
_NO_GRIDS_BELOW = (
    CellFolder.attempts_dir.name,
    RunsFolder.artifacts_dir.name,
    RunsFolder.checked_dir.name,
    GridFolder.launches_dir.name,
    GridFolder.snapshots_dir.name,
)


def find(root: Path) -> list[str]:
    """Return all run folders below a root, as paths relative to it, in order.

    Raises:
        ValueError: There is none.
    """
    found = sorted(_runs_below(str(root), "", os.path.realpath(root))) if root.is_dir() else []
    if not found:
        raise ValueError(f"--runs must hold run folders, <grid>/cells/<signature>-...; there is none below {root}")
    return found


def _runs_below(folder: str, prefix: str, root: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        inner = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and (entry.is_dir(follow_symlinks=False) or _leads_out(entry, root))
        ]
    for name in inner:
        if name == _CELLS and _is_store(folder, inner):  # grids beside it link to its cells
            continue
        runs = cell_names(f"{folder}/{name}") if name == _CELLS else []
        yield from (f"{prefix}{name}/{run}" for run in runs)
        if not runs and name not in _NO_GRIDS_BELOW:
            yield from _runs_below(f"{folder}/{name}", f"{prefix}{name}/", root)


def _leads_out(entry: os.DirEntry[str], root: str) -> bool:
    """Return whether a link is a grid's folder, or that of its cells, which lies elsewhere, as on a larger disk."""
    if not entry.is_symlink() or not os.path.isdir(entry.path):  # noqa: PTH112 (no path is made of the thousands)
        return False
    is_of_grid = entry.name == _CELLS or GridFolder(Path(entry.path)).grid_file.exists()
    return is_of_grid and not Path(os.path.realpath(entry.path)).is_relative_to(root)


def _is_store(folder: str, inner: Sequence[str]) -> bool:
    """Return whether the cells in a folder are a store's: it is no grid's folder, and others in it have cells."""
    if GridFolder(Path(folder)).grid_file.exists():
        return False
    return any(Path(folder, name, _CELLS).is_dir() for name in inner if name not in _NO_GRIDS_BELOW)

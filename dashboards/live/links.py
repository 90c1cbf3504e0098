"""Symbolic links below a runs folder: pages follow none that leads out of a run folder or of a grid's folder.

The one exception is a grid's link to a cell in the store of the same runs folder.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from orchestration.runs.folders import AttemptFolder, CellFolder, GridFolder, LaunchFolder

_READ = (".json", ".jsonl", ".yaml", ".arrow")
_CHECKED_WHEN_SENT = {AttemptFolder.pictures_dir.name}
_NEVER_OPENED = {
    AttemptFolder.checkpoints_dir.name,
    AttemptFolder.training_dir.name,
    GridFolder.lists_dir.name,
    GridFolder.snapshots_dir.name,
    GridFolder.figures_dir.name,
    LaunchFolder.jobs_dir.name,
    LaunchFolder.verdicts_dir.name,
    LaunchFolder.tune_dir.name,
    LaunchFolder.controllers_dir.name,
}
"""Folders that may lie elsewhere, on a larger disk for example."""
_PASSED = frozenset(_CHECKED_WHEN_SENT | _NEVER_OPENED)


def out_of_cell(cell: Path) -> str:
    """Return which link makes a run folder unreadable to pages, in words; empty if there is none."""
    if why := is_linked(cell):
        return why
    return _first_out(cell, depth=2, passed=_PASSED)


def out_of_grid(grid_dir: Path) -> str:
    """Return which link in a grid's folder, outside its run folders, leads out of it; empty if there is none."""
    cells = GridFolder(grid_dir).cells_dir
    if cells.is_symlink():
        return _words(cells, grid_dir)
    return _first_out(grid_dir, depth=3, passed=_PASSED | {cells.name})


def is_linked(cell: Path) -> str:
    """Return whether a run folder, or the folder of all, is a link elsewhere, in words; empty if neither is."""
    grid = CellFolder(cell).grid
    linked = [path for path in (grid.cells_dir, cell) if path.is_symlink() and not _is_stored(path, grid)]
    return next((_words(path, grid.path) for path in linked), "")


def is_stored(cell: Path) -> bool:
    """Return whether a run folder is a grid's link to a cell in the store beside it, which is no link itself."""
    return _is_stored(cell, CellFolder(cell).grid)


def _is_stored(path: Path, grid: GridFolder) -> bool:
    if grid.cells_dir.is_symlink() or grid.runs.cells_dir.is_symlink():
        return False
    try:
        target = path.readlink()
    except OSError:
        return False
    stored = grid.runs.cell(target.name).path
    return os.path.normpath(path.parent / target) == os.path.normpath(stored) and not stored.is_symlink()


def _first_out(root: Path, depth: int, passed: frozenset[str]) -> str:
    for entry in _links(str(root), depth, passed):
        is_opened = entry.name.endswith(_READ) or (entry.name not in _PASSED and Path(entry.path).is_dir())
        if is_opened and _leads_out(Path(entry.path), root):
            return _words(Path(entry.path), root)
    return ""


def _words(path: Path, root: Path) -> str:
    return f"{path.relative_to(root)} is a link that leads out of {root.name}, and pages do not follow it"


def _links(folder: str, depth: int, passed: frozenset[str]) -> Iterator[os.DirEntry[str]]:
    if not os.access(folder, os.X_OK):  # gone, or closed to this user: no page opens anything in it
        return
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                yield entry
            elif depth and entry.name not in passed and entry.is_dir(follow_symlinks=False):
                yield from _links(entry.path, depth - 1, passed)


def _leads_out(path: Path, root: Path) -> bool:
    try:
        return not path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a circle
        return True

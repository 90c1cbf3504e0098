"""What of a runs folder a browser may name: grids, cells and their files, all below it, and nothing through a link."""

import os
from pathlib import Path

from dashboards.live import links
from orchestration.machine.json_values import legible_text
from orchestration.runs.folders import AttemptFolder, CellFolder, GridFolder, RunsFolder, cell_names, signature_in

_MARKS = (GridFolder.grid_file.name, GridFolder.index_file.name, GridFolder.cells_dir.name)

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
MAX_PICTURES = 60


class NotThereError(Exception):
    """What an address names does not exist, or no longer."""


def grids(runs: Path) -> list[str]:
    """Return the names of the grids directly below a runs folder."""
    try:
        names = _folders(runs)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if any((runs / name / mark).exists() for mark in _MARKS))


def nameless(runs: Path) -> list[str]:
    """Return the names of folders below a runs folder that are not UTF-8, so that no address can contain them."""
    try:
        return sorted(name for name in _all_folders(runs) if not _is_utf8(name))
    except FileNotFoundError:
        return []


def linked(runs: Path) -> list[str]:
    """Return the names of grids below a runs folder that are links, and so are not followed."""
    try:
        with os.scandir(runs) as entries:
            names = [entry.name for entry in entries if entry.is_symlink() and _is_utf8(entry.name)]
    except FileNotFoundError:
        return []
    return sorted(name for name in names if not name.startswith("."))


def grid_folder(runs: Path, name: str) -> Path:
    """Return the folder of a grid.

    Raises:
        NotThereError: There is no such grid.
    """
    if name not in grids(runs):
        raise NotThereError(f"There is no grid {name!r} below {runs}.")
    return RunsFolder(runs).grid(name).path


def cells(grid_dir: Path) -> list[str]:
    """Return the names of a grid's run folders, in order; none if there are none yet."""
    try:
        folder = GridFolder(grid_dir).cells_dir
        if folder.is_symlink():
            return []
        linked = {name for name in cell_names(str(folder)) if links.is_stored(folder / name)}
        return sorted((_folders(folder) & set(cell_names(str(folder)))) | linked)
    except (FileNotFoundError, NotADirectoryError):
        return []


def cell_folder(grid_dir: Path, word: str) -> Path:
    """Return the run folder of a cell by its signature, or by the folder's full name.

    Raises:
        NotThereError: The cell has none.
    """
    for name in cells(grid_dir):
        if word in (name, signature_in(name)):
            found = GridFolder(grid_dir).cell(name).path
            if why := links.out_of_cell(found):
                raise NotThereError(f"{name}: {why}.")
            return found
    raise NotThereError(f"There is no folder of a cell {word!r} in {grid_dir.name}: it has not begun, or was removed.")


def inside(path: Path, root: Path) -> bool:
    """Return whether a file exists and lies below a folder, wherever links on its path lead."""
    try:
        return path.is_file() and path.resolve(strict=True).is_relative_to(root.resolve(strict=True))
    except (OSError, RuntimeError):
        return False


def pictures(cell: Path) -> dict[str, Path]:
    """Return the pictures of a cell, those of the newest attempt first, by their paths below its folder."""
    found: dict[str, Path] = {}
    attempts = sorted(CellFolder(cell).attempts_dir.glob("[0-9]*"), key=lambda path: path.name.zfill(9), reverse=True)
    for folder in [cell, *attempts]:
        paths = [*sorted(folder.glob("*")), *sorted(AttemptFolder(folder).pictures_dir.glob("**/*"))]
        for path in paths:
            name = path.relative_to(cell).as_posix()
            is_picture = path.suffix.lower() in PICTURES and not path.name.startswith(".")
            if is_picture and _is_utf8(name) and inside(path, cell):
                found[name] = path
    return dict(list(found.items())[:MAX_PICTURES])


def _folders(path: Path) -> set[str]:
    return {name for name in _all_folders(path) if _is_utf8(name)}


def _all_folders(path: Path) -> set[str]:
    with os.scandir(path) as entries:
        return {
            entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
        }


def _is_utf8(name: str) -> bool:
    return legible_text(name) == name

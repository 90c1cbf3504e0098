"""Which grids link to which cells of the store of a runs folder."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestration.runs.cell_names import is_cell_name
from orchestration.runs.folders import GridFolder, RunsFolder, signature_in

_MOVING = ".moving"
"""The end of the name of a link beside a folder that is about to move."""
_OF_THE_DISK = "lost+found"
"""Made by the file system, and closed to all but root."""


@dataclass(frozen=True, slots=True)
class Link:
    """A grid's link to a cell."""

    path: Path
    place: Path
    """Where it belongs; `path` lies beside that where a migration was ended."""

    @property
    def signature(self) -> str:
        """Signature of the cell."""
        return signature_in(self.place.name)


@dataclass(frozen=True, slots=True)
class Links:
    """The links of all grids of a runs folder."""

    grids: Mapping[str, Sequence[GridFolder]]
    """By the signature of the cell; a link counts that leads nowhere at the moment."""
    unread: Sequence[str]
    """Which folders may hold links and cannot be read, and why."""


def beside(place: Path) -> Path:
    """Return where a link lies until the folder in its place has moved."""
    return place.with_name(f".{place.name}{_MOVING}")


def of_grid(grid: GridFolder) -> list[Link]:
    """Return a grid's links, also one beside its place, whether they lead anywhere or not.

    Raises:
        OSError: Its folder of cells is not there, or cannot be read.
    """
    with os.scandir(grid.cells_dir) as entries:
        paths = [Path(one.path) for one in entries if one.is_symlink()]
    placed = [Link(path, path.with_name(_name(path))) for path in paths]
    return [link for link in placed if is_cell_name(link.place.name)]


def read(runs: Path) -> Links:
    """Return the links of the grids in a runs folder, also of hidden ones, and of those one folder further down."""
    grids: dict[str, list[GridFolder]] = {}
    unread: list[str] = []
    for folder in sorted(runs.iterdir()):
        if folder in (RunsFolder(runs).cells_dir, RunsFolder(runs).trash_dir):
            continue
        try:
            for grid in _grids_in(folder):
                for signature in sorted(_signatures(grid)):
                    grids.setdefault(signature, []).append(grid)
        except OSError as error:
            if folder.name != _OF_THE_DISK:
                unread.append(f"{error.filename or folder} cannot be read: {error.strerror}")
    return Links(grids, unread)


def read_all(runs: Path) -> Mapping[str, Sequence[GridFolder]]:
    """Return the grids that link to a cell, by its signature.

    Raises:
        ValueError: A folder that may hold links cannot be read.
    """
    found = read(runs)
    if found.unread:
        raise ValueError(f"which grids have a cell of {runs} cannot be told, as {'; '.join(found.unread)}")
    return found.grids


def _name(path: Path) -> str:
    is_beside = path.name.startswith(".") and path.name.endswith(_MOVING)
    return path.name.removeprefix(".").removesuffix(_MOVING) if is_beside else path.name


def _grids_in(folder: Path) -> Iterator[GridFolder]:
    """Yield a folder and, if it is no grid, those in it: somebody may have put grids away there."""
    yield GridFolder(folder)
    if folder.is_dir() and not GridFolder(folder).grid_file.exists():
        with os.scandir(folder) as entries:
            inner = sorted(one.path for one in entries if one.is_dir())
        yield from (GridFolder(Path(path)) for path in inner)


def _signatures(grid: GridFolder) -> set[str]:
    try:
        return {link.signature for link in of_grid(grid)}
    except (FileNotFoundError, NotADirectoryError):
        if any(one.is_symlink() and not one.exists() for one in (grid.path, grid.cells_dir)):
            raise  # it lies on a disk that is not here now
        return set()

"""What the store holds: each cell, its state and size, the grids that have it; and what no grid has any more."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestration.grids.cells import NAMES, names_in
from orchestration.machine import announce
from orchestration.machine.counts import counted
from orchestration.machine.damage import DamagedFileError
from orchestration.runs import hints, links, store, trash
from orchestration.runs.folders import RunsFolder
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState, FolderStatus
from orchestration.tables.table import DASH

_IN_USE = (CellState.RUNNING, CellState.UNREADABLE)


@dataclass(frozen=True, slots=True)
class StoredCell:
    """A cell of the store."""

    folder: RunFolder
    grids: Sequence[str]
    """The grids that link to it."""
    status: FolderStatus
    num_bytes: int


def show(runs: Path, words: Sequence[str], console: Console) -> None:
    """Print the cells of a store, or those whose names contain one of some words, and what no grid has any more.

    Raises:
        ValueError: There is no such cell.
    """
    root = RunsFolder(runs.resolve())
    chosen = _chosen(root, words)
    with announce.doing(console, f"looking at the cells in {root.cells_dir}"):
        known = links.read(root.path)
        cells = [*_stored(root, chosen, known)]
    console.print(_drawn(cells, "unknown" if known.unread else "none"))
    size = sum(cell.num_bytes for cell in cells)
    announce.say(console, f"{counted(len(cells), 'cell')}, {size / 1e9:.3g} GB, in {root.cells_dir}")
    if known.unread:
        announce.say(console, f"whether more grids have them cannot be told: {'; '.join(known.unread)}")
    elif unlinked := [cell for cell in cells if not cell.grids]:
        _say_unlinked(unlinked, root, words, console)


def _say_unlinked(unlinked: Sequence[StoredCell], root: RunsFolder, words: Sequence[str], console: Console) -> None:
    command = hints.shell("rankmatch", "cells", *words, "--drop-unlinked", "--runs", str(root.path))
    freed = sum(cell.num_bytes for cell in unlinked) / 1e9
    why_not = store.why_shared(root)
    then = why_not or f"{command} moves them to {root.trash_dir}"
    announce.say(console, f"no grid has {len(unlinked)} of them, {freed:.3g} GB: {then}")


def drop_unlinked(runs: Path, words: Sequence[str], console: Console) -> int:
    """Move the cells that no grid links to into the trash; return 1 if one had to stay, else 0.

    Launches wait meanwhile, so that no grid gets a cell that goes.

    Raises:
        ValueError: There is no such cell, it cannot be told which grids have it, or the store is not this folder's own:
            nothing was moved.
    """
    root = RunsFolder(runs.resolve())
    chosen = _chosen(root, words)
    store.refuse_shared(root)
    with store.changing(root.path):
        linked = links.read_all(root.path)
        unlinked = [cell for cell in chosen if cell.signature not in linked]
        if not unlinked:
            announce.say(console, "each of these cells is a grid's; nothing was moved")
            return 0
        place = trash.place(root.cells_dir)
        left = [_is_left(cell, place, root, console) for cell in unlinked]
    if num := len(unlinked) - sum(left):
        announce.say(console, f"{counted(num, 'cell')} moved to {place}; remove that folder to free the disk")
    return 1 if any(left) else 0


def _is_left(cell: RunFolder, place: Path, root: RunsFolder, console: Console) -> bool:
    """Move a cell to the trash, unless somebody trains it; say what became of it."""
    try:
        if (status := cell.state().status) not in _IN_USE:
            moved = trash.put(cell.path, place, root)
            back = hints.shell("mv", "-T", str(moved), str(cell.path))
            announce.say(console, f"{cell.name} lies in {moved}; {back} brings it back")
            return False
        why = "it is being trained" if status is CellState.RUNNING else "it cannot be read now"
    except OSError as error:
        why = str(error)
    announce.say(console, f"left: {cell.path}: {why}")
    return True


def _chosen(root: RunsFolder, words: Sequence[str]) -> list[RunFolder]:
    found = [RunFolder(cell.path) for cell in root.cells()]
    if not found:
        raise ValueError(f"--runs must hold cells in {root.cells_dir.name}; there are none in {root.cells_dir}")
    for word in words:
        if not any(word in cell.name for cell in found):
            raise ValueError(f"CELL must be a signature or a part of a cell's name in {root.cells_dir}; got {word!r}")
    return [cell for cell in found if not words or any(word in cell.name for word in words)]


def _stored(root: RunsFolder, chosen: Sequence[RunFolder], known: links.Links) -> Iterator[StoredCell]:
    for cell in chosen:
        names = [str(grid.path.relative_to(root.path)) for grid in known.grids.get(cell.signature, ())]
        yield StoredCell(cell, names, cell.state().status, _num_bytes(cell.path))


def _num_bytes(folder: Path) -> int:
    """Return the size of a folder's files; what has two names, as the best weights have, counts once."""
    sizes = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # a training has removed it meanwhile
                stat = os.lstat(f"{place}/{name}")
                sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())


def _drawn(cells: Sequence[StoredCell], of_no_grid: str) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("signature", *NAMES, "state", "MB", "grids"):
        drawn.add_column(name, no_wrap=name in ("signature", "state"), justify="right" if name == "MB" else "left")
    for cell in cells:
        named = _names(cell.folder)
        words = [cell.folder.signature, *(named.get(name, DASH) for name in NAMES), cell.status]
        words += [f"{cell.num_bytes / 1e6:.3g}", ", ".join(cell.grids) or of_no_grid]
        drawn.add_row(*map(Text, words))
    return drawn


def _names(cell: RunFolder) -> Mapping[str, str]:
    try:
        return names_in(cell.config())
    except (DamagedFileError, OSError, ValueError):  # the table says so of its state, or the next launch mends it
        return {}

"""Dropped run folders: they stay in a trash below the runs folder until the user removes them."""

from contextlib import suppress
from pathlib import Path

from orchestration.runs import hints, store
from orchestration.runs.folders import GridFolder, RunsFolder
from orchestration.runs.run_folder import RunFolder
from rankmatch import durable


def place(grid_dir: Path) -> Path:
    """Return a folder for the cells to drop now; it is made when the first comes."""
    return GridFolder(grid_dir).next_trash()


def folder(grid_dir: Path) -> Path:
    """Create a folder for the cells to drop now."""
    made = place(grid_dir)
    _make(made, GridFolder(grid_dir).runs)
    return made


def put(path: Path, place: Path, runs: RunsFolder) -> Path:
    """Move a cell's folder to a place in the trash; return where it lies.

    Raises:
        OSError: It cannot be moved, and is as it was.
    """
    _make(place, runs)
    try:
        return durable.move(path, place / path.name)
    except OSError:
        with suppress(OSError):  # others are there already
            place.rmdir()
        raise


def _make(place: Path, runs: RunsFolder) -> None:
    for shared in (runs.trash_dir, place.parent):  # what one user drops must not keep others from it
        store.make_shared(shared, runs)
    durable.make_folder(place)


def real(cell: RunFolder) -> RunFolder | None:
    """Return where a grid's cell really lies: with the grid, or in the store, linked to or not; None: nowhere."""
    if cell.path.is_dir():
        return RunFolder(store.real_path(cell) or cell.path)
    return store.stored(cell.grid.runs.path).get(cell.signature)


def dropped(cell: RunFolder) -> Path | None:
    """Return where a grid's cell lies in the trash; None: it is not there."""
    found = cell.grid.next_trash().parent.glob(f"*/{cell.signature}-*")
    return max(found, default=None)


def drop(cell: RunFolder, place: Path) -> str:
    """Take a cell out of its grid; return what became of it, and the commands that bring it back.

    Its folder moves to the trash by one rename, so that it is never split between two places, unless another grid has
    the cell too: then that one keeps it. The link goes last: a call that is ended before leaves one that leads nowhere,
    which is no cell. What such a call dropped, another one finds again.

    Raises:
        OSError: It cannot be moved, and is as it was.
        ValueError: It cannot be told who else has it, so it stays as it was.
    """
    with store.changing(cell.grid.runs.path):
        store.mend_links(cell.grid, cell.signature)  # of a migration that was ended
        lies = real(cell)
        if lies is None:
            return _dropped_before(cell)
        if lies.path == cell.path:
            moved = put(cell.path, place, cell.grid.runs)
            return f"{cell.name} lies in {moved}; {_move(moved, cell.path)} brings it back"
        return _drop_from_store(cell, lies.path, place)


def _drop_from_store(cell: RunFolder, lies: Path, place: Path) -> str:
    name, runs = cell.grid.name, cell.grid.runs.path
    own = cell.grid.path.resolve()  # people make links to a grid, as `latest`
    others = [grid.name for grid in store.grids_with(runs, cell.signature) if grid.path.resolve() != own]
    is_linked = cell.path.is_symlink()
    link = hints.shell("ln", "-sT", str(cell.path.readlink()), str(cell.path)) if is_linked else ""
    if others:
        if is_linked:
            store.unlink(cell)
        also = f"grid {', '.join(others)} has it too, so {lies} stays, and a launch of {name} keeps it again"
        return f"{cell.name} is out of {name}; {also}" + (f"; {link} brings it back at once" if link else "")
    store.refuse_shared(cell.grid.runs)
    moved = put(lies, place, cell.grid.runs)
    back = _move(moved, lies)
    if is_linked:
        with suppress(OSError):  # then the link leads nowhere until the folder is back
            store.unlink(cell)
            return f"{cell.name} lies in {moved}; {back} and then {link} bring it back"
    return f"{cell.name} lies in {moved}; {back} brings it back"


def _dropped_before(cell: RunFolder) -> str:
    moved = dropped(cell)
    if moved is None:
        return f"{cell.name} has no folder"
    if cell.path.is_symlink():
        store.unlink(cell)
    back = cell.grid.runs.cell(moved.name).path
    return (
        f"{cell.name} was dropped before, and lies in {moved}; {_move(moved, back)} brings it back at the next launch"
    )


def _move(moved: Path, back: Path) -> str:
    return hints.shell("mv", "-T", str(moved), str(back))  # never into a folder that is there again

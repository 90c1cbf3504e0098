"""The store of cells: each cell lives once below a runs folder, and the folder of each grid that has it links to it.

A grid's folder may also hold cells itself: those of earlier versions, those of searches, and all where the file system
has no symbolic links.
"""

import errno
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from orchestration.runs import hints
from orchestration.runs.folders import GridFolder, RunsFolder, cell_name, cell_names, signature_in
from orchestration.runs.patience import say_once
from orchestration.runs.run_folder import RunFolder, folders
from rankmatch import durable, locks
from rankmatch.durable import make_folder, sync_folder

LOCK_S = 600.0
_MOVING = ".moving"
"""The end of the name of a link beside a folder that is about to move."""
_NO_SYMLINKS = (errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def stored(runs: Path) -> dict[str, RunFolder]:
    """Return the cells of a store by signature; of two folders of one, the finished one, and say so."""
    known: dict[str, RunFolder] = {}
    for cell in (RunFolder(one.path) for one in RunsFolder(runs).cells()):
        other = known.setdefault(cell.signature, cell)
        if other is cell:
            continue
        if cell.has_result() and not other.has_result():
            known[cell.signature] = cell
        used, unused = known[cell.signature], cell if known[cell.signature] is other else other
        say_once(f"{used.path} is used, as it has the cell of {unused.path} too", "one of them should be moved away")
    return known


def found(grid_dir: Path, signatures: Collection[str]) -> dict[str, RunFolder]:
    """Return the folders of some cells by signature: those that the grid has, then those of the store."""
    own = folders(grid_dir)
    if own.keys() >= {*signatures}:
        return own
    known = stored(GridFolder(grid_dir).runs.path)
    return own | {name: known[name] for name in signatures if name in known and name not in own}


@contextmanager
def changing(runs: Path) -> Iterator[None]:
    """Hold the store's lock, so that no cell is added, described or taken out meanwhile.

    Raises:
        ValueError: Another process has held it for too long, or its file is closed to this user.
    """
    lock = RunsFolder(runs).cells_lock
    try:
        held = locks.acquire(lock, LOCK_S, _mode_of(runs))
    except PermissionError as error:
        if not os.access(runs, os.W_OK | os.X_OK):
            raise ValueError(f"{runs} must be a folder in which this user may write: {error.strerror}") from None
        text = f"{lock} must be writable for all who launch into {runs}: {error.strerror}"
        raise ValueError(f"{text}; its owner can open it by {hints.shell('chmod', 'g+rw', str(lock))}") from None
    except filelock.Timeout:
        text = f"another process has changed the cells of {runs} for {LOCK_S:.0f} s{locks.hint(lock)}"
        raise ValueError(f"{text}; wait for its end") from None
    try:
        yield
    finally:
        held.release()


def _mode_of(runs: Path) -> int:
    """Return the mode of the lock's file: whoever may make grids in the runs folder must be able to take it."""
    return runs.stat().st_mode & 0o666 | 0o600


class Adder:
    """Gives a grid the folders of cells; made by `adding`, under the store's lock."""

    def __init__(self, grid_dir: Path) -> None:
        self._grid = GridFolder(grid_dir)
        self._own, self._stored = folders(grid_dir), stored(self._grid.runs.path)

    def own(self, signature: str) -> RunFolder | None:
        """Return the folder of a cell that the grid has already."""
        return self._own.get(signature)

    def made(self, signature: str, slug: str) -> RunFolder:
        """Return the folder of a cell as the grid has it; make it in the store and link to it where that is needed."""
        if signature not in self._own and signature not in self._stored:
            make(self._grid.runs)
            place = self._grid.runs.cell(cell_name(signature, slug)).path
            place.mkdir(exist_ok=True)
            self._stored[signature] = RunFolder(place)
        made = self.known(signature, slug)
        assert made is not None
        return made

    def known(self, signature: str, slug: str) -> RunFolder | None:
        """Return the folder of a cell that the grid has, or that the store has; None: neither has it."""
        if signature not in self._own and signature in self._stored:
            _remove_dead_links(self._grid, signature)
            self._own[signature] = link(self._grid.path, self._stored[signature].path, slug)
        return self._own.get(signature)


@contextmanager
def adding(grid_dir: Path) -> Iterator[Adder]:
    """Hold the store's lock while a grid gets cells and these are described.

    Raises:
        ValueError: Another process has held it for too long.
    """
    with changing(GridFolder(grid_dir).runs.path):
        yield Adder(grid_dir)


def link(grid_dir: Path, real: Path, slug: str) -> RunFolder:
    """Link from a grid's folder to a cell of the store, by the grid's own word for it."""
    grid = GridFolder(grid_dir)
    place = grid.cell(cell_name(signature_in(real.name), slug)).path
    grid.cells_dir.mkdir(parents=True, exist_ok=True)
    away = grid.cells_dir.is_symlink()  # to a larger disk, for example
    try:
        place.symlink_to(real.resolve() if away else os.path.relpath(real, grid.cells_dir))
    except OSError as error:
        if error.errno not in _NO_SYMLINKS:
            raise
        say_once(f"cells of {grid.name} are not shared with other grids, as {grid.path} takes no symbolic links", error)
        place.mkdir(exist_ok=True)
    return RunFolder(place)


def closed(cells: Mapping[str, RunFolder]) -> dict[str, str]:
    """Return why cells cannot be trained by this user, by signature: somebody else has made their folders."""
    why = {}
    for signature, cell in cells.items():
        for place in (cell.path, cell.attempts_dir):
            if place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
                why[signature] = f"{place} belongs to user {place.stat().st_uid}, and cannot be written here"
                break
    return why


def real_path(cell: RunFolder) -> Path | None:
    """Return a cell's folder in the store; None if the grid holds the cell itself."""
    return cell.path.resolve() if cell.path.is_symlink() else None


def grids_with(runs: Path, signature: str) -> list[GridFolder]:
    """Return the grids that link to a cell of the store, by name."""
    return [grid for grid in RunsFolder(runs).grids() if any(one.is_symlink() for one in _named(grid, signature))]


def as_a_grid_has_it(path: Path) -> Path:
    """Return the folder of a cell by its whole path; of one in the store as the first grid has it that links to it."""
    whole = RunFolder(path).whole_path
    cell = RunFolder(whole)
    if whole.is_symlink() or not cell.is_in_grid or cell.grid.grid_file.exists():
        return whole
    grids = grids_with(cell.grid.path, cell.signature)  # the store lies in the runs folder as cells do in a grid's
    return next((one for grid in grids for one in _named(grid, cell.signature)), whole)


def unlink(cell: RunFolder) -> None:
    """Take a cell out of a grid, whose link it is; the cell itself stays."""
    cell.path.unlink()
    sync_folder(cell.grid.cells_dir)


def is_in_store(cell: RunFolder, runs: RunsFolder) -> bool:
    """Return whether a folder is the store's, not one that a grid holds itself."""
    return runs.cell(cell.name).path == cell.path


def move_in(cell: RunFolder, target: Path) -> None:
    """Move a folder that a grid holds itself to its place in the store, and link to it."""
    make(cell.grid.runs)
    _move(cell, target, target)


def move_out(cell: RunFolder, kept: Path, trash: Path) -> None:
    """Move a folder that a grid holds itself to the trash, and link to that of the store in its place."""
    _move(cell, trash / cell.name, kept)


def _move(cell: RunFolder, target: Path, kept: Path) -> None:
    draft = cell.path.with_name(f".{cell.name}{_MOVING}")
    draft.unlink(missing_ok=True)
    draft.symlink_to(os.path.relpath(kept, cell.grid.cells_dir))
    durable.move(cell.path, target)
    draft.rename(cell.path)
    sync_folder(cell.grid.cells_dir)


def mend_links(grid: GridFolder) -> int:
    """Bring links into their places that were made beside a folder which has moved since; return how many."""
    num, known = 0, stored(grid.runs.path)
    for path in [*grid.cells_dir.iterdir()] if grid.cells_dir.is_dir() else []:
        if path.is_symlink() and path.name.endswith(_MOVING):
            place = path.with_name(path.name.removeprefix(".").removesuffix(_MOVING))
            if place.exists():
                path.unlink()
                continue
            path.replace(place)
            num += 1
            path = place
        real = known.get(signature_in(path.name))
        if path.is_symlink() and not path.exists() and real:  # its folder has another name since
            path.unlink()
            path.symlink_to(os.path.relpath(real.path, grid.cells_dir))
    return num


def _named(grid: GridFolder, signature: str) -> list[Path]:
    names = cell_names(str(grid.cells_dir)) if grid.cells_dir.is_dir() else []
    return [grid.cell(name).path for name in names if signature_in(name) == signature]


def make(runs: RunsFolder) -> None:
    """Make the folder of the store; whoever may make grids in the runs folder may make cells there."""
    if runs.cells_dir.is_dir():
        return
    make_folder(runs.cells_dir)
    of_runs = runs.path.stat()
    with suppress(PermissionError):  # a folder with the group's mark gives it its group anyway
        shutil.chown(runs.cells_dir, group=of_runs.st_gid)
    runs.cells_dir.chmod(of_runs.st_mode & 0o7777)


def _remove_dead_links(grid: GridFolder, signature: str) -> None:
    """Remove links to folders that somebody has removed by hand."""
    for path in grid.cells_dir.glob(cell_name(signature, "*")):
        if path.is_symlink():
            path.unlink()

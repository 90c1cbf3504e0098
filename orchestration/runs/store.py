"""The store of cells: each cell lives once below a runs folder, and the folder of each grid that has it links to it.

A grid's folder may also hold cells itself: those of earlier versions, those of searches, and all where the file system
has no symbolic links.
"""

import errno
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

import filelock

from orchestration.runs import hints, links, readable
from orchestration.runs.folders import GridFolder, RunsFolder, cell_name, cell_names, signature_in
from orchestration.runs.patience import say_once
from orchestration.runs.run_folder import RunFolder, folders
from rankmatch import durable, locks
from rankmatch.durable import make_folder, sync_folder

LOCK_S = 600.0
_PROBE = ".probe"
_NO_SYMLINKS = (errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def stored(runs: Path) -> dict[str, RunFolder]:
    """Return the cells of a store by signature."""
    return {one.signature: RunFolder(one.path) for one in RunsFolder(runs).cells()}


def found(grid_dir: Path, signatures: Collection[str]) -> dict[str, RunFolder]:
    """Return the folders of some cells by signature: those that the grid has, then those of the store.

    Where a grid cannot link to the store, it has only its own.
    """
    own = folders(grid_dir)
    if own.keys() >= {*signatures}:
        return own
    known = stored(GridFolder(grid_dir).runs.path)
    of_store = {name: known[name] for name in signatures if name in known and name not in own}
    return own | of_store if of_store and takes_links(GridFolder(grid_dir)) else own


@contextmanager
def changing(runs: Path) -> Iterator[None]:
    """Hold the store's lock, so that no cell is added, described or taken out meanwhile.

    Raises:
        ValueError: Another process has held it for too long, or its file is closed to this user.
    """
    lock = RunsFolder(runs).cells_lock
    try:
        held = locks.acquire(lock, LOCK_S, locks.mode_in(runs))
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


class Adder:
    """Gives a grid the folders of cells; made by `adding`, under the store's lock."""

    def __init__(self, grid_dir: Path) -> None:
        self._grid = GridFolder(grid_dir)
        self._own, self._stored = folders(grid_dir), stored(self._grid.runs.path)
        self._shares = takes_links(self._grid)

    def own(self, signature: str) -> RunFolder | None:
        """Return the folder of a cell that the grid has already."""
        return self._own.get(signature)

    def made(self, signature: str, slug: str) -> RunFolder:
        """Return the folder of a cell as the grid has it; make it in the store and link to it where that is needed."""
        if not self._shares and signature not in self._own:
            self._own[signature] = RunFolder(self._grid.cell(cell_name(signature, slug)).path)
            make_folder(self._own[signature].path)
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
        if self._shares and signature not in self._own and signature in self._stored:
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
    place.symlink_to(way_to(real, grid))
    return RunFolder(place)


def way_to(real: Path, grid: GridFolder) -> Path:
    """Return what a grid's link to a place in the store says, whether something is there or not.

    It is relative, so that a runs folder can be moved, unless the grid's cells lie elsewhere, as on a larger disk: from
    there `..` does not lead to the runs folder.

    Raises:
        ValueError: From the grid's cells the store cannot be reached.
    """
    here, there = grid.cells_dir.resolve(), grid.runs.path.resolve()
    target = there / real.relative_to(grid.runs.path)
    lies_below = here == there / grid.cells_dir.relative_to(grid.runs.path)
    way = Path(os.path.relpath(target, here)) if lies_below else target
    if not (here / way).parent.is_dir():
        raise ValueError(f"{real.parent} cannot be reached from {grid.cells_dir}, which is {here}; nothing was linked")
    return way


def takes_links(grid: GridFolder) -> bool:
    """Return whether a grid can link to the store, and say so if not; what forbids to write here does not count."""
    place = next(one for one in (grid.cells_dir, grid.path, grid.runs.path) if one.is_dir())
    probe = place / f".{uuid4().hex}{_PROBE}"
    try:
        probe.symlink_to(probe.name)
    except OSError as error:
        if error.errno not in _NO_SYMLINKS:
            return True
        say_once(f"cells of {grid.name} are not shared with other grids, as {place} takes no symbolic links", error)
        return False
    probe.unlink()
    return True


def closed(cells: Mapping[str, RunFolder]) -> dict[str, str]:
    """Return why cells cannot be trained by this user, by signature: somebody else has made their folders.

    One that cannot be looked at now is not known to be closed: its state says what it is.
    """
    return {key: why for key, why in readable.each(cells, _why_closed).items() if why}


def _why_closed(cell: RunFolder) -> str:
    for place in (cell.path, cell.attempts_dir):
        if place.is_dir() and not os.access(place, os.W_OK | os.X_OK):  # false too while a file server is away
            return f"{place} belongs to user {place.stat().st_uid}, and cannot be written here"
    return ""


def real_path(cell: RunFolder) -> Path | None:
    """Return a cell's folder in the store; None if the grid holds the cell itself, or only a link to itself."""
    real = Path(os.path.realpath(cell.path))  # which `resolve` refuses for such a link
    return real if cell.path.is_symlink() and not real.is_symlink() else None


def grids_with(runs: Path, signature: str) -> Sequence[GridFolder]:
    """Return the grids that link to a cell of the store, by name; a link counts that leads nowhere at the moment.

    Raises:
        ValueError: A folder that may hold such a link cannot be read.
    """
    return links.read_all(runs).get(signature, ())


def as_a_grid_has_it(path: Path) -> Path:
    """Return the folder of a cell by its whole path; of one in the store as the first grid has it that links to it."""
    whole = RunFolder(path).whole_path
    cell = RunFolder(whole)
    if whole.is_symlink() or not cell.is_in_grid or cell.grid.grid_file.exists():
        return whole
    grids = RunsFolder(cell.grid.path).grids()  # the store lies in the runs folder as cells do in a grid's
    return next((one for grid in grids for one in _named(grid, cell.signature) if one.is_symlink()), whole)


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
    draft = links.beside(cell.path)
    draft.unlink(missing_ok=True)
    draft.symlink_to(way_to(kept, cell.grid))
    sync_folder(cell.grid.cells_dir)
    durable.move(cell.path, target)
    draft.rename(cell.path)
    sync_folder(cell.grid.cells_dir)


def mend_links(grid: GridFolder, signature: str = "") -> int:
    """Bring links, or those to one cell, into their places where a folder has moved since; return how many lead to one.

    A link whose cell has another name since gets that.
    """
    found = links.of_grid(grid) if grid.cells_dir.is_dir() else []
    chosen = [link for link in found if signature in ("", link.signature)]
    astray = [link for link in chosen if link.path != link.place or not link.place.exists()]
    if not astray:
        return 0
    known = stored(grid.runs.path)
    num = sum(_is_mended(link, grid, known.get(link.signature)) for link in astray)
    sync_folder(grid.cells_dir)
    return num


def _is_mended(link: links.Link, grid: GridFolder, real: RunFolder | None) -> bool:
    """Bring a link into its place, unless a folder or a better link is there; return whether it leads to a cell now."""
    if link.place.exists():
        if link.path != link.place:
            link.path.unlink()
        return False
    if link.path != link.place:
        link.path.replace(link.place)
    if real and not link.place.exists():
        link.place.unlink()
        link.place.symlink_to(way_to(real.path, grid))
    return link.place.exists()


def names_in_links(runs: Path) -> dict[str, str]:
    """Return by which name grids link to a cell of the store, by signature, whether it is there or not."""
    found = [link for grid in RunsFolder(runs).grids() if grid.cells_dir.is_dir() for link in links.of_grid(grid)]
    return {link.signature: link.path.readlink().name for link in found}


def why_shared(runs: RunsFolder) -> str:
    """Return why nothing may be taken out of a store: it lies elsewhere, where other runs folders may have it too."""
    real = runs.cells_dir.resolve()
    if real.parent == runs.path.resolve():
        return ""
    return f"{runs.cells_dir} is {real}, which other runs folders may have too, so nothing is taken out of it"


def refuse_shared(runs: RunsFolder) -> None:
    """Refuse to take cells out of a store that other runs folders may have too.

    Raises:
        ValueError: It lies elsewhere.
    """
    if why := why_shared(runs):
        raise ValueError(f"{why}; where no other has it, move that folder into the place of the link first")


def refuse_grid_of_its_name(runs: Path) -> None:
    """Refuse a grid in the place of the store; earlier versions allowed the name.

    Raises:
        ValueError: There is one.
    """
    own, grid = RunsFolder(runs), RunsFolder(runs).grid(RunsFolder.cells_dir.name)
    if not grid.grid_file.exists():
        return
    free = next(path for n in count(1) if not os.path.lexists(path := runs / f"{grid.name}-{n}"))
    then = [hints.shell("mv", "-T", str(grid.path), str(free))]
    if mixed := [str(free / cell.name) for cell in own.cells()]:
        then += [hints.shell("mkdir", str(own.cells_dir)), hints.shell("mv", *mixed, str(own.cells_dir))]
    raise ValueError(f"no grid may be called {grid.name!r} now: cells of all grids belong into {grid.path}; when no "
                     f"launch of that grid is at work, {' and then '.join(then)} gives it another name")  # fmt: skip


def _named(grid: GridFolder, signature: str) -> list[Path]:
    names = cell_names(str(grid.cells_dir)) if grid.cells_dir.is_dir() else []
    return [grid.cell(name).path for name in names if signature_in(name) == signature]


def make(runs: RunsFolder) -> None:
    """Make the folder of the store; whoever may make grids in the runs folder may make cells there."""
    make_shared(runs.cells_dir, runs)


def make_shared(path: Path, runs: RunsFolder) -> None:
    """Make a folder in which all may write who may make grids in the runs folder."""
    if path.is_dir():
        return
    make_folder(path)
    of_runs = runs.path.stat()
    with suppress(PermissionError):  # a folder with the group's mark gives it its group anyway
        shutil.chown(path, group=of_runs.st_gid)
    path.chmod(of_runs.st_mode & 0o7777)


def _remove_dead_links(grid: GridFolder, signature: str) -> None:
    """Remove links to folders that somebody has removed by hand."""
    for path in grid.cells_dir.glob(cell_name(signature, "*")):
        if path.is_symlink() and not path.is_file():
            path.unlink()

"""Move the cells of grids of earlier versions into the store, where grids share them: renamed and linked, not copied.

It can end at any moment and be run again. A link is made beside a folder before that moves, so that a folder which has
moved gets its link even then.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from orchestration.grids import grid, index
from orchestration.launching import waiting
from orchestration.launching.launch_folder import only_launch_of
from orchestration.machine import announce
from orchestration.machine.counts import counted
from orchestration.machine.damage import DamagedFileError
from orchestration.on_slurm.campaign_file import open_campaigns
from orchestration.runs import same_result, store, trash
from orchestration.runs.folders import GridFolder, RunsFolder
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState
from rankmatch import durable


@dataclass(frozen=True, slots=True)
class Move:
    """One cell, and what becomes of its folders."""

    kept: RunFolder
    """Moves into the store, or is there already."""
    others: Sequence[RunFolder]
    """Folders of other grids that move to the trash; their grids link to the kept one."""


def migrate(runs: Path, console: Console) -> None:
    """Move all cells that lie in the folders of grids into the store, and say what was done.

    Raises:
        ValueError: There is no runs folder, a launch is at work, or results of one cell differ; nothing was moved.
    """
    root = RunsFolder(runs.resolve())
    store.refuse_grid_of_its_name(root.path)
    grids = [one for one in root.grids() if not grid.is_search(one.grid_file)]
    if not grids:
        raise ValueError(f"--runs must hold grids that were launched; there is none in {root.path}")
    with _nobody_at_work(grids), store.changing(root.path):
        num_mended = sum(store.mend_links(one) for one in grids)
        places = _places(grids, root, console)
        moves = [_decided(cells, store.stored(root.path)) for cells in places.values()]
        if any(store.is_in_store(other, root) for move in moves for other in move.others):
            store.refuse_shared(root)
        for one in grids:
            _keep_axes(one.path)
        names = store.names_in_links(root.path)
        for move in moves:
            _carry_out(move, root, names.get(move.kept.signature, move.kept.name))
        num_mended += sum(store.mend_links(one) for one in grids)
    num_trash = sum(len(move.others) for move in moves)
    announce.say(console, f"{counted(len(moves), 'cell')} of {counted(len(grids), 'grid')} moved into {root.cells_dir}")
    if num_mended:
        announce.say(console, f"{counted(num_mended, 'link')} of an earlier call that was ended brought into place")
    if num_trash:
        words = f"{counted(num_trash, 'folder')} of the same cells moved to {root.trash_dir}"
        announce.say(console, f"{words}: their grids now link to what was kept")


@contextmanager
def _nobody_at_work(grids: Sequence[GridFolder]) -> Iterator[None]:
    with ExitStack() as locks:
        for one in grids:
            locks.enter_context(only_launch_of(one.path))
            if waiting.is_at_work(one.path):
                raise ValueError(f"no launch may be at work; one of {one.name} is, or was on a machine out of sight")
            if open_campaigns(one.path):
                raise ValueError(f"no launch may be open; one of {one.name} is: wait for its end, or cancel it")
            running = [cell.name for cell in one.cells() if RunFolder(cell.path).state().status is CellState.RUNNING]
            if running:
                raise ValueError(f"no cell may be trained meanwhile; of {one.name} {', '.join(running[:5])} is")
        yield


def _places(grids: Sequence[GridFolder], root: RunsFolder, console: Console) -> dict[str, list[RunFolder]]:
    """Return the folders that grids hold themselves, by signature; what cannot be renamed stays, which is said."""
    found: dict[str, list[RunFolder]] = {}
    ends = [next(one for one in (end, root.path) if one.is_dir()) for end in (root.cells_dir, root.trash_dir)]
    for one in grids:
        own = [RunFolder(cell.path) for cell in one.cells() if not cell.path.is_symlink()]
        if other := [end for end in ends if own and end.stat().st_dev != one.cells_dir.stat().st_dev]:
            where = f"{one.cells_dir} is on another disk than {other[0]}"
            announce.say(console, f"the cells of {one.name} stay where they are: {where}")
            continue
        for cell in own:
            found.setdefault(cell.signature, []).append(cell)
    return found


def _decided(cells: Sequence[RunFolder], stored: Mapping[str, RunFolder]) -> Move:
    """Return which folder of a cell is kept: a finished one, else the one that got furthest.

    Raises:
        ValueError: Results differ, or one cannot be read.
    """
    known = stored.get(cells[0].signature)
    every = [*([known] if known else []), *cells]
    try:
        states = [cell.look() for cell in every]
        finished = [cell for cell, state in zip(every, states, strict=True) if state.status is CellState.DONE]
        for other in finished[1:]:
            if words := same_result.difference(finished[0], other):
                raise ValueError(
                    f"{finished[0].path} and {other.path} have different results of one cell ({words}); "
                    "nothing was moved: drop one of them first, or have `rankmatch verify` say which is wrong"
                )
    except DamagedFileError as error:
        raise ValueError(f"nothing was moved: {error}") from None
    furthest = max(range(len(every)), key=lambda place: (every[place] in finished, states[place].step, -place))
    return Move(every[furthest], [cell for place, cell in enumerate(every) if place != furthest])


def _keep_axes(grid_dir: Path) -> None:
    """Note in a grid's list the axes that its cells have, since another grid may describe these cells anew."""
    cells, own = index.read_if_there(grid_dir), {}
    for cell in GridFolder(grid_dir).cells():
        try:
            own[cell.signature] = RunFolder(cell.path).axes()
        except (DamagedFileError, OSError):
            continue  # the next launch notes them
    noted = [replace(cell, axes=own.get(cell.signature)) if cell.axes is None else cell for cell in cells]
    if noted != cells:
        index.write(grid_dir, noted)


def _carry_out(move: Move, root: RunsFolder, name: str) -> None:
    """Move the kept folder into the store by a name, and the others to the trash.

    A folder of the store is replaced under the name that it has: grids link to that.
    """
    stored = next((cell for cell in (move.kept, *move.others) if store.is_in_store(cell, root)), None)
    target = stored.path if stored else root.cell(name).path
    if stored and stored is not move.kept:
        durable.move(stored.path, trash.folder(move.kept.grid.path) / stored.name)
    if stored is not move.kept:
        store.move_in(move.kept, target)
    for other in move.others:
        if other is not stored:
            store.move_out(other, target, trash.folder(other.grid.path))

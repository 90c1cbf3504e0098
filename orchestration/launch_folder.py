"""The folder of a grid: one launch at a time in it, a folder for each launch, and where its cells are."""

import datetime
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from orchestration import cells, costs, files, finished, index, kept_lists, launched, plan, provenance
from orchestration.grid import Grid
from orchestration.index import IndexedCell
from orchestration.plan import Plan
from orchestration.run_folder import RunFolder, folders
from rankmatch import locks

PLAN = "plan.txt"
_MOMENT = "%Y%m%dT%H%M%S.%f"


@contextmanager
def only_launch_of(grid_dir: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Refuse a second launch of the same grid while one is at work; who is not asked for at once may wait for its end.

    Raises:
        ValueError: Another one is at work.
    """
    path = grid_dir / ".launch.lock"
    try:
        lock = locks.acquire(path, wait_s)
    except filelock.Timeout:
        what = "wait for its end or stop it"
        raise ValueError(f"another launch is at work in {grid_dir}; {what}{locks.hint(path)}") from None
    try:
        yield
    finally:
        lock.release()


def run_folders(loaded: Grid, grid_dir: Path) -> dict[str, RunFolder]:
    """Return the folder of each cell by signature: the one there is, whatever its slug, else where it will be."""
    found = folders(grid_dir)
    return {
        cell.signature: found.get(cell.signature, RunFolder(grid_dir / "cells" / cell.folder_name))
        for cell in loaded.cells
    }


def make_folders(loaded: Grid, grid_dir: Path, planned: Plan) -> Path:
    """Make the folder of this launch, which is returned, and those of the cells that it starts."""
    every = launched.whole(loaded, grid_dir)
    files.replace(grid_dir / "grid.yaml", launched.text_of(every))
    index.write(grid_dir, _indexed(every, grid_dir, planned))
    kept_lists.keep(loaded.cells, grid_dir)
    launch_dir = grid_dir / "launches" / f"{_moment_of_next(grid_dir):{_MOMENT}}-{os.getpid()}"
    launch_dir.mkdir(parents=True)
    files.replace(launch_dir / "grid.yaml", launched.text_of(loaded, of_launch=True))
    files.replace(launch_dir / PLAN, "\n".join(plan.summary(planned)) + "\n")
    made = run_folders(loaded, grid_dir)
    for item in planned.items:
        folder = made[item.cell.signature]
        if item.to_do or (folder.has_result() and not folder.is_described()):  # of a finished cell what is damaged
            folder.create(cells.to_yaml(item.cell.config), item.cell.axes)
        if not item.to_do:
            finished.settle_leftovers(folder, item.cell.config.execution.trainer.keep_checkpoints)
    return launch_dir


def _moment_of_next(grid_dir: Path) -> datetime.datetime:
    """Return now, or where the clock of an earlier launch's host was ahead, the moment after that launch.

    Names of launches tell their order. The lock of launches keeps two from looking at once.
    """
    now = datetime.datetime.now(datetime.UTC)
    return max([now, *(moment + datetime.timedelta(microseconds=1) for moment in _moments(grid_dir))])


def _moments(grid_dir: Path) -> Iterator[datetime.datetime]:
    for path in grid_dir.glob("launches/*"):
        with suppress(ValueError):  # no folder of a launch
            moment = datetime.datetime.strptime(path.name.partition("-")[0], _MOMENT)
            yield moment.replace(tzinfo=datetime.UTC)


def keep_difference(launch_dir: Path, difference: str) -> dict[str, str]:
    """Store what was not committed; return what the provenance says of it."""
    files.replace(launch_dir / provenance.DIFFERENCE, difference)
    place = (launch_dir / provenance.DIFFERENCE).relative_to(launch_dir.parents[1])
    return {"difference": str(place), "difference_sha256": hashlib.sha256(difference.encode()).hexdigest()}


def _indexed(every: Grid, grid_dir: Path, planned: Plan) -> list[IndexedCell]:
    """Return what is kept of each cell, in the grid's order; of cells of other launches what they kept."""
    items = {item.cell.signature: item for item in planned.items}
    known = {cell.signature: cell for cell in index.read(grid_dir)} if (grid_dir / index.INDEX).exists() else {}
    rows = []
    for cell in every.cells:
        if cell.signature in known and cell.signature not in items:
            rows.append(known[cell.signature])
            continue
        item = items.get(cell.signature)
        rows.append(
            IndexedCell(
                cell.signature,
                cell.slug,
                cell.config.numerics.method.name,
                item.num_steps if item else costs.num_steps(cell.config),
                item.seconds_per_step if item else None,
                cell.config.execution.trainer.num_workers if planned.uses_gpus else 0,
            )
        )
    return rows

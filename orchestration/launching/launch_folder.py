"""The folder of a grid: at most one launch at work in it, a folder for each launch, and an index of its cells."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import filelock

from orchestration.grids import index, inputs, kept_lists, launched
from orchestration.grids.cells import Cell
from orchestration.grids.described import describe
from orchestration.grids.index import IndexedCell
from orchestration.launching.target import Target
from orchestration.machine import files, own_files
from orchestration.planning import costs, plan
from orchestration.planning.plan import Action, Item, Plan
from orchestration.running import finished
from orchestration.runs import readable, store
from orchestration.runs.folders import GridFolder, LaunchFolder
from orchestration.runs.run_folder import RunFolder, run_folder
from rankmatch import locks
from rankmatch.durable import make_folder


@contextmanager
def only_launch_of(grid_dir: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Refuse a second launch of a grid while one is at work; with a waiting time, wait for its end first.

    Raises:
        ValueError: Another one is at work.
    """
    path = GridFolder(grid_dir).launch_lock
    try:
        lock = locks.acquire(path, wait_s)
    except filelock.Timeout:
        what = "wait for its end or stop it"
        raise ValueError(f"another launch is at work in {grid_dir}; {what}{locks.hint(path)}") from None
    try:
        yield
    finally:
        lock.release()


def was_available(grid_dir: Path) -> bool:
    """Return whether cells of a grid are left out as `--available` found inputs of theirs missing."""
    return any(cell.left_out.startswith(inputs.ABSENT) for cell in index.read_if_there(grid_dir))


def make_folders(target: Target, planned: Plan) -> Path:
    """Make the folder of this launch, which is returned, and those of the cells that it starts."""
    own_files.check_group()
    loaded, every, grid_dir = target.loaded, target.every, target.grid_dir
    files.replace(GridFolder(grid_dir).grid_file, launched.text_of(every))
    index.write(grid_dir, _indexed(target, planned))
    kept_lists.keep(loaded.cells, grid_dir)
    _make_cells(target, planned)
    launch = GridFolder(grid_dir).next_launch()
    make_folder(launch.path)
    own_files.close(launch.path)
    files.replace(launch.grid_file, launched.text_of(loaded, of_launch=True))
    files.replace(launch.plan_file, "\n".join(plan.summary(planned)) + "\n")
    return launch.path


def _make_cells(target: Target, planned: Plan) -> None:
    """Make and describe the folders of the cells to train, and link to those that the store has."""
    made = {}
    with store.adding(target.grid_dir) as adder:
        for item in planned.items:
            made[item.cell.signature] = folder = _made(adder, target, item)
            if not item.to_do:
                readable.of(folder, partial(_mend_description, cell=item.cell), None)
            elif not folder.is_trained_for_another(target.grid_dir.name):  # by one that was faster
                describe(folder, item.cell)
    _refuse_lost(planned, made)
    for item in planned.items:
        if not item.to_do:
            kept = item.cell.config.execution.trainer.keep_checkpoints
            finished.settle_leftovers(made[item.cell.signature], kept)


def _mend_description(folder: RunFolder, cell: Cell) -> None:
    """Describe a finished cell again if its description is damaged."""
    if folder.has_result() and not folder.is_described():
        describe(folder, cell)


def _refuse_lost(planned: Plan, made: Mapping[str, RunFolder]) -> None:
    """Refuse to go on without the result of a cell that was to be kept: nobody would train it."""
    for item in planned.items:
        folder = made[item.cell.signature]
        if item.action is Action.KEEP and not readable.of(folder, RunFolder.has_result, otherwise=True):
            raise ValueError(
                f"{folder.path} must lead to the finished run that this launch was to keep, but there is no "
                f"{folder.result_file.name}: somebody has removed it meanwhile, or the link is wrong; launch again"
            )


def _made(adder: store.Adder, target: Target, item: Item) -> RunFolder:
    """Return the folder of a cell, which need not be there if nothing is to be done."""
    cell, own = item.cell, run_folder(target.grid_dir, item.cell.folder_name)
    if not target.loaded.shares_cells:
        return adder.own(cell.signature) or own
    return adder.made(cell.signature, cell.slug) if item.to_do else adder.known(cell.signature, cell.slug) or own


def keep_difference(launch_dir: Path, difference: str) -> dict[str, str]:
    """Store the uncommitted changes; return what the provenance says of them."""
    launch = LaunchFolder(launch_dir)
    files.replace(launch.difference_file, difference)
    place = launch.difference_file.relative_to(launch.grid.path)
    return {"difference": str(place), "difference_sha256": hashlib.sha256(difference.encode()).hexdigest()}


def _indexed(target: Target, planned: Plan) -> list[IndexedCell]:
    """Return what is kept of each cell, in the grid's order; for cells of other launches, what those kept."""
    items, parts = {item.cell.signature: item for item in planned.items}, target.every.parts_of_cells()
    known = {cell.signature: cell for cell in index.read_if_there(target.grid_dir)}
    partners = launched.partners(target.every)
    rows = []
    for cell in target.every.cells:
        if cell.signature in known and cell.signature not in items:
            again = replace(known[cell.signature], axes=cell.axes, parts=parts.get(cell.signature, ()))
            rows.append(replace(again, partners=partners.get(cell.signature, ())))
            continue
        item = items.get(cell.signature)
        rows.append(
            IndexedCell(
                cell.signature,
                cell.slug,
                cell.config.numerics.method.name,
                item.num_steps if item else costs.num_steps(cell.config),
                item.seconds_per_step if item else None,
                _num_gpus(item, known.get(cell.signature), cell) if planned.uses_gpus else 0,
                item.round if item else 0,
                _left_out(item, known.get(cell.signature), target) if item else "",
                cell.axes,
                parts.get(cell.signature, ()),
                partners.get(cell.signature, ()),
            )
        )
    return rows


def _num_gpus(item: Item | None, known: IndexedCell | None, cell: Cell) -> int:
    """Return the GPUs of a cell: of one that is not started now those that it was given, which may be more."""
    if known and known.num_gpus and not (item and item.to_do):
        return known.num_gpus
    return (item.cell if item else cell).config.execution.trainer.num_workers


def _left_out(item: Item, known: IndexedCell | None, target: Target) -> str:
    """Return why a cell is left out; of one that this launch passes over, as a retry of others does, as before."""
    if item.action is Action.LEAVE_OUT:
        return item.reason
    return known.left_out if known and target.passes_over(item) else ""

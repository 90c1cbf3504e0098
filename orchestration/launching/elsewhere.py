"""Cells that a launch of another grid has: they are left to it, and looked at again later."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from orchestration.launching import waiting
from orchestration.on_slurm import queue_state, submissions
from orchestration.on_slurm.commands import SlurmError
from orchestration.runs.folders import GridFolder, signature_in
from orchestration.runs.run_folder import FolderState, RunFolder
from orchestration.runs.states import CellState


def awaited(grid_dir: Path, signatures: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return by signature the cells that launches of other grids are about to train: the grid, and what it waits for.

    Left out is what a launch on another machine has not begun: nobody here can see whether that still lives.
    """
    own = GridFolder(grid_dir)
    found: dict[str, tuple[str, str]] = {}
    for other, mine in _sharing(own, signatures).items():
        with suppress(PermissionError):  # its launches are closed to this user; who claims a cell first has it
            said = waiting.here(other.path) | _queued(other.path)
            found |= {name: (other.name, said[name]) for name in mine if name in said}
    return found


def left_to(grid_dir: Path, found: Mapping[str, RunFolder], states: Mapping[str, FolderState]) -> dict[str, list[str]]:
    """Return by grid the names of the cells without a result that its launch trains, or is about to train."""
    own = grid_dir.name
    names = {key: state.grid for key, state in states.items() if is_trained(state, own)}
    is_open = [key for key, state in states.items() if key not in names and state.status is not CellState.DONE]
    names |= {key: grid for key, (grid, _) in awaited(grid_dir, is_open).items()}
    left: dict[str, list[str]] = {}
    for key, grid in names.items():
        left.setdefault(grid, []).append(found[key].slug)
    return left


def is_trained(state: FolderState, grid: str) -> bool:
    """Return whether a cell is being trained for another grid."""
    return state.status is CellState.RUNNING and state.grid not in ("", grid)


def _sharing(own: GridFolder, signatures: Collection[str]) -> dict[GridFolder, list[str]]:
    """Return which other grids link to some cells."""
    if not signatures:
        return {}
    found = {}
    for other in own.runs.grids():
        if other.path != own.path:
            known = {cell.signature: cell.path for cell in other.cells()}
            if mine := [name for name in signatures if name in known and known[name].is_symlink()]:
                found[other] = mine
    return found


def _queued(grid_dir: Path) -> dict[str, str]:
    """Return what Slurm says of the cells that it has a job of, by signature."""
    submitted = submissions.newest_jobs(grid_dir)
    if not submitted:
        return {}
    try:
        queued = queue_state.queued_cells(grid_dir)
    except SlurmError as error:
        return {signature_in(name): f"job {job} may be there: {error}" for name, job in submitted.items()}
    return {signature_in(name): f"job {job.job} is {job.state.lower()}" for name, job in queued.items()}

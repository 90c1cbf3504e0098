"""The pace of training (seconds per step), measured on cells trained before on the same kind of device."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from statistics import mean, median

from orchestration.grids.cells import Cell
from orchestration.runs import made_with, readable
from orchestration.runs.run_folder import FolderState, RunFolder
from orchestration.runs.states import CellState

MAX_INTERRUPTED = 3
"""How many unfinished cells of a method to read epochs of, if none of the method is done."""


def measured(
    cells: Sequence[Cell], states: Mapping[str, FolderState], found: Mapping[str, RunFolder], device: str
) -> dict[str, float]:
    """Return the seconds per step by method: from finished cells, else from the epochs of unfinished ones.

    Args:
        cells: The cells of the grid.
        states: The states of their folders, by signature.
        found: Their folders.
        device: `cpu` or `cuda`; paces measured on the other one do not count.
    """
    done: dict[str, list[float]] = {}
    begun: dict[str, list[RunFolder]] = {}
    for cell in cells:
        state, method = states.get(cell.signature), cell.config.numerics.method.name
        if state is None:
            continue
        if pace := of_finished(state, device):
            done.setdefault(method, []).append(pace)
        elif state.status is not CellState.DONE and state.epoch:
            begun.setdefault(method, []).append(found[cell.signature])
    paces = {method: mean(values) for method, values in done.items()}
    for method in begun.keys() - paces.keys():
        if values := list(islice(_of_epochs(begun[method], device), MAX_INTERRUPTED)):
            paces[method] = mean(values)
    return paces


def of_finished(state: FolderState, device: str) -> float | None:
    """Return a finished cell's seconds per step; None if it is not done, or was trained on another device."""
    if state.status is not CellState.DONE or not state.num_steps or made_with.device_kind(state.provenance) != device:
        return None
    return state.duration_s / state.num_steps or None


def _of_epochs(folders: Sequence[RunFolder], device: str) -> Iterator[float]:
    paces = (readable.of(folder, partial(_of_begun, device=device), None) for folder in folders)
    yield from (pace for pace in paces if pace is not None)


def _of_begun(folder: RunFolder, device: str) -> float | None:
    """Return the seconds per step by the newest attempt with epochs on such a device."""
    for attempt in reversed(folder.attempts()):
        rows = [row for row in attempt.epochs() if row.get("num_steps") and row.get("num_epochs")]
        if rows and made_with.device_kind(attempt.environment()) == device:
            # The median: an epoch that was interrupted shows only a part of its time.
            pace: float = median(
                ((row.get("duration_s") or 0.0) + (row.get("evaluation_s") or 0.0))
                * row["num_epochs"] / row["num_steps"]
                for row in rows
            )  # fmt: skip
            return pace
    return None

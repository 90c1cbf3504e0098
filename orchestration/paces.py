"""How long a step takes by what was trained before, on the same kind of device."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from statistics import mean, median

from orchestration import made_with
from orchestration.cells import Cell
from orchestration.run_folder import FolderState, RunFolder

MAX_INTERRUPTED = 3
"""Cells of a method whose epochs are opened, where none of the method is done."""


def measured(
    cells: Sequence[Cell], states: Mapping[str, FolderState], found: Mapping[str, RunFolder], device: str
) -> dict[str, float]:
    """Return seconds a step by method: of finished cells, else of epochs that unfinished ones have come to.

    Args:
        cells: Those of the grid.
        states: How their folders stand, by signature.
        found: The folders.
        device: `cpu` or `cuda`: a pace that was measured on the other tells nothing, and is left out.
    """
    done: dict[str, list[float]] = {}
    begun: dict[str, list[RunFolder]] = {}
    for cell in cells:
        state, method = states.get(cell.signature), cell.config.numerics.method.name
        if state is None:
            continue
        if pace := of_finished(state, device):
            done.setdefault(method, []).append(pace)
        elif state.status != "done" and state.epoch:
            begun.setdefault(method, []).append(found[cell.signature])
    paces = {method: mean(values) for method, values in done.items()}
    for method in begun.keys() - paces.keys():
        if values := list(islice(_of_epochs(begun[method], device), MAX_INTERRUPTED)):
            paces[method] = mean(values)
    return paces


def of_finished(state: FolderState, device: str) -> float | None:
    """Return the seconds a step of a finished cell; None where it is not done, or was trained on another device."""
    if state.status != "done" or not state.num_steps or made_with.device_kind(state.provenance) != device:
        return None
    return state.duration_s / state.num_steps or None


def _of_epochs(folders: Sequence[RunFolder], device: str) -> Iterator[float]:
    for folder in folders:
        for attempt in reversed(folder.attempts()):
            rows = [row for row in attempt.epochs() if row.get("num_steps") and row.get("num_epochs")]
            if rows and made_with.device_kind(attempt.environment()) == device:
                # The median: an epoch that an interruption has cut in two shows a part of its time.
                yield median(
                    ((row.get("duration_s") or 0.0) + (row.get("evaluation_s") or 0.0))
                    * row["num_epochs"] / row["num_steps"]
                    for row in rows
                )  # fmt: skip
                break

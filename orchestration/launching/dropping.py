"""Drop cells one by one: what cannot be dropped keeps no other from it, and MLflow hides those that were."""

from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console

from orchestration.machine import announce
from orchestration.mirror.grid_mirror import GridMirror, last_tracking_uri
from orchestration.mirror.mlflow_store import StoreError
from orchestration.runs import trash
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState


def to_drop(chosen: Sequence[RunFolder]) -> list[RunFolder]:
    """Return the cells that have a folder: the grid's, one that only the store holds, or one in the trash.

    Raises:
        ValueError: None has.
    """
    found = [cell for cell in chosen if trash.real(cell) or trash.dropped(cell)]
    if not found:
        raise ValueError(f"CELL must mean a cell with a folder; got {', '.join(cell.name for cell in chosen[:5])}")
    return found


def trains(cell: RunFolder) -> bool:
    """Return whether somebody trains a cell, for this grid or another."""
    real = trash.real(cell)
    return real is not None and real.state().status is CellState.RUNNING


def drop(grid_dir: Path, cells: Sequence[RunFolder], console: Console) -> None:
    """Drop cells that nobody trains.

    Raises:
        ValueError: Some could not be dropped; they are as they were.
    """
    place, gone, left = trash.place(grid_dir), [], []
    try:
        for one in cells:
            try:
                said = trash.drop(one, place)
            except (OSError, ValueError) as error:
                left.append(f"{one.name}: {error}")
                continue
            gone.append(one.signature)
            announce.say(console, said)
    finally:
        _forget(grid_dir, gone, console)
    if left:
        raise ValueError(f"{len(left)} of {len(cells)} cells were not dropped, and are as they were: {'; '.join(left)}")


def _forget(grid_dir: Path, signatures: Collection[str], console: Console) -> None:
    """Hide the runs of dropped cells in MLflow: cells that are trained from scratch get runs of their own."""
    try:
        GridMirror(last_tracking_uri("", grid_dir), grid_dir, []).forget(signatures)
    except (StoreError, ValueError) as error:
        text = f"MLflow still shows the runs of these cells, so delete them there before retraining: {error}"
        announce.say(console, text)

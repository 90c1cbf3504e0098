"""Read the states of many cells, with patience for a file server that is away for a moment."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from orchestration.machine import clock
from orchestration.runs import readable, trained_for
from orchestration.runs.run_folder import FolderState, RunFolder
from orchestration.runs.states import CellState

WAITS_S = (1.0, 2.0, 4.0, 8.0)
"""Seconds for all cells together; callers that take repeated steps look again later."""

Key = TypeVar("Key")


def states(found: Mapping[Key, RunFolder], waits_s: Sequence[float] = WAITS_S) -> dict[Key, FolderState]:
    """Return the state of each cell; cells that stay unreadable have that state."""
    known = {key: _state(folder) for key, folder in found.items()}
    for wait_s in waits_s:
        away = [key for key, state in known.items() if state.status is CellState.UNREADABLE]
        if not away:
            break
        clock.sleep(wait_s)
        known |= {key: _state(found[key]) for key in away}
    return known


def _state(folder: RunFolder) -> FolderState:
    state = folder.state()
    try:
        return trained_for.of(folder, state)
    except OSError as error:  # since it was read a moment ago
        why = readable.in_words(error)
        return FolderState(CellState.UNREADABLE, failure=why, damage=why)

"""How many cells stand, once a file server that was away for a moment is back."""

import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

from orchestration.run_folder import FolderState, RunFolder

WAITS_S = (1.0, 2.0, 4.0, 8.0)
"""For all cells together; who takes steps one after the other looks again later."""

Key = TypeVar("Key")


def states(found: Mapping[Key, RunFolder], waits_s: Sequence[float] = WAITS_S) -> dict[Key, FolderState]:
    """Return the state of each cell; what stays unreadable is returned as that."""
    known = {key: folder.state() for key, folder in found.items()}
    for wait_s in waits_s:
        away = [key for key, state in known.items() if state.status == "unreadable"]
        if not away:
            break
        time.sleep(wait_s)
        known |= {key: found[key].state() for key in away}
    return known

"""For which grid a cell was trained: by its launch's folder, as a grid may have another name since."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import FolderState, RunFolder


def is_own(owner: Mapping[str, Any], grid: GridFolder) -> bool:
    """Return whether a launch of a grid began an attempt, whatever the grid's name was then."""
    if owner.get("grid", grid.name) == grid.name:
        return True
    launch = str(owner.get("launch") or "")
    return bool(launch) and grid.launch(launch).path.is_dir()


def of(folder: RunFolder, state: FolderState) -> FolderState:
    """Return a cell's state with the present name of its grid, if one of that grid's launches trained it."""
    if state.grid in ("", folder.grid.name):
        return state
    owner = next((one.known_owner() for one in folder.attempts() if one.number == state.num_attempts), {})
    return replace(state, grid=folder.grid.name) if is_own(owner, folder.grid) else state

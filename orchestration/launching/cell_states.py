"""What the folders of a launch's cells say, for one that looks twice a second: few of thousands have changed since."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import FolderState, RunFolder, folders
from orchestration.runs.states import CellState

_Seen = tuple[JobState, int | None]
"""The state of a cell's job, and when its newest attempt was claimed."""
_LASTING = (CellState.DONE, CellState.FAILED, CellState.MISSING)
"""States that only a new job or attempt changes; in others a lease runs out, or somebody else writes the end."""


class CellStates:
    """Reads the states of cells; those that ended or never began again only once their job or attempts change."""

    def __init__(self, grid_dir: Path) -> None:
        self._grid_dir = grid_dir
        self._folders: dict[str, RunFolder] = {}
        self._seen: dict[str, _Seen] = {}
        self._states: dict[str, FolderState] = {}

    def look(self, signatures: Iterable[str], jobs: Mapping[str, JobState]) -> Mapping[str, FolderState]:
        """Return the states of those cells that have a folder, by signature.

        Raises:
            OSError: The grid's folder cannot be read; what was read before it stays known.
        """
        wanted = [*signatures]
        if not self._folders.keys() >= {*wanted}:  # a search adds cells
            self._folders = folders(self._grid_dir)
        for signature in wanted:
            if folder := self._folders.get(signature):
                self._look_at(signature, folder, jobs.get(signature, JobState.PENDING))
        return self._states

    def _look_at(self, signature: str, folder: RunFolder, job: JobState) -> None:
        seen = job, _changed(folder.attempts_dir)
        if self._seen.get(signature) == seen:
            return
        state = self._states[signature] = folder.state()
        if job is not JobState.RUNNING and seen[1] is not None and state.status in _LASTING:
            self._seen[signature] = seen
        else:
            self._seen.pop(signature, None)


def _changed(folder: Path) -> int | None:
    """Return when a name in a folder came or went last; 0 where there is no folder, None where it cannot be read."""
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
    except OSError:
        return None

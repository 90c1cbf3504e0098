"""What the folders of a launch's cells say, for one that looks twice a second: few of thousands have changed since."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import FolderState, RunFolder, folders
from orchestration.runs.states import CellState

_Seen = tuple[JobState, int]
"""The state of a cell's job, and when its newest attempt was claimed."""


class CellStates:
    """Reads the states of cells; one again only while its job runs, or once its job or attempts have changed."""

    def __init__(self, grid_dir: Path) -> None:
        self._grid_dir = grid_dir
        self._folders: dict[str, RunFolder] = {}
        self._seen: dict[str, _Seen] = {}
        self._states: dict[str, FolderState] = {}

    def look(self, signatures: Iterable[str], jobs: Mapping[str, JobState]) -> Mapping[str, FolderState]:
        """Return the states of those cells that have a folder, by signature.

        Raises:
            OSError: A file server is away; what was read before it stays known.
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
        if job is JobState.RUNNING or self._seen.get(signature) != seen:
            state = self._states[signature] = folder.state()
            if state.status is not CellState.UNREADABLE:
                self._seen[signature] = seen


def _changed(folder: Path) -> int:
    """Return when a name in a folder came or went last; 0 where there is none."""
    with suppress(FileNotFoundError):
        return folder.stat().st_mtime_ns
    return 0

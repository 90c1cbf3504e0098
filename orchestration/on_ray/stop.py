"""When a training is told to end: by a file, by a time limit, or because its node leaves the pilot."""

import os
from dataclasses import dataclass
from pathlib import Path

from orchestration.machine import clock, files
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.on_ray.orders import NodeNote
from orchestration.on_ray.protocol import NODE_VARIABLE
from orchestration.runs.folders import JobFolder, LaunchFolder
from orchestration.runs.jobs import cancelled_cells
from orchestration.runs.patience import patiently

RESERVE_S = 20.0
"""Kept free before the time limit beside twice the longest way between two questions."""


@dataclass(slots=True)
class StopAsked:
    """Tells a training to end: somebody wrote the stop file, or the job's time is nearly over.

    The margin before the time limit is the longest time between two calls: a step, or an image of an evaluation and
    the checkpoint after it.
    """

    stop_file: Path
    end_time: float | None
    _last: float | None = None
    _longest_s: float = 0.0

    def __call__(self) -> bool:
        """Return whether to stop with a checkpoint."""
        now = clock.now()
        if self._last is not None:
            self._longest_s = max(self._longest_s, now - self._last)
        self._last = now
        if patiently(self.stop_file.exists):
            return True
        if self.end_time is not None and now + 2 * self._longest_s + RESERVE_S > self.end_time:
            evidence = f"{self.end_time - now:.0f} s before the limit; the longest way took {self._longest_s:.0f} s"
            files.replace(self.stop_file, f"time limit\n{evidence}")
            return True
        return False

    def why(self) -> str:
        """Return what was written."""
        return self.stop_file.read_text() if self.stop_file.exists() else ""


class CellStop:
    """Tells a cell of a launch to end: the launch does, the cell was cancelled, or this process's node leaves.

    It travels to the workers of a cell, each of which looks at its own node.
    """

    def __init__(self, launch_dir: Path, cell: str, end_time: float | None) -> None:
        """Take the launch's folder, the name of the cell's, and when the launch's own time is over."""
        self._words = launch_dir, cell, end_time
        self._launch_dir, self._cell = launch_dir, cell
        self._launch = StopAsked(LaunchFolder(launch_dir).stop_file, end_time)
        self._node = StopAsked(place.stop_file, own_node().end_time) if (place := node_folder()) else None

    def __reduce__(self) -> tuple[type["CellStop"], tuple[Path, str, float | None]]:
        return CellStop, self._words

    def __call__(self) -> bool:
        """Return whether to stop with a checkpoint."""
        asked = [self._launch(), self._node is not None and self._node(), self._is_cancelled()]  # each keeps its time
        return any(asked)

    def is_for_good(self) -> bool:
        """Return whether the cell ends with this launch, rather than moving to another node."""
        return self._launch.stop_file.exists() or self._is_cancelled()

    def why(self) -> str:
        """Return what was written: a value of `FailureClass`, and in a second line how it is known."""
        if self.is_for_good():
            return self._launch.why()
        if self._node is not None and (own := self._node.why()):
            return own
        told = (job.stop_file for job in LaunchFolder(self._launch_dir).jobs() if job.stop_file.exists())
        found = sorted(told, key=lambda path: path.stat().st_mtime)
        return found[-1].read_text() if found else ""  # of several workers only one may have been on it

    def _is_cancelled(self) -> bool:
        return self._cell in patiently(lambda: cancelled_cells(self._launch_dir))


def node_folder() -> JobFolder | None:
    """Return the folder of the Slurm job that lends this process's node to a pilot."""
    place = os.environ.get(NODE_VARIABLE)
    return JobFolder(Path(place)) if place else None


def own_node() -> NodeNote:
    """Return that job's note of itself; nothing outside a pilot."""
    place = node_folder()
    try:
        return NodeNote.from_file(place.node_file) if place else NodeNote(None)
    except DamagedFileError as error:  # they train all the same
        tell(error)
        return NodeNote(None)

"""Whether a cell can end, or reach a checkpoint, before the time of a lent node is over, by the epochs measured."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from orchestration.machine import files
from orchestration.machine.damage import DamagedFileError
from orchestration.on_ray.orders import NodeNote
from orchestration.on_ray.shares import Machine, Node, Share
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.recorder import EPOCH_FIELDS, Row
from orchestration.runs.run_folder import RunFolder

MARGIN, START_S = 1.25, 60.0
"""Epochs differ, and a training takes up to a minute to begin."""


class EpochTimes:
    """How long cells take to their next checkpoint, or to their end."""

    def __init__(self) -> None:
        self._longest_s = 0.0

    def learn(self, cell_dir: Path) -> None:
        """Take over how long an epoch of a cell took that has trained."""
        if row := _last_epoch(cell_dir):
            self._longest_s = max(self._longest_s, _epoch_s(row))

    def needed_s(self, cell_dir: Path) -> float:
        """Return the seconds that a cell needs: by its own epochs, else by the longest seen; 0 where none was yet."""
        row = _last_epoch(cell_dir)
        needed_s = self._longest_s if row is None else _rest_s(row)
        return START_S + MARGIN * needed_s if needed_s else 0.0


class NodeTimes:
    """When the time of the nodes of a pilot is over, and how long they had in all; by Ray's names for them."""

    def __init__(self, launch_dir: Path, alive: Callable[[], Mapping[str, str]]) -> None:
        self._launch, self._alive = LaunchFolder(launch_dir), alive
        self._known: dict[str, NodeNote] = {}

    def ending(self, needed_s: float) -> tuple[str, ...]:
        """Return Ray's ids of the nodes that have less time left, unless they would have too little from the start.

        A cell that no node holds for long enough goes anywhere: it is told to write a checkpoint before the end.
        """
        return tuple(ray_id for name, ray_id in self._alive().items() if needed_s and self._is_short(name, needed_s))

    def _is_short(self, name: str, needed_s: float) -> bool:
        note = self._note(name)
        if note is None or note.end_time is None or note.lasts_s is None:
            return False
        return note.end_time - time.time() < needed_s <= note.lasts_s

    def _note(self, name: str) -> NodeNote | None:
        if name not in self._known:
            with suppress(OSError, DamagedFileError):
                self._known[name] = NodeNote.from_file(self._launch.job_named(name).node_file)
        return self._known.get(name)


def has_no_node(share: Share, here: Sequence[Node], ending: Sequence[str]) -> bool:
    """Return whether a cell has to wait: only nodes that end too soon could hold it."""
    stay = Machine(tuple(node for node in here if node.ray_id not in ending))
    return bool(ending) and stay.fits(share.num_cpus, share.num_gpus) < share.job.num_workers


def _last_epoch(cell_dir: Path) -> Row | None:
    for attempt in reversed(RunFolder(cell_dir).attempts()):
        if row := files.read_last_line(attempt.epochs_file, EPOCH_FIELDS):
            return row
    return None


def _epoch_s(row: Row) -> float:
    return float((row.get("duration_s") or 0.0) + (row.get("evaluation_s") or 0.0))


def _rest_s(row: Row) -> float:
    """Return the seconds to the next checkpoint, at the end of the next epoch; 0 if there is none."""
    return _epoch_s(row) if row["epoch"] < (row.get("num_epochs") or row["epoch"] + 1) else 0.0

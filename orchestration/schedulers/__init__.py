"""What moves cells to where they are trained: a scheduler takes jobs at once, and its handle tells how they stand.

Schedulers do not know each other, and all keep one contract: `submit` returns before the work is done, jobs start in
the order given, a failed cell does not stop the others, and `cancel` leaves every cell with its newest checkpoint.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from orchestration import files
from orchestration.damage import DamagedFileError, tell
from orchestration.fields import TEXT, Fields
from orchestration.patience import patiently, say_once

LAUNCH_STOP = "cancelled"
"""The file in a launch's folder that tells its trainings to end; what it holds says why, nothing that it was asked."""
_CANCELLED_CELLS = "cancelled.json"
_OF_CANCELLED = Fields({"cells": TEXT.listed()})
_OF_CHANGE = Fields({"cell": TEXT, "state": TEXT})


class SchedulerError(Exception):
    """The scheduler itself broke down, not a cell; what was finished or written stays."""


class SchedulerRefusal(SchedulerError):
    """The scheduler does not take what it was asked for, and would not the next time."""


class JobState(StrEnum):
    """How a job stands; the run folder knows how its training stands."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    """Ended early with a checkpoint, or told to end before it began."""
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """Another launch trains the cell, or its launcher is gone."""

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing more will come."""
        return self not in (JobState.PENDING, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class CellJob:
    """One cell to be trained, and what its training takes."""

    cell_dir: Path
    num_workers: int = 1
    num_cpus_per_worker: int = 1
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU for each worker where the machine has one."""

    estimate_s: float | None = None
    """Roughly what is left to train, in seconds; None where nobody knows."""
    gpu_memory_gb: float = 0.0
    """Roughly what each worker needs on a GPU."""
    avoided: Sequence[str] = ()
    """Nodes that this try keeps away from, as the scheduler calls them."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What the data are that the cell is trained on; it goes into its result beside the launch's provenance."""

    @property
    def name(self) -> str:
        """Name of the cell's folder; the key of every answer."""
        return self.cell_dir.name

    def owner(self, launch: Mapping[str, Any]) -> dict[str, Any]:
        """Describe the owner of this cell's attempts: the launch, and the cell's own data."""
        return {**launch, "provenance": {**launch.get("provenance", {}), **self.data}}


class Jobs(Protocol):
    """The handle of what was submitted together."""

    def poll(self) -> dict[str, JobState]:
        """Tell the state of every job by the name of its cell's folder, without waiting.

        Raises:
            SchedulerError: With the cause, and where the log is.
        """
        ...

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all jobs have ended; false if the time ran out before."""
        ...

    def cancel(self, grace_s: float = 60.0) -> None:
        """Stop all jobs: first by asking, so that they write a checkpoint, after `grace_s` seconds by force."""
        ...


class Scheduler(Protocol):
    """A way to have cells trained."""

    def check(self, jobs: Sequence[CellJob]) -> None:
        """Refuse jobs before anything is made for them.

        Raises:
            ValueError: A job that this machine can never carry out.
        """
        ...

    def submit(self, jobs: Sequence[CellJob], launch_dir: Path, owner: Mapping[str, Any]) -> Jobs:
        """Take jobs, longest first, and return at once.

        Args:
            jobs: Started in this order.
            launch_dir: Folder of this launch, there already; gets what the scheduler itself has to note.
            owner: Who launches; goes into each attempt's `owner.json`.

        Raises:
            ValueError: A job that this machine can never carry out.
        """
        ...


def cancelled_cells(launch_dir: Path) -> list[str]:
    """Return the cells that were cancelled by name while a launch had them."""
    try:
        names: list[str] = files.read_json(launch_dir / _CANCELLED_CELLS, _OF_CANCELLED, "cancel them again")["cells"]
    except FileNotFoundError:
        return []
    except DamagedFileError as error:
        tell(error)
        return []
    return names


def cancel_cells(launch_dir: Path, cells: Iterable[str]) -> None:
    """Write down that cells of a launch were cancelled."""
    names = sorted({*cells, *cancelled_cells(launch_dir)})
    files.replace(launch_dir / _CANCELLED_CELLS, files.to_text({"cells": names}))


class StateLog:
    """The states of a launch's jobs in an append-only file that several processes write."""

    def __init__(self, launch_dir: Path) -> None:
        self._path = launch_dir / "jobs.jsonl"

    def write(self, name: str, state: JobState) -> None:
        """Append one change; a single small write, so that lines of several processes never mix.

        It informs whoever looks: where it cannot be written, that is said, and the work goes on.
        """
        try:
            patiently(lambda: files.append_row(self._path, {"cell": name, "state": state}))
        except OSError as error:
            say_once(f"{self._path} lacks that {name} is {state}", error)

    def read(self) -> dict[str, JobState]:
        """Return the last state of every job that has one."""
        lines = files.read_lines(self._path, _OF_CHANGE)
        return {line["cell"]: JobState(line["state"]) for line in lines if line["state"] in set(JobState)}

"""The contract of schedulers: a scheduler takes jobs, and its handle reports their states.

Schedulers do not know each other, and all keep one contract, `Scheduler`: `submit` returns before the work is done,
jobs start in the order given, and a failed cell does not stop the others. They differ in who ends the jobs. Those of
`--cluster local`, `inline` and `ray` live as long as their launcher, which follows them and alone can stop them: their
handles are `FollowedJobs`. Those of Slurm are left alone: whoever wants them ended asks Slurm, from anywhere.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import filelock

from orchestration.machine import files
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.machine.fields import TEXT, Fields
from orchestration.machine.messages import Message
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.patience import patiently, say_once
from orchestration.runs.states import JobState as JobState
from rankmatch import locks

_LOCK_S = 60.0
_OF_CHANGE = Fields({"cell": TEXT, "state": TEXT})


class SchedulerError(Exception):
    """The scheduler itself failed, not a cell; finished work and written files stay."""


class SchedulerRefusal(SchedulerError):
    """The scheduler refuses the request, and would refuse it again."""


@dataclass(frozen=True, slots=True)
class CellJob(Message):
    """One cell to train, and the resources it needs."""

    cell_dir: Path
    num_workers: int = 1
    num_cpus_per_worker: int = 1
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU for each worker if the machine has one."""

    estimate_s: float | None = None
    """Estimated seconds left to train; None if unknown."""
    gpu_memory_gb: float = 0.0
    """Estimated GPU memory that each worker needs."""
    mem_gb_per_worker: float = 0.0
    """0: what its site says."""
    time_min: int = 0
    """The least time limit, in minutes; 0: by the estimate."""
    limit_s: float | None = None
    """Seconds that it may train by what cells of its kind took; None: a multiple of the estimate."""
    more_workers: int = 0
    """Twice as many workers, if the batch can be divided among them; else 0."""
    larger: str = ""
    """Why it asks for more than its site says, in words."""
    avoided: Sequence[str] = ()
    """Nodes that this attempt avoids, by the scheduler's names."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Identity of the cell's data; it goes into the result beside the launch's provenance."""

    @property
    def name(self) -> str:
        """Name of the cell's folder; the key in all answers."""
        return self.cell_dir.name

    def owner(self, launch: Mapping[str, Any]) -> dict[str, Any]:
        """Describe the owner of this cell's attempts: the launch, and the cell's own data."""
        return {**launch, "provenance": {**launch.get("provenance", {}), **self.data}}


class Jobs(Protocol):
    """The handle of jobs that were submitted together."""

    def poll(self) -> dict[str, JobState]:
        """Return the state of every job by the name of its cell's folder, without waiting.

        Raises:
            SchedulerError: The scheduler failed; the message has the cause and the path of the log.
        """
        ...

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all jobs have ended; return false on timeout."""
        ...


class FollowedJobs(Jobs, Protocol):
    """The handle of jobs that end with their launcher."""

    def cancel(self, grace_s: float = 60.0) -> None:
        """Stop all jobs: ask them first, so that they write a checkpoint, and kill them after `grace_s` seconds."""
        ...


JobsT = TypeVar("JobsT", bound=Jobs, covariant=True)


class Scheduler(Protocol[JobsT]):
    """A way to run cells."""

    def check(self, jobs: Sequence[CellJob]) -> None:
        """Refuse impossible jobs before anything is created for them.

        Raises:
            ValueError: A job that this machine can never carry out.
        """
        ...

    def submit(self, jobs: Sequence[CellJob], launch_dir: Path, owner: Mapping[str, Any]) -> JobsT:
        """Take jobs and return at once.

        Args:
            jobs: Started in this order.
            launch_dir: Existing folder of this launch; receives the scheduler's own files.
            owner: Who launches; goes into each attempt's `owner.json`.

        Raises:
            ValueError: A job that this machine can never carry out.
        """
        ...


@dataclass(frozen=True, slots=True)
class Cancelled(Message):
    """The cells of a launch that somebody cancelled by name."""

    ADVICE: ClassVar[str] = "cancel them again"

    cells: list[str]


def cancelled_cells(launch_dir: Path) -> list[str]:
    """Return the cells of a launch that were cancelled by name."""
    try:
        return Cancelled.from_file(LaunchFolder(launch_dir).cancelled_cells_file).cells
    except FileNotFoundError:
        return []
    except DamagedFileError as error:
        tell(error)
        return []


def cancel_cells(launch_dir: Path, cells: Collection[str], *, wait_s: float = _LOCK_S) -> None:
    """Record that cells of a launch were cancelled; two who do so at once keep each other's.

    Raises:
        OSError: It cannot be recorded.
        ValueError: Another process holds the record for so long.
    """
    if {*cells} <= {*cancelled_cells(launch_dir)}:  # of whoever died right after that, the lock may still be there
        return
    launch = LaunchFolder(launch_dir)
    try:
        held = locks.acquire(launch.cancelled_cells_lock, wait_s, locks.mode_in(launch_dir))
    except filelock.Timeout:
        text = f"{launch.cancelled_cells_file} has been changed by another process for {wait_s:.0f} s"
        raise ValueError(f"{text}{locks.hint(launch.cancelled_cells_lock)}; then cancel again") from None
    try:
        Cancelled(sorted({*cells, *cancelled_cells(launch_dir)})).to_file(launch.cancelled_cells_file)
    finally:
        held.release()


class StateLog:
    """The states of a launch's jobs in an append-only file that several processes write."""

    def __init__(self, launch_dir: Path) -> None:
        self._path = LaunchFolder(launch_dir).states_file

    def write(self, name: str, state: JobState) -> None:
        """Append one change, in a single small write, so that lines of several processes never mix.

        The log is only informative: if it cannot be written, a message says so and the work continues.
        """
        try:
            patiently(lambda: files.append_row(self._path, {"cell": name, "state": state}))
        except OSError as error:
            say_once(f"{self._path} lacks that {name} is {state}", error)

    def read(self) -> dict[str, JobState]:
        """Return the last state of every job that has one."""
        lines = files.read_lines(self._path, _OF_CHANGE)
        return {line["cell"]: JobState(line["state"]) for line in lines if line["state"] in set(JobState)}

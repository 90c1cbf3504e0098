"""Which Slurm job has which cell: recorded before sbatch is called, completed after it."""

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from orchestration.machine import files
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.machine.fields import COUNT, Kind
from orchestration.machine.messages import KIND, Message
from orchestration.on_slurm import commands
from orchestration.on_slurm.commands import Job, QueuedJob
from orchestration.runs.folders import GridFolder, LaunchFolder
from orchestration.runs.jobs import cancel_cells
from rankmatch.durable import make_folder

_USER = Kind("a user id, or -1", lambda value: value == -1 or COUNT.holds(value))


@dataclass(slots=True)
class Submission(Message):
    """An array of jobs, or one job; element i has cell i. In a pilot, one job, its head, has all cells."""

    ADVICE: ClassVar[str] = "its cells look as if they had no job; see squeue"

    name: str
    """Of the jobs, and of no others."""
    cells: list[str]
    """Names of the cells' folders."""
    job_id: str = ""
    """Its number. Empty until sbatch has told it; one that stays empty is looked up by its name."""
    nodes_name: str = ""
    """Of the jobs that lend a pilot its nodes."""
    nodes_id: str = ""
    """The number of their array."""
    num_nodes: int = 0
    """How many they are."""
    user: int = field(default=-1, metadata={KIND: _USER})
    """Who submitted it, by user id."""
    larger: dict[str, str] = field(default_factory=dict)
    """Which cells ask for more than their site says, and why."""
    is_withdrawn: bool = False
    """Its cells are to be submitted anew, as Slurm knew no job of its name: one that comes after all ends at once."""

    @property
    def job(self) -> Job | None:
        """The array as a whole, or the one job."""
        return Job(self.job_id, self.name) if self.job_id and not self.is_withdrawn else None

    @property
    def nodes(self) -> Job | None:
        """The array that lends a pilot its nodes."""
        return Job(self.nodes_id, self.nodes_name) if self.nodes_id and not self.is_withdrawn else None

    @property
    def names(self) -> list[str]:
        """The names of all its jobs."""
        return [self.name, self.nodes_name] if self.is_pilot else [self.name]

    @property
    def is_unanswered(self) -> bool:
        """Whether sbatch has not told a number: it was not called, or gave no answer, or nobody lived to record it."""
        return not self.is_withdrawn and not (self.job_id and (self.nodes_id or not self.is_pilot))

    @property
    def is_pilot(self) -> bool:
        """Whether cells are not jobs of their own."""
        return bool(self.nodes_name)

    def jobs(self) -> dict[str, Job]:
        """Return the job of each cell; none if sbatch has returned no number."""
        if self.job is None:
            return {}
        if self.is_pilot:
            return dict.fromkeys(self.cells, self.job)
        return dict(zip(self.cells, self.job.elements(len(self.cells)), strict=True))

    def write(self, launch_dir: Path) -> None:
        """Store the submission."""
        launch = LaunchFolder(launch_dir)
        make_folder(launch.submissions_dir)
        self.to_file(launch.submission_file(self.name))

    def remove(self, launch_dir: Path) -> None:
        """Remove the submission after sbatch has refused it: there is no job to look for."""
        LaunchFolder(launch_dir).submission_file(self.name).unlink(missing_ok=True)


def read(grid_dir: Path) -> list[tuple[Path, Submission]]:
    """Return all submissions of a grid with the folders of their launches, oldest first.

    An unreadable one is left out with a warning: its cells look as if they had no job, and attempts of a job that
    nobody knows end as soon as a newer one starts.

    Raises:
        PermissionError: Another user has closed the folder of a launch.
    """
    found = [(launch.path, path) for launch in GridFolder(grid_dir).launches() for path in launch.submission_files()]
    return [(launch_dir, submission) for launch_dir, path in found if (submission := _read(path))]


def _read(path: Path) -> Submission | None:
    try:
        known = _checked(path, files.read_bytes(str(path)))
    except DamagedFileError as error:
        tell(error)
        return None
    submission = replace(known, cells=[*known.cells], larger={**known.larger})
    if submission.user < 0:  # written by an earlier version
        submission.user = path.stat().st_uid
    return submission


@lru_cache(maxsize=4096)
def _checked(path: Path, content: bytes) -> Submission:
    """Take a submission from what was read of its file; a step and `status` read each many times, and check it once."""
    return Submission.from_content(path, content)


def remove_unused(launch_dir: Path) -> None:
    """Remove the folder of a launch that has submitted nothing, unless sbatch may have accepted something."""
    if not LaunchFolder(launch_dir).submission_files():
        shutil.rmtree(launch_dir, ignore_errors=True)


def queue(grid_dir: Path) -> dict[Job, QueuedJob]:
    """Return what squeue says of the jobs of all who have submitted cells of a grid, of whatever grids.

    Raises:
        SlurmError: squeue says nothing; the jobs may be there or not.
    """
    return commands.queue({submission.user for _, submission in read(grid_dir)})


def find(grid_dir: Path) -> list[tuple[Path, Submission]]:
    """Look up by name the jobs of which sbatch told no number, and record those that Slurm has; see `read`.

    Raises:
        SlurmError: Slurm does not answer.
    """
    return _find(grid_dir, lambda *_: None)


def settle(grid_dir: Path, give_tasks: Callable[[Path, Submission], None]) -> list[tuple[Path, Submission]]:
    """Look up the jobs of which sbatch told no number: return those that Slurm has, and withdraw the others.

    slurmctld may carry out an sbatch minutes after that gave up or was killed. No time tells that it will not, so
    nothing is waited for: such a job has no task, finds that its submission is withdrawn, and ends. Hold the grid's
    lock, as of a launch at work nothing may be withdrawn.

    Args:
        grid_dir: Folder of the grid.
        give_tasks: Gives found jobs their tasks. It runs before the record: once that is written nobody looks again.

    Raises:
        SlurmError: Slurm does not answer.
    """
    found = _find(grid_dir, give_tasks)
    every = read(grid_dir)
    for launch_dir, submission in every:
        if submission.is_unanswered:
            submission.is_withdrawn = True
            submission.write(launch_dir)
    withdrawn = {name for _, submission in every if submission.is_withdrawn for name in submission.names}
    if withdrawn:
        commands.cancel({job.array for job in commands.queue() if job.name in withdrawn})
    return found


def _find(grid_dir: Path, give_tasks: Callable[[Path, Submission], None]) -> list[tuple[Path, Submission]]:
    found = []
    for launch_dir, submission in read(grid_dir):
        if submission.is_unanswered and (numbers := _numbers(submission)):
            submission.job_id, *nodes = numbers
            submission.nodes_id = "".join(nodes)
            give_tasks(launch_dir, submission)
            submission.write(launch_dir)
            found.append((launch_dir, submission))
    return found


def _numbers(submission: Submission) -> list[str]:
    """Return the numbers of a submission's jobs by their names; none if one is missing: a head without nodes waits."""
    known = [commands.jobs_by_name(name) for name in submission.names]
    return [jobs[-1].number for jobs in known] if all(known) else []


def is_withdrawn(launch_dir: Path, name: str) -> bool:
    """Return whether jobs of a name are to end, as their cells were submitted anew."""
    of_launch = [_read(path) for path in LaunchFolder(launch_dir).submission_files()]
    return any(one is not None and one.is_withdrawn and name in one.names for one in of_launch)


def note_cancelled(grid_dir: Path, cells: Iterable[str], going_on: Iterable[Path] = ()) -> None:
    """Record that cells were cancelled: in the launches that submitted them, and in those that may do so.

    Args:
        grid_dir: Folder of the grid.
        cells: Names of the cells' folders.
        going_on: Folders of launches that are not over; the newest counts in any case.
    """
    submitted = {launch for launch, submission in read(grid_dir) if {*submission.cells} & {*cells}}
    for launch_dir in submitted | {*going_on, *(launch.path for launch in GridFolder(grid_dir).launches()[-1:])}:
        cancel_cells(launch_dir, cells)


def nodes_of(grid_dir: Path, heads: Collection[Job]) -> list[str]:
    """Return the names of the jobs that lend nodes to pilots, by the jobs of their heads."""
    return [one.nodes_name for _, one in read(grid_dir) if one.is_pilot and one.job in heads]


def newest_jobs(grid_dir: Path) -> Mapping[str, Job]:
    """Return the newest job that was submitted for each cell's folder."""
    jobs: dict[str, Job] = {}
    for _, submission in read(grid_dir):
        jobs |= submission.jobs()
    return jobs


def larger_cells(grid_dir: Path) -> Mapping[str, str]:
    """Return what the newest jobs of cells asked for beyond what their site says, by the names of their folders."""
    found: dict[str, str] = {}
    for _, submission in read(grid_dir):
        found |= {cell: submission.larger.get(cell, "") for cell in submission.jobs()}
    return {cell: words for cell, words in found.items() if words}


def newest_launches(grid_dir: Path) -> Mapping[str, Path]:
    """Return the folder of the launch that submitted the newest job of each cell's folder."""
    return {cell: launch_dir for launch_dir, submission in read(grid_dir) for cell in submission.jobs()}


def job_of(grid_dir: Path, cell: str, number: str, name: str = "") -> Job:
    """Return the job of a cell's attempt; attempts of earlier versions do not hold its name."""
    if name:
        return Job(number, name)
    array = number.partition("_")[0]
    of_cell = [one for _, one in read(grid_dir) if cell in one.cells]
    names = [job.name for one in of_cell for job in (one.job, one.nodes) if job and job.number == array]
    return Job(number, names[-1] if names else "")

"""Which Slurm job has which cell: recorded before sbatch is called, completed after it."""

import itertools
import os
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from orchestration.machine import files
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.machine.fields import COUNT, Kind
from orchestration.machine.messages import KIND, Message
from orchestration.on_slurm import commands
from orchestration.on_slurm.commands import Job, QueuedJob, SlurmError
from orchestration.runs.folders import GridFolder, LaunchFolder
from orchestration.runs.jobs import cancel_cells, cancelled_cells
from orchestration.runs.patience import say_once
from rankmatch.durable import make_folder, sync_folder

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

    @property
    def job(self) -> Job | None:
        """The array as a whole, or the one job."""
        return Job(self.job_id, self.name) if self.job_id else None

    @property
    def nodes(self) -> Job | None:
        """The array that lends a pilot its nodes."""
        return Job(self.nodes_id, self.nodes_name) if self.nodes_id else None

    @property
    def names(self) -> list[str]:
        """The names of all its jobs."""
        return [self.name, self.nodes_name] if self.is_pilot else [self.name]

    @property
    def is_unanswered(self) -> bool:
        """Whether sbatch has not told a number: it was not called, or gave no answer, or nobody lived to record it."""
        return not (self.job_id and (self.nodes_id or not self.is_pilot))

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
        """Store the submission; who could read it before still can."""
        launch = LaunchFolder(launch_dir)
        make_folder(launch.submissions_dir)
        path = launch.submission_file(self.name)
        before = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
        self.to_file(path)
        if before is not None:
            path.chmod(before)

    def withdraw(self, launch_dir: Path) -> None:
        """Have its cells submitted anew: a job of it that comes after all ends at once."""
        launch = LaunchFolder(launch_dir)
        for name in self.names[1:]:
            launch.withdrawn_file(name).touch()
        launch.submission_file(self.name).replace(launch.withdrawn_file(self.name))
        sync_folder(launch.submissions_dir)
        self._remove_tasks(launch)

    def remove(self, launch_dir: Path) -> None:
        """Remove the submission after sbatch has refused it: no job can come."""
        launch = LaunchFolder(launch_dir)
        launch.submission_file(self.name).unlink(missing_ok=True)
        self._remove_tasks(launch)

    def _remove_tasks(self, launch: LaunchFolder) -> None:
        for task in itertools.chain.from_iterable(map(launch.waiting_tasks, self.names)):
            task.unlink(missing_ok=True)


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
    except FileNotFoundError:  # it was withdrawn meanwhile
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
    """Remove the folder of a launch that has submitted nothing, unless a job of it may be there, or come."""
    launch = LaunchFolder(launch_dir)
    if not launch.submission_files() and not launch.withdrawn_names():
        shutil.rmtree(launch_dir, ignore_errors=True)


def queue(grid_dir: Path) -> dict[Job, QueuedJob]:
    """Return what squeue says of the jobs of all who have submitted cells of a grid, of whatever grids.

    Raises:
        SlurmError: squeue says nothing; the jobs may be there or not.
    """
    return commands.queue({submission.user for _, submission in read(grid_dir)})


def find(grid_dir: Path) -> list[tuple[Path, Submission]]:
    """Return the submissions of which sbatch told no number and Slurm has the jobs, with their numbers.

    Raises:
        SlurmError: Slurm does not answer.
    """
    found = []
    for launch_dir, submission in read(grid_dir):
        if submission.is_unanswered and (numbers := _numbers(submission)):
            submission.job_id, *nodes = numbers
            submission.nodes_id = "".join(nodes)
            found.append((launch_dir, submission))
    return found


def settle(grid_dir: Path, give_tasks: Callable[[Path, Submission], None]) -> list[tuple[Path, Submission]]:
    """Record the jobs of which sbatch told no number, and return them; withdraw the submissions that have none.

    slurmctld may carry out an sbatch minutes after that gave up or was killed. No time tells that it will not, so
    nothing is waited for: such a job has no task, finds that its submission is withdrawn, and ends. Hold the grid's
    lock, as of a launch at work nothing may be withdrawn.

    Args:
        grid_dir: Folder of the grid.
        give_tasks: Gives found jobs their tasks. It runs before the record: once that is written nobody looks again.

    Raises:
        SlurmError: Slurm does not answer.
    """
    found = find(grid_dir)
    for launch_dir, submission in found:
        with _of_others(launch_dir, submission):
            give_tasks(launch_dir, submission)
            submission.write(launch_dir)
    for launch_dir, submission in read(grid_dir):
        if submission.is_unanswered:
            _end_head_without_nodes(submission)
            with _of_others(launch_dir, submission):
                submission.withdraw(launch_dir)
    withdrawn = {name for launch in GridFolder(grid_dir).launches() for name in launch.withdrawn_names()}
    if withdrawn:
        with suppress(SlurmError):  # what comes late ends by itself
            commands.cancel([job for job, one in commands.queue().items() if one.is_waiting and job.name in withdrawn])
    return found


def _end_head_without_nodes(submission: Submission) -> None:
    """Cancel the head of a pilot that gets no nodes; another user's can only be left to find that it is withdrawn."""
    if submission.job is None:
        return
    try:
        commands.cancel([submission.job])
    except SlurmError as error:
        if submission.user == os.getuid():
            raise
        say_once(f"job {submission.job_id} is user {submission.user}'s, who may have to end it", error)


@contextmanager
def _of_others(launch_dir: Path, submission: Submission) -> Iterator[None]:
    """Leave to another user what this one may not write; should two jobs of a cell begin, the newer attempt goes on."""
    try:
        yield
    except PermissionError:
        who = f"user {submission.user}"
        sys.stderr.write(f"a job of launch {launch_dir.name} may be there, or come; {who} settles it by `resume`\n")


def _numbers(submission: Submission) -> list[str]:
    """Return the numbers of a submission's jobs by their names; none if one is missing: a head without nodes waits."""
    known = [commands.jobs_by_name(name) for name in submission.names]
    return [jobs[-1].number for jobs in known] if all(known) else []


def is_withdrawn(launch_dir: Path, name: str) -> bool:
    """Return whether jobs of a name are to end, as their cells were submitted anew."""
    return LaunchFolder(launch_dir).withdrawn_file(name).exists()


def newer_job(grid_dir: Path, cell: str, name: str) -> Job | None:
    """Return the job that a cell was given after the one of a name, which Slurm may have requeued late."""
    every = [submission for _, submission in read(grid_dir)]
    places = [place for place, submission in enumerate(every) if submission.name == name]
    after = every[places[-1] + 1 :] if places else []
    return next((one.jobs()[cell] for one in reversed(after) if cell in one.jobs()), None)


def note_cancelled(grid_dir: Path, cells: Collection[str], going_on: Iterable[Path] = ()) -> None:
    """Record that cells were cancelled: in the launches that submitted them, and in those that may do so.

    Args:
        grid_dir: Folder of the grid.
        cells: Names of the cells' folders.
        going_on: Folders of launches that are not over; the newest counts in any case.
    """
    submitted = {launch for launch, submission in read(grid_dir) if {*submission.cells} & {*cells}}
    for launch_dir in submitted | {*going_on, *(launch.path for launch in GridFolder(grid_dir).launches()[-1:])}:
        cancel_cells(launch_dir, cells)


def cancelled(grid_dir: Path) -> set[str]:
    """Return the names of the folders of cells that somebody cancelled by name since they were submitted last."""
    found: set[str] = set()
    for launch_dir, one in read(grid_dir):
        found -= {*one.cells}
        found |= {*one.cells} & {*cancelled_cells(launch_dir)}
    return found


def nodes_of(grid_dir: Path, heads: Collection[Job]) -> list[str]:
    """Return the names of the jobs that lend nodes to pilots, by the jobs of their heads."""
    return [one.nodes_name for _, one in read(grid_dir) if one.is_pilot and one.job in heads]


def heads(grid_dir: Path) -> set[Job]:
    """Return the jobs that are heads of pilots."""
    return {one.job for _, one in read(grid_dir) if one.is_pilot and one.job}


def newest_jobs(grid_dir: Path) -> Mapping[str, Job]:
    """Return the newest job that was submitted for each cell's folder."""
    jobs: dict[str, Job] = {}
    for _, submission in read(grid_dir):
        jobs |= submission.jobs()
    return jobs


def jobs_of(grid_dir: Path, cells: Collection[str]) -> set[Job]:
    """Return all jobs that were submitted for cells: one that was requeued late may be there beside a newer one."""
    mine = [one.jobs() for _, one in read(grid_dir) if not one.is_pilot]
    return {job for jobs in mine for cell, job in jobs.items() if cell in cells}


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

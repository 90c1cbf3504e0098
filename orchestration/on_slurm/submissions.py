"""Which Slurm job has which cell: written down before sbatch is called, completed behind it."""

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from orchestration import files
from orchestration.damage import DamagedFileError, tell
from orchestration.fields import COUNT, TEXT, Fields, Kind
from orchestration.on_slurm import commands
from orchestration.on_slurm.commands import Job, QueuedJob
from orchestration.schedulers import cancel_cells

FOLDER = "submissions"


@dataclass(slots=True)
class Submission:
    """An array of jobs, or one job; element i has cell i. In a pilot one job, its head, has all cells."""

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
    user: int = -1
    """Who submitted it, by user id."""

    @property
    def job(self) -> Job | None:
        """The array as a whole, or the one job."""
        return Job(self.job_id, self.name) if self.job_id else None

    @property
    def nodes(self) -> Job | None:
        """The array that lends a pilot its nodes."""
        return Job(self.nodes_id, self.nodes_name) if self.nodes_id else None

    @property
    def is_pilot(self) -> bool:
        """Whether cells are no jobs of their own."""
        return bool(self.nodes_name)

    def jobs(self) -> dict[str, Job]:
        """Return the job of each cell; of none where sbatch has told no number."""
        if self.job is None:
            return {}
        if self.is_pilot or len(self.cells) == 1:
            return dict.fromkeys(self.cells, self.job)
        return {cell: Job(f"{self.job_id}_{place}", self.name) for place, cell in enumerate(self.cells)}

    def write(self, launch_dir: Path) -> None:
        """Store it."""
        folder = launch_dir / FOLDER
        folder.mkdir(exist_ok=True)
        files.replace(folder / f"{self.name}.json", files.to_text(asdict(self)))

    def remove(self, launch_dir: Path) -> None:
        """Remove it, as sbatch has refused it: there is no job to look for."""
        (launch_dir / FOLDER / f"{self.name}.json").unlink(missing_ok=True)


_USER = Kind("a user id, or -1", lambda value: value == -1 or COUNT.holds(value))
_OF_SUBMISSION = Fields(
    {"name": TEXT, "cells": TEXT.listed()},
    {"job_id": TEXT, "nodes_name": TEXT, "nodes_id": TEXT, "user": _USER},
)


def read(grid_dir: Path) -> list[tuple[Path, Submission]]:
    """Return all submissions of a grid with the folders of their launches, oldest first.

    One that cannot be read is left out with a warning: its cells look as if they had no job, and attempts of a job that
    nobody knows end as soon as a newer one begins.
    """
    paths = sorted(grid_dir.glob(f"launches/*/{FOLDER}/*.json"))
    return [(path.parents[1], submission) for path in paths if (submission := _read(path))]


def _read(path: Path) -> Submission | None:
    try:
        known = files.read_json(path, _OF_SUBMISSION, "its cells look as if they had no job; see squeue")
    except DamagedFileError as error:
        tell(error)
        return None
    names = {part.name for part in fields(Submission)}
    submission = Submission(**{name: value for name, value in known.items() if name in names})
    if submission.user < 0:  # written by an earlier version
        submission.user = path.stat().st_uid
    return submission


def remove_unused(launch_dir: Path) -> None:
    """Remove the folder of a launch that has submitted nothing; not where sbatch may have taken something."""
    if not any((launch_dir / FOLDER).glob("*.json")):
        shutil.rmtree(launch_dir, ignore_errors=True)


def queue(grid_dir: Path) -> dict[Job, QueuedJob]:
    """Return what squeue says of the jobs of all who have submitted cells of a grid, whichever grids they are of.

    Raises:
        SlurmError: squeue says nothing; the jobs may be there or not.
    """
    return commands.queue({submission.user for _, submission in read(grid_dir)})


def complete(grid_dir: Path, hand_over: Callable[[Path, Submission], None]) -> list[tuple[Path, Submission]]:
    """Look up by name the jobs of launches that were killed between sbatch and the note of its answer; as `read`.

    Args:
        grid_dir: Folder of the grid.
        hand_over: Gives such jobs their tasks. It comes before the note: once that is written nobody looks again.

    Raises:
        SlurmError: Slurm does not answer.
    """
    found = []
    for launch_dir, submission in read(grid_dir):
        if not submission.job_id and (jobs := commands.jobs_by_name(submission.name)):
            submission.job_id = jobs[-1].number
            hand_over(launch_dir, submission)
            submission.write(launch_dir)
            found.append((launch_dir, submission))
    return found


def note_cancelled(grid_dir: Path, cells: Iterable[str], going_on: Iterable[Path] = ()) -> None:
    """Write down that cells were cancelled: in the launches that submitted them, and in those that may do so.

    Args:
        grid_dir: Folder of the grid.
        cells: Names of the cells' folders.
        going_on: Folders of launches that are not over; the newest counts in any case.
    """
    submitted = {launch for launch, submission in read(grid_dir) if {*submission.cells} & {*cells}}
    for launch_dir in submitted | {*going_on, *sorted(grid_dir.glob("launches/*"))[-1:]}:
        cancel_cells(launch_dir, cells)


def nodes_of(grid_dir: Path, heads: Collection[Job]) -> list[str]:
    """Return the names of the jobs that lend their nodes to pilots, by the jobs of their heads."""
    return [one.nodes_name for _, one in read(grid_dir) if one.is_pilot and one.job in heads]


def newest_jobs(grid_dir: Path) -> Mapping[str, Job]:
    """Return the newest job of each cell's folder that was ever submitted."""
    jobs: dict[str, Job] = {}
    for _, submission in read(grid_dir):
        jobs |= submission.jobs()
    return jobs


def newest_launches(grid_dir: Path) -> Mapping[str, Path]:
    """Return the folder of the launch that submitted the newest job of each cell's folder."""
    return {cell: launch_dir for launch_dir, submission in read(grid_dir) for cell in submission.jobs()}


def job_of(grid_dir: Path, cell: str, number: str, name: str = "") -> Job:
    """Return the job of a cell's attempt, whose name attempts of earlier versions do not hold."""
    if name:
        return Job(number, name)
    array = number.partition("_")[0]
    of_cell = [one for _, one in read(grid_dir) if cell in one.cells]
    names = [job.name for one in of_cell for job in (one.job, one.nodes) if job and job.number == array]
    return Job(number, names[-1] if names else "")

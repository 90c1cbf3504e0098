"""Batch jobs in submitit's form: its script around pickled tasks, and its files, which its jobs look for."""

import shlex
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import _make_sbatch_string

from orchestration.on_slurm import commands
from orchestration.on_slurm.commands import Job
from orchestration.on_slurm.sbatch_flags import Flags
from orchestration.on_slurm.submissions import Submission

JOBS = "jobs"
MANY = 10**6
_ALWAYS = ("array", "job-name", "open-mode", "output")
_FLAG = "#SBATCH --"


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch script holds beside its tasks."""

    name: str
    python: str
    """The shell words that start Python."""
    flags: Flags
    setup: Sequence[str]
    teardown: Sequence[str] = ()
    srun: Sequence[str] | None = None
    """The words for srun; None: the task is run by the batch script itself."""
    max_concurrent: int = 1
    after: str = ""
    """The dependency, as sbatch takes it."""

    def script(self, launch_dir: Path, num_tasks: int) -> str:
        """Return the script; several tasks are an array."""
        folder = launch_dir / JOBS
        flags = self.flags | ({"dependency": self.after} if self.after else {})
        text = _make_sbatch_string(
            command=f"{self.python} -u -m submitit.core._submit {shlex.quote(str(folder))}",
            folder=folder,
            job_name=self.name,
            map_count=num_tasks if num_tasks > 1 else None,
            array_parallelism=self.max_concurrent,
            setup=list(self.setup),
            teardown=list(self.teardown),
            srun_args=None if self.srun is None else list(self.srun),
            use_srun=self.srun is not None,
            stderr_to_stdout=True,
            additional_parameters={flag: value or True for flag, value in flags.items()},
        )
        lines = text.splitlines()
        # submitit has defaults of its own for some
        return "\n".join(line for line in lines if _flag(line) in ("", *_ALWAYS, *flags)) + "\n"

    def submit(self, tasks: Sequence[Callable[[], None]], launch_dir: Path) -> Job:
        """Hand the script to sbatch, and its tasks to the jobs.

        Raises:
            SlurmError: sbatch refuses, or does not answer.
        """
        folder = launch_dir / JOBS
        folder.mkdir(parents=True, exist_ok=True)
        pickles = [_store(task, folder) for task in tasks]
        path = folder / f"{self.name}.sh"
        path.write_text(self.script(launch_dir, len(tasks)), encoding="utf-8")
        job = commands.submit(path, self.name)
        for place, pickle in enumerate(pickles):
            number = f"{job}_{place}" if len(pickles) > 1 else str(job)
            pickle.replace(JobPaths(folder, number).submitted_pickle)
        return job


def _flag(line: str) -> str:
    return line.removeprefix(_FLAG).partition("=")[0] if line.startswith(_FLAG) else ""


def _store(task: Callable[[], None], folder: Path) -> Path:
    delayed = DelayedSubmission(task)
    delayed.set_timeout(1, MANY)  # submitit would count how often a job met its limit; the policy does
    path = folder / f"{uuid.uuid4().hex}.pkl"
    delayed.dump(path)
    return path


def hand_over(launch_dir: Path, submission: Submission) -> None:
    """Give the jobs of a launch that was killed right behind sbatch their tasks, which wait in files without their ids.

    submitit's jobs look for a file named after them; one that has looked in vain for a minute has failed.
    """
    waiting = {path: path.read_bytes() for path in (launch_dir / JOBS).glob("*.pkl") if "_" not in path.name}
    for cell, job in submission.jobs().items():
        for path in [path for path, content in waiting.items() if cell.encode() in content]:  # a task names its cell's
            path.replace(
                JobPaths(launch_dir / JOBS, job.number).submitted_pickle
            )  # folder; nothing is unpickled for that
            del waiting[path]  # the head of a pilot has all cells

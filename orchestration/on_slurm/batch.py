"""Batch scripts and the tasks of their jobs: pickled as submitit does it, and run by submitit's program for jobs.

The script is ours, since submitit writes one only when it calls sbatch, with flags of its own that sites may refuse.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import DelayedSubmission, JobPaths

from orchestration.machine import files, own_files
from orchestration.on_slurm import commands
from orchestration.on_slurm.commands import Job, SlurmError
from orchestration.on_slurm.sbatch_flags import Flags
from orchestration.on_slurm.submissions import Submission
from orchestration.runs.folders import LaunchFolder
from rankmatch.durable import make_folder, sync_file, sync_folder

MANY = 10**6
_EARLIER_TASK = re.compile(r"[0-9a-f]{32}\.pkl")
"""The file of a task that waits for its job number, as earlier versions named it."""
_RUN_TASK = "from orchestration.on_slurm.task import main; main()"


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch script holds besides its tasks."""

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
        """Return the script; several tasks make an array."""
        folder = LaunchFolder(launch_dir).jobs_dir
        log = str(JobPaths(folder).stdout).replace("%j", "%A_%a" if num_tasks > 1 else "%j")
        lines = ["#!/bin/bash", *self._flag_lines(log.replace("%t", "0"), num_tasks), *self.setup]
        command = f"{self.python} -u -c {shlex.quote(_RUN_TASK)} {shlex.quote(str(folder))}"
        if self.srun is not None:  # only srun knows the numbers of its own tasks, so it is told where they log
            command = f"{shlex.join(['srun', '--unbuffered', '--output', log, *self.srun])} {command}"
        return "\n".join([*lines, "export SUBMITIT_EXECUTOR=slurm", command, *self.teardown, ""])

    def _flag_lines(self, log: str, num_tasks: int) -> list[str]:
        """Return the lines that sbatch reads from the script; a site's own flags come first."""
        own = {"job-name": self.name, "open-mode": "append", "output": log}
        if num_tasks > 1:
            own["array"] = f"0-{num_tasks - 1}%{min(num_tasks, self.max_concurrent)}"
        flags = own | self.flags | ({"dependency": self.after} if self.after else {})
        return [f"#SBATCH --{flag}{f'={shlex.quote(text)}' if text else ''}" for flag, text in sorted(flags.items())]

    def submit(self, tasks: Sequence[Callable[[], None]], launch_dir: Path) -> Job:
        """Submit the script with sbatch, and give the jobs their tasks.

        Raises:
            SlurmError: sbatch refuses, or does not answer.
        """
        launch = LaunchFolder(launch_dir)
        make_folder(launch.jobs_dir)
        for place, task in enumerate(tasks):
            _store(task, launch.waiting_task(self.name, place))
        path = launch.batch_script(self.name)
        files.replace(path, self.script(launch_dir, len(tasks)))
        job = commands.submit(path, self.name)
        _give(launch, job.elements(len(tasks)))
        if launch.withdrawn_file(self.name).exists():
            commands.cancel([job])
            raise SlurmError(
                f"job {job} came, but is withdrawn: another step saw no launch at work here, and submitted anew; "
                "locks of this file system may hold on one machine alone"
            )
        return job


def give_tasks(launch_dir: Path, submission: Submission) -> None:
    """Give the jobs of which sbatch told no number their tasks, which wait in files without job ids.

    submitit's jobs look for a file named after them; see `task.comes` for one that finds none.
    """
    launch = LaunchFolder(launch_dir)
    _give(launch, [*dict.fromkeys(submission.jobs().values())])  # the head of a pilot has all cells
    if submission.nodes:  # an earlier version did not say how many they are
        places = [int(path.suffixes[-2][1:]) for path in launch.waiting_tasks(submission.nodes_name)]
        num = submission.num_nodes or max(places, default=0) + 1
        _give(launch, submission.nodes.elements(num))
    _give_earlier(launch, submission)


def _give_earlier(launch: LaunchFolder, submission: Submission) -> None:
    """Give jobs that an earlier version submitted their tasks: the newest one that names the cell, as no name tells."""
    if not launch.jobs_dir.is_dir():
        return
    found = [path for path in launch.jobs_dir.iterdir() if _EARLIER_TASK.fullmatch(path.name)]
    waiting = {path: path.read_bytes() for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)}
    for cell, job in submission.jobs().items():
        task = JobPaths(launch.jobs_dir, job.number).submitted_pickle
        mine = [path for path, content in waiting.items() if cell.encode() in content]
        if mine and not task.exists():  # nothing is unpickled; the head of a pilot has all cells
            mine[-1].replace(task)
            del waiting[mine[-1]]


def _store(task: Callable[[], None], path: Path) -> None:
    delayed = DelayedSubmission(task)
    delayed.set_timeout(1, MANY)  # submitit would count how often a job met its limit; our policy does
    delayed.dump(path)
    own_files.close_file(path)
    sync_file(path)


def _give(launch: LaunchFolder, jobs: Sequence[Job]) -> None:
    for place, job in enumerate(jobs):
        with suppress(FileNotFoundError):  # it was given before, or its submission is withdrawn
            launch.waiting_task(job.name, place).replace(JobPaths(launch.jobs_dir, job.number).submitted_pickle)
    sync_folder(launch.jobs_dir)  # nobody else knows what queued jobs are to do

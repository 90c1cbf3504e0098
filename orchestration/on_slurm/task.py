"""How a job takes its task: as submitit's own program does, but only from a file that nobody else can have written."""

import os
import pickle
import sys
from pathlib import Path
from typing import Any

from submitit.core.job_environment import JobEnvironment
from submitit.core.submission import submitit_main
from submitit.core.utils import DelayedSubmission

from orchestration.machine import clock, own_files
from orchestration.on_slurm import commands, submissions
from orchestration.on_slurm.signals import FOLLOW, NAME_VARIABLE
from orchestration.runs.folders import launch_with_jobs

WAIT_S = commands.SBATCH_TIMEOUT_S + 60.0
"""So long after its start a job may get its task: an sbatch that hangs may still answer."""


class NoTask(Exception):  # noqa: N818 (nothing is wrong with the job)
    """Nobody gives a job its task."""


def main() -> None:
    """Run the task of this job."""
    os.environ["SUBMITIT_FOLDER"] = sys.argv[1]  # as submitit's own program has it
    try:
        if not comes(JobEnvironment().paths.submitted_pickle, os.environ.get(NAME_VARIABLE, "")):
            return
    except NoTask as error:
        print(error)  # noqa: T201
        sys.exit(FOLLOW)  # nothing has failed: the next step submits its cells anew
    DelayedSubmission.load = staticmethod(load)  # type: ignore[method-assign,assignment]  # it unpickles what lies there
    submitit_main()


def comes(task: Path, name: str) -> bool:
    """Wait for the task of a job; false if its submission is withdrawn, as its cells have other jobs.

    Args:
        task: The file, in the launch's folder of jobs.
        name: The name of the job.

    Raises:
        NoTask: Nobody gives the job a task.
    """
    until = clock.monotonic() + WAIT_S
    launch_dir = launch_with_jobs(task.parent).path
    while True:
        if submissions.is_withdrawn(launch_dir, name):  # also a head whose nodes never came, which has its task
            print("nothing to do: sbatch told no number of this job, and what it was for was submitted again")  # noqa: T201 (a log)
            return False
        if task.exists():
            return True
        if clock.monotonic() >= until:
            raise NoTask(f"no task came within {WAIT_S:.0f} s: what submitted this job was ended, or hangs")
        clock.sleep(1.0)


def load(path: str | Path) -> Any:  # noqa: ANN401 (as submitit has it)
    """Unpickle a task.

    Raises:
        PermissionError: Another user can have written it.
    """
    return pickle.loads(own_files.read(Path(path)))

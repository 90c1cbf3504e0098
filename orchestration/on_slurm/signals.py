"""What Slurm's signals mean, and how they are passed on: through a file, since all that trains is deaf to them."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from orchestration.machine import clock, files, scratch
from orchestration.on_slurm import commands
from orchestration.on_slurm.commands import Job, SlurmError
from orchestration.runs.failures import FailureClass
from orchestration.runs.folders import JobFolder, LaunchFolder
from rankmatch import durable

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
REQUEUE = 85
"""The exit code that the batch script answers with `scontrol requeue`: containers have no scontrol."""
FOLLOW = 86
"""The exit code of a job that may not be requeued and whose cell is to resume: its batch script calls a controller."""
NOTHING = "nothing"
"""What Slurm says where its commands are not, as in a container."""
NAME_VARIABLE = "RANKMATCH_JOB_NAME"
"""Holds the name of this job; in SLURM_JOB_NAME srun may put that of a step."""


class Listener:
    """Hears the signals of this job, and writes into a stop file what they mean."""

    def __init__(self, stop_file: Path, signal_before_s: int) -> None:
        self.stop_file, self._signal_before_s = stop_file, signal_before_s
        self.end_time = commands.end_time(commands.job_fields(own_job()))
        self.heard: int | None = None
        for number in SIGNALS:
            signal.signal(number, self._hear)  # after submitit's own, which would save from within the handler
        signal.signal(signal.SIGCONT, signal.SIG_DFL)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = number

    def pass_on(self) -> None:
        """Report a signal to trainings; they write a checkpoint at the next step edge."""
        if self.heard is not None and not self.stop_file.exists():
            fields = commands.job_fields(own_job())
            says = f"Slurm says {fields.get('JobState', NOTHING)}"
            meaning = self._meaning(self.heard, fields)
            files.replace(self.stop_file, f"{meaning}\n{signal.Signals(self.heard).name} came; {says}")

    def _meaning(self, number: int, fields: Mapping[str, str]) -> FailureClass:
        """Ask Slurm what a signal is for: a job that ends and will not restart was cancelled."""
        if fields.get("JobState") in ("NODE_FAIL", "BOOT_FAIL"):
            return FailureClass.NODE_FAILURE
        if commands.is_preempted(fields):  # before its end is looked at, which by now is that of its grace
            return FailureClass.PREEMPTED
        end_time = self.end_time
        if fields.get("JobState") == "RUNNING":  # for a job that is being ended, this is now
            end_time = commands.end_time(fields) or end_time
        # Slurm may send its warning up to 60 s earlier than asked.
        if end_time is not None and clock.now() > end_time - self._signal_before_s - 60:
            return FailureClass.TIME_LIMIT
        ends = fields.get("JobState") in ("CANCELLED", "COMPLETING")
        is_cancelled = number == signal.SIGTERM and ends and fields.get("Restarts") == restart()
        return FailureClass.CANCELLED if is_cancelled else FailureClass.PREEMPTED


def be_deaf() -> None:
    """Keep Slurm's signals from this process and all that it starts.

    They are also blocked, since Ray's daemons end on SIGTERM, whatever they inherit, and take all workers with them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def job_id() -> str:
    """Return this job's id as users write it: `123`, or `123_4` for an element of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]


def own_job() -> Job:
    """Return this job."""
    return Job(job_id(), os.environ.get(NAME_VARIABLE, ""))


def restart() -> str:
    """Return how often Slurm has restarted this job."""
    return os.environ.get("SLURM_RESTART_COUNT", "0")


def this_job() -> dict[str, Any]:
    """Describe this job for the owner of an attempt."""
    job = own_job()
    several = os.environ.get("SLURM_JOB_NUM_NODES", "1") != "1"
    nodes = os.environ.get("SLURM_JOB_NODELIST", "") if several else ""
    known = {"name": job.name, "node": os.environ.get("SLURMD_NODENAME", ""), "nodes": nodes}
    return {"job": job.number, "restart": int(restart()), **{key: value for key, value in known.items() if value}}


def make_folder(launch_dir: Path) -> JobFolder:
    """Make the folder of this start of the job."""
    folder = LaunchFolder(launch_dir).job(job_id(), restart())
    durable.make_folder(folder.path)
    return folder


def sweep() -> None:
    """Remove what this user's jobs and launches left on this node when they were killed or it lost power."""
    scratch.sweep(_is_over)


def _is_over(owner: Mapping[str, Any]) -> bool:
    """Return whether the start of a job that owns a folder has ended; false for another node's, or if unknown."""
    known = owner.get("slurm", {})
    try:
        job = Job(known["job"], known["name"])
        queued = commands.queue().get(job)
    except (KeyError, SlurmError):  # a container has no squeue
        return False
    if queued is None or queued.state == "PENDING":
        return True
    return commands.job_fields(job).get("Restarts", str(known["restart"])) != str(known["restart"])

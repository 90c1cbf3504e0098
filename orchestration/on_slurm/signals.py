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
from orchestration.runs.patience import Mark, say_once
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
    """Hears the signals of this job, and writes into a stop file what they mean.

    A file server that is away for a while ends nothing here: trainings are told as soon as the file can be written.
    """

    def __init__(self, stop_file: Path, signal_before_s: int) -> None:
        self.stop_file, self._signal_before_s = stop_file, signal_before_s
        self.end_time = commands.end_time(commands.job_fields(own_job()))
        self.heard: int | None = None
        self._stop, self._words = Mark(stop_file), ""
        for number in SIGNALS:
            signal.signal(number, self._hear)  # after submitit's own, which would save from within the handler
        signal.signal(signal.SIGCONT, signal.SIG_DFL)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = number

    def pass_on(self) -> None:
        """Report a signal to trainings; they write a checkpoint at the next step edge."""
        if self.heard is not None and not self.is_told:
            fields = commands.job_fields(own_job())
            says = f"Slurm says {fields.get('JobState', NOTHING)}"
            self.tell(self._meaning(self.heard, fields), f"{signal.Signals(self.heard).name} came; {says}")
        elif self._words:
            self._write()

    @property
    def is_told(self) -> bool:
        """Return whether trainings were told to end, or are to be once that can be written."""
        return bool(self._words) or self._stop.is_there()

    def tell(self, why: FailureClass, evidence: str) -> None:
        """Tell trainings to end unless they were told; if it cannot be written, each `pass_on` tries again."""
        self._words = self._words or f"{why}\n{evidence}"
        self._write()

    def _write(self) -> None:
        if not self._stop.is_there():
            try:
                files.replace(self.stop_file, self._words)
            except OSError as error:
                say_once("that trainings are to end cannot be written for now", error)

    def told_why(self) -> str:
        """Return why trainings were told to end, a value of `FailureClass`; empty if they were not."""
        words = self._words
        try:
            words = self.stop_file.read_text()
        except FileNotFoundError:
            pass
        except OSError as error:
            say_once("why trainings ended cannot be read for now", error)
        return words.partition("\n")[0]

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

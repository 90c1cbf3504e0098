"""A Slurm job: hears Slurm's signals, has its cell trained in a process of its own, and says how that ended.

Slurm's signals go to every process of a job, so the training and all that it starts, data workers and Ray's daemons,
are begun deaf to them; what they mean is passed on through a file.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import rankmatch
from orchestration import files, slurm_commands
from orchestration.failures import Failure, FailureClass, decide
from orchestration.ray_protocol import EXIT_CODES, ORDER, STOP_FILE, end_group
from orchestration.run_cell import launcher, record_loss
from orchestration.run_folder import RunFolder
from orchestration.schedulers import JobState

REQUEUE = 85
"""The exit code that the batch script answers with `scontrol requeue`: containers have no scontrol."""
LOG_TAIL_LINES = 40
TEMP_PREFIX = f"{files.PREFIX}j"
SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
_DRIVER = "from orchestration.ray_job import main; main()"


@dataclass(frozen=True, slots=True)
class CellTask:
    """What travels to a job: one cell and what its workers get."""

    cell_dir: str
    jobs_dir: str
    """Gets a folder for each start of a job."""
    root: str
    """The snapshot that must be imported."""
    owner: Mapping[str, Any]
    """Of the launch, with its `campaign`."""
    num_nodes: int = 1
    num_workers: int = 1
    num_cpus_per_node: int = 1
    num_gpus_per_node: int = 0
    signal_before_s: int = 120
    requeue: bool = True

    def __call__(self) -> None:
        """Be one task of the job: the first node's trains, the others' lend their node to its Ray."""
        _check_sources(self.root)
        folder = Path(self.jobs_dir) / f"{job_id()}.{_restart()}"
        folder.mkdir(parents=True, exist_ok=True)
        if int(os.environ.get("SLURM_PROCID", "0")):
            from orchestration.ray_job import join

            sys.exit(join(folder, num_cpus=self.num_cpus_per_node, num_gpus=self.num_gpus_per_node))
        sys.exit(_Head(self, folder).run())


class _Head:
    """The first task of a job."""

    def __init__(self, task: CellTask, folder: Path) -> None:
        self.task, self.folder, self.cell = task, folder, RunFolder(Path(task.cell_dir))
        self.end_time = slurm_commands.end_time(slurm_commands.job_fields(job_id()))
        # Ray's sockets need a short path; not by process id, which nodes of one /tmp may share.
        self.temp_dir = files.SHORT_TEMP / f"{TEMP_PREFIX}{folder.name}"
        self.heard: int | None = None
        for number in SIGNALS:
            signal.signal(number, self._hear)  # after submitit's own, which would save from within the handler
        signal.signal(signal.SIGCONT, signal.SIG_DFL)

    def run(self) -> int:
        """Train, and return the exit code of the job."""
        decision = decide(self.cell.ends(self.task.owner["campaign"]))
        if not decision.again:
            sys.stderr.write(f"{self.cell.path.name} is not tried again: {decision.why}\n")
            return 0
        _remove_leftovers()
        files.replace(self.folder / ORDER, files.to_text(self._order()))
        training = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, str(self.folder / ORDER), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_ignore_signals,  # safe: this process has one thread
        )
        try:
            while training.poll() is None:
                self._pass_on()
                time.sleep(0.2)
        finally:
            end_group(training)
            _remove(self.temp_dir)
        return self._exit_code(training.returncode)

    def _order(self) -> dict[str, Any]:
        task = self.task
        slurm = {"job": job_id(), "restart": int(_restart())}
        return {
            "cell_dir": task.cell_dir,
            "end_time": self.end_time,
            "num_nodes": task.num_nodes,
            "num_cpus_per_node": task.num_cpus_per_node,
            "num_gpus_per_node": task.num_gpus_per_node,
            "num_cpus_per_worker": task.num_cpus_per_node * task.num_nodes / task.num_workers,
            "temp_dir": str(self.temp_dir),
            "owner": {**launcher(), **task.owner, "slurm": slurm},
        }

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = number

    def _pass_on(self) -> None:
        """Tell the training of a signal; it writes a checkpoint at the next step edge."""
        if self.heard is not None and not (self.folder / STOP_FILE).exists():
            files.replace(self.folder / STOP_FILE, self._meaning(self.heard).value)

    def _meaning(self, number: int) -> FailureClass:
        """Ask Slurm what a signal is for: a job that ends and is not to begin again was cancelled."""
        # Slurm may send its warning up to 60 s earlier than asked.
        if self.end_time is not None and time.time() > self.end_time - self.task.signal_before_s - 60:
            return FailureClass.TIME_LIMIT
        fields = slurm_commands.job_fields(job_id()) if number == signal.SIGTERM else {}
        ends = fields.get("JobState") in ("CANCELLED", "COMPLETING")
        return FailureClass.CANCELLED if ends and fields.get("Restarts") == _restart() else FailureClass.PREEMPTED

    def _exit_code(self, code: int) -> int:
        if code == EXIT_CODES[JobState.STOPPED]:
            stop = (self.folder / STOP_FILE).read_text() if (self.folder / STOP_FILE).exists() else ""
            return REQUEUE if self.task.requeue and stop != FailureClass.CANCELLED.value else 0
        if code not in EXIT_CODES.values():
            self._record_crash(code)
            return 1
        return int(code == EXIT_CODES[JobState.FAILED])

    def _record_crash(self, code: int) -> None:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        message = f"the training process ended by {how} in job {job_id()} on {socket.gethostname()}"
        tail = log_tail(RunFolder(self.cell.path))
        record_loss(self.cell.path, Failure(FailureClass.LOST, "LostError", message, tail))


def _remove_leftovers() -> None:
    """Remove what this user's jobs left on this node when they were killed or it lost power."""
    mine = [path for path in files.SHORT_TEMP.glob(f"{TEMP_PREFIX}*") if path.stat().st_uid == os.getuid()]
    if not mine:
        return
    try:
        alive = slurm_commands.queue().keys() - {job_id()}
    except slurm_commands.SlurmError:
        return  # a container has no squeue
    for path in mine:
        if path.name.removeprefix(TEMP_PREFIX).rpartition(".")[0] not in alive:
            _remove(path)


def _remove(folder: Path) -> None:
    """Remove Ray's folder; a daemon that is just being killed may still write there."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def job_id() -> str:
    """Return this job's id as users write it: `123`, or `123_4` of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]


def _restart() -> str:
    """Return how often Slurm has begun this job again."""
    return os.environ.get("SLURM_RESTART_COUNT", "0")


def log_tail(folder: RunFolder) -> str:
    """Return the last lines that the newest attempt of a cell printed."""
    attempts = folder.attempts()
    log = attempts[-1].path / "log" if attempts else None
    if log is None or not log.is_file():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])


def batch_epilogue() -> list[str]:
    """Return the shell lines behind the training's: they requeue exactly this element of the array."""
    element = '"${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"'
    return ["code=$?", f"if [ $code -eq {REQUEUE} ]; then scontrol requeue {element} && sleep 60; fi", "exit $code"]


def _check_sources(root: str) -> None:
    found = Path(rankmatch.__file__).resolve().parents[1]
    if found != Path(root).resolve():
        raise RuntimeError(f"the job must import the code that was launched, {root}; it imports {found}")

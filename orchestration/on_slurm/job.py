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
from orchestration import files
from orchestration.failures import Failure, FailureClass, decide
from orchestration.on_ray.protocol import EXIT_CODES, ORDER, STOP_FILE, end_session, stop_kind
from orchestration.on_slurm import commands
from orchestration.on_slurm.notices import Notifier
from orchestration.run_cell import launcher, record_loss
from orchestration.run_folder import RunFolder
from orchestration.schedulers import JobState

REQUEUE = 85
"""The exit code that the batch script answers with `scontrol requeue`: containers have no scontrol."""
TEMP_PREFIX = f"{files.PREFIX}j"
SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
_DRIVER = "from orchestration.on_ray.job import main; main()"


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
    notifier: Notifier = Notifier("")

    def __call__(self) -> None:
        """Be one task of the job: the first node's trains, the others' lend their node to its Ray."""
        _check_sources(self.root)
        folder = Path(self.jobs_dir) / f"{job_id()}.{_restart()}"
        folder.mkdir(parents=True, exist_ok=True)
        if int(os.environ.get("SLURM_PROCID", "0")):
            _be_deaf()  # the first task hears them
            from orchestration.on_ray.job import join

            sys.exit(join(folder, num_cpus=self.num_cpus_per_node, num_gpus=self.num_gpus_per_node))
        sys.exit(_Head(self, folder).run())


class _Head:
    """The first task of a job."""

    def __init__(self, task: CellTask, folder: Path) -> None:
        self.task, self.folder, self.cell = task, folder, RunFolder(Path(task.cell_dir))
        self.end_time = commands.end_time(commands.job_fields(job_id()))
        # Ray's sockets need a short path; not by process id, which nodes of one /tmp may share.
        self.temp_dir = files.SHORT_TEMP / f"{TEMP_PREFIX}{folder.name}"
        self.heard: int | None = None
        self.num_oom_kills = num_oom_kills()
        for number in SIGNALS:
            signal.signal(number, self._hear)  # after submitit's own, which would save from within the handler
        signal.signal(signal.SIGCONT, signal.SIG_DFL)

    def run(self) -> int:
        """Train, and return the exit code of the job."""
        if self._is_given_up():
            return 0
        _remove_leftovers()
        files.replace(self.folder / ORDER, files.to_text(self._order()))
        training = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, str(self.folder / ORDER), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_be_deaf,  # safe: this process has one thread
        )
        try:
            self._tell_of_begin()
            while training.poll() is None:
                self._pass_on()
                time.sleep(0.2)
        finally:
            end_session(training)
            _remove(self.temp_dir)
        code = self._exit_code(training.returncode)
        if code == 1:
            self._is_given_up()
        return code

    def _tell_of_begin(self) -> None:
        where = f"job {job_id()} on {socket.gethostname()}"
        campaign = self.task.owner["campaign"]
        text = f"{self._grid}: the first cell has begun, {self.cell.path.name} in {where}"
        self.task.notifier.tell(f"started {campaign}", text, once=True)

    def _is_given_up(self) -> bool:
        """Tell, here and to whom it concerns, whether the policy gives the cell up."""
        decision = decide(self.cell.ends(self.task.owner["campaign"]))
        if decision.again:
            return False
        text = f"{self.cell.path.name} is not tried again: {decision.why}"
        sys.stderr.write(f"{text}\n")
        self.task.notifier.tell(f"failed: {decision.why}", f"{self._grid}: {text}")
        return True

    @property
    def _grid(self) -> str:
        return self.cell.path.parents[1].name

    def _order(self) -> dict[str, Any]:
        task = self.task
        return {
            "cell_dir": task.cell_dir,
            "end_time": self.end_time,
            "num_nodes": task.num_nodes,
            "num_cpus_per_node": task.num_cpus_per_node,
            "num_gpus_per_node": task.num_gpus_per_node,
            "num_cpus_per_worker": task.num_cpus_per_node * task.num_nodes / task.num_workers,
            "temp_dir": str(self.temp_dir),
            "owner": {**launcher(), **task.owner, "slurm": self._slurm()},
        }

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = number

    def _pass_on(self) -> None:
        """Tell the training of a signal; it writes a checkpoint at the next step edge."""
        if self.heard is not None and not (self.folder / STOP_FILE).exists():
            fields = commands.job_fields(job_id())
            says = f"Slurm says {fields['JobState']}" if "JobState" in fields else "Slurm says nothing"
            meaning = self._meaning(self.heard, fields)
            files.replace(self.folder / STOP_FILE, f"{meaning}\n{signal.Signals(self.heard).name} came; {says}")

    def _meaning(self, number: int, fields: Mapping[str, str]) -> FailureClass:
        """Tell by what Slurm says what a signal is for: a job that ends and is not to begin again was cancelled."""
        if commands.is_preempted(fields):  # before its end is looked at, which is that of its grace by now
            return FailureClass.PREEMPTED
        end_time = self.end_time
        if fields.get("JobState") == "RUNNING":  # one that is being ended has its present end there
            end_time = commands.end_time(fields) or end_time
        # Slurm may send its warning up to 60 s earlier than asked.
        if end_time is not None and time.time() > end_time - self.task.signal_before_s - 60:
            return FailureClass.TIME_LIMIT
        ends = fields.get("JobState") in ("CANCELLED", "COMPLETING")
        is_cancelled = number == signal.SIGTERM and ends and fields.get("Restarts") == _restart()
        return FailureClass.CANCELLED if is_cancelled else FailureClass.PREEMPTED

    def _exit_code(self, code: int) -> int:
        if code == EXIT_CODES[JobState.STOPPED]:
            return REQUEUE if self.task.requeue and stop_kind(self.folder) != FailureClass.CANCELLED.value else 0
        if code not in EXIT_CODES.values():
            self._record_crash(code)
            return 1
        return int(code == EXIT_CODES[JobState.FAILED])

    def _record_crash(self, code: int) -> None:
        attempts = self.cell.attempts()
        if not attempts or attempts[-1].owner().get("slurm") != self._slurm():
            return  # another job's, where this node was given up
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        message = f"the training process ended by {how} in job {job_id()} on {socket.gethostname()}"
        kind = FailureClass.LOST
        if num_oom_kills() > self.num_oom_kills:
            kind, message = FailureClass.HOST_MEMORY, f"{message}, killed for the memory it took"
        record_loss(self.cell.path, Failure(kind, "LostError", message, "", exit_code=how))

    def _slurm(self) -> dict[str, Any]:
        return {"job": job_id(), "restart": int(_restart())}


def _remove_leftovers() -> None:
    """Remove what this user's jobs left on this node when they were killed or it lost power."""
    mine = [path for path in files.SHORT_TEMP.glob(f"{TEMP_PREFIX}*") if path.stat().st_uid == os.getuid()]
    if not mine:
        return
    try:
        alive = commands.queue().keys() - {job_id()}
    except commands.SlurmError:
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


def _be_deaf() -> None:
    """Keep Slurm's signals from this process and all that it starts.

    Blocked too, since Ray's daemons handle SIGTERM by ending, whatever they inherit, and take all workers with them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def job_id() -> str:
    """Return this job's id as users write it: `123`, or `123_4` of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]


def _restart() -> str:
    """Return how often Slurm has begun this job again."""
    return os.environ.get("SLURM_RESTART_COUNT", "0")


def num_oom_kills(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many processes of this one's control group the kernel has killed for their memory; 0 where unknown."""
    lines = [line.split(":", 2) for line in proc.read_text().splitlines()] if proc.is_file() else []
    for _, controllers, path in lines:
        inner = path.lstrip("/")
        file = root / "memory" / inner / "memory.oom_control" if controllers else root / inner / "memory.events"
        if controllers in ("", "memory") and file.is_file():
            counts = dict(line.split() for line in file.read_text().splitlines())
            return int(counts.get("oom_kill", 0))
    return 0


def batch_epilogue() -> list[str]:
    """Return the shell lines behind the training's: they requeue exactly this element of the array."""
    element = '"${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"'
    return ["code=$?", f"if [ $code -eq {REQUEUE} ]; then scontrol requeue {element} && sleep 60; fi", "exit $code"]


def _check_sources(root: str) -> None:
    found = Path(rankmatch.__file__).resolve().parents[1]
    if found != Path(root).resolve():
        raise RuntimeError(f"the job must import the code that was launched, {root}; it imports {found}")

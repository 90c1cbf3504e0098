"""A Slurm job: hears Slurm's signals, has its cell trained in a process of its own, and says how that ended.

Slurm's signals go to every process of a job, so the training and all that it starts, data workers and Ray's daemons,
are begun deaf to them; what they mean is passed on through a file.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rankmatch
from orchestration import files, scratch, snapshot
from orchestration.attempt import Attempt
from orchestration.control_group import num_oom_kills
from orchestration.failures import Failure, FailureClass
from orchestration.on_ray.protocol import EXIT_CODES, ORDER, STOP_FILE, end_session, stop_kind
from orchestration.on_slurm import evidence, signals
from orchestration.on_slurm.campaign_file import cancelled_in
from orchestration.on_slurm.notices import Notifier
from orchestration.on_slurm.signals import FOLLOW, REQUEUE, Listener, job_id
from orchestration.retries import decision_of
from orchestration.run_cell import launcher, record_loss
from orchestration.run_folder import RunFolder
from orchestration.schedulers import JobState

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
        check_sources(self.root)
        folder = signals.make_folder(Path(self.jobs_dir))
        if int(os.environ.get("SLURM_PROCID", "0")):
            signals.be_deaf()  # the first task hears them
            from orchestration.on_ray.job import join

            signals.sweep()
            with scratch.held(slurm=signals.this_job()) as place:
                num_gpus = self.num_gpus_per_node
                sys.exit(join(folder, place.ray, num_cpus=self.num_cpus_per_node, num_gpus=num_gpus))
        sys.exit(_Head(self, folder).run())


class _Head(Listener):
    """The first task of a job."""

    def __init__(self, task: CellTask, folder: Path) -> None:
        super().__init__(folder / STOP_FILE, task.signal_before_s)
        self.task, self.folder, self.cell = task, folder, RunFolder(Path(task.cell_dir))
        self.num_oom_kills = num_oom_kills()

    def run(self) -> int:
        """Train, and return the exit code of the job."""
        signals.sweep()  # first, as an earlier start of this very job may have left something
        evidence.record_earlier_starts(self.cell)
        if self._is_given_up():
            return 0
        with scratch.held(slurm=signals.this_job()) as place:
            code = self._train(place.ray)
        if code == 1:
            self._is_given_up()
        return code

    def _train(self, temp_dir: Path) -> int:
        files.replace(self.folder / ORDER, files.to_text(self._order(temp_dir)))
        training = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, str(self.folder / ORDER), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=signals.be_deaf,  # safe: this process has one thread
        )
        try:
            self._tell_of_begin()
            while training.poll() is None:
                self.pass_on()
                time.sleep(0.2)
        finally:
            end_session(training)
        return self._exit_code(training.returncode)

    def _tell_of_begin(self) -> threading.Thread:
        where = f"job {job_id()} on {socket.gethostname()}"
        campaign = self.task.owner["campaign"]
        text = f"{self._grid}: the first cell has begun, {self.cell.path.name} in {where}"
        return self.task.notifier.tell_beside(f"started {campaign}", text)

    def _is_given_up(self) -> bool:
        """Tell, here and to whom it concerns, whether the policy gives the cell up, or here alone, somebody did so.

        Whoever cancels a cell may not have seen the job of a controller that submitted it at that moment.
        """
        if self.cell.path.name in cancelled_in(self.cell.path.parents[1], self.task.owner["campaign"]):
            sys.stderr.write(f"{self.cell.path.name} was cancelled\n")
            return True
        decision = decision_of(self.cell, self.task.owner["campaign"])
        if decision.again:
            return False
        text = f"{self.cell.path.name} is not tried again: {decision.why}"
        sys.stderr.write(f"{text}\n")
        self.task.notifier.tell(f"failed: {decision.why}", f"{self._grid}: {text}")
        return True

    @property
    def _grid(self) -> str:
        return self.cell.path.parents[1].name

    def _order(self, temp_dir: Path) -> dict[str, Any]:
        task = self.task
        return {
            "cell_dir": task.cell_dir,
            "end_time": self.end_time,
            "num_nodes": task.num_nodes,
            "num_cpus_per_node": task.num_cpus_per_node,
            "num_gpus_per_node": task.num_gpus_per_node,
            "num_cpus_per_worker": task.num_cpus_per_node * task.num_nodes / task.num_workers,
            "temp_dir": str(temp_dir),
            "owner": {**launcher(), **task.owner, "slurm": signals.this_job()},
        }

    def _exit_code(self, code: int) -> int:
        if code == EXIT_CODES[JobState.STOPPED]:
            if stop_kind(self.folder) == FailureClass.CANCELLED.value:
                return 0
            return REQUEUE if self.task.requeue else FOLLOW
        if code not in EXIT_CODES.values():
            self._record_crash(code)
            return 0 if self.cell.has_result() else 1  # one that crashed on its way out has nothing left to do
        if code == EXIT_CODES[JobState.FAILED]:
            self._record_memory_kill()
            return 1
        return 0

    def _my_attempt(self) -> Attempt | None:
        """Return the newest attempt; None where it is another job's, as this node was given up."""
        newest = next(iter(self.cell.attempts()[-1:]), None)
        return newest if newest and newest.known_owner().get("slurm") == signals.this_job() else None

    def _record_memory_kill(self) -> None:
        """Add to the failure of a training that lost a data worker that the kernel killed it for its memory."""
        attempt = self._my_attempt()
        if attempt and num_oom_kills() > self.num_oom_kills and attempt.end().kind is FailureClass.DATA_WORKER:
            message = f"a data worker was killed for the memory it took in job {job_id()} on {socket.gethostname()}"
            record_loss(self.cell.path, Failure(FailureClass.HOST_MEMORY, "LostError", message, ""), known_dead=True)

    def _record_crash(self, code: int) -> None:
        if not self._my_attempt():
            return
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        message = f"the training process ended by {how} in job {job_id()} on {socket.gethostname()}"
        kind = FailureClass.LOST
        if code == -signal.SIGBUS:
            kind, message = FailureClass.FILE_SYSTEM, f"{message}: a mapped file could not be read"
        if num_oom_kills() > self.num_oom_kills:
            kind, message = FailureClass.HOST_MEMORY, f"{message}, killed for the memory it took"
        record_loss(self.cell.path, Failure(kind, "LostError", message, "", exit_code=how))


def batch_epilogue(wake: Sequence[str] = ()) -> list[str]:
    """Return the shell lines behind the training's: they requeue just this element of the array, or call a controller.

    Not another job that was given its number while nobody knew of this one.

    Args:
        wake: Call a controller where `$code` is not 0, or this job is among the last.
    """
    element = '"${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"'
    is_own = f'scontrol --oneliner show job {element} | grep --fixed-strings " JobName=$SLURM_JOB_NAME " > /dev/null'
    requeue = f"scontrol requeue {element} && sleep 60"
    return [
        "code=$?",
        f"if [ $code -eq {REQUEUE} ] && {is_own}; then {requeue}; fi",
        *wake,
        f"if [ $code -eq {FOLLOW} ]; then exit 0; fi",
        "exit $code",
    ]


def check_sources(root: str) -> None:
    """Refuse to go on with other code than that which was launched."""
    found = Path(rankmatch.__file__).resolve().parents[1]
    if found != Path(root).resolve():
        raise RuntimeError(f"the job must import the code that was launched, {root}; it imports {found}")
    snapshot.check(found)

"""A Slurm job: it hears Slurm's signals, has its cell trained in a separate process, and records how that ended.

Slurm's signals go to every process of a job, so the training and all that it starts, data workers and Ray's daemons,
are started deaf to them; what the signals mean is passed on through a file.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rankmatch
from orchestration.machine import clock, scratch, snapshot
from orchestration.machine.control_group import num_oom_kills
from orchestration.on_ray.orders import JobOrder
from orchestration.on_ray.protocol import EXIT_CODES, end_session
from orchestration.on_slurm import evidence, signals, submissions
from orchestration.on_slurm.campaign_file import cancelled_in
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.notices import Notifier
from orchestration.on_slurm.signals import FOLLOW, REQUEUE, Listener, job_id
from orchestration.running.run_cell import launcher, record_loss
from orchestration.runs.attempt import Attempt
from orchestration.runs.failures import Failure, FailureClass
from orchestration.runs.folders import JobFolder, launch_with_jobs
from orchestration.runs.jobs import JobState
from orchestration.runs.patience import patiently
from orchestration.runs.requests import lacked
from orchestration.runs.retries import decision_of
from orchestration.runs.run_folder import RunFolder

_DRIVER = "from orchestration.on_ray.job import main; main()"


@dataclass(frozen=True, slots=True)
class CellTask:
    """What a job needs: one cell and what its workers get."""

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
    is_followed: bool = False
    """A controller submits the next job."""
    notifier: Notifier = Notifier("")

    def __call__(self) -> None:
        """Run one task of the job: the first node's trains, the others lend their nodes to its Ray."""
        check_sources(self.root)
        folder = signals.make_folder(launch_with_jobs(Path(self.jobs_dir)).path)
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

    def __init__(self, task: CellTask, folder: JobFolder) -> None:
        super().__init__(folder.stop_file, task.signal_before_s)
        self.task, self.folder, self.cell = task, folder, RunFolder(Path(task.cell_dir))
        self.num_oom_kills = num_oom_kills()

    def run(self) -> int:
        """Train, and return the exit code of the job."""
        signals.sweep()  # first, since an earlier start of this very job may have left something
        evidence.record_earlier_starts(self.cell)
        if self._is_replaced() or self._is_given_up():
            return 0
        with scratch.held(slurm=signals.this_job()) as place:
            code = self._train(place.ray)
        if code == 1:
            self._is_given_up()
        return code

    def _train(self, temp_dir: Path) -> int:
        self._order(temp_dir).to_file(self.folder.order_file)
        training = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, str(self.folder.order_file), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=signals.be_deaf,  # safe: this process has one thread
        )
        try:
            self._tell_of_begin()
            while training.poll() is None:
                self.pass_on()
                clock.sleep(0.2)
        finally:
            end_session(training)
        return self._exit_code(training.returncode)

    def _tell_of_begin(self) -> threading.Thread:
        where = f"job {job_id()} on {socket.gethostname()}"
        campaign = self.task.owner["campaign"]
        text = f"{self._grid}: the first cell has begun, {self.cell.path.name} in {where}"
        return self.task.notifier.tell_beside(f"started {campaign}", text)

    def _is_replaced(self) -> bool:
        """Return whether the cell has a newer job: Slurm may carry out a requeue long after it gave no answer to it."""
        grid_dir = launch_with_jobs(Path(self.task.jobs_dir)).grid.path
        try:
            newer = submissions.newer_job(grid_dir, self.cell.path.name, signals.own_job().name)
            is_there = newer is not None and newer in submissions.queue(grid_dir)
        except (OSError, SlurmError) as error:  # else the newer attempt ends the older one
            sys.stderr.write(f"whether {self.cell.path.name} has a newer job is not known: {error}\n")
            return False
        if is_there:
            sys.stderr.write(f"job {newer} was submitted for {self.cell.path.name} since\n")
        return is_there

    def _is_given_up(self) -> bool:
        """Return whether the cell is given up, and report it if the policy does so and not the user.

        A user who cancels a cell may have missed the job of a controller that submitted it at that moment.
        """
        try:
            cancelled = patiently(partial(cancelled_in, self.cell.grid.path, self.task.owner["campaign"]))
            if self.cell.path.name in cancelled:
                sys.stderr.write(f"{self.cell.path.name} was cancelled\n")
                return True
            decision = patiently(partial(decision_of, self.cell, self.task.owner["campaign"]))
        except OSError as error:  # whoever takes the next step decides, and tells
            sys.stderr.write(f"whether {self.cell.path.name} is given up cannot be read now: {error}\n")
            return False
        if decision.again:
            return False
        text = f"{self.cell.path.name} is not tried again: {decision.told}"
        sys.stderr.write(f"{text}\n")
        self.task.notifier.tell(f"failed: {decision.why}", f"{self._grid}: {text}")
        return True

    @property
    def _grid(self) -> str:
        return self.cell.grid.name

    def _order(self, temp_dir: Path) -> JobOrder:
        task = self.task
        return JobOrder(
            cell_dir=self.cell.path,
            end_time=self.end_time,
            num_nodes=task.num_nodes,
            num_cpus_per_node=task.num_cpus_per_node,
            num_gpus_per_node=task.num_gpus_per_node,
            num_cpus_per_worker=task.num_cpus_per_node * task.num_nodes / task.num_workers,
            temp_dir=temp_dir,
            owner={**launcher(), **task.owner, "slurm": signals.this_job()},
        )

    def _exit_code(self, code: int) -> int:
        if code == EXIT_CODES[JobState.STOPPED]:
            if self.told_why() == FailureClass.CANCELLED.value:
                return 0
            return REQUEUE if self.task.requeue and not self._needs_longer() else FOLLOW
        if code not in EXIT_CODES.values():
            self._record_crash(code)
            return 0 if self.cell.has_result() else 1  # one that crashed while it shut down has nothing left to do
        if code == EXIT_CODES[JobState.FAILED]:
            self._record_memory_kill()
            return 1
        return 0

    def _needs_longer(self) -> bool:
        """Return whether only another job can have the time that this cell lacks: a requeued one keeps its limit."""
        attempt = self._my_attempt()
        return self.task.is_followed and attempt is not None and lacked(attempt.end())

    def _my_attempt(self) -> Attempt | None:
        """Return the newest attempt; None if it is another job's, because this node was given up."""
        newest = next(iter(self.cell.attempts()[-1:]), None)
        return newest if newest and newest.known_owner().get("slurm") == signals.this_job() else None

    def _record_memory_kill(self) -> None:
        """Add to a failure for a lost data worker that the kernel killed the worker for its memory."""
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
    """Return the shell lines after the training: they requeue just this element of the array, or call a controller.

    They never requeue another job that got this one's number.

    Args:
        wake: Call a controller if `$code` is not 0, or if this job is among the last.
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
    """Refuse to resume with other code than what was launched."""
    found = Path(rankmatch.__file__).resolve().parents[1]
    if found != Path(root).resolve():
        raise RuntimeError(f"the job must import the code that was launched, {root}; it imports {found}")
    snapshot.check(found)

"""The jobs of a pilot: a head that gives cells to the nodes there are, and nodes that come, leave and come back.

When a node leaves, its cells write checkpoints and move to others. A head never starts again: its nodes leave
with it, and what is left is for the campaign's next step.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from orchestration.machine import clock, files, scratch
from orchestration.on_ray.job import JOIN_TIMEOUT_S
from orchestration.on_ray.lend import answers, has_raylet, lend_node
from orchestration.on_ray.orders import DriverOrder, HeadAddress, Lent, NodeNote, PilotOrder, Sharing
from orchestration.on_ray.protocol import NODE_VARIABLE, end_session
from orchestration.on_ray.scheduler import DRIVER, with_whole_paths
from orchestration.on_slurm import commands, signals
from orchestration.on_slurm.campaign_file import cancelled_in
from orchestration.on_slurm.job import check_sources
from orchestration.on_slurm.notices import Notifier, harmless
from orchestration.on_slurm.signals import Listener, job_id, make_folder
from orchestration.running.run_cell import launcher
from orchestration.runs.failures import FailureClass
from orchestration.runs.folders import JobFolder, LaunchFolder
from orchestration.runs.jobs import CellJob, JobState, StateLog, cancel_cells
from orchestration.runs.patience import Mark, patiently, say_once
from orchestration.runs.retries import decisions
from orchestration.runs.run_folder import RunFolder

LOOK_FOR_NODES_S = 30.0
LOOK_FOR_HEAD_S = 5.0
MAX_MISSED = 3
"""So often in a row a head must not be reached to count as gone."""
QUIET_S = 3.0
"""So long no cell must train for a pilot that was told to end to be over."""
LOCK_S = 1.0
"""So long a head waits for whoever changes the list of cancelled cells, as it must hear signals."""
TELLS_S = 60.0
"""So long a head that has ended waits for a notice that is being sent."""


@dataclass(frozen=True, slots=True)
class PilotHead:
    """What the head's job needs."""

    launch_dir: str
    root: str
    """The snapshot that must be imported."""
    owner: Mapping[str, Any]
    """Of the launch, with its `campaign`."""
    jobs: tuple[CellJob, ...]
    sharing: Sharing
    """Of the Ray that the nodes make together."""
    num_nodes: int
    node: Lent
    """What each lends."""
    nodes_name: str
    """Of the jobs that lend them."""
    signal_before_s: int
    notifier: Notifier

    def __call__(self) -> None:
        """Run the head until all cells have ended."""
        check_sources(self.root)
        sys.exit(_Head(self, make_folder(Path(self.launch_dir))).run())


@dataclass(frozen=True, slots=True)
class PilotNode:
    """What the job of a node needs."""

    launch_dir: str
    root: str
    num_cpus: int
    num_gpus: int
    nodes_name: str
    signal_before_s: int
    requeue: bool

    def __call__(self) -> None:
        """Lend the node until the head has ended or the node must leave."""
        check_sources(self.root)
        sys.exit(_Node(self, make_folder(Path(self.launch_dir))).run())


class _Head(Listener):
    """Runs the driver of Ray Tune, and passes on what the job's signals mean."""

    def __init__(self, task: PilotHead, folder: JobFolder) -> None:
        self.task, self.folder, self.launch = task, folder, LaunchFolder(Path(task.launch_dir))
        super().__init__(self.launch.stop_file, task.signal_before_s)
        self.log = StateLog(self.launch.path)
        self.has_noted, self.has_told, self.quiet_since, self.num_missed = False, False, 0.0, 0
        self.told_of, self.telling, self.seen = set[str](), list[Thread](), dict[str, JobState]()
        self.next_look = clock.monotonic() + 2 * LOOK_FOR_NODES_S

    def run(self) -> int:
        """Have the cells trained; return the exit code of the job."""
        signals.sweep()
        _describe_node(self.folder, None)
        with scratch.held(slurm=signals.this_job()) as place:
            return self._drive(place.ray)

    def _drive(self, temp_dir: Path) -> int:
        self._note_cancelled()
        patiently(lambda: self._order(temp_dir).to_file(self.launch.ray_order_file))
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self.launch.path), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, NODE_VARIABLE: str(self.folder.path)},
            preexec_fn=signals.be_deaf,  # safe: this process has one thread
        )
        try:
            while driver.poll() is None and not self._is_over():
                self.pass_on()
                if self._look_for_nodes():  # the others at the same pace: the log of states becomes long
                    self._tell_of_failures()
                    self._note_cancelled()
                self._tell_of_begin()
                clock.sleep(0.5)
        finally:
            with harmless("telling the nodes that the pilot has ended"):  # else they find its head gone
                files.replace(self.launch.pilot_over_file, "")
            end_session(driver)
            with harmless("removing where the head was"):
                self.launch.pilot_head_file.unlink(missing_ok=True)
            _cancel_waiting(self.task.nodes_name)
        self._tell_of_failures()
        for thread in self.telling:
            thread.join(TELLS_S)
        return int(driver.returncode != 0 and not self.is_told)

    def _note_cancelled(self) -> None:
        """Note once what was cancelled where its cells look: whoever cancelled one may have missed this launch."""
        if not self.has_noted:
            with harmless("noting here what was cancelled"):
                cancelled = cancelled_in(self.launch.grid.path, self.task.owner["campaign"])
                cancel_cells(self.launch.path, cancelled, wait_s=LOCK_S)
                self.has_noted = True

    def _order(self, temp_dir: Path) -> DriverOrder:
        task = self.task
        pilot = PilotOrder(self.folder.name, temp_dir, task.num_nodes, task.node, self.end_time)
        return DriverOrder(with_whole_paths(task.jobs), {**launcher(), **task.owner}, task.sharing, pilot=pilot)

    def _is_over(self) -> bool:
        """Return whether a pilot was told to end and no cell trains any more; the others have nothing to lose."""
        if not self.is_told or JobState.RUNNING in self._states().values():
            self.quiet_since = clock.monotonic()
        return clock.monotonic() - self.quiet_since > QUIET_S

    def _look_for_nodes(self) -> bool:
        """End a pilot to which no job lends a node any more; if squeue does not answer, some job may.

        Return whether it was time to look.
        """
        if clock.monotonic() < self.next_look:
            return False
        self.next_look = clock.monotonic() + LOOK_FOR_NODES_S
        with suppress(commands.SlurmError):
            self.num_missed = 0 if commands.is_queued(self.task.nodes_name) else self.num_missed + 1
        if self.num_missed >= MAX_MISSED:
            self.tell(FailureClass.NODE_FAILURE, "no job lends a node to the pilot any more")
        return True

    def _tell_of_begin(self) -> None:
        if self.has_told or JobState.RUNNING not in self._states().values():
            return
        self.has_told = True
        text = f"{self._grid}: the first cell has begun, in the pilot of job {job_id()}"
        self.task.notifier.tell_beside(f"started {self.task.owner['campaign']}", text)

    def _tell_of_failures(self) -> None:
        """Tell of each cell once that is given up; what a head that dies did not tell, the next step does.

        One that cannot be read is looked at again: it must not end the pilot, in which the others train.
        """
        with harmless("telling of cells that are given up"):
            states, campaign = self._states(), self.task.owner["campaign"]
            failed = {
                job.name: RunFolder(job.cell_dir)
                for job in self.task.jobs
                if states.get(job.name) is JobState.FAILED and job.name not in self.told_of
            }
            for name, decision in decisions(failed, campaign).items():
                self.told_of.add(name)
                if not decision.again:
                    text = f"{self._grid}: {name} is not tried again: {decision.told}"
                    self.telling.append(self.task.notifier.tell_beside(f"failed: {decision.why}", text, once=False))

    def _states(self) -> dict[str, JobState]:
        """Return the states of the cells; where their log cannot be read for now, those that it had before."""
        try:
            self.seen = self.log.read()
        except OSError as error:
            say_once(f"the states of the cells are not known for now, in {self.launch.path}", error)
        return self.seen

    @property
    def _grid(self) -> str:
        return self.launch.grid.name


class _Node(Listener):
    """Lends this node, and tells the cells on it when it leaves."""

    def __init__(self, task: PilotNode, folder: JobFolder) -> None:
        super().__init__(folder.stop_file, task.signal_before_s)
        self.task, self.folder, self.launch = task, folder, LaunchFolder(Path(task.launch_dir))
        self.has_joined, self.num_missed, self.next_look = False, 0, 0.0
        self.over = Mark(self.launch.pilot_over_file)
        self.leave_by: float | None = None

    def run(self) -> int:
        """Lend the node; return the exit code of the job."""
        signals.sweep()
        head = self._wait_for_head()
        if head:
            with scratch.held(slurm=signals.this_job()) as place:
                self._lend(head.address, head.token, place.ray)
        return self._exit_code()

    def _wait_for_head(self) -> HeadAddress | None:
        """Return where the head is, once it says so and answers; nothing if it never does."""
        deadline = clock.monotonic() + JOIN_TIMEOUT_S
        while clock.monotonic() < deadline and not self.over.is_there() and not self.is_told:
            if head := self._head():
                self._look_for_head(head.address)
                if not self.num_missed:
                    return head
            self.pass_on()
            clock.sleep(0.5)
        return None

    def _head(self) -> HeadAddress | None:
        """Return where the head says that it is; nothing if it has not yet, or that cannot be read for now."""
        try:
            return HeadAddress.from_file(self.launch.pilot_head_file)
        except FileNotFoundError:
            return None
        except OSError as error:
            say_once("where the head of the pilot is cannot be read for now", error)
            return None

    def _lend(self, address: str, token: str, temp_dir: Path) -> None:
        _describe_node(self.folder, self.end_time)
        daemon = lend_node(
            address,
            token,
            num_cpus=self.task.num_cpus,
            num_gpus=self.task.num_gpus,
            name=self.folder.name,
            folder=temp_dir,
            environment={NODE_VARIABLE: str(self.folder.path)},
            prepare=signals.be_deaf,
        )
        try:
            while daemon.poll() is None and self._stays(daemon):
                self.pass_on()
                self._look_for_head(address)
                clock.sleep(0.5)
        finally:
            end_session(daemon)

    def _stays(self, daemon: "subprocess.Popen[bytes]") -> bool:
        """Return whether the pilot continues and something may still run here: a drained Ray daemon ends by itself."""
        if has_raylet(daemon):
            self.has_joined = True
        elif self.has_joined or self.is_orphan:
            return False
        if self.leave_by is None and self.is_told:
            self.leave_by = clock.monotonic() + max(10.0, self.task.signal_before_s - 10.0)
        return not self.over.is_there() and (self.leave_by is None or clock.monotonic() < self.leave_by)

    def _look_for_head(self, address: str) -> None:
        """Have the cells of this node write a checkpoint if the head is gone: nobody can move them to other nodes."""
        if clock.monotonic() < self.next_look or self.is_orphan:
            return
        self.next_look = clock.monotonic() + LOOK_FOR_HEAD_S
        self.num_missed = 0 if answers(address) else self.num_missed + 1
        if self.is_orphan and not self.over.is_there():
            self.tell(FailureClass.NODE_FAILURE, "the head of the pilot is gone")

    @property
    def is_orphan(self) -> bool:
        """Return whether the head is gone without having ended."""
        return self.num_missed >= MAX_MISSED

    def _exit_code(self) -> int:
        if self.over.is_there() or self.is_orphan:
            _cancel_waiting(self.task.nodes_name)  # else the next step waits until they get nodes
            return 0
        if kind := self.told_why():
            return signals.REQUEUE if self.task.requeue and kind != FailureClass.CANCELLED.value else 0
        sys.stderr.write("this node left, as Ray's daemon ended or no head was found\n")
        return 1


def _describe_node(folder: JobFolder, end_time: float | None) -> None:
    owner = {**launcher(), "slurm": signals.this_job()}
    lasts_s = None if end_time is None else max(0.0, end_time - clock.now())
    patiently(lambda: NodeNote(end_time, owner, lasts_s).to_file(folder.node_file))


def _cancel_waiting(name: str) -> None:
    """End jobs that wait to lend a node; in a container, which has no scancel, they find out by themselves."""
    with suppress(commands.SlurmError):
        commands.cancel_waiting(name)

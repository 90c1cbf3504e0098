"""The process between a launcher and Ray: it has Tune run a trial for each cell, and another if the policy says so.

The launcher follows the cells, or is the head job of a pilot, whose nodes are other jobs.
"""

import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import cloudpickle, tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from orchestration.machine import own_files
from orchestration.machine.control_group import num_oom_kills
from orchestration.machine.counts import counted
from orchestration.on_ray import verdicts
from orchestration.on_ray.cluster import existing_ray, nodes, private_ray
from orchestration.on_ray.due import Due
from orchestration.on_ray.memory import machine_has_room, memory_failure, node_of, survive_kills
from orchestration.on_ray.orders import DriverOrder
from orchestration.on_ray.pilot import Nodes, pilot_ray
from orchestration.on_ray.protocol import beside, kill_session
from orchestration.on_ray.shares import Machine, Node, Share, elsewhere, max_at_once, share, shunned
from orchestration.on_ray.stop import CellStop, own_node
from orchestration.on_ray.time_left import EpochTimes, has_no_node
from orchestration.running.run_cell import Trainer, record_loss, record_never_began, run_cell
from orchestration.runs.failures import AttemptEnd, Decision, Failure, FailureClass, LostError, decide
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.jobs import CellJob, JobState, StateLog
from orchestration.runs.patience import patiently, say_once
from orchestration.runs.retries import decision_of, failed_hosts
from orchestration.runs.run_folder import RunFolder

if TYPE_CHECKING:  # Optuna, which a grid does not need
    from orchestration.on_ray.search import Halving, Points

_LOOK_AGAIN_MIN = 1 / 12
_GONE = "the process that trained is gone"
_NEXT_TO_NOTHING: dict[str, int | float] = {"memory": 1}
"""A byte of what Ray counts as memory: for trials that wait for their workers, and must take no CPU from them."""


def main() -> None:
    """Carry out the order in the folder given first, while the launcher given second lives."""
    launch_dir, launcher_pid = Path(sys.argv[1]), int(sys.argv[2])
    order = DriverOrder.from_file(LaunchFolder(launch_dir).ray_order_file)
    pilot, options = order.pilot, order.options
    ray_folder = str(pilot.folder) if pilot else order.ray_folder
    threading.Thread(target=_end_with, args=(launcher_pid, ray_folder), daemon=True).start()
    with _ray(order, launch_dir) as storage, beside(_end_with_node):
        machine = Machine((Node(pilot.node.num_cpus, pilot.node.num_gpus),) * pilot.num_nodes if pilot else nodes())
        shares = [share(job, machine, options) for job in order.jobs]
        num_at_once = max_at_once(shares, machine, options.max_concurrent)
        if order.is_search:
            _search(shares, num_at_once, launch_dir, order, storage)
            return
        queue = _Queue(shares, launch_dir, order.owner, pilot.end_time if pilot else None)
        if not pilot:
            if not order.address:
                queue.watch(machine_has_room)
            _tune(queue, _Judge(queue), num_at_once, storage)
            return
        seen = Nodes(launch_dir)
        queue.room = partial(seen.room, shares, options.max_concurrent)
        queue.leaving, queue.ending = seen.leaving, seen.ending
        with beside(seen.drain):
            _tune(queue, _Judge(queue, seen), num_at_once, storage)


@contextmanager
def _ray(order: DriverOrder, launch_dir: Path) -> Iterator[Path]:
    """Start a Ray, or use the one at an address; yield a folder for Tune's files that its nodes see."""
    address, pilot = order.address, order.pilot
    if not (address or pilot):
        with private_ray(folder=Path(order.ray_folder)) as folder:
            yield folder / LaunchFolder.tune_dir.name
        return
    folder = LaunchFolder(launch_dir).tune_dir
    with pilot_ray(launch_dir, name=pilot.name, folder=pilot.folder) if pilot else existing_ray(address):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _end_with_node(ended: threading.Event) -> None:
    """End this process once Ray's daemon on this node is gone: Tune would wait forever for another one."""
    own = ray.get_runtime_context().get_node_id()
    while not ended.wait(1.0):
        if not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == own):  # type: ignore[no-untyped-call]
            sys.stderr.write("the raylet of this node is gone\n")
            sys.stderr.flush()
            kill_session(os.getpid())


def _end_with(launcher_pid: int, ray_folder: str) -> None:
    """End this process, Ray's daemons and its workers, all of one session, once the launcher is gone."""
    while os.getppid() == launcher_pid:
        time.sleep(0.5)
    if ray_folder:
        shutil.rmtree(Path(ray_folder).parent, ignore_errors=True)
    kill_session(os.getpid())


def _search(shares: Sequence[Share], num_at_once: int, launch_dir: Path, order: DriverOrder, storage: Path) -> None:
    """Run a trial for each point of a search; the first share stands for what all points take."""
    from orchestration.on_ray.search import Halving, Points
    from orchestration.search import spaces as searches

    log, search = StateLog(launch_dir), searches.load(str(LaunchFolder(launch_dir).grid_file))
    log.write(shares[0].job.name, JobState.RUNNING)
    points = Points(search, launch_dir, shares[0], [entry.job.name for entry in shares[1:]], order.owner)
    if not order.address:
        points.watch(machine_has_room)
    _tune(points, _Judge(points), num_at_once, storage, Halving(search, launch_dir, points.settled))
    log.write(shares[0].job.name, JobState.STOPPED if LaunchFolder(launch_dir).stop_file.exists() else JobState.DONE)


def _tune(
    queue: "_Queue | Points", judge: "_Judge", num_at_once: int, storage: Path, scheduler: "Halving | None" = None
) -> None:
    """Run a trial for each cell of the queue; a trial's process continues with the next cell unless one failed."""
    survive_kills()
    tune.Tuner(
        tune.with_resources(_train_cell, _resources),
        tune_config=tune.TuneConfig(
            search_alg=queue,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=num_at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="cells", storage_path=str(storage), verbose=0, callbacks=[judge]),
    ).fit()


def _resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """Give one worker's share to a trial that trains in its own process, none to one that starts workers."""
    entry: Share = config["share"]
    waits = entry.job.num_workers > 1
    bundle = _NEXT_TO_NOTHING if waits else {"CPU": entry.num_cpus, "GPU": entry.num_gpus}
    selector = elsewhere(config["shunned"])
    options: dict[str, Any] = {"bundle_label_selector": [selector]} if selector else {}
    return tune.PlacementGroupFactory([bundle], **options)


def _train_cell(config: dict[str, Any]) -> None:
    """Run a trial: train one cell and record how it ended."""
    job: CellJob = config["share"].job
    log, stop = StateLog(config["launch_dir"]), CellStop(config["launch_dir"], job.name, config.get("end_time"))
    if stop():
        _note_stopped(log, job, stop)
        return
    log.write(job.name, JobState.RUNNING)
    from orchestration.on_ray.train import Grant, train_with_ray  # torch: here, and not in the process that drives

    grant = Grant(config["share"].num_cpus, config["share"].num_gpus, config["shunned"])
    owner = job.owner({**config["owner"], **own_node().owner})
    train: Trainer = partial(train_with_ray, grant=grant)
    why: Callable[[], str] = stop.why
    reporting: AbstractContextManager[None] = nullcontext()
    if is_judged := config.get("is_judged", False):
        from orchestration.on_ray.search import reporting_epochs

        train, why = verdicts.judged(train, config["launch_dir"]), verdicts.why(config["launch_dir"], job.name)
        reporting = reporting_epochs(RunFolder(job.cell_dir))
    with reporting:
        state = run_cell(job.cell_dir, train=train, owner=owner, should_stop=stop, why=why)
    if state is JobState.FAILED:
        raise RuntimeError(f"{job.name} failed")  # Tune then ends this process: a broken GPU context dies with it
    if state is JobState.STOPPED and not is_judged:  # a search ends points for good
        _note_stopped(log, job, stop)
    else:
        log.write(job.name, state)


def _note_stopped(log: StateLog, job: CellJob, stop: CellStop) -> None:
    """Record that a cell was told to end; if only its node leaves, have Tune end this process and let `_Judge` know."""
    log.write(job.name, JobState.STOPPED)
    if not stop.is_for_good():
        raise RuntimeError(f"{job.name} moves to another node")


class _Queue(Searcher):
    """Gives Tune the cells in the plan's order; a retried cell takes its old place in it."""

    def __init__(
        self, shares: Sequence[Share], launch_dir: Path, owner: dict[str, Any], end_time: float | None
    ) -> None:
        super().__init__()
        self._shares, self.launch_dir, self.owner, self._end_time = list(shares), launch_dir, owner, end_time
        self.room: Callable[[], int] = lambda: len(shares)
        """How many cells may run at once, where nodes come and go."""
        self.leaving: Callable[[], Sequence[str]] = tuple
        """Ray's ids of the nodes that get no cell any more."""
        self.ending: Callable[[float], Sequence[str]] = lambda needed_s: ()
        """Ray's ids of the nodes whose time is over before a cell that needs so many seconds has a checkpoint."""
        self._times = EpochTimes()
        self._due = Due(range(len(shares)))
        self._running: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:  # noqa: ANN401 (a configuration, a mark or None)
        """Return the next cell; None: wait, as a running one may come back, or the time of one is still to come."""
        if not self._due:
            return None if self._running else Searcher.FINISHED
        try:
            return self._next(trial_id)
        except OSError as error:
            say_once("a cell waits, as its launch cannot be looked at", error)
            return None

    def _next(self, trial_id: str) -> dict[str, Any] | None:
        # when the launch stops, each ends at once, and none waits for that
        is_stopping = LaunchFolder(self.launch_dir).stop_file.exists()
        if len(self._running) >= self.room() or not self._due.is_ready(at_once=is_stopping):
            return None
        leaving = self.leaving()
        here = [node for node in nodes() if node.ray_id not in leaving]
        place = self._due.take()
        try:
            ending = () if is_stopping else self.ending(self._times.needed_s(self._shares[place].job.cell_dir))
            if has_no_node(self._shares[place], here, ending):
                self._due.push(place, _LOOK_AGAIN_MIN)  # a node that is requeued comes back with all its time
                return None
            config = self._config(self._shares[place], here, {*leaving, *ending})
        except OSError as error:  # the others need not wait for this one
            self._due.push(place, _LOOK_AGAIN_MIN)
            say_once(f"{self._shares[place].job.name} waits, as its folder cannot be read", error)
            return None
        self._running[trial_id] = place
        return config

    def _config(self, share: Share, here: Sequence[Node], leaving: Collection[str]) -> dict[str, Any]:
        failed = failed_hosts(RunFolder(share.job.cell_dir), self.owner["campaign"])
        return {
            "share": share,
            "launch_dir": self.launch_dir,
            "owner": self.owner,
            "end_time": self._end_time,
            "shunned": (*shunned(share, here, failed), *sorted(leaving)),
            "num_attempts": _num_attempts(share.job),
        }

    def watch(self, has_room: Callable[[], bool]) -> None:
        """Have waiting cells wait until there is room."""
        self._due.has_room = has_room

    @property
    def num_running(self) -> int:
        """How many cells have a trial."""
        return len(self._running)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Forget a trial that did not fail; `_Judge` decides about one that did."""
        if not error:
            self._learn(self._running.pop(trial_id))

    def settle(self, trial_id: str, decision: Decision) -> None:
        """Forget a trial that failed, or retry its cell if the decision says so."""
        place = self._running.pop(trial_id)
        self._learn(place)
        if decision.again:
            self._due.push(place, decision.wait_min)

    def _learn(self, place: int) -> None:
        with suppress(OSError):  # it is for the others, which then go where there is room
            self._times.learn(self._shares[place].job.cell_dir)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the run folders hold where a launch resumes."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class _Judge(tune.Callback):
    """Records that a trial's process died, since it no longer can, and asks the policy whether to retry its cell."""

    def __init__(self, queue: "_Queue | Points", nodes: Nodes | None = None) -> None:
        self._queue, self._nodes, self._log = queue, nodes, StateLog(queue.launch_dir)
        self._num_oom_kills = num_oom_kills()
        self._unwritten = Counter[str]()
        """How often the end of a cell's try could not be written down in a row."""

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ANN401
        """Settle a cell that failed; one that its launch or its node told to end before it started has not failed."""
        job: CellJob = trial.config["share"].job
        try:
            decision = patiently(partial(self._settle, job, trial))
        except OSError as error:
            say_once(f"how {job.name} ended cannot be written down", error)
            decision = self._without_trace(job)
        self._log.write(job.name, JobState.PENDING if decision.again else JobState.FAILED)
        self._queue.settle(trial.trial_id, decision)

    def _settle(self, job: CellJob, trial: Trial) -> Decision:
        is_stopping = LaunchFolder(self._queue.launch_dir).stop_file.exists()
        has_moved = self._log.read().get(job.name) is JobState.STOPPED
        if _num_attempts(job) > trial.config["num_attempts"]:
            record_loss(job.cell_dir, self._failure(job, trial), launch=self._queue.owner.get("launch", ""))
        elif not (is_stopping or has_moved):
            self._record_never_began(job, trial)
        left_trace = _num_attempts(job) > trial.config["num_attempts"]
        if is_stopping:
            return Decision(again=False)
        if not (left_trace or has_moved):
            return self._without_trace(job)
        del self._unwritten[job.name]
        return decision_of(RunFolder(job.cell_dir), self._queue.owner["campaign"])

    def _without_trace(self, job: CellJob) -> Decision:
        """Decide about a cell whose folder cannot be written, mostly on a full disk, as if a file server were away."""
        self._unwritten[job.name] += 1
        return decide([AttemptEnd(FailureClass.FILE_SYSTEM, 0, 0)] * self._unwritten[job.name])

    def _failure(self, job: CellJob, trial: Trial) -> Failure:
        owner, error = RunFolder(job.cell_dir).attempts()[-1].known_owner(), self._error_of(trial)
        if self._nodes and self._nodes.has_lost(owner):
            return Failure(FailureClass.NODE_FAILURE, "LostError", f"the node {owner['host']} is gone", "")
        return memory_failure(error) or self._killed_by_kernel() or Failure.of(error or LostError(_GONE))

    def _killed_by_kernel(self) -> Failure | None:
        """Recognize a process that the kernel of this machine killed for memory: if it was alone, it was too large."""
        before, self._num_oom_kills = self._num_oom_kills, num_oom_kills()
        if self._num_oom_kills <= before:
            return None
        kind = FailureClass.MACHINE_MEMORY if self._queue.num_running > 1 else FailureClass.HOST_MEMORY
        message = (
            f"the kernel ended it for the memory of its control group; {counted(self._queue.num_running, 'cell')} ran"
        )
        return Failure(kind, "LostError", message, "")

    def _record_never_began(self, job: CellJob, trial: Trial) -> None:
        error = self._error_of(trial)
        failure = memory_failure(error) or replace(Failure.of(error or LostError(_GONE)), kind=FailureClass.NEVER_BEGAN)
        host = next((node.host for node in nodes() if node.ray_id == node_of(error)), "")
        record_never_began(job.cell_dir, job.owner(self._queue.owner), failure, host)

    def _error_of(self, trial: Trial) -> BaseException | None:
        """Return what ended a trial, from where Tune has written it; `Trial.get_pickled_error` looks elsewhere."""
        path = trial.pickled_error_file
        if path is None or not Path(path).is_file():
            return None
        try:
            content = own_files.read(Path(path), shared=self._queue.launch_dir)
        except PermissionError as refusal:
            return LostError(f"{_GONE}, and why is not known: {refusal}")
        error: BaseException = cloudpickle.loads(content)
        return getattr(error, "cause", None) or error


def _num_attempts(job: CellJob) -> int:
    return len(RunFolder(job.cell_dir).attempts())

"""A pilot's Ray: a driver that hands out cells, and the daemons of the nodes that are lent to it, all simulated.

Head and nodes are the project's own jobs. What decides in Tune and Ray (`on_ray/driver.py` and `on_ray/pilot.py`, which
run in threads beside real daemons) is not played: the driver here tries a cell again as the policy says, and moves it
when its node leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulation import training
from simulation.coroutines import Child, Process

from orchestration.machine import clock
from orchestration.on_ray.orders import DriverOrder, HeadAddress
from orchestration.on_ray.protocol import EXIT_CODES, NODE_VARIABLE
from orchestration.on_ray.stop import CellStop, own_node
from orchestration.running.run_cell import record_loss
from orchestration.runs.failures import Failure, FailureClass, LostError
from orchestration.runs.folders import JobFolder, LaunchFolder
from orchestration.runs.jobs import CellJob, JobState, StateLog
from orchestration.runs.retries import decision_of
from orchestration.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from simulation.world import World

LOOK_S = 30.0
LASTS_S = 60.0
"""So long a daemon lives whose head is gone."""
AGAIN_S = 300.0
"""So long a cell waits whose try left no trace."""


@dataclass
class Daemon:
    """A node that is lent: one cell at a time trains there."""

    address: str
    """The driver's name."""
    folder: JobFolder
    environment: dict[str, str]
    process: Process
    cell: Process | None = None


@dataclass
class Pilots:
    """All Rays of a world."""

    world: "World"
    daemons: list[Daemon] = field(default_factory=list)

    def drive(self, command: list[str], *, env: dict[str, str], **_: object) -> Child:
        """Answer in the place of the Popen of a head's driver."""
        head = self._caller()
        driver = Driver(self, LaunchFolder(Path(command[-2])))
        process = self.world.hub.start(f"{head.name}/driver", head.host, dict(head.environment), driver.run)
        driver.process = process
        return Child(head, process)

    def lend(self, address: str, token: str, *, environment: dict[str, str], **_: object) -> Child:
        """Answer in the place of `lend_node`."""
        node = self._caller()

        def live() -> int:
            while self.answers(address):
                clock.sleep(LOOK_S)
            clock.sleep(LASTS_S)
            return 1

        process = self.world.hub.start(f"{node.name}/daemon", node.host, dict(node.environment), live)
        folder = JobFolder(Path(environment[NODE_VARIABLE]))
        daemon = Daemon(address, folder, {**node.environment, **environment}, process)
        process.when_over(lambda: daemon.cell.kill() if daemon.cell else None)
        self.daemons.append(daemon)
        return Child(node, process)

    def answers(self, address: str) -> bool:
        """Answer in the place of `lend.answers`: a driver's address is its name."""
        return any(one.name == address for one in self.world.hub.processes.values())

    def training(self) -> list[Process]:
        """Return the cells of pilots with a driver that train."""
        return [one.cell for one in self.daemons if one.cell and one.cell.lives and self.answers(one.address)]

    def _caller(self) -> Process:
        process = self.world.hub.current
        assert process is not None
        return process


@dataclass
class _Try:
    job: CellJob
    process: Process
    daemon: Daemon
    num_before: int


class Driver:
    """Gives the cells of a launch to the nodes that are there."""

    process: Process

    def __init__(self, pilots: Pilots, launch: LaunchFolder) -> None:
        self.pilots, self.launch = pilots, launch
        self.log, self.tries = StateLog(launch.path), list[_Try]()

    def run(self) -> int:
        self.order = DriverOrder.from_file(self.launch.ray_order_file)
        self.due = {job.name: (0.0, job) for job in self.order.jobs}
        HeadAddress(self.process.name, "token").to_file(self.launch.pilot_head_file, mode=0o600)
        while self.due or self.tries:
            for one in [one for one in self.tries if not one.process.lives]:
                self.tries.remove(one)
                self._settle(one)
            if self.launch.stop_file.exists():
                self.due.clear()
            for daemon in self.pilots.daemons:
                self._give(daemon)
            clock.sleep(LOOK_S)
        return 0

    def _give(self, daemon: Daemon) -> None:
        at_once = self.order.options.max_concurrent or len(self.order.jobs)
        name = next((name for name, (time, _) in self.due.items() if time <= clock.monotonic()), None)
        is_mine = daemon.process.lives and daemon.address == self.process.name and not daemon.folder.stop_file.exists()
        if name is None or not is_mine or (daemon.cell and daemon.cell.lives) or len(self.tries) >= at_once:
            return
        _, job = self.due.pop(name)
        world, num_before = self.pilots.world, len(RunFolder(job.cell_dir).attempts())
        step_s, end = world.chance.uniform(240, 1200), world.weather.end_of_attempt()
        mark = f"{daemon.process.name}/{name}"
        daemon.cell = world.hub.start(
            mark, daemon.process.host, daemon.environment, lambda: self._train(job, lambda: step_s, end)
        )
        daemon.cell.when_over(self.process.wake)
        self.tries.append(_Try(job, daemon.cell, daemon, num_before))

    def _train(self, job: CellJob, step_s: Callable[[], float], end: str) -> int:
        """Train a cell, as `driver._train_cell` does."""
        pilot = self.order.pilot
        stop = CellStop(self.launch.path, job.name, pilot.end_time if pilot else None)
        if stop():
            self.log.write(job.name, JobState.STOPPED)
            return EXIT_CODES[JobState.STOPPED]
        self.log.write(job.name, JobState.RUNNING)
        owner: dict[str, Any] = job.owner({**self.order.owner, **own_node().owner})
        state = training.train_cell(self.pilots.world.trainings, job.cell_dir, owner, stop, stop.why, step_s, end)
        self.log.write(job.name, state)
        return EXIT_CODES[state]

    def _settle(self, one: _Try) -> None:
        """Decide about a cell whose try has ended, as `driver._Judge` does."""
        code, name, folder = one.process.code, one.job.name, RunFolder(one.job.cell_dir)
        if code in (EXIT_CODES[JobState.DONE], EXIT_CODES[JobState.SUPERSEDED]):
            return
        if code == EXIT_CODES[JobState.STOPPED]:
            if not CellStop(self.launch.path, name, None).is_for_good():
                self.due[name] = (clock.monotonic(), one.job)
            return
        if len(folder.attempts()) == one.num_before:
            self.due[name] = (clock.monotonic() + AGAIN_S, one.job)
            return
        lost = Failure.of(LostError("the process that trained is gone"))
        if not one.daemon.process.lives:
            lost = Failure(FailureClass.NODE_FAILURE, "LostError", "the node is gone", "")
        record_loss(folder.path, lost, launch=self.order.owner.get("launch", ""))
        decision = decision_of(folder, self.order.owner["campaign"])
        self.log.write(name, JobState.PENDING if decision.again else JobState.FAILED)
        if decision.again:
            self.due[name] = (clock.monotonic() + 60 * decision.wait_min, one.job)

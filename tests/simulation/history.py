"""A history: a launch, what befalls it while the weather is bad, and what users do; all of it drawn from one seed."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from simulation import seams, shell
from simulation.cells_away import KIND as CELL_AWAY
from simulation.coroutines import START, Killed, Process
from simulation.invariants import Broken, Invariants
from simulation.slurm_model import Job
from simulation.weather import ENDS
from simulation.world import GRID, World
from typed_words import Options
from typed_words import launch as type_launch

from orchestration.launching import control, overview

DAY_S = 86_400.0
PATIENCE_S = 3 * DAY_S
"""So long after the storm all must be over."""


@dataclass(frozen=True)
class Conditions:
    """What the user asked for."""

    max_concurrent: int | None
    budget_gpu_hours: float | None
    requeue: bool
    controller: bool
    num_nodes: int
    """Of a cell."""
    pilot: int | None
    """How many nodes a pilot has; None: each cell is a job."""

    @classmethod
    def drawn(cls, world: World) -> "Conditions":
        chance = world.chance
        most, budget, requeue, controller, num_nodes = (
            chance.choice([None, None, 1, 2]), chance.choice([None, None, 0.7, 2.0]), chance.random() < 0.7,
            chance.random() < 0.85, chance.choice([1, 1, 1, 2]),
        )  # fmt: skip
        has_pilot = num_nodes == 1 and random.Random(world.seed + 4).random() < 0.2  # draws nothing from the others
        return cls(most, budget, requeue, controller, num_nodes, 2 if has_pilot else None)

    def launch(self, world: World, console: Console) -> None:
        settings = (
            "cluster.time_min=60", f"cluster.python={shell.PYTHON}", "cluster.notify_command=[tell]",
            f"cluster.requeue={str(self.requeue).lower()}", f"cluster.controller={str(self.controller).lower()}",
            "cluster.controller_every_min=20",
        )  # fmt: skip
        words = [] if self.budget_gpu_hours else ["trainer.device=cpu"]
        if self.num_nodes > 1:
            words += [f"trainer.num_workers={self.num_nodes}"]
            settings += ("cluster.gpus_per_node=1",)
        type_launch(
            Options(grid=str(GRID), overrides=words, runs=world.runs, cluster="slurm", cluster_settings=settings,
                    num_nodes=self.pilot, max_concurrent=self.max_concurrent,
                    budget_gpu_hours=self.budget_gpu_hours), console)  # fmt: skip


class NobodyThere(Exception):  # noqa: N818
    """A fault has nothing that it could harm."""


@dataclass
class Outcome:
    """What became of a history."""

    seed: int
    num_events: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    broken: str = ""
    is_lost: bool = False
    """What broke is that a cell was forgotten."""
    diary: list[str] = field(default_factory=list)
    cells_away: bool = False
    """Single cells could not be read at times."""

    def in_words(self) -> str:
        kind = " with cells away" if self.cells_away else ""
        return f"seed {self.seed}{kind}: {self.broken}\n  " + "\n  ".join(self.diary[-60:])


def play(folder: Path, seed: int, *, cells_away: bool = False) -> Outcome:
    """Play the history of a seed, and say what it broke; another one if single cells are away at times."""
    folder.mkdir()
    world = World(folder, seed, cells_away=cells_away)
    outcome = Outcome(seed, diary=world.diary, cells_away=cells_away)
    with seams.of_world(world):
        try:
            History(world).play()
        except Broken as error:
            outcome.broken, outcome.is_lost = str(error), error.is_lost
        finally:
            for process in [*world.hub.processes.values()]:
                process.kill()
    world.weather.num["job number given twice"] += world.slurm.num_given_again
    outcome.num_events, outcome.faults = world.hub.num_events, dict(+world.weather.num)
    return outcome


Fault = Callable[["History"], None]


class History:
    """One history while it is played."""

    def __init__(self, world: World) -> None:
        self.world, self.chance, self.num_launches = world, world.chance, 0
        self.is_to_launch = True
        self.conditions = Conditions.drawn(world)
        self.invariants = Invariants(world, self.conditions.max_concurrent, self.conditions.budget_gpu_hours)
        world.note(str(self.conditions))

    def play(self) -> None:
        world, chance = self.world, self.chance
        self._launch()
        storm_s = chance.uniform(2 * 3600, 20 * 3600)
        if chance.random() < 0.15:
            world.weather.num["two launchers"] += 1
            world.hub.after(chance.uniform(0, 3), self._launch)
        for _ in range(chance.randint(2, 14)):
            fault = chance.choice(self._FAULTS)
            world.hub.after(storm_s * chance.random() ** 2, lambda fault=fault: self._befall(fault))
        world.hub.after(storm_s, self._clear)
        self._run(START + storm_s)
        self._run(START + storm_s + PATIENCE_S)
        for _ in range(4):  # a user does what `status` and notices say
            if self._is_over():
                break
            self._resume()
            self._run(world.hub.now + DAY_S)
        self.invariants.check_end()

    def _is_over(self) -> bool:
        return not self.is_to_launch and self.invariants.is_over()

    def _run(self, until: float) -> None:
        hub = self.world.hub
        while not (self._is_over() and not self.world.weather.is_stormy) and hub.next_event(until):
            self.world.slurm.schedule()
            self.invariants.check()
        hub.now = max(hub.now, until)
        if not self.conditions.controller:
            self._attend()

    def _attend(self) -> None:
        """Where no controllers take the steps, users do what `status` says."""
        hub = self.world.hub
        for _ in range(60):
            if self._is_over():
                return
            if self.invariants.is_launched() and overview.of_grid(self.world.grid_dir).due:
                self._resume()
            until = hub.now + 6 * 3600
            while hub.next_event(until):
                self.world.slurm.schedule()
                self.invariants.check()
            hub.now = max(hub.now, until)

    def _clear(self) -> None:
        """End the bad weather: all that was broken is mended, and nothing more breaks."""
        world = self.world
        world.note("the sky clears")
        weather = world.weather
        weather.is_stormy = False
        weather.down_until = weather.files_down_until = weather.blind_until = 0.0
        weather.skew.clear()
        for node in world.slurm.nodes.values():
            node.is_up = True
        for job in world.slurm.alive():
            job.is_held = False
            world.slurm.resume(job)
        self.invariants.storm_ended = world.hub.now

    # what befalls

    def _befall(self, fault: Fault, num_tries: int = 8) -> None:
        """Let a fault happen; one that finds nobody whom it could harm waits a while for somebody."""
        if not self.world.weather.is_stormy:
            return
        try:
            fault(self)
        except NobodyThere:
            if num_tries:
                self.world.hub.after(600.0, lambda: self._befall(fault, num_tries - 1))
            return
        self.world.note(f"fault: {in_words(fault)}")
        self.world.weather.num[in_words(fault)] += 1

    def _some(self, *, controllers: bool = False, states: tuple[str, ...] = ("RUNNING",)) -> Job:
        found = [job for job in self.world.slurm.alive() if job.is_controller == controllers and job.state in states]
        if not found:
            raise NobodyThere
        return self.chance.choice(found)

    def _preempt_mode(self, mode: str) -> None:
        job = self._some()
        self.world.slurm.preempt(job, mode, self.chance.choice([0.0, 30.0, 1500.0]))
        if mode == "SUSPEND":
            self.world.hub.after(self.chance.uniform(60, 8 * 3600), lambda: self.world.slurm.resume(job))

    def _preempt_cancel(self) -> None:
        self._preempt_mode("CANCEL")

    def _preempt_requeue(self) -> None:
        self._preempt_mode("REQUEUE")

    def _preempt_suspend(self) -> None:
        self._preempt_mode("SUSPEND")

    def _requeue_loop(self) -> None:
        job = self._some()
        for turn in range(1, 5):
            self.world.hub.after(600 * turn, lambda: job.state == "RUNNING" and self._requeue(job))

    def _requeue(self, job: Job) -> None:
        self.world.slurm.preempt(job, "REQUEUE", 0.0)

    def _node_lost(self) -> None:
        self._lose(processes_live=False)

    def _node_cut_off_with_live_processes(self) -> None:
        self._lose(processes_live=True)

    def _lose(self, *, processes_live: bool) -> None:
        slurm, name = self.world.slurm, self.chance.choice(self._some().nodes)
        slurm.lose_node(name, processes_live=processes_live, after_s=self.chance.uniform(15, 300))

        def comes_back() -> None:
            slurm.nodes[name].is_up = True

        self.world.hub.after(self.chance.uniform(600, 6 * 3600), comes_back)

    def _held(self) -> None:
        of_cells = any(job.state == "PENDING" and not job.is_controller for job in self.world.slurm.alive())
        job = self._some(controllers=not of_cells, states=("PENDING",))
        job.is_held = True
        self.world.hub.after(self.chance.uniform(600, 8 * 3600), lambda: setattr(job, "is_held", False))

    def _all_held(self) -> None:
        for job in self.world.slurm.alive():
            job.is_held = job.state == "PENDING"

    def _vanished(self) -> None:
        job = self._some(controllers=self.chance.random() < 0.3, states=("RUNNING", "PENDING"))
        self.world.note(f"job {job.number} vanishes")
        del self.world.slurm.jobs[job.number]
        for process in self.world.slurm.processes_of(job):
            if self.chance.random() < 0.7:
                process.kill()

    def _slurmctld_crashed(self) -> None:
        """Have the state of some seconds be lost soon after something was submitted."""
        self.world.slurm.crashes_within_s = self.chance.choice([1.0, 20.0, 120.0])

    def _slurmctld_down(self) -> None:
        self.world.weather.down_until = self.world.hub.now + self.chance.uniform(60, 3600)

    def _accounting_empty(self) -> None:
        self.world.weather.blind_until = self.world.hub.now + self.chance.uniform(600, 6 * 3600)

    def _clock_jumps(self) -> None:
        host = self.chance.choice([*self.world.slurm.nodes, "login"])
        self.world.weather.skew[host] = self.chance.choice([-7200.0, -90.0, 90.0, 900.0, 7200.0])

    def _file_server_away(self) -> None:
        weather = self.world.weather
        weather.files_down_until = self.world.hub.now + self.chance.uniform(10, 1200)
        weather.files_of = self.chance.choice(["", "n", "n1", "login"])

    def _program_killed(self) -> None:
        job = self._some(controllers=self.chance.random() < 0.3)
        if job.shell and job.shell.lives and job.state == "RUNNING":
            job.shell.throw(Killed())

    def _controller_cancelled(self) -> None:
        self.world.slurm.terminate(self._some(controllers=True, states=("PENDING", "RUNNING")), "CANCELLED")

    def _user_requeues(self) -> None:
        self.world.slurm.requeue(self._some())

    # what users do

    def _typed(self, name: str, act: Callable[[Console], object]) -> Process:
        process = self.world.user(name, act)
        process.when_over(lambda: self.invariants.check_command(process))
        return process

    def _launch(self) -> None:
        """Have somebody type the launch; where it fails, they type it again."""
        process = self._typed("launch", lambda console: self.conditions.launch(self.world, console))
        pause_s = self.chance.uniform(60, 3600) * 2 ** min(4, self.num_launches)
        self.num_launches += 1
        self.is_to_launch = True

        def type_again() -> None:
            self.is_to_launch = bool(process.code)
            if process.code:
                self.world.hub.after(pause_s, self._launch)

        process.when_over(type_again)

    def _grid(self) -> Path:
        return control.grid_folder(self.world.runs, "simulated")

    def _second_launch(self) -> None:
        self._launch()

    def _resume(self) -> None:
        self._typed("resume", lambda console: control.resume(self._grid(), console))

    def _retry(self) -> None:
        self._typed("retry", lambda console: control.retry(self._grid(), [], [], [], console))

    def _status(self) -> None:
        self._typed("status", lambda console: control.status(self._grid(), console))

    def _cancel(self) -> None:
        names = sorted(path.name for path in (self.world.grid_dir / "cells").glob("*"))
        if not names:
            return
        cells = [] if self.chance.random() < 0.2 else [self.chance.choice(names)]
        self.invariants.cancelled |= {*(cells or names)}
        self._typed(f"cancel {cells}", lambda console: control.cancel(self._grid(), cells, console))

    _FAULTS = (_preempt_cancel, _preempt_requeue, _preempt_suspend, _requeue_loop, _node_lost,
               _node_cut_off_with_live_processes, _held, _all_held, _vanished, _slurmctld_crashed, _slurmctld_down,
               _accounting_empty, _clock_jumps, _file_server_away, _program_killed, _controller_cancelled,
               _user_requeues, _second_launch, _resume, _retry, _status, _cancel)  # fmt: skip


def in_words(fault: Fault) -> str:
    return fault.__name__.strip("_").replace("_", " ")


OF_COMMANDS = [
    "sbatch submits and fails", "sbatch fails and submits", "sbatch fails", "scontrol fails", "killed after sbatch",
    *(f"{program} does not answer" for program in ("sbatch", "squeue", "sacct", "scontrol")),
]  # fmt: skip
KINDS = {
    *map(in_words, History._FAULTS), *OF_COMMANDS, "sacct never knows an end", "sacct is late", "the queue is long",
    "ESTALE", CELL_AWAY, "job number given twice", "two launchers", "node of several lost", "node starts no job",
    *(f"training: {end}" for end in ENDS if end != "runs"),
}  # fmt: skip
"""Every fault that histories have."""

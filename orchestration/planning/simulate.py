"""Simulate a launch beforehand, with failures, preemptions, waits and the real retry policy; pure.

The model is small on purpose. GPU failures and job preemptions are memoryless, at given mean rates. A failure loses
what was trained since the last checkpoint; a preempted job writes one first. `failures.decide` decides whether a cell
is retried, the longest waiting cell of the earliest round starts first, and the pool keeps its size: a failed GPU
counts as replaced.
"""

import heapq
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestration.machine.counts import counted
from orchestration.planning import costs
from orchestration.planning.plan import Plan, format_amount, format_duration
from orchestration.runs.failures import AttemptEnd, FailureClass, decide
from rankmatch.checks import in_range

_CLOSE = 1.1
"""Ratio between consecutive checkpoint intervals in the search for the best; the waste is flat around it."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The pool of GPUs that cells run on, and its rates of failures and preemptions."""

    num_gpus: int
    mtbf_hours: float = math.inf
    """Mean time between failures of one GPU in use."""
    preempt_hours: float = math.inf
    """Mean time before a running job is preempted."""
    queue_min: float = 0.0
    """How long each attempt waits before it can start."""
    seed: int = 0

    def __post_init__(self) -> None:
        in_range("--gpus", self.num_gpus, 1)
        in_range("--mtbf-hours", self.mtbf_hours, 0.1)
        in_range("--preempt-hours", self.preempt_hours, 0.1)
        in_range("--queue-min", self.queue_min, 0)

    @property
    def queue_s(self) -> float:
        """The wait in seconds."""
        return 60 * self.queue_min


@dataclass(frozen=True, slots=True)
class Task:
    """The timing of a cell."""

    duration_s: float
    num_gpus: int = 1
    num_epochs: int = 1
    """Each ends with a checkpoint."""
    interval_s: float = math.inf
    """The longest time between two checkpoints."""
    checkpoint_s: float = 0.0
    """How long one interrupts the training."""
    round: int = field(default=0, compare=False)
    """Cells of an earlier round start before it."""

    def num_parts(self, interval_s: float | None = None) -> int:
        """Count the equal parts of the run that end with a checkpoint each."""
        epoch_s = self.duration_s / self.num_epochs
        return self.num_epochs * max(1, math.ceil(epoch_s / (interval_s or self.interval_s)))


@dataclass(slots=True)
class Outcome:
    """The result of a simulated launch; GPU-seconds are over all GPUs."""

    makespan_s: float = 0.0
    bound_s: float = 0.0
    """A lower bound of the makespan for any order: all work divided by the number of GPUs, or the longest cell."""
    num_done: int = 0
    busy_gpu_s: float = 0.0
    useful_gpu_s: float = 0.0
    """The work of the finished cells, counted once."""
    writing_gpu_s: float = 0.0
    ends: Counter[FailureClass] = field(default_factory=Counter)
    """How often an attempt ended early, by class."""
    given_up: Counter[str] = field(default_factory=Counter)
    """The policy's reasons for giving up cells."""

    @property
    def wasted_gpu_s(self) -> float:
        """Work that was lost, or of cells that were given up, and the time of writing checkpoints."""
        return self.busy_gpu_s - self.useful_gpu_s


@dataclass(slots=True)
class _Run:
    """One cell and its attempts."""

    task: Task
    pool: Pool
    draws: random.Random
    done_s: float = 0.0
    """Work saved in the newest checkpoint."""
    ends: list[AttemptEnd] = field(default_factory=list)
    is_running: bool = False
    kind: FailureClass | None = None
    kept_s: float = 0.0
    busy_s: float = 0.0
    num_written: int = 0

    @property
    def left_s(self) -> float:
        return self.task.duration_s - self.done_s

    def begin(self) -> float:
        """Draw the course of the next attempt; return how long it holds its GPUs."""
        failure_s = _draw(self.draws, 3600 * self.pool.mtbf_hours / self.task.num_gpus)
        preemption_s = _draw(self.draws, 3600 * self.pool.preempt_hours)
        part_s = self.task.duration_s / self.task.num_parts()
        num_parts = math.ceil(self.left_s / part_s - 1e-9)
        whole_s, end_s = self.left_s + num_parts * self.task.checkpoint_s, min(failure_s, preemption_s)
        self.is_running = True
        if end_s >= whole_s:
            self.kind, self.kept_s, self.busy_s, self.num_written = None, self.left_s, whole_s, num_parts
            return whole_s
        num_kept, into_s = divmod(end_s, part_s + self.task.checkpoint_s)
        self.kind, self.kept_s, self.busy_s = FailureClass.NODE_FAILURE, num_kept * part_s, end_s
        self.num_written = int(num_kept)
        if preemption_s < failure_s:
            self.kind = FailureClass.PREEMPTED
            self.kept_s = min(self.kept_s + min(into_s, part_s), self.left_s)
            self.busy_s += self.task.checkpoint_s
            self.num_written += 1
        return self.busy_s

    def end(self, outcome: Outcome) -> bool:
        """Account for the attempt; return whether the policy retries the cell."""
        first_s, gpus = self.done_s, self.task.num_gpus
        self.is_running, self.done_s = False, self.done_s + self.kept_s
        outcome.busy_gpu_s += gpus * self.busy_s
        outcome.writing_gpu_s += gpus * self.num_written * self.task.checkpoint_s
        if self.kind is None:
            outcome.num_done += 1
            outcome.useful_gpu_s += gpus * self.task.duration_s
            return False
        outcome.ends[self.kind] += 1
        # The policy asks whether steps were done; seconds replace them here.
        self.ends.append(AttemptEnd(self.kind, int(first_s), int(self.done_s)))
        decision = decide(self.ends)
        if not decision.again:
            outcome.given_up[decision.why] += 1
        return decision.again


def tasks(planned: Plan, checkpoint_min: float | None = None) -> list[Task]:
    """Return the cells to start whose time can be estimated, in the plan's order.

    Args:
        planned: The plan.
        checkpoint_min: Minutes between checkpoints; None: as configured in each cell.

    Raises:
        ValueError: The minutes are too few.
    """
    if checkpoint_min is not None:
        in_range("--checkpoint-min", checkpoint_min, 0.1)
    found = []
    for item in planned.jobs:
        config = item.cell.config
        if item.estimate_s:
            found.append(
                Task(
                    item.estimate_s,
                    config.execution.trainer.num_workers,
                    config.numerics.trainer.epochs,
                    60 * (checkpoint_min or max(0.1, config.execution.trainer.checkpoint_every_min)),
                    costs.checkpoint_s(config),
                    item.round,
                )
            )
    return found


def replay(cells: Sequence[Task], pool: Pool) -> Outcome:
    """Simulate a launch.

    Raises:
        ValueError: A cell needs more GPUs than there are.
    """
    widest = max((task.num_gpus for task in cells), default=0)
    if widest > pool.num_gpus:
        raise ValueError(f"--gpus must be at least {widest}, the workers of the widest cell; got {pool.num_gpus}")
    outcome = Outcome(bound_s=_bound_s(cells, pool))
    runs = [_Run(task, pool, random.Random(f"{pool.seed} {place}")) for place, task in enumerate(cells)]
    events = [(pool.queue_s, place) for place in range(len(runs))]
    ready: list[tuple[int, float, int]] = []
    free = pool.num_gpus
    while events:
        now, place = heapq.heappop(events)
        run = runs[place]
        if run.is_running:
            outcome.makespan_s = now
            free += run.task.num_gpus
            if run.end(outcome):
                heapq.heappush(events, (now + pool.queue_s, place))
        else:
            heapq.heappush(ready, (run.task.round, -run.left_s, place))
        if events and events[0][0] == now:  # all that becomes free at once counts before the longest starts
            continue
        while ready and runs[ready[0][-1]].task.num_gpus <= free:
            *_, place = heapq.heappop(ready)
            free -= runs[place].task.num_gpus
            heapq.heappush(events, (now + runs[place].begin(), place))
    return outcome


def expected_waste_s(cells: Mapping[Task, int], pool: Pool, interval_s: float) -> float:
    """Return the expected GPU-seconds lost to failures and checkpoints, with a certain interval between checkpoints.

    A part of work w with a checkpoint of c seconds takes M (exp((w + c) / M) - 1) on GPUs that fail every M seconds
    (Daly 2006, without restart time, during which a cell holds no GPU).

    Args:
        cells: The number of cells of each kind.
        pool: The pool they run on.
        interval_s: The longest time between two checkpoints.
    """
    total = 0.0
    for task, count in cells.items():
        num_parts, mtbf_s = task.num_parts(interval_s), 3600 * pool.mtbf_hours / task.num_gpus
        part_s = task.duration_s / num_parts + task.checkpoint_s
        # Beyond this the sum is practically infinite, and exp overflows.
        spent_s = num_parts * mtbf_s * math.expm1(part_s / mtbf_s) if part_s < 500 * mtbf_s else math.inf
        total += count * task.num_gpus * (spent_s - task.duration_s)
    return total


def best_interval_s(cells: Sequence[Task], pool: Pool) -> float:
    """Return the checkpoint interval with the least expected waste; the shortest of equally good ones."""
    shortest, longest, alike = 10.0, max(task.duration_s for task in cells), Counter(cells)
    number = math.ceil(math.log(max(longest / shortest, _CLOSE), _CLOSE)) + 1
    return min((shortest * _CLOSE**step for step in range(number)), key=lambda s: expected_waste_s(alike, pool, s))


def lines(cells: Sequence[Task], pool: Pool) -> list[str]:
    """Report the result of a simulated launch.

    Raises:
        ValueError: No cell can be simulated, or one needs more GPUs than there are.
    """
    if not cells:
        raise ValueError("--simulate must be given a grid with cells to train whose time can be estimated; got none")
    outcome = replay(cells, pool)
    busy, wasted, writing = (
        format_amount(value / 3600) for value in (outcome.busy_gpu_s, outcome.wasted_gpu_s, outcome.writing_gpu_s)
    )
    over = 100 * (outcome.makespan_s / outcome.bound_s - 1)
    ends = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.ends.items())) or "none"
    text = [
        f"simulated: {counted(len(cells), 'cell')} on {counted(pool.num_gpus, 'GPU')}, {outcome.num_done:,} done",
        f"makespan: {format_duration(outcome.makespan_s)}, {over:.1f} % above the lower bound of "
        f"{format_duration(outcome.bound_s)}",
        f"attempts that ended early: {ends}",
        f"wasted: {wasted} of {busy} GPU-hours, {writing} of them writing checkpoints",
        *(f"given up: {counted(count, 'cell')} ({why})" for why, count in sorted(outcome.given_up.items())),
    ]
    return [*text, _advice(cells, pool)]


def _advice(cells: Sequence[Task], pool: Pool) -> str:
    if math.isinf(pool.mtbf_hours):
        return "checkpoint interval: without failures none is needed (--mtbf-hours)"
    best_s = best_interval_s(cells, pool)
    expected = expected_waste_s(Counter(cells), pool, best_s) / 3600
    epoch_s = max(task.duration_s / task.num_epochs for task in cells)
    ends = ", the ends of epochs are enough" if best_s >= epoch_s else ""
    waste = f"{format_amount(expected)} GPU-hours expected{ends}"
    return f"checkpoint interval: {format_duration(best_s)} wastes least, {waste}"


def _bound_s(cells: Sequence[Task], pool: Pool) -> float:
    work = sum(task.duration_s * task.num_gpus for task in cells)
    return pool.queue_s + max(work / pool.num_gpus, max((task.duration_s for task in cells), default=0.0))


def _draw(draws: random.Random, mean_s: float) -> float:
    return mean_s * draws.expovariate(
        1.0
    )  # also draw for an infinite mean, so that one option does not change the other's draws

"""What a launch does with each cell: submit, resume, keep or leave running; pure, so `--dry-run` shows just that."""

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from orchestration import alike, costs
from orchestration.cells import Cell
from orchestration.failures import is_tried_again
from rankmatch.methods import METHODS

if TYPE_CHECKING:
    from orchestration.run_folder import FolderState

PROVENANCE = {"split_sha256": "the split lists", "data_fingerprint": "the data files"}


class Action(StrEnum):
    """What a launch does with a cell."""

    SUBMIT = "submit"
    RESUME = "resume"
    KEEP = "keep"
    RUNNING = "running"
    GIVE_UP = "give up"
    """Failed in a way that the same code would repeat."""
    DAMAGED = "damaged"
    """A file of it cannot be read; nothing is done until it can be."""
    UNREADABLE = "unreadable"
    """A file server does not answer for it; so it is left to the next look."""


@dataclass(frozen=True, slots=True)
class Item:
    """One cell of a plan."""

    cell: Cell
    action: Action
    reason: str
    num_steps: int | None
    """Steps of the whole run, None where the split is not known here."""
    estimate_s: float | None
    """Roughly the seconds that are left; 0 for a kept cell."""
    seconds_per_step: float | None = None
    conflicts: tuple[str, ...] = ()
    """What differs between the data of the run folder and the data that is there now."""

    @property
    def gpu_hours(self) -> float:
        """Roughly the GPU-hours that are left, a GPU for each worker."""
        return self.cell.config.execution.trainer.num_workers * (self.estimate_s or 0.0) / 3600

    @property
    def to_do(self) -> bool:
        """Whether the launch starts a job for the cell."""
        return self.action in (Action.SUBMIT, Action.RESUME)


@dataclass(frozen=True, slots=True)
class Plan:
    """Every cell of a grid: the jobs to start, longest first, then what runs, then what is kept."""

    items: list[Item]
    max_concurrent: int = 1
    conflicts: list[str] = field(default_factory=list)
    """One line a conflict; a launch stops at them before any job (exit code 2)."""
    uses_gpus: bool = False

    @property
    def jobs(self) -> list[Item]:
        """The cells that the launch starts, longest first."""
        return [item for item in self.items if item.to_do]

    @property
    def total_s(self) -> float:
        """Roughly the seconds of all cells that are left, as far as they can be estimated."""
        return sum(item.estimate_s or 0.0 for item in self.items)

    @property
    def gpu_hours(self) -> float:
        """Roughly the GPU-hours that are left, of the cells that can be estimated; 0 on CPUs."""
        return sum(item.gpu_hours for item in self.items) if self.uses_gpus else 0.0

    @property
    def num_unknown(self) -> int:
        """How many cells are left of which nobody can tell how long they take."""
        return sum(item.estimate_s is None for item in self.items)

    @property
    def makespan_s(self) -> float:
        """Roughly the seconds until the last cell ends, `max_concurrent` at a time, longest first."""
        return makespan([item.estimate_s or 0.0 for item in self.items], self.max_concurrent)


def make_plan(
    cells: Sequence[Cell],
    states: Mapping[str, "FolderState"],
    *,
    num_steps: Mapping[str, int | None],
    seconds_per_step: Mapping[str, float],
    provenance: Mapping[str, Mapping[str, Any]] | None = None,
    commit: str = "",
    max_concurrent: int = 1,
    queued: Mapping[str, str] | None = None,
    retried: Collection[str] = (),
    refused: Mapping[str, str] | None = None,
    uses_gpus: bool = False,
) -> Plan:
    """Decide what to do with each cell; every mapping is by signature.

    Args:
        cells: The cells of the grid.
        states: The state of each cell's run folder; a cell without one has none.
        num_steps: Steps of a whole run, None or left out where unknown.
        seconds_per_step: Rough pace of each cell; left out where unknown.
        provenance: `split_sha256` and `data_fingerprint` as they are now, where they have been looked at.
        commit: The commit of the code now; empty: not compared.
        max_concurrent: How many cells run at a time.
        queued: What a cluster says of cells that it has a job of.
        retried: Cells that are tried again however they failed.
        uses_gpus: Whether each worker of a cell has a GPU.
        refused: Why cells are not tried again, where the policy of retries decides and nobody was asked.
    """
    items = []
    for cell in cells:
        state, key = states.get(cell.signature), cell.signature
        action, reason = _decide(state, commit, is_retried=key in retried)
        if action is not Action.KEEP and queued and key in queued:
            action, reason = Action.RUNNING, queued[key]
        elif action in (Action.SUBMIT, Action.RESUME) and refused and key in refused:
            action, reason = Action.GIVE_UP, refused[key]
        data = (provenance or {}).get(key, {})
        items.append(_item(cell, action, reason, state, num_steps.get(key), seconds_per_step.get(key), data))
    order = {Action.RUNNING: 1, Action.KEEP: 2, Action.GIVE_UP: 3, Action.DAMAGED: 4, Action.UNREADABLE: 5}
    items.sort(key=lambda item: (order.get(item.action, 0), -_length(item)))
    conflicts = [f"cell {item.cell.folder_name}: {text}" for item in items for text in item.conflicts]
    return Plan(items, max_concurrent, conflicts, uses_gpus)


def _item(
    cell: Cell,
    action: Action,
    reason: str,
    state: "FolderState | None",
    num_steps: int | None,
    pace: float | None,
    provenance: Mapping[str, str],
) -> Item:
    estimate = None
    if action in (Action.KEEP, Action.GIVE_UP, Action.DAMAGED, Action.UNREADABLE):
        estimate = 0.0
    elif num_steps is not None and pace is not None:
        done = state.step if state and action is not Action.SUBMIT else 0
        estimate = max(0, num_steps - done) * pace
    conflicts = _conflicts(state, provenance) if state and action in (Action.KEEP, Action.RESUME) else ()
    return Item(cell, action, reason, num_steps, estimate, pace, conflicts)


def _decide(state: "FolderState | None", commit: str, *, is_retried: bool = False) -> tuple[Action, str]:
    if state is None or state.status == "missing":
        return Action.SUBMIT, "new"
    if state.status == "damaged":
        return Action.DAMAGED, state.damage
    if state.status == "unreadable":
        return Action.UNREADABLE, state.damage
    if state.status == "done":
        others = state.commits if commit and any(made != commit for made in state.commits) else []
        return Action.KEEP, f"done, trained by commit {', '.join(made[:12] for made in others)}" if others else "done"
    if state.status == "running":
        return Action.RUNNING, f"attempt {state.num_attempts} at step {state.step}"
    if state.status == "failed" and not is_retried and not is_tried_again(state.failure_class):
        return Action.GIVE_UP, f"failed: {state.failure}; the same would fail again: change a setting, or retry it"
    why = f"failed: {state.failure}" if state.status == "failed" and state.failure else state.status
    why = f"{why} ({state.damage})" if state.damage else why
    would_fail = state.status == "failed" and not is_tried_again(state.failure_class)
    warning = "; where nothing has changed the same would fail again: change a setting" if would_fail else ""
    if state.step > 0:
        return Action.RESUME, f"{why}, from step {state.step}{warning}"
    return Action.SUBMIT, f"{why} before the first checkpoint{warning}"


def _conflicts(state: "FolderState", provenance: Mapping[str, str]) -> tuple[str, ...]:
    pairs = {name: (state.provenance.get(name), provenance.get(name)) for name in PROVENANCE}
    return tuple(
        f"{PROVENANCE[name]} differ from those it was trained with ({name} {then[:12]} then, {now[:12]} now)"
        for name, (then, now) in pairs.items()
        if then and now and then != now
    )


def _length(item: Item) -> float:
    return item.estimate_s if item.estimate_s is not None else float(item.num_steps or 0)


def makespan(durations_s: Iterable[float], max_concurrent: int) -> float:
    """Return when the last of some jobs ends, each started, longest first, on whatever comes free first."""
    ends = [0.0] * max_concurrent
    for duration in sorted(durations_s, reverse=True):
        heapq.heappush(ends, heapq.heappop(ends) + duration)
    return max(ends)


def summary(plan: Plan) -> list[str]:
    """Return the lines of `--dry-run`: one a cell, then counts, total and makespan."""
    width = max((len(item.cell.slug) for item in plan.items), default=0)
    lines = [_line(item, width, uses_gpus=plan.uses_gpus) for item in plan.items]
    counts = Counter(item.action for item in plan.items)
    shares = ", ".join(f"{counts[action]} {action}" for action in Action if counts[action])
    lines.append(f"{len(plan.items)} cells: {shares or 'none'}")
    lines += _estimates(plan)
    in_the_end, at_most = (format_amount(count / 1e9) for count in disk_bytes(plan))
    lines.append(f"disk: about {in_the_end} GB when all is done, at most {at_most} GB while cells train")
    idle = [f"note: {text}" for text in alike.notes([item.cell for item in plan.items])]
    return (
        lines + _supervised_apart(plan) + _scaled_rates(plan) + idle + [f"conflict: {text}" for text in plan.conflicts]
    )


def _estimates(plan: Plan) -> list[str]:
    """Say how long it takes, and of which cells nobody knows: none that is left out counts as nothing."""
    num = plan.num_unknown
    cells = f"{num} cell{'s' if num > 1 else ''} that cannot be estimated, as the split lists are not here"
    if num and not plan.total_s:
        return [f"rough estimate: not known, for {cells}"]
    unknown = f", without {cells}" if num else ""
    lines = [
        f"rough estimate: {format_duration(plan.total_s)} in total, "
        f"{format_duration(plan.makespan_s)} with {plan.max_concurrent} at a time, longest first{unknown}"
    ]
    if plan.gpu_hours:
        longest = format_amount(max(item.gpu_hours for item in plan.items))
        lines.append(f"GPU-hours: {format_amount(plan.gpu_hours)} in all, {longest} for the longest cell{unknown}")
    return lines


def disk_bytes(plan: Plan) -> tuple[float, float]:
    """Return roughly what weights and checkpoints of all cells take in the end, and at most before it, in bytes.

    At most: every cell that is not done holds its checkpoints at once, as when all are interrupted.
    """
    in_the_end = [costs.finished_bytes(item.cell.config) for item in plan.items]
    training = [costs.training_bytes(item.cell.config) for item in plan.items if item.action is not Action.KEEP]
    kept = [costs.finished_bytes(item.cell.config) for item in plan.items if item.action is Action.KEEP]
    return sum(in_the_end), sum(training) + sum(kept)


def _supervised_apart(plan: Plan) -> list[str]:
    """Say what the supervised cells take of the total where they take another number of steps than the others."""
    due = [item for item in plan.items if item.action is not Action.KEEP]
    sees_unlabeled = [METHODS[item.cell.config.numerics.method.name].sees_unlabeled for item in due]
    apart = [item for item, sees in zip(due, sees_unlabeled, strict=True) if not sees]
    others = {item.num_steps for item, sees in zip(due, sees_unlabeled, strict=True) if sees}
    if not apart or not others or {item.num_steps for item in apart} & others:
        return []
    total = sum(item.estimate_s or 0.0 for item in apart)
    return [f"of which the {len(apart)} supervised cells, by their own number of steps: {format_duration(total)}"]


def _scaled_rates(plan: Plan) -> list[str]:
    """Say where a batch of another size scales the learning rate: results differ by points where it is not noticed."""
    settings = [item.cell.config.numerics.trainer for item in plan.items]
    notes = [
        f"note: trainer.learning_rate={one.learning_rate:g} is for {one.reference_batch_size} labeled images a step; "
        f"with {one.labeled_batch_size} it is multiplied by {one.labeled_batch_size}/{one.reference_batch_size}"
        for one in settings
        if one.labeled_batch_size != one.reference_batch_size
    ]
    return list(dict.fromkeys(notes))


def _line(item: Item, width: int, *, uses_gpus: bool) -> str:
    steps = "? steps" if item.num_steps is None else f"{item.num_steps} steps"
    rough = "?" if item.estimate_s is None else f"~{format_duration(item.estimate_s)}"
    time = "" if item.action is Action.KEEP else f"  {rough}"
    hours = f"{format_amount(item.gpu_hours)} GPU-h" if uses_gpus and item.gpu_hours else ""
    return (
        f"{item.action:<7}  {item.cell.signature}  {item.cell.slug:<{width}}  {steps:>12}{time:>9}"
        f"{hours:>{13 if uses_gpus else 0}}  {item.reason}"
    )


def format_duration(seconds: float) -> str:
    """Write a duration in the unit that suits it: `45 s`, `12 min`, `3.5 h`; what takes time is never `0 s`."""
    if seconds < 100:
        return f"{max(1.0, seconds) if seconds > 0 else 0.0:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def format_amount(amount: float) -> str:
    """Write hours or gigabytes with one decimal, a small amount with as many as it takes: never 0.0 for some."""
    return f"{amount:.1f}" if amount >= 0.095 or amount <= 0 else f"{float(f'{amount:.1g}'):f}".rstrip("0")

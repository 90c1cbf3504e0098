"""What a launch does with each cell: submit, resume, keep or leave running; pure, so `--dry-run` shows exactly that."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestration.grids import alike
from orchestration.grids.cells import Cell
from orchestration.machine.counts import counted
from orchestration.planning import costs, order, unreached
from orchestration.runs.failures import is_tried_again
from orchestration.runs.states import Action as Action
from orchestration.runs.states import CellState, action_for
from rankmatch.methods import METHODS

if TYPE_CHECKING:
    from orchestration.runs.run_folder import FolderState

LEAST_HOURS = 0.01
PROVENANCE = {"split_sha256": "the split lists", "data_fingerprint": "the data files"}


@dataclass(frozen=True, slots=True)
class Item:
    """One cell of a plan."""

    cell: Cell
    action: Action
    reason: str
    num_steps: int | None
    """Steps of the whole run; None if the split is not known here."""
    estimate_s: float | None
    """Estimated seconds left; 0 for a kept cell."""
    seconds_per_step: float | None = None
    round: int = 0
    """How many cells of the same entry of the table start before it."""
    of_grid: str = ""
    """The other grid that trained the cell or trains it; empty: this one did, or nobody has."""
    conflicts: tuple[str, ...] = ()
    """The difference between the data of the run folder and the current data."""

    @property
    def gpu_hours(self) -> float:
        """Estimated GPU-hours left, with one GPU for each worker; those of another grid's launch are not its own."""
        if self.is_left_to_another:
            return 0.0
        return self.cell.config.execution.trainer.num_workers * (self.estimate_s or 0.0) / 3600

    @property
    def is_left_to_another(self) -> bool:
        """Whether a launch of another grid trains the cell, or is about to."""
        return self.action is Action.RUNNING and bool(self.of_grid)

    @property
    def to_do(self) -> bool:
        """Whether the launch starts a job for the cell."""
        return self.action in (Action.SUBMIT, Action.RESUME)


@dataclass(frozen=True, slots=True)
class Plan:
    """Every cell of a grid: jobs to start, in their order, then running cells, then kept ones."""

    items: list[Item]
    max_concurrent: int = 1
    conflicts: list[str] = field(default_factory=list)
    """One line per conflict; a launch with conflicts stops before any job (exit code 2)."""
    uses_gpus: bool = False

    @property
    def jobs(self) -> list[Item]:
        """The cells that the launch starts, round by round, longest first in each."""
        return [item for item in self.items if item.to_do]

    @property
    def total_s(self) -> float:
        """Estimated seconds left over all cells, as far as they can be estimated."""
        return sum(item.estimate_s or 0.0 for item in self.items)

    @property
    def gpu_hours(self) -> float:
        """Estimated GPU-hours left, over the cells that can be estimated; 0 on CPUs."""
        return sum(item.gpu_hours for item in self.items) if self.uses_gpus else 0.0

    @property
    def num_unknown(self) -> int:
        """How many of the cells to train cannot be estimated."""
        return sum(item.estimate_s is None for item in self.items)

    @property
    def makespan_s(self) -> float:
        """Estimated seconds until the last cell ends, with `max_concurrent` at a time, in the plan's order."""
        return max(self.ends_s.values(), default=0.0)

    @property
    def ends_s(self) -> dict[str, float]:
        """Estimated seconds until each cell ends that runs or is to start, by signature.

        A cell that cannot be estimated takes no time in it.
        """
        due = [item for item in self.items if item.action is Action.RUNNING] + self.jobs
        ends = order.ends([item.estimate_s or 0.0 for item in due], self.max_concurrent)
        return {item.cell.signature: end for item, end in zip(due, ends, strict=True)}


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
    awaited: Mapping[str, tuple[str, str]] | None = None,
    retried: Collection[str] = (),
    refused: Mapping[str, str] | None = None,
    uses_gpus: bool = False,
    rounds: Mapping[str, int] | None = None,
    larger: Mapping[str, str] | None = None,
    grid: str = "",
) -> Plan:
    """Decide what to do with each cell; every mapping is by signature.

    Args:
        cells: The cells of the grid.
        states: The state of each run folder; cells without a folder are missing.
        num_steps: Steps of a whole run; None or left out if unknown.
        seconds_per_step: Rough pace of each cell; left out if unknown.
        provenance: The current `split_sha256` and `data_fingerprint`, for data that has been checked.
        commit: The current commit of the code; empty: not compared.
        max_concurrent: How many cells run at a time.
        queued: The cluster's state of cells that have a job there.
        awaited: Other grids whose launches are about to train cells, and what for they wait.
        retried: Cells to retry whatever their failure.
        uses_gpus: Whether each worker of a cell has a GPU.
        refused: Why the retry policy does not retry cells, if it decides and the user has not asked for them.
        rounds: The rounds in which the cells start, as `order.rounds` says; none: all in one.
        larger: What cells ask for that ran out of something, in words; they are retried with it.
        grid: The name of the grid.
    """
    items = []
    for cell in cells:
        state, key = states.get(cell.signature), cell.signature
        of_grid = state.grid if state and state.grid != grid else ""
        action, reason = _decide(state, commit, of_grid, (larger or {}).get(key, ""), is_retried=key in retried)
        if action is not Action.KEEP and queued and key in queued:
            action, reason, of_grid = Action.RUNNING, queued[key], ""
        elif action in (Action.SUBMIT, Action.RESUME, Action.GIVE_UP) and awaited and key in awaited:
            of_grid, why = awaited[key]
            action, reason = Action.RUNNING, f"running, for grid {of_grid}: {why}"
        elif action in (Action.SUBMIT, Action.RESUME) and refused and key in refused:
            action, reason = Action.GIVE_UP, refused[key]
        data = (provenance or {}).get(key, {})
        made = _item(cell, action, reason, state, num_steps.get(key), seconds_per_step.get(key), data)
        items.append(replace(made, round=(rounds or {}).get(key, 0), of_grid=of_grid))
    conflicts = [f"{_named(item)}: {text}" for item in in_order(items) for text in item.conflicts]
    return Plan(in_order(items), max_concurrent, conflicts, uses_gpus)


def _named(item: Item) -> str:
    return f"cell {item.cell.folder_name}{f', trained for grid {item.of_grid}' if item.of_grid else ''}"


def without(planned: Plan, why: Mapping[str, str]) -> Plan:
    """Leave out the cells to train that something speaks against, by signature."""
    items = [
        replace(item, action=Action.LEAVE_OUT, reason=why[item.cell.signature], estimate_s=0.0)
        if item.to_do and item.cell.signature in why
        else item
        for item in planned.items
    ]
    return replace(planned, items=in_order(items))


def in_order(items: Sequence[Item]) -> list[Item]:
    """Sort what a launch does: jobs to start in their order, then running cells, then the others."""
    last = [Action.RUNNING, Action.LEAVE_OUT, Action.KEEP, Action.GIVE_UP, Action.DAMAGED, Action.UNREADABLE]
    places = {action: 1 + place for place, action in enumerate(last)}
    return sorted(items, key=lambda item: (places.get(item.action, 0), item.round, -_length(item)))


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
    return Item(cell, action, reason, num_steps, estimate, pace, conflicts=conflicts)


def _decide(
    state: "FolderState | None", commit: str, of_grid: str, larger: str, *, is_retried: bool = False
) -> tuple[Action, str]:
    if state is None or state.status is CellState.MISSING:
        return Action.SUBMIT, "new"
    would_fail = state.status is CellState.FAILED and not is_tried_again(state.failure_class)
    is_given_up = would_fail and not (is_retried or larger)
    action = action_for(state.status, has_checkpoint=state.step > 0, is_given_up=is_given_up)
    reason = _reason(action, state, commit, of_grid, would_fail=would_fail and not larger)
    return action, f"{reason}; {larger}" if larger and action in (Action.SUBMIT, Action.RESUME) else reason


def _reason(action: Action, state: "FolderState", commit: str, of_grid: str, *, would_fail: bool) -> str:
    if action in (Action.DAMAGED, Action.UNREADABLE):
        return state.damage
    if action is Action.KEEP:
        others = state.commits if commit and any(made != commit for made in state.commits) else []
        by = f", trained by commit {', '.join(made[:12] for made in others)}" if others else ""
        return f"done{f', for grid {of_grid}' if of_grid else ''}{by}"
    if action is Action.RUNNING:
        where = f"running, for grid {of_grid}: " if of_grid else ""
        return f"{where}attempt {state.num_attempts} at step {state.step}"
    if action is Action.GIVE_UP:
        return f"failed: {state.failure}; the same would fail again: change a setting, or retry it"
    why = f"failed: {state.failure}" if state.status is CellState.FAILED and state.failure else state.status
    why = f"{why} ({state.damage})" if state.damage else why
    warning = "; where nothing has changed the same would fail again: change a setting" if would_fail else ""
    return (
        f"{why}, from step {state.step}{warning}"
        if action is Action.RESUME
        else f"{why} before the first checkpoint{warning}"
    )


def _conflicts(state: "FolderState", provenance: Mapping[str, str]) -> tuple[str, ...]:
    pairs = {name: (state.provenance.get(name), provenance.get(name)) for name in PROVENANCE}
    return tuple(
        f"{PROVENANCE[name]} differ from those it was trained with ({name} {then[:12]} then, {now[:12]} now)"
        for name, (then, now) in pairs.items()
        if then and now and then != now
    )


def _length(item: Item) -> float:
    return item.estimate_s if item.estimate_s is not None else float(item.num_steps or 0)


def summary(plan: Plan) -> list[str]:
    """Return the lines of `--dry-run`: one per cell, then counts, total and makespan."""
    width = max((len(item.cell.slug) for item in plan.items), default=0)
    lines = [_line(item, width, uses_gpus=plan.uses_gpus) for item in plan.items]
    counts = Counter(item.action for item in plan.items)
    shares = ", ".join(f"{counts[action]} {action}" for action in Action if counts[action])
    lines.append(f"{counted(len(plan.items), 'cell')}: {shares or 'none'}")
    lines += _of_others(plan)
    lines += _estimates(plan)
    in_the_end, at_most = (format_amount(count / 1e9) for count in disk_bytes(plan))
    lines.append(f"disk: about {in_the_end} GB when all is done, at most {at_most} GB while cells train")
    lines += _supervised_apart(plan) + [f"note: {text}" for text in notes(plan)]
    return lines + [f"conflict: {text}" for text in plan.conflicts]


def _of_others(plan: Plan) -> list[str]:
    """Report how many cells are kept that other grids have trained."""
    kept = Counter(item.of_grid for item in plan.items if item.of_grid and item.action is Action.KEEP)
    return [f"{counted(num, 'cell', 'is')} kept from grid {name}" for name, num in kept.items()]


def notes(plan: Plan) -> list[str]:
    """Return what a user should know of the cells before they are trained."""
    cells = [item.cell for item in plan.items]
    return [*_scaled_rates(plan), *alike.notes(cells), *unreached.notes(cells)]


def _estimates(plan: Plan) -> list[str]:
    """Report the estimates, and how many cells they leave out, so that none silently counts as zero."""
    num = plan.num_unknown
    cells = f"{counted(num, 'cell')} that cannot be estimated, as the split lists are not here"
    if num and not plan.total_s:
        return [f"rough estimate: not known, for {cells}"]
    unknown = f", without {cells}" if num else ""
    lines = [
        f"rough estimate: {format_duration(plan.total_s)} in total, "
        f"{format_duration(plan.makespan_s)} with {plan.max_concurrent} at a time, {_order_in_words(plan)}{unknown}"
    ]
    if plan.gpu_hours:
        longest = format_amount(max(item.gpu_hours for item in plan.items))
        lines.append(f"GPU-hours: {format_amount(plan.gpu_hours)} in all, {longest} for the longest cell{unknown}")
    return lines


def _order_in_words(plan: Plan) -> str:
    if len({item.round for item in plan.jobs}) > 1:
        return "a first cell of each entry of the table before second ones, longest first"
    return "longest first"


def disk_bytes(plan: Plan) -> tuple[float, float]:
    """Return the estimated bytes of all cells' weights and checkpoints at the end, and the maximum before.

    The maximum is reached if all cells are interrupted, so that all hold their checkpoints at once.
    """
    in_the_end = [costs.finished_bytes(item.cell.config) for item in plan.items]
    training = [costs.training_bytes(item.cell.config) for item in plan.items if item.action is not Action.KEEP]
    kept = [costs.finished_bytes(item.cell.config) for item in plan.items if item.action is Action.KEEP]
    return sum(in_the_end), sum(training) + sum(kept)


def _supervised_apart(plan: Plan) -> list[str]:
    """Report the supervised cells' part of the total, if they take another number of steps than the others."""
    due = [item for item in plan.items if item.action is not Action.KEEP]
    sees_unlabeled = [METHODS[item.cell.config.numerics.method.name].sees_unlabeled for item in due]
    apart = [item for item, sees in zip(due, sees_unlabeled, strict=True) if not sees]
    others = {item.num_steps for item, sees in zip(due, sees_unlabeled, strict=True) if sees}
    if not apart or not others or {item.num_steps for item in apart} & others:
        return []
    total = sum(item.estimate_s or 0.0 for item in apart)
    return [f"of which the {len(apart)} supervised cells, by their own number of steps: {format_duration(total)}"]


def _scaled_rates(plan: Plan) -> list[str]:
    """Report batch sizes that scale the learning rate: unnoticed, this changes results by points."""
    settings = [item.cell.config.numerics.trainer for item in plan.items]
    found = [
        f"trainer.learning_rate={one.learning_rate:g} is for {one.reference_batch_size} labeled images a step; "
        f"with {one.labeled_batch_size} it is multiplied by {one.labeled_batch_size}/{one.reference_batch_size}"
        for one in settings
        if one.labeled_batch_size != one.reference_batch_size
    ]
    return list(dict.fromkeys(found))


def _line(item: Item, width: int, *, uses_gpus: bool) -> str:
    steps = "? steps" if item.num_steps is None else f"{item.num_steps} step{'' if item.num_steps == 1 else 's'}"
    rough = "?" if item.estimate_s is None else f"~{format_duration(item.estimate_s)}"
    time = "" if item.action is Action.KEEP else f"  {rough}"
    hours = f"  {_hours(item.gpu_hours)}" if uses_gpus and item.gpu_hours else ""
    return (
        f"{item.action:<7}  {item.cell.signature}  {item.cell.slug:<{width}}  {steps:>12}{time:>9}"
        f"{hours:>{14 if uses_gpus else 0}}  {item.reason}"
    )


def _hours(gpu_hours: float) -> str:
    return f"{format_amount(gpu_hours)} GPU-h" if gpu_hours >= LEAST_HOURS else f"<{LEAST_HOURS:g} GPU-h"


def format_duration(seconds: float) -> str:
    """Format a duration in a suitable unit: `45 s`, `12 min`, `3.5 h`; a positive one is never `0 s`."""
    if seconds < 100:
        return f"{max(1.0, seconds) if seconds > 0 else 0.0:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def format_amount(amount: float) -> str:
    """Format hours or gigabytes with one decimal, small amounts with more, so that they are never 0.0."""
    return f"{amount:.1f}" if amount >= 0.095 or amount <= 0 else f"{float(f'{amount:.1g}'):f}".rstrip("0")

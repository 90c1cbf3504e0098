"""A plan for scripts and agents: what `plan --json` prints."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestration.planning.plan import Action, Item, Plan, disk_bytes, notes
from orchestration.planning.shares import Share
from orchestration.planning.until import Entry


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """What a launch does with one cell."""

    signature: str
    cell: str
    """Its short name, by its axes."""
    axes: dict[str, str]
    """The values by which it differs from other cells, as text."""
    action: Action
    reason: str
    num_steps: int | None
    """Steps of the whole run; null if the split lists are not here."""
    estimate_s: float | None
    """Estimated seconds of training left; 0 if there is nothing to do, null if not known."""
    gpu_hours: float | None
    """The same in GPU-hours; null without GPUs or if not known."""
    end_s: float | None
    """Estimated seconds from now until it ends, with `max_concurrent` at a time; null if it does not run."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Estimated bytes of weights and checkpoints."""

    in_the_end: float
    at_most: float
    """If all cells are interrupted, so that all have their checkpoints at once."""


@dataclass(frozen=True, slots=True)
class Until:
    """What is done by the time of `--until`."""

    time: float
    """In seconds since 1970."""
    entries: list[Entry]
    """The places of the table."""


@dataclass(frozen=True, slots=True)
class PlanAnswer:
    """What a launch would do; exit code 2, with the reason on stderr, if it would be refused."""

    schema: Literal[1]
    command: Literal["plan"]
    grid: str
    runs: str
    """The runs folder."""
    cells: list[PlannedCell]
    """In the order in which they start: those to train, then those that run, then the others."""
    tables: list[Share]
    """What each table of the grid takes; a grid that does not consist of others has one."""
    counts: dict[Action, int]
    max_concurrent: int
    """How many cells run at a time."""
    uses_gpus: bool
    total_s: float
    """Estimated seconds of training left in all, without the cells that cannot be estimated."""
    makespan_s: float
    """Estimated seconds until the last cell ends."""
    gpu_hours: float | None
    """Estimated GPU-hours left; null without GPUs."""
    num_unknown: int
    """How many cells cannot be estimated."""
    disk_bytes: Disk
    missing: list[str]
    """What is needed before launching: files, and room on the disk."""
    conflicts: list[str]
    """Why a launch would be refused: the data differ from those that cells were trained with."""
    notes: list[str]
    until: Until | None
    """Cells with the action `leave out` would end later; null without `--until`."""


def answer(
    planned: Plan,
    grid: str,
    runs: Path,
    tables: Sequence[Share],
    missing: Sequence[str],
    others: Sequence[str],
    until: Until | None,
) -> PlanAnswer:
    """Put a plan into the words of its schema; `others` are notes of the launch."""
    ends = planned.ends_s
    return PlanAnswer(
        schema=1,
        command="plan",
        grid=grid,
        runs=str(runs),
        cells=[_cell(item, ends.get(item.cell.signature), uses_gpus=planned.uses_gpus) for item in planned.items],
        tables=[*tables],
        counts=dict(Counter(item.action for item in planned.items)),
        max_concurrent=planned.max_concurrent,
        uses_gpus=planned.uses_gpus,
        total_s=planned.total_s,
        makespan_s=planned.makespan_s,
        gpu_hours=planned.gpu_hours if planned.uses_gpus else None,
        num_unknown=planned.num_unknown,
        disk_bytes=Disk(*disk_bytes(planned)),
        missing=[*missing],
        conflicts=planned.conflicts,
        notes=[*notes(planned), *others],
        until=until,
    )


def _cell(item: Item, end_s: float | None, *, uses_gpus: bool) -> PlannedCell:
    return PlannedCell(
        signature=item.cell.signature,
        cell=item.cell.slug,
        axes=dict(item.cell.axes),
        action=item.action,
        reason=item.reason,
        num_steps=item.num_steps,
        estimate_s=item.estimate_s,
        gpu_hours=item.gpu_hours if uses_gpus and item.estimate_s is not None else None,
        end_s=None if item.estimate_s is None else end_s,
    )

"""The state of a grid for scripts and agents: what `status --json` prints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestration.launching.overview import Overview
from orchestration.launching.status import CellStatus, sums
from orchestration.machine import clock
from orchestration.runs.states import CellState


@dataclass(frozen=True, slots=True)
class StatusCell:
    """The state of one cell."""

    signature: str
    cell: str
    """Its short name, by its axes."""
    state: CellState
    step: int
    num_steps: int | None
    epoch: int
    num_epochs: int | None
    miou: float | None
    """Of the newest epoch, a fraction."""
    best_miou: float | None
    """Of the best epoch so far, a fraction."""
    num_attempts: int
    job: str
    """Slurm's number of its newest job; empty if there is none."""
    node: str
    """Where its newest attempt trains or trained."""
    updated: float | None
    """When it wrote last, in seconds since 1970; null if never."""
    gpu_hours: float
    """What its attempts took; 0 without GPUs."""
    failure_class: str | None
    """How its newest attempt ended, if it failed."""
    note: str


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    """The state of every cell of a launched grid."""

    schema: Literal[1]
    command: Literal["status"]
    grid: str
    folder: str
    time: float
    """When this was looked at, in seconds since 1970."""
    is_open: bool
    """Whether a cell may still change without the user: also one that a controller may try again."""
    cells: list[StatusCell]
    counts: dict[CellState, int]
    gpu_hours_spent: float
    gpu_hours_left: float
    """Estimated; 0 without GPUs."""
    expected_end: float | None
    """About when the last open cell ends, in seconds since 1970; null if none is open."""
    notes: list[str]
    """Who has to act next, what waits in vain, and what could not be asked."""


def answer(grid_dir: Path, seen: Overview) -> StatusAnswer:
    """Put what `status` sees into the words of its schema."""
    now, total = clock.now(), sums(seen.rows)
    return StatusAnswer(
        schema=1,
        command="status",
        grid=grid_dir.name,
        folder=str(grid_dir),
        time=now,
        is_open=seen.is_open,
        cells=[_cell(row) for row in seen.rows],
        counts=total.counts,
        gpu_hours_spent=total.spent_h,
        gpu_hours_left=total.left_h,
        expected_end=None if total.end_s is None else now + total.end_s,
        notes=seen.notes,
    )


def _cell(row: CellStatus) -> StatusCell:
    state = row.state
    return StatusCell(
        signature=row.cell.signature,
        cell=row.cell.slug,
        state=row.standing,
        step=state.step,
        num_steps=state.num_steps or row.cell.num_steps,
        epoch=state.epoch,
        num_epochs=state.num_epochs,
        miou=state.miou,
        best_miou=state.best_miou,
        num_attempts=state.num_attempts,
        job=row.job,
        node=row.node,
        updated=state.updated or None,
        gpu_hours=row.gpu_s / 3600,
        failure_class=state.failure_class,
        note=row.note,
    )

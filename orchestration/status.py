"""How a cell stands, by its run folder first and squeue second; where the two disagree, that is said."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from orchestration.cells import Cell
from orchestration.plan import Plan, format_duration

if TYPE_CHECKING:
    from orchestration.run_folder import FolderState, RunFolder
    from orchestration.slurm_commands import QueuedJob


class Standing(StrEnum):
    """One word for a cell."""

    DONE = "done"
    RUNNING = "running"
    STARTING = "starting"
    WAITING = "waiting"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    LOST = "lost?"
    """Its run folder looks as if it ran, and no job is there."""
    NEW = "not submitted"
    UNKNOWN = "unknown"
    """It was submitted, and Slurm says nothing."""

    @property
    def is_open(self) -> bool:
        """Tell whether it may change by itself."""
        return self in (Standing.RUNNING, Standing.STARTING, Standing.WAITING, Standing.UNKNOWN)


@dataclass(frozen=True, slots=True)
class CellStatus:
    """A row of the status table."""

    signature: str
    name: str
    standing: Standing
    state: "FolderState"
    job: str = ""
    node: str = ""
    note: str = ""
    gpu_s: float = 0.0
    """GPU-seconds that its attempts took."""


def judge(cell: Cell, folder: "RunFolder", queued: "Mapping[str, QueuedJob] | None") -> CellStatus:
    """Judge a cell by its folder and by the jobs that Slurm has; None where Slurm says nothing."""
    state = folder.state()
    job = (queued or {}).get(folder.path.name)
    standing, note = _standing(state, job, knows=queued is not None)
    trainer = cell.config.execution.trainer
    num_gpus = 0 if trainer.device == "cpu" else trainer.num_workers
    return CellStatus(
        cell.signature,
        cell.slug,
        standing,
        state,
        job=job.job_id if job else "",
        node=(job.node if job else "") or state.host,
        note=note,
        gpu_s=num_gpus * folder.busy_s(),
    )


def _standing(state: "FolderState", job: "QueuedJob | None", *, knows: bool) -> tuple[Standing, str]:
    if state.status == "done":
        return Standing.DONE, f"job {job.job_id} is still {job.state.lower()}" if job else ""
    if job is not None and job.is_waiting:
        again = f", after {state.failure or state.status}" if state.status != "missing" else ""
        return Standing.WAITING, f"{job.reason}{again}"
    if job is not None:
        if state.status == "running":
            return Standing.RUNNING, ""
        return Standing.STARTING, f"job {job.state.lower()}, attempt {state.num_attempts} {state.status}"
    if state.status == "running":
        if not state.job:
            return Standing.RUNNING, ""
        return (Standing.LOST, f"job {state.job} is gone") if knows else (Standing.UNKNOWN, "wrote lately")
    if state.status == "missing":
        return (Standing.NEW, "") if knows else (Standing.UNKNOWN, "")
    return (Standing.FAILED if state.status == "failed" else Standing.INTERRUPTED), state.failure or ""


def to_rich(rows: Sequence[CellStatus]) -> Table:
    """Return the table."""
    table = Table(
        "signature", "cell", "state", "step", "mIoU", "tries", "job", "node", "written", "note", box=box.SIMPLE
    )
    for column in table.columns[:-1]:
        column.no_wrap = True
    for row in rows:
        state = row.state
        table.add_row(
            row.signature,
            row.name,
            row.standing,
            f"{state.step}/{state.num_steps or '?'}" if state.num_attempts else "",
            f"{100 * state.best_miou:.1f}" if state.best_miou is not None else "",
            str(state.num_attempts or ""),
            row.job,
            row.node,
            f"{format_duration(time.time() - state.updated)} ago" if state.updated else "",
            row.note,
        )
    return table


def totals(rows: Sequence[CellStatus], planned: Plan) -> list[str]:
    """Return the lines below the table: counts, GPU-hours spent and left, and about when the last cell ends."""
    counts = Counter(row.standing for row in rows)
    lines = [f"{len(rows)} cells: " + ", ".join(f"{counts[word]} {word}" for word in Standing if counts[word])]
    spent = sum(row.gpu_s for row in rows) / 3600
    if spent or planned.gpu_hours:
        lines.append(f"GPU-hours: {spent:.1f} spent, about {planned.gpu_hours:.1f} left")
    num_open = sum(row.standing.is_open for row in rows)
    if num_open:
        at_once = max(1, counts[Standing.RUNNING])
        left_s = replace(planned, max_concurrent=at_once).makespan_s
        lines.append(f"about {format_duration(left_s)} left with {at_once} at a time")
    return lines

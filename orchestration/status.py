"""How a cell stands, by its run folder first, squeue second and sacct third; where they disagree, that is said."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from orchestration import unpredicted
from orchestration.cells import from_yaml
from orchestration.damage import DamagedFileError
from orchestration.failures import is_tried_again
from orchestration.paces import of_finished
from orchestration.plan import format_amount, format_duration, makespan

if TYPE_CHECKING:
    from orchestration.index import IndexedCell
    from orchestration.on_slurm.commands import EndedJob, Job, QueuedJob
    from orchestration.run_folder import FolderState, RunFolder


class Standing(StrEnum):
    """One word for a cell."""

    DONE = "done"
    RUNNING = "running"
    STARTING = "starting"
    WAITING = "waiting"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    LOST = "lost?"
    """It was submitted, and no job is there, nor a word of its end."""
    DAMAGED = "damaged"
    """A file of it cannot be read."""
    NEW = "not submitted"
    UNKNOWN = "unknown"
    """It was submitted, and Slurm says nothing; or its folder cannot be read for now."""

    @property
    def is_open(self) -> bool:
        """Tell whether it may change by itself."""
        return self in (Standing.RUNNING, Standing.STARTING, Standing.WAITING, Standing.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Slurm:
    """What Slurm says of a grid; an empty one of a grid that it never had."""

    submitted: "Mapping[str, Job]"
    """The newest job of each cell's folder."""
    queued: "Mapping[str, QueuedJob] | None"
    """By the names of the cells' folders; None where squeue says nothing."""
    ended: "Mapping[Job, tuple[EndedJob, ...]] | None"
    """By job; None where there is no accounting."""

    def word_of(self, job: "Job | None") -> str:
        """Return what accounting says of a job that is gone."""
        if self.ended is None:
            return "there is no accounting"
        ends = self.ended.get(job) if job else None
        return f"Slurm says {ends[-1].state}, exit code {ends[-1].exit_code}" if ends else "accounting does not know it"


@dataclass(frozen=True, slots=True)
class CellStatus:
    """A row of the status table."""

    cell: "IndexedCell"
    standing: Standing
    state: "FolderState"
    job: str = ""
    node: str = ""
    note: str = ""
    gpu_s: float = 0.0
    """GPU-seconds that its attempts took."""


def judge(cell: "IndexedCell", folder: "RunFolder", slurm: Slurm, waits: str = "") -> CellStatus:
    """Judge a cell by its folder, by what Slurm says, and by what it waits for in a launch that is at work."""
    state = folder.state()
    job = (slurm.queued or {}).get(folder.path.name)
    standing, note = _standing(state, job, slurm, folder.path.name)
    if waits and job is None and state.status in ("missing", "interrupted", "failed"):
        after = "" if state.status == "missing" else f", after {state.failure or state.status}"
        standing, note = Standing.WAITING, f"{waits}{after}"
    if state.unpredicted:
        note = "; ".join(filter(None, (note, unpredicted.in_words(state.unpredicted, _class_names(folder)))))
    is_known = cell.num_gpus and state.status != "unreadable"
    busy_s = state.duration_s if state.status == "done" else folder.busy_s() if is_known else 0.0
    node = (job.node if job else "") or state.host
    return CellStatus(cell, standing, state, str(job.job) if job else "", node, note, cell.num_gpus * busy_s)


def _class_names(folder: "RunFolder") -> list[str]:
    try:
        return from_yaml(folder.config()).execution.class_names
    except (DamagedFileError, OSError, ValueError):
        return []  # their numbers do


def _standing(state: "FolderState", job: "QueuedJob | None", slurm: Slurm, name: str) -> tuple[Standing, str]:
    if state.status == "unreadable" and job is None:
        return Standing.UNKNOWN, state.damage
    if state.damage and not (job or state.status == "running"):
        return Standing.DAMAGED, state.damage
    if state.status == "done":
        return Standing.DONE, f"job {job.job} is still {job.state.lower()}" if job else ""
    if job is not None and job.is_waiting:
        again = f", after {state.failure or state.status}" if state.status != "missing" else ""
        return Standing.WAITING, f"{job.reason}{again}"
    if job is not None:
        if state.status == "running":
            return Standing.RUNNING, ""
        return Standing.STARTING, f"job {job.state.lower()}, attempt {state.num_attempts} {state.status}"
    if state.status in ("running", "missing"):
        return _without_a_job(state, slurm, slurm.submitted.get(name))
    return (Standing.FAILED if state.status == "failed" else Standing.INTERRUPTED), state.failure or ""


def _without_a_job(state: "FolderState", slurm: Slurm, submitted: "Job | None") -> tuple[Standing, str]:
    if state.status == "running" and not state.job:
        return Standing.RUNNING, ""
    if slurm.queued is None:
        return Standing.UNKNOWN, "wrote lately" if state.status == "running" else ""
    if state.status == "running":
        own = submitted if submitted and submitted.number == state.job else None
        return Standing.LOST, f"job {state.job} is gone; {slurm.word_of(own)}"
    if not submitted:
        return Standing.NEW, ""
    return Standing.LOST, f"job {submitted} is gone and never began; {slurm.word_of(submitted)}"


def to_lines(rows: Sequence[CellStatus]) -> list[str]:
    """Return the table, notes last."""
    head = ("signature", "cell", "state", "step", "mIoU", "tries", "job", "node", "written", "note")
    now = time.time()
    table = [head, *(_row(row, now) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _row(row: CellStatus, now: float) -> tuple[str, ...]:
    state = row.state
    return (
        row.cell.signature,
        row.cell.slug,
        row.standing,
        f"{state.step}/{state.num_steps or row.cell.num_steps or '?'}" if state.num_attempts else "",
        f"{100 * state.best_miou:.1f}" if state.best_miou is not None else "",
        str(state.num_attempts or ""),
        row.job,
        row.node,
        f"{format_duration(now - state.updated)} ago" if state.updated else "",
        row.note,
    )


def totals(rows: Sequence[CellStatus]) -> list[str]:
    """Return the lines below the table: counts, GPU-hours spent and left, and about when the last cell ends."""
    counts = Counter(row.standing for row in rows)
    lines = [f"{len(rows)} cells: " + ", ".join(f"{counts[word]} {word}" for word in Standing if counts[word])]
    left = _left_s(rows)
    spent_h = sum(row.gpu_s for row in rows) / 3600
    left_h = sum(row.cell.num_gpus * left_s for row, left_s in zip(rows, left, strict=True)) / 3600
    if spent_h or left_h:
        lines.append(f"GPU-hours: {format_amount(spent_h)} spent, about {format_amount(left_h)} left")
    if any(row.state.unpredicted for row in rows):
        lines.append(f"where a class is almost never predicted, {unpredicted.ADVICE}")
    if any(row.standing.is_open for row in rows):
        at_once = max(1, counts[Standing.RUNNING])
        left_s = makespan(left, at_once)
        end = datetime.fromtimestamp(time.time() + left_s).strftime("%Y-%m-%d %H:%M")
        lines.append(f"expected end: about {end}, {format_duration(left_s)} from now, with {at_once} at a time")
    return lines


def _left_s(rows: Sequence[CellStatus]) -> list[float]:
    """Return roughly the seconds that each cell still needs, at the pace of those that are done where some are."""
    paces: dict[str, list[float]] = {}
    for row in rows:
        if pace := of_finished(row.state, "cuda" if row.cell.num_gpus else "cpu"):
            paces.setdefault(row.cell.method, []).append(pace)
    measured = {method: sum(found) / len(found) for method, found in paces.items()}
    return [_left_of(row, measured) for row in rows]


def _left_of(row: CellStatus, measured: Mapping[str, float]) -> float:
    has_ended = row.standing in (Standing.FAILED, Standing.INTERRUPTED)
    is_over = has_ended and not is_tried_again(row.state.failure_class)
    is_over = is_over or row.state.status == "damaged"
    if row.standing is Standing.DONE or is_over or not row.cell.num_steps:
        return 0.0
    return max(0, row.cell.num_steps - row.state.step) * measured.get(row.cell.method, row.cell.seconds_per_step or 0.0)

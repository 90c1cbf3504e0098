"""The state of a cell: by its run folder first, squeue second and sacct third; a note says where they disagree."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from orchestration.grids.cells import from_yaml
from orchestration.launching import elsewhere
from orchestration.machine import clock
from orchestration.machine.counts import counted
from orchestration.machine.damage import DamagedFileError
from orchestration.on_slurm.queue_state import state_of
from orchestration.planning.order import makespan
from orchestration.planning.paces import of_finished
from orchestration.planning.plan import format_amount, format_duration
from orchestration.runs import gpu_idle, readable, steps_left_out, unpredicted
from orchestration.runs.failures import is_tried_again
from orchestration.runs.states import READ, CellState, FolderStatus, JobState, joined

if TYPE_CHECKING:
    from orchestration.grids.index import IndexedCell
    from orchestration.on_slurm.commands import EndedJob, Job, QueuedJob
    from orchestration.runs.run_folder import FolderState, RunFolder


_AT_REST = (CellState.NEW, CellState.INTERRUPTED, CellState.FAILED)


@dataclass(frozen=True, slots=True)
class Slurm:
    """What Slurm says of a grid; empty for a grid that it never had."""

    submitted: "Mapping[str, Job]"
    """The newest job of each cell's folder."""
    queued: "Mapping[str, QueuedJob] | None"
    """By the names of the cells' folders; None where squeue says nothing."""
    ended: "Mapping[Job, tuple[EndedJob, ...]] | None"
    """By job; None where there is no accounting."""
    larger: "Mapping[str, str]" = field(default_factory=dict)
    """What the newest jobs of cells asked for beyond what their site says, by the names of the cells' folders."""
    heads: "Collection[Job]" = ()
    """The jobs that are heads of pilots, which have many cells."""
    cancelled: "Collection[str]" = ()
    """The names of the folders of cells that somebody cancelled by name since they were submitted last."""

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
    standing: CellState
    state: "FolderState"
    job: str = ""
    node: str = ""
    note: str = ""
    gpu_s: float = 0.0
    """GPU-seconds that its attempts took."""
    idle_s: float = 0.0
    """For how long its GPU has done nothing."""

    @property
    def is_left_out(self) -> bool:
        """Whether nobody trains it because it would end later than its launch was to."""
        return bool(self.cell.left_out) and self.standing in _AT_REST


def judge(cell: "IndexedCell", folder: "RunFolder", slurm: Slurm, waits: str = "") -> CellStatus:
    """Return a cell's row by its folder, by what Slurm says, and by what it waits for in a launch at work."""
    state = folder.state()
    job = (slurm.queued or {}).get(folder.path.name)
    if waits and job is None and state.status in (CellState.MISSING, CellState.INTERRUPTED, CellState.FAILED):
        standing, note = joined(state.status, JobState.PENDING), f"{waits}{_after(state)}"
    else:
        harmed = bool(state.damage) and state.status not in (CellState.RUNNING, CellState.UNREADABLE)
        said: FolderStatus = CellState.DAMAGED if harmed else state.status
        is_of_other = job is None and elsewhere.is_trained(state, folder.grid.name)
        standing = joined(said, None if is_of_other else _job_state(state, job, slurm, folder.path.name))
        note = f"for grid {state.grid}" if is_of_other else _note(standing, state, job, slurm, folder.path.name)
    if cell.left_out and standing in _AT_REST:
        note = "; ".join(filter(None, (note, f"left out: {cell.left_out}")))
    trains = standing is CellState.RUNNING and cell.num_gpus
    idle_s = readable.of(folder, gpu_idle.of_cell, 0.0) if trains else 0.0
    idle = gpu_idle.in_words(idle_s) if idle_s else ""
    step = steps_left_out.in_words(state.steps_left_out) if state.steps_left_out else ""
    note = "; ".join(filter(None, (note, idle, slurm.larger.get(folder.path.name, ""), step)))
    if state.unpredicted:
        note = "; ".join(filter(None, (note, unpredicted.in_words(state.unpredicted, _class_names(folder)))))
    counts = cell.num_gpus and state.status is not CellState.DONE
    busy_s = readable.of(folder, lambda one: one.busy_s(), 0.0) if counts else state.duration_s
    node = (job.node if job else "") or state.host
    return CellStatus(cell, standing, state, str(job.job) if job else "", node, note, cell.num_gpus * busy_s, idle_s)


def _class_names(folder: "RunFolder") -> list[str]:
    try:
        return from_yaml(folder.config()).execution.class_names
    except (DamagedFileError, OSError, ValueError):
        return []  # their numbers do


def _job_state(state: "FolderState", job: "QueuedJob | None", slurm: Slurm, name: str) -> JobState | None:
    """Return what Slurm says of the newest job of a cell; None if it has none, or trains on this machine."""
    if job is not None:
        return state_of(job)
    is_expected = name in slurm.submitted and name not in slurm.cancelled
    is_of_slurm = state.job if state.status is CellState.RUNNING else is_expected
    if slurm.queued is None:
        return JobState.SILENT if is_of_slurm or state.status is CellState.MISSING else None
    return JobState.GONE if is_of_slurm else None


def _note(standing: CellState, state: "FolderState", job: "QueuedJob | None", slurm: Slurm, name: str) -> str:
    """Return why a cell is in its state, where the state alone does not say it."""
    if job is not None:
        return _note_of_job(standing, state, job)
    if standing is CellState.LOST:
        return _note_of_lost(state, slurm, slurm.submitted.get(name))
    if standing is CellState.UNKNOWN and state.status is CellState.RUNNING:
        return "wrote lately"
    if standing in (CellState.DAMAGED, CellState.UNKNOWN):
        return state.damage
    return (state.failure or "") if standing in (CellState.FAILED, CellState.INTERRUPTED) else ""


def _note_of_job(standing: CellState, state: "FolderState", job: "QueuedJob") -> str:
    if standing is CellState.DONE:
        return f"job {job.job} is still {job.state.lower()}"
    if standing is CellState.WAITING:
        return f"{job.reason}{_after(state)}"
    is_starting = standing is CellState.STARTING
    return f"job {job.state.lower()}, attempt {state.num_attempts} {state.status}" if is_starting else ""


def _note_of_lost(state: "FolderState", slurm: Slurm, submitted: "Job | None") -> str:
    if state.status is CellState.RUNNING:
        own = submitted if submitted and submitted.number == state.job else None
        return f"job {state.job} is gone; {slurm.word_of(own)}"
    is_head = submitted in slurm.heads
    what = "of the pilot's head is gone and did not come to it" if is_head else "is gone and never began"
    return f"job {submitted} {what}; {slurm.word_of(submitted)}"


def _after(state: "FolderState") -> str:
    return "" if state.status is CellState.MISSING else f", after {state.failure or state.status}"


def to_lines(rows: Sequence[CellStatus]) -> list[str]:
    """Return the table, notes last."""
    head = ("signature", "cell", "state", "step", "mIoU", "tries", "job", "node", "written", "note")
    now = clock.now()
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


@dataclass(frozen=True, slots=True)
class Sums:
    """What the cells of a grid make together."""

    counts: dict[CellState, int]
    """In the order in which a user reads them."""
    spent_h: float
    """GPU-hours."""
    left_h: float
    """Estimated GPU-hours."""
    at_once: int
    """How many cells run at a time."""
    end_s: float | None
    """Estimated seconds until the last cell ends; None if none is open."""


def sums(rows: Sequence[CellStatus]) -> Sums:
    """Count the cells, and add up what they took and need."""
    counts, left = Counter(row.standing for row in rows), _left_s(rows)
    at_once = max(1, counts[CellState.RUNNING])
    return Sums(
        counts={word: counts[word] for word in READ if counts[word]},
        spent_h=sum(row.gpu_s for row in rows) / 3600,
        left_h=sum(row.cell.num_gpus * left_s for row, left_s in zip(rows, left, strict=True)) / 3600,
        at_once=at_once,
        end_s=makespan(_in_order(rows, left), at_once) if any(row.standing.is_open for row in rows) else None,
    )


def totals(rows: Sequence[CellStatus]) -> list[str]:
    """Return the lines below the table: counts, GPU-hours spent and left, and about when the last cell ends."""
    total = sums(rows)
    lines = [f"{counted(len(rows), 'cell')}: " + ", ".join(f"{count} {word}" for word, count in total.counts.items())]
    if total.spent_h or total.left_h:
        lines.append(f"GPU-hours: {format_amount(total.spent_h)} spent, about {format_amount(total.left_h)} left")
    if any(row.state.unpredicted for row in rows):
        lines.append(f"where a class is almost never predicted, {unpredicted.ADVICE}")
    if any(row.idle_s for row in rows):
        lines.append(f"where a GPU idles, {gpu_idle.ADVICE}")
    if total.end_s is not None:
        end = datetime.fromtimestamp(clock.now() + total.end_s).strftime("%Y-%m-%d %H:%M")
        in_all = f"{format_duration(total.end_s)} from now, with {total.at_once} at a time"
        lines.append(f"expected end: about {end}, {in_all}")
    return lines


def _in_order(rows: Sequence[CellStatus], left_s: Sequence[float]) -> list[float]:
    """Put what cells need into the order in which they start: those that run first, then as the plan has them."""
    pairs = zip(rows, left_s, strict=True)
    return [
        left
        for row, left in sorted(
            pairs, key=lambda pair: (pair[0].standing is not CellState.RUNNING, pair[0].cell.round, -pair[1])
        )
    ]


def _left_s(rows: Sequence[CellStatus]) -> list[float]:
    """Estimate roughly the seconds that each cell still needs, at the pace of the finished ones if there are any."""
    paces: dict[str, list[float]] = {}
    for row in rows:
        if pace := of_finished(row.state, "cuda" if row.cell.num_gpus else "cpu"):
            paces.setdefault(row.cell.method, []).append(pace)
    measured = {method: sum(found) / len(found) for method, found in paces.items()}
    return [_left_of(row, measured) for row in rows]


def _left_of(row: CellStatus, measured: Mapping[str, float]) -> float:
    has_ended = row.standing in (CellState.FAILED, CellState.INTERRUPTED)
    is_over = has_ended and not is_tried_again(row.state.failure_class)
    is_over = is_over or row.state.status is CellState.DAMAGED
    if row.standing is CellState.DONE or is_over or row.is_left_out or not row.cell.num_steps:
        return 0.0
    return max(0, row.cell.num_steps - row.state.step) * measured.get(row.cell.method, row.cell.seconds_per_step or 0.0)

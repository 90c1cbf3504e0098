"""The progress of a launch: on a terminal a table that is redrawn, elsewhere a line a minute for a cell."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestration.launching.live_table import BAR, Redrawn, Steps, fitted, short
from orchestration.machine import announce
from orchestration.machine.announce import LINE_S
from orchestration.planning.order import makespan
from orchestration.planning.plan import Item, format_duration
from orchestration.runs import unpredicted
from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import FolderState
from orchestration.runs.states import CellState

_ALL = ""
_COLUMNS = ("cell", "steps", "epoch", "mIoU", "best", "left", "node")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The states of a launch's jobs at one moment."""

    items: Sequence[Item]
    """The cells of the launch, in the order in which they start."""
    jobs: Mapping[str, JobState]
    """By signature, as `folders` is."""
    folders: Mapping[str, FolderState]
    """By signature."""
    num_concurrent: int
    elapsed_s: float

    def job(self, item: Item) -> JobState:
        """Return the state of a cell's job."""
        return self.jobs.get(item.cell.signature, JobState.PENDING)

    @property
    def num_ended(self) -> int:
        """How many cells have ended for this launch."""
        return sum(self.job(item).has_ended for item in self.items)


class Pace:
    """Learns from the finished epochs how long the rest takes."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[float, int]] = {}
        self._steps_per_s: dict[str, float] = {}

    def observe(self, snapshot: Snapshot) -> None:
        """Note how far every running cell is."""
        for item in snapshot.items:
            state = snapshot.folders.get(item.cell.signature)
            if state is None or state.status not in (CellState.RUNNING, CellState.DONE):
                continue
            began, first_step = self._begun.setdefault(item.cell.signature, (snapshot.elapsed_s, state.step))
            passed = snapshot.elapsed_s - began
            if state.step > first_step and passed > 0 and state.status is CellState.RUNNING:
                self._steps_per_s[_method(item)] = (state.step - first_step) / passed

    def left_s(self, item: Item, snapshot: Snapshot) -> float:
        """Estimate roughly the seconds that a cell still needs once it runs."""
        if snapshot.job(item).has_ended:
            return 0.0
        state = snapshot.folders.get(item.cell.signature)
        steps = (item.num_steps or 0) - (state.step if state else 0)
        speed = self._steps_per_s.get(_method(item))
        return steps / speed if speed else item.estimate_s or 0.0

    def all_left_s(self, snapshot: Snapshot) -> float:
        """Estimate roughly the seconds until the last cell ends."""
        begun = sorted(snapshot.items, key=lambda item: snapshot.job(item) is JobState.PENDING)
        return makespan([self.left_s(item, snapshot) for item in begun], snapshot.num_concurrent)


class Progress(Redrawn):
    """Shows snapshots on a console."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, transient=True)
        self._pace = Pace()
        self._said = {_ALL: 0.0}
        """When the last line about a cell was printed, and one about all, in seconds since the launch began."""
        self._warned: set[str] = set()
        self._told: dict[str, JobState] = {}
        self._attempts: dict[str, int] = {}
        """How many each cell had when the launch began, or when the last warning about failures was shown."""

    def show(self, snapshot: Snapshot) -> None:
        """Show a snapshot."""
        self._pace.observe(snapshot)
        self._print_news(snapshot)
        if self._live:
            self._live.update(self._drawn(snapshot), refresh=True)

    def _print_news(self, snapshot: Snapshot) -> None:
        for item in snapshot.items:
            state, job = snapshot.folders.get(item.cell.signature), snapshot.job(item)
            known = self._attempts.setdefault(item.cell.signature, state.num_attempts if state else 0)
            if job is JobState.RUNNING and not self._live and self._is_due(item.cell.signature, snapshot):
                self._print(snapshot, item, self._how_it_goes(item, state, snapshot))
            if state and state.unpredicted and item.cell.signature not in self._warned:
                self._warn(snapshot, item, state)
            if job.has_ended and self._told.get(item.cell.signature) is not job:
                self._told[item.cell.signature] = job
                self._print(snapshot, item, _ending(job, state))
            elif job is JobState.PENDING and state and state.num_attempts > known and state.failure:
                self._attempts[item.cell.signature] = state.num_attempts
                self._print(snapshot, item, f"is tried again: {state.failure}")

        if not self._live and self._is_due(_ALL, snapshot):
            running = sum(snapshot.job(item) is JobState.RUNNING for item in snapshot.items)
            self._say(snapshot, "all cells", f"{running or 'none'} running now{self._left(snapshot)}")

    def _warn(self, snapshot: Snapshot, item: Item, state: FolderState) -> None:
        """Warn once about a cell that never predicts some class; the first warning says what to look at."""
        words = unpredicted.in_words(state.unpredicted, item.cell.config.execution.class_names)
        advice = "" if self._warned else f"; {unpredicted.ADVICE}"
        self._warned.add(item.cell.signature)
        self._say(snapshot, item.cell.slug, f"warning: at epoch {state.epoch}/{state.num_epochs} it {words}{advice}")

    def _is_due(self, key: str, snapshot: Snapshot) -> bool:
        """Return whether nothing was printed for a while, about a cell or at all."""
        return key not in self._said or snapshot.elapsed_s - self._said[key] >= LINE_S

    def _how_it_goes(self, item: Item, state: FolderState | None, snapshot: Snapshot) -> str:
        if state and state.epoch:
            return f"epoch {_epoch(state)}  {_miou(state)}{self._left(snapshot)}"
        if item.cell.signature not in self._said:
            return "begins"
        step = f", at step {state.step}/{item.num_steps}" if state and state.step else ""
        return f"in its first epoch{step}{self._left(snapshot)}"

    def _print(self, snapshot: Snapshot, item: Item, text: str) -> None:
        self._said[item.cell.signature] = snapshot.elapsed_s
        self._say(snapshot, item.cell.slug, text)

    def _say(self, snapshot: Snapshot, what: str, text: str) -> None:
        self._said[_ALL] = snapshot.elapsed_s
        clock = time.strftime("%M:%S", time.gmtime(snapshot.elapsed_s % 3600))
        hours = f"{int(snapshot.elapsed_s // 3600)}:" if snapshot.elapsed_s >= 3600 else ""
        line = f"{hours}{clock}  {what:<28} {text}"
        announce.say(self._console, line)

    def _left(self, snapshot: Snapshot) -> str:
        left = format_duration(self._pace.all_left_s(snapshot))
        return f"  {snapshot.num_ended}/{len(snapshot.items)} cells, about {left} left"

    def _drawn(self, snapshot: Snapshot) -> Group:
        running = [item for item in snapshot.items if snapshot.job(item) is JobState.RUNNING]
        table = fitted(_COLUMNS, [self._words(item, snapshot) for item in running], self._console.width)
        every = ProgressBar(total=max(1, len(snapshot.items)), completed=snapshot.num_ended, width=2 * BAR)
        head = Table.grid(padding=(0, 1))
        head.add_row(every, Text(self._left(snapshot).strip()))
        return Group(head, table)

    def _words(self, item: Item, snapshot: Snapshot) -> tuple[str | Steps, ...]:
        state = snapshot.folders.get(item.cell.signature, FolderState(CellState.MISSING))
        left = format_duration(self._pace.left_s(item, snapshot))
        numbers = (_epoch(state), _percent(state.miou), _percent(state.best_miou), left)
        return item.cell.slug, Steps(state.step, item.num_steps or 1), *numbers, short(state.host)


def _method(item: Item) -> str:
    return item.cell.config.numerics.method.name


def _epoch(state: FolderState) -> str:
    return f"{state.epoch}/{state.num_epochs}" if state.num_epochs else "starting"


def _miou(state: FolderState) -> str:
    return f"mIoU {_percent(state.miou)} (best {_percent(state.best_miou)})"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def _ending(job: JobState, state: FolderState | None) -> str:
    if job is JobState.DONE and state:
        return f"done  {_miou(state)}"
    if job is JobState.FAILED and state and state.failure:
        return f"failed: {state.failure}"
    return f"{job}: {state.failure}" if state and state.failure else str(job)

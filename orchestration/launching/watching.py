"""A watched grid: on a terminal a table that is redrawn, elsewhere the table once, then the changes."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, ConsoleDimensions, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestration.launching import overview
from orchestration.launching.live_table import Redrawn, Steps, fitted, short
from orchestration.launching.overview import Overview
from orchestration.launching.status import CellStatus
from orchestration.machine import announce, clock
from orchestration.machine.announce import LINE_S
from orchestration.runs.patience import passes
from orchestration.runs.states import CellState

_COLUMNS = ("cell", "state", "steps", "epoch", "mIoU", "best", "node", "note")
_FIRST = (
    CellState.RUNNING,
    CellState.STARTING,
    CellState.FAILED,
    CellState.DAMAGED,
    CellState.LOST,
    CellState.INTERRUPTED,
    CellState.UNKNOWN,
    CellState.WAITING,
    CellState.NEW,
    CellState.DONE,
)
"""What a terminal that cannot hold all cells shows first."""
_LINES_ROUND_THE_TABLE = 3


class Watched(Redrawn):
    """Shows a grid again and again while it is open."""

    def __init__(self, console: Console, clock: Callable[[], float] = clock.monotonic) -> None:
        super().__init__(console, transient=False)
        self._clock = clock
        self._told: dict[str, tuple[float, tuple[object, ...]]] = {}
        """By signature, when a line about a cell was printed, and what it said."""
        self._summed = 0.0

    def look(self, grid_dir: Path) -> Overview | None:
        """Show a grid's state now, and return it; None, which is said, while a file server is away."""
        try:
            seen = overview.of_grid(grid_dir)
        except OSError as error:
            if not passes(error):
                raise
            self._say(f"{grid_dir.name} cannot be looked at for now: {error}")
            return None
        self.show(seen)
        return seen

    def show(self, seen: Overview) -> None:
        """Show its state now."""
        if self._live:
            below = seen.lines[len(seen.rows) + 1 :]
            self._live.update(drawn(seen.rows, below, self._console.size), refresh=True)
            return
        now = self._clock()
        if not self._told:
            self._console.out("\n".join(seen.lines), highlight=False)
            self._told, self._summed = {row.cell.signature: (now, _said(row)) for row in seen.rows}, now
            return
        changed = [row for row in seen.rows if self._is_due(row, now)]
        for row in changed:
            self._told[row.cell.signature] = now, _said(row)
            self._say(f"{row.cell.slug:<28} {_in_words(row)}")
        if changed and (now - self._summed >= LINE_S or not seen.is_open):
            self._summed = now
            for line in seen.lines[len(seen.rows) + 1 :]:
                self._say(line)

    def _is_due(self, row: CellStatus, now: float) -> bool:
        when, said = self._told.get(row.cell.signature, (-LINE_S, ()))
        return said != _said(row) and (now - when >= LINE_S or not row.standing.is_open)

    def _say(self, text: str) -> None:
        announce.say(self._console, f"{clock.local():%H:%M:%S}  {text}")


def drawn(rows: Sequence[CellStatus], below: Sequence[str], size: ConsoleDimensions) -> Group:
    """Return the table of cells as large as the terminal, below a bar of finished cells."""
    room = max(3, size.height - len(below) - _LINES_ROUND_THE_TABLE - 1)
    ordered = sorted(rows, key=lambda row: _FIRST.index(row.standing))
    shown = ordered if len(ordered) <= room else ordered[: room - 1]
    table = fitted(_COLUMNS, [_words(row) for row in shown], size.width)
    done = sum(row.standing is CellState.DONE for row in rows)
    head = Table.grid(padding=(0, 1))
    head.add_row(ProgressBar(total=max(1, len(rows)), completed=done, width=40), Text(f"{done}/{len(rows)} cells done"))
    left_out = [Text(f"and {len(ordered) - len(shown)} cells more")] if len(shown) < len(ordered) else []
    return Group(head, table, *left_out, *map(Text, below))


def _words(row: CellStatus) -> tuple[str | Steps, ...]:
    state = row.state
    total = state.num_steps or row.cell.num_steps or 0
    epoch = f"{state.epoch}/{state.num_epochs}" if state.num_epochs else ""
    numbers = (epoch, _percent(state.miou), _percent(state.best_miou))
    steps = Steps(state.step, total) if total else ""
    return row.cell.slug, str(row.standing), steps, *numbers, short(row.node), row.note


def _said(row: CellStatus) -> tuple[object, ...]:
    return row.standing, row.state.step, row.state.best_miou, row.node, row.note


def _in_words(row: CellStatus) -> str:
    state = row.state
    epoch = f"epoch {state.epoch}/{state.num_epochs}" if state.num_epochs else ""
    best = f"best mIoU {_percent(state.best_miou)}" if state.best_miou is not None else ""
    return "  ".join(filter(None, (str(row.standing), epoch, best, row.node, row.note)))


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.1f}"

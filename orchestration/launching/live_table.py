"""A table that is redrawn, as wide as the terminal: numbers stay whole, long names and bars give way."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

BAR = 16
"""Characters of a bar where there is room."""
_GAP = 2
_GIVES_WAY = (
    ("note", 12),
    ("node", 8),
    ("steps", 8),
    ("cell", 20),
    ("note", 0),
    ("node", 0),
    ("steps", 0),
    ("cell", 8),
)
"""Which column shrinks next, and to what; one of no width is left out. A column that is not named never shrinks."""
_LEFT = ("cell", "state", "steps", "node", "note")


@dataclass(frozen=True, slots=True)
class Steps:
    """How far a cell has come, drawn as a bar."""

    done: int
    total: int


class Redrawn:
    """What is redrawn in place while it is entered, if the console is a terminal."""

    def __init__(self, console: Console, *, transient: bool) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=transient) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()


def fitted(columns: Sequence[str], rows: Sequence[Sequence[str | Steps]], width: int) -> Table:
    """Return a table that is no wider than a terminal as long as its numbers fit."""
    widths = {name: max([len(name), *(_width(row[place]) for row in rows)]) for place, name in enumerate(columns)}
    for name, least in _GIVES_WAY:
        excess = sum(widths.values()) + _GAP * (len(widths) - 1) - width
        if excess > 0 and widths.get(name, 0) > least:
            widths[name] = max(least, widths[name] - excess)
        if not widths.get(name, 1):
            del widths[name]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for name in widths:
        table.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True, width=widths[name])
    for row in rows:
        values = zip(columns, row, strict=True)
        table.add_row(*(_drawn(name, one, widths[name]) for name, one in values if name in widths))
    return table


def short(node: str) -> str:
    """Leave out the domain of a host's name; an address has none."""
    name = node.partition(".")[0]
    return node if name.isdigit() else name


def _width(value: str | Steps) -> int:
    return BAR if isinstance(value, Steps) else Text(value).cell_len


def _drawn(name: str, value: str | Steps, width: int) -> ProgressBar | Text:
    if isinstance(value, str):
        return Text(_without_middle(value, width) if name == "cell" else value, overflow="ellipsis")
    total = max(1, value.total)
    return ProgressBar(total=total, completed=min(value.done, total), width=width)


def _without_middle(text: str, width: int) -> str:
    """Cut a text where names of cells are most alike: they begin with the method and end with the seed."""
    if len(text) <= width:
        return text
    tail = width // 2
    return f"{text[: width - tail - 1]}…{text[len(text) - tail :]}"

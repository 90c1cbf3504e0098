"""Records -> a table of mean and spread: for the terminal, Markdown and CSV. Percentages with one decimal."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rich.table import Table as RichTable
from rich.text import Text

from orchestration.estimates import Estimate, estimate

METRICS = {"best_miou": "best epoch", "last_miou": "last epoch"}
DASH = "—"
Key = tuple[str, ...]
Record = Mapping[str, Any]


class Layout(Protocol):
    """Where each axis stands, as `grid.TableLayout` has it."""

    @property
    def rows(self) -> list[str]:
        """Axes that tell rows apart."""

    @property
    def columns(self) -> list[str]:
        """Axes that tell columns apart."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands in one place of a table."""

    estimate: Estimate | None
    """None while no cell of the entry is done."""
    expected: int
    """How many cells there are to the entry."""
    is_best: bool = False
    """No mean of the column is higher."""
    difference: float | None = None
    """To the mean of the baseline in its column; None for the baseline itself."""


@dataclass(frozen=True, slots=True)
class Table:
    """Entries by row and column, in the order of the records; a place without cells has none."""

    metric: str
    row_axes: list[str]
    column_axes: list[str]
    rows: list[Key]
    columns: list[Key]
    entries: dict[tuple[Key, Key], Entry]
    baseline: dict[str, str]

    @property
    def header(self) -> list[str]:
        """The titles: an axis each for what names a row, then the columns."""
        columns = [", ".join(map("=".join, zip(self.column_axes, key, strict=True))) for key in self.columns]
        return [*(self.row_axes or [""]), *(text or "mIoU" for text in columns)]


def build(
    records: Sequence[Record],
    layout: Layout,
    metric: str = "best_miou",
    baseline: Mapping[str, str] | None = None,
) -> Table:
    """Arrange the records' fractions: mean and spread over all that share a row and a column.

    Args:
        records: One for each cell, with its axes as text and `metric`, which is None before the cell is done.
        layout: Axes of rows and columns.
        metric: `best_miou` or `last_miou`.
        baseline: Axis values that turn an entry into the one that it is compared with.

    Raises:
        ValueError: The metric is another one.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}; got {metric!r}")
    values: dict[tuple[Key, Key], list[float | None]] = {}
    for record in records:
        place = _key(record, layout.rows), _key(record, layout.columns)
        values.setdefault(place, []).append(record[metric])
    estimates = {place: _estimate(found) for place, found in values.items()}
    best = _best_means(estimates)
    axes = [*layout.rows, *layout.columns]
    entries = {
        (row, column): Entry(
            estimate=made,
            expected=len(values[row, column]),
            is_best=made is not None and made.mean == best[column],
            difference=_difference(made, (row, column), axes, estimates, baseline or {}),
        )
        for (row, column), made in estimates.items()
    }
    rows, columns = (list(dict.fromkeys(place[i] for place in entries)) for i in (0, 1))
    return Table(metric, list(layout.rows), list(layout.columns), rows, columns, entries, dict(baseline or {}))


def to_rich(table: Table) -> RichTable:
    """Draw the table for a terminal, the best of a column in bold and with a star, which survives a pipe."""
    drawn = RichTable()
    for title in table.header:
        drawn.add_column(Text(title))
    for row in table.rows:
        entries = [table.entries.get((row, column)) for column in table.columns]
        drawn.add_row(*map(Text, row or ("",)), *map(_starred, entries))
        if differences := _difference_line(table, row):
            drawn.add_row(*map(Text, differences), style="dim")
    return drawn


def note(table: Table) -> str:
    """Say what the numbers of a drawn table are."""
    return f"mIoU in %, {METRICS[table.metric]}: mean ± standard deviation (cells); * best of a column"


def _starred(entry: Entry | None) -> Text:
    text = _entry_text(entry)
    return Text(f"{text} *", "bold") if entry and entry.is_best else Text(text)


def to_markdown(table: Table) -> str:
    """Write the table as Markdown, the best of a column in bold."""
    header = table.header
    lines = [header, ["---"] * len(header)]
    for row in table.rows:
        entries = [table.entries.get((row, column)) for column in table.columns]
        texts = [f"**{_entry_text(entry)}**" if entry and entry.is_best else _entry_text(entry) for entry in entries]
        lines.append([*(row or ("",)), *texts])
        if differences := _difference_line(table, row):
            lines.append(differences)
    return "".join("| " + " | ".join(text.replace("|", r"\|") for text in line) + " |\n" for line in lines)


def to_csv(*tables: Table) -> str:
    """Write tables of the same axes as CSV, a line for each entry; percentages with four decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, table in enumerate(tables):
        if number == 0:
            numbers = ("mean_percent", "std_percent", "n", "expected", "best", "difference_percent")
            writer.writerow(["metric", *table.row_axes, *table.column_axes, *numbers])
        for row in table.rows:
            for column in table.columns:
                if entry := table.entries.get((row, column)):
                    writer.writerow([table.metric, *row, *column, *_csv_fields(entry)])
    return text.getvalue()


def _key(record: Record, axes: Sequence[str]) -> Key:
    return tuple(str(record[axis]) for axis in axes)


def _estimate(found: Sequence[float | None]) -> Estimate | None:
    known = [value for value in found if value is not None]
    return estimate(known) if known else None


def _best_means(estimates: Mapping[tuple[Key, Key], Estimate | None]) -> dict[Key, float]:
    best: dict[Key, float] = {}
    for (_, column), made in estimates.items():
        if made:
            best[column] = max(made.mean, best.get(column, made.mean))
    return best


def _difference(
    made: Estimate | None,
    place: tuple[Key, Key],
    axes: Sequence[str],
    estimates: Mapping[tuple[Key, Key], Estimate | None],
    baseline: Mapping[str, str],
) -> float | None:
    row, column = place
    named = [baseline.get(axis, text) for axis, text in zip(axes, row + column, strict=True)]
    other = tuple(named[: len(row)]), tuple(named[len(row) :])
    compared = estimates.get(other)
    return None if other == place or made is None or compared is None else made.mean - compared.mean


def _entry_text(entry: Entry | None) -> str:
    if entry is None or entry.estimate is None:
        return DASH
    mean, std, n = entry.estimate.mean, entry.estimate.std, entry.estimate.n
    spread = "" if std is None else f" ± {100 * std:.1f}"
    return (
        f"{100 * mean:.1f}{spread} ({n})"
        if n == entry.expected
        else f"{100 * mean:.1f}{spread} ({n} of {entry.expected})"
    )


def _difference_line(table: Table, row: Key) -> list[str]:
    """Write what a row gains on the baseline, a place for each column; nothing if there is nothing to compare."""
    found = [table.entries.get((row, column)) for column in table.columns]
    gains = [entry.difference if entry else None for entry in found]
    if all(gain is None for gain in gains):
        return []
    title = f"vs {', '.join(table.baseline.values())}"
    texts = ["" if gain is None else f"{_percent(gain, 1):+.1f}" for gain in gains]
    return [title, *[""] * (len(table.row_axes) - 1), *texts]


def _csv_fields(entry: Entry) -> list[str | int]:
    made = entry.estimate
    numbers = [made.mean, made.std] if made else [None, None]
    mean, std, difference = (
        "" if value is None else f"{_percent(value, 4):.4f}" for value in (*numbers, entry.difference)
    )
    return [mean, std, made.n if made else 0, entry.expected, int(entry.is_best), difference]


def _percent(fraction: float, digits: int) -> float:
    return round(100 * fraction, digits) + 0.0  # no -0.0

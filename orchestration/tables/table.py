"""Build a table from records: mean and spread, ranks, gains on a baseline, published figures, and doubtful entries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from orchestration.tables import comparisons, row_marks
from orchestration.tables.comparisons import Comparison
from orchestration.tables.consistency import odd_ones
from orchestration.tables.estimates import Estimate, estimate, interquartile_mean, probability_of_improvement

METRICS = {"best_miou": "best epoch", "last_miou": "last epoch"}
DASH = "—"
MIN_FOR_SECOND = 3
"""Mark a second best only among at least this many entries; of two it is just the other one."""
Key = tuple[str, ...]
Place = tuple[Key, Key]
Record = Mapping[str, Any]


class Layout(Protocol):
    """The place of each axis; see `layouts.Layout`."""

    @property
    def rows(self) -> list[str]:
        """Axes that make rows."""

    @property
    def columns(self) -> list[str]:
        """Axes that make columns."""

    @property
    def blocks(self) -> list[str]:
        """Axes with a group of columns for each value."""

    @property
    def over(self) -> list[str]:
        """Axes over which a place gives mean and spread."""

    @property
    def others(self) -> bool:
        """Whether to show rows that only the published table has."""

    @property
    def names(self) -> Mapping[str, Mapping[str, str]]:
        """Names of axis values."""


class Figure(Protocol):
    """A published value; see `published.Figure`."""

    @property
    def value(self) -> float:
        """A fraction."""

    @property
    def source(self) -> str:
        """Its source."""

    @property
    def crop(self) -> int | None:
        """Crop size of its training, if known."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The content of one place of a table."""

    values: dict[Key, float]
    """The numbers of the finished cells, keyed by what distinguishes the repetitions."""
    expected: int
    """How many cells the entry has, finished or not."""
    estimate: Estimate | None = None
    """None while no cell of the entry is done."""
    competes: bool = True
    """Whether it is complete and no other complete entry of its column has more numbers."""
    rank: int | None = None
    """Among two or more competing entries of the column, 1: no mean is higher; 2: only the best ones are."""
    baseline_n: int | None = None
    """How many numbers the baseline's entry in its column has; None for the baseline itself, and without numbers."""
    comparison: Comparison | None = None
    """Comparison with the baseline over the repetitions that both have, None if there are none; p-values are corrected
    over the table."""
    odd: frozenset[str] = frozenset()
    """Provenance in which a cell of the entry differs from the rest of its row: code, data, lists."""

    @property
    def is_best(self) -> bool:
        """Whether no competing entry of the column has a higher mean, and at least one other competes."""
        return self.rank == 1

    @property
    def is_complete(self) -> bool:
        """Whether all cells of the entry are done."""
        return len(self.values) == self.expected

    @property
    def pairs(self) -> int | None:
        """How many repetitions the entry and its baseline share; None if there is nothing to compare."""
        if self.baseline_n is None:
            return None
        return self.comparison.n if self.comparison else 0

    @property
    def is_all_paired(self) -> bool:
        """Whether all numbers of the entry and its baseline are paired, so that the means differ like the pairs."""
        return self.pairs == len(self.values) == self.baseline_n


@dataclass(frozen=True, slots=True)
class Table:
    """Entries by row and column, in the order of the records; places without cells have no entry."""

    metric: str
    row_axes: list[str]
    column_axes: list[str]
    """Column axes, those of the blocks first."""
    num_block_axes: int
    rows: list[Key]
    columns: list[Key]
    entries: dict[Place, Entry]
    baseline: dict[str, str]
    published: Mapping[Place, Figure] = field(default_factory=dict)
    other_rows: list[Key] = field(default_factory=list)
    """Rows that only the published table has."""
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    crop: int | None = None
    """Crop size of all cells; None if they differ."""
    settings: str = ""
    """The settings of the cells in words."""
    row_marks: Mapping[Key, str] = field(default_factory=dict)
    """Marks of special rows."""
    row_notes: Sequence[str] = ()
    """The meanings of these marks."""

    def is_other_crop(self, figure: Figure) -> bool:
        """Return whether a published figure was trained with another crop than ours."""
        return None not in (self.crop, figure.crop) and self.crop != figure.crop

    @property
    def blocks(self) -> list[tuple[Key, list[Key]]]:
        """The groups of columns; a single one with an empty key if no axis makes blocks."""
        groups: dict[Key, list[Key]] = {}
        for column in self.columns:
            groups.setdefault(column[: self.num_block_axes], []).append(column)
        return list(groups.items())

    @property
    def repeats(self) -> int | None:
        """How many cells every entry has, done or not; None if entries differ."""
        counts = {entry.expected for entry in self.entries.values()}
        return counts.pop() if len(counts) == 1 else None

    @property
    def sources(self) -> list[str]:
        """The sources of the published figures."""
        shown = {row for row in (*self.rows, *self.other_rows)}
        return sorted({figure.source for (row, _), figure in self.published.items() if row in shown})

    def name(self, axis: str, value: str) -> str:
        """Return the displayed name of an axis value."""
        return self.names.get(axis, {}).get(value, value)

    def titles(self, columns: Sequence[Key]) -> list[str]:
        """Return the column titles of a block: the axes of the rows, then the columns."""
        first = self.num_block_axes
        texts = [self._title(self.column_axes[first:], key[first:]) for key in columns]
        return [*(self.row_axes or [""]), *(text or "mIoU" for text in texts)]

    def block_title(self, block: Key) -> str:
        """Return the title of a block."""
        return self._title(self.column_axes[: self.num_block_axes], block)

    def _title(self, axes: Sequence[str], key: Key) -> str:
        pairs = zip(axes, key, strict=True)
        return ", ".join(self.names.get(axis, {}).get(value, f"{self._short(axis)}={value}") for axis, value in pairs)

    def _short(self, axis: str) -> str:
        """Return the last part of an axis' name, `learning_rate`, if it distinguishes the axes of the columns."""
        words = [name.rpartition(".")[2] for name in self.column_axes]
        word = axis.rpartition(".")[2]
        return word if words.count(word) == 1 else axis


@dataclass(frozen=True, slots=True)
class Summary:
    """Summary statistics of a table row."""

    row: Key
    mean_rank: float | None
    """Mean rank over the columns in which every row has a competing entry; 1 is the best."""
    num_ranked: int
    """Number of these columns."""
    interquartile_mean: float | None
    """Interquartile mean over all numbers of the row."""
    probability_of_improvement: float | None
    """Probability that a number exceeds one of the baseline in its column, mean over columns; None for the baseline."""


def build(
    records: Sequence[Record],
    layout: Layout,
    metric: str = "best_miou",
    baseline: Mapping[str, str] | None = None,
    published: Mapping[Place, Figure] | None = None,
    settings: str = "",
) -> Table:
    """Arrange the records' fractions: mean and spread over all that share a row and a column.

    Args:
        records: One for each cell, with its axes as text and `metric`, which is None until the cell is done.
        layout: Axes of rows and columns.
        metric: `best_miou` or `last_miou`.
        baseline: Axis values that turn an entry into its baseline.
        published: Published figures by row and column.
        settings: The settings of the cells in words, for the note.

    Raises:
        ValueError: The metric is unknown.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}; got {metric!r}")
    column_axes, published = [*layout.blocks, *layout.columns], published or {}
    entries = _competing(_entries(records, layout, metric))
    for place, rank in _ranked(entries).items():
        entries[place] = replace(entries[place], rank=rank)
    entries = _compared(entries, [*layout.rows, *column_axes], baseline or {}, metric)
    marked, row_notes = row_marks.marks(records, layout.rows, column_axes)
    rows, columns = (list(dict.fromkeys(place[i] for place in entries)) for i in (0, 1))
    others = [row for row, column in published if layout.others and row not in rows and column in columns]
    return Table(
        metric=metric,
        row_axes=list(layout.rows),
        column_axes=column_axes,
        num_block_axes=len(layout.blocks),
        rows=rows,
        columns=columns,
        entries=entries,
        baseline=dict(baseline or {}),
        published=published,
        other_rows=list(dict.fromkeys(others)),
        names=layout.names,
        crop=crops.pop() if len(crops := {record.get("crop_size") for record in records}) == 1 else None,
        settings=settings,
        row_marks=marked,
        row_notes=row_notes,
    )


def summaries(table: Table) -> list[Summary]:
    """Summarise each row over the columns: ranks, interquartile mean, probability of improvement."""
    whole = [column for column in table.columns if all(_competes(table, row, column) for row in table.rows)]
    ranks: dict[Key, list[float]] = {row: [] for row in table.rows}
    for column in whole:
        means = {str(place): _mean(table, row, column) or 0.0 for place, row in enumerate(table.rows)}
        for row, rank in zip(table.rows, comparisons.ranks(means).values(), strict=True):
            ranks[row].append(rank)
    return [_summary(table, row, ranks[row]) for row in table.rows]


def _summary(table: Table, row: Key, ranks: Sequence[float]) -> Summary:
    axes = [*table.row_axes, *table.column_axes]
    numbers: list[float] = []
    chances: list[float] = []
    for column in table.columns:
        entry = table.entries.get((row, column))
        if not entry or not entry.values:
            continue
        numbers += entry.values.values()
        place = _baseline_place((row, column), axes, table.baseline)
        other = table.entries.get(place)
        if other and other.values and place != (row, column):
            chances.append(probability_of_improvement(list(entry.values.values()), list(other.values.values())))
    return Summary(
        row,
        sum(ranks) / len(ranks) if ranks else None,
        len(ranks),
        interquartile_mean(numbers) if numbers else None,
        sum(chances) / len(chances) if chances else None,
    )


def _competes(table: Table, row: Key, column: Key) -> bool:
    entry = table.entries.get((row, column))
    return entry is not None and entry.competes


def _mean(table: Table, row: Key, column: Key) -> float | None:
    entry = table.entries.get((row, column))
    return entry.estimate.mean if entry and entry.estimate else None


def _entries(records: Sequence[Record], layout: Layout, metric: str) -> dict[Place, Entry]:
    odd: dict[int, set[str]] = {}
    for found in odd_ones(records, layout.rows):
        odd.setdefault(found.place, set()).add(found.what)
    places: dict[Place, list[int]] = {}
    for number, record in enumerate(records):
        place = _key(record, layout.rows), _key(record, [*layout.blocks, *layout.columns])
        places.setdefault(place, []).append(number)
    entries = {}
    for place, numbers in places.items():
        known = [(number, records[number]) for number in numbers if records[number][metric] is not None]
        # Repetitions that no axis distinguishes have no partner in another row; a counter keeps them all.
        names = [_key(record, layout.over) for _, record in known]
        values = {
            name if names.count(name) == 1 else (*name, str(number)): float(record[metric])
            for name, (number, record) in zip(names, known, strict=True)
        }
        made = estimate(list(values.values())) if values else None
        what = frozenset().union(*(odd.get(number, set()) for number in numbers))
        entries[place] = Entry(values, len(numbers), made, odd=what)
    return entries


def _key(record: Record, axes: Sequence[str]) -> Key:
    return tuple(str(record[axis]) for axis in axes)


def _competing(entries: Mapping[Place, Entry]) -> dict[Place, Entry]:
    """Return the competing entries; incomplete ones, or ones with fewer cells, may be means of lucky cells."""
    most: dict[Key, int] = {}
    for (_, column), entry in entries.items():
        if entry.is_complete:
            most[column] = max(most.get(column, 0), len(entry.values))
    return {
        place: replace(entry, competes=entry.is_complete and len(entry.values) == most[place[1]])
        for place, entry in entries.items()
    }


def _ranked(entries: Mapping[Place, Entry]) -> dict[Place, int]:
    """Find the best entries of each column with several competing ones, and the second ones if there are three."""
    by_column: dict[Key, dict[Place, float]] = {}
    for place, entry in entries.items():
        if entry.estimate and entry.competes:
            by_column.setdefault(place[1], {})[place] = entry.estimate.mean
    ranked: dict[Place, int] = {}
    for means in by_column.values():
        if len(means) == 1:
            continue
        highest = sorted(set(means.values()), reverse=True)[: 2 if len(means) >= MIN_FOR_SECOND else 1]
        num_best = sum(mean == highest[0] for mean in means.values())
        highest = highest[:1] if num_best > 1 else highest
        ranked |= {place: highest.index(mean) + 1 for place, mean in means.items() if mean in highest}
    return ranked


def _compared(
    entries: Mapping[Place, Entry], axes: Sequence[str], baseline: Mapping[str, str], metric: str
) -> dict[Place, Entry]:
    """Add each entry's gain on the baseline in its column; p-values are corrected over all of them."""
    compared = dict(entries)
    for place, entry in entries.items():
        where = _baseline_place(place, axes, baseline)
        other = entries.get(where)
        if where == place or other is None or other.estimate is None or entry.estimate is None:
            continue
        ours, others = ({"/".join(name): value for name, value in side.values.items()} for side in (entry, other))
        made = comparisons.compare(ours, others, "|".join([metric, *place[0], *place[1]]))
        compared[place] = replace(entry, baseline_n=other.estimate.n, comparison=made)
    tested = {place: entry.comparison for place, entry in compared.items() if entry.comparison}
    for (place, made), p in zip(tested.items(), comparisons.holm([c.p_t for c in tested.values()]), strict=True):
        compared[place] = replace(compared[place], comparison=replace(made, p_holm=p))
    return compared


def _baseline_place(place: Place, axes: Sequence[str], baseline: Mapping[str, str]) -> Place:
    row, column = place
    named = tuple(baseline.get(axis, text) for axis, text in zip(axes, row + column, strict=True))
    return named[: len(row)], named[len(row) :]

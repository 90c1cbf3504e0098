"""Records -> a table: mean and spread, ranks, gains on a baseline, published figures, and what cannot be trusted."""

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
"""Of two entries the second is just the other one."""
Key = tuple[str, ...]
Place = tuple[Key, Key]
Record = Mapping[str, Any]


class Layout(Protocol):
    """Where each axis stands, as `layouts.Layout` has it."""

    @property
    def rows(self) -> list[str]:
        """Axes that tell rows apart."""

    @property
    def columns(self) -> list[str]:
        """Axes that tell columns apart."""

    @property
    def blocks(self) -> list[str]:
        """Axes whose values get a group of columns each."""

    @property
    def over(self) -> list[str]:
        """Axes that a place gives mean and spread over."""

    @property
    def others(self) -> bool:
        """Whether rows that only the published table has are shown."""

    @property
    def names(self) -> Mapping[str, Mapping[str, str]]:
        """What an axis' value is called."""


class Figure(Protocol):
    """A published value, as `published.Figure` has it."""

    @property
    def value(self) -> float:
        """A fraction."""

    @property
    def source(self) -> str:
        """Where it stands."""

    @property
    def crop(self) -> int | None:
        """The size of the crops that it was trained on, where that is known."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands in one place of a table."""

    values: dict[Key, float]
    """The numbers of the finished cells, by what tells the repetitions apart."""
    expected: int
    """How many cells there are to the entry."""
    estimate: Estimate | None = None
    """None while no cell of the entry is done."""
    competes: bool = True
    """Whether it is complete, and no other complete entry of its column has more numbers."""
    rank: int | None = None
    """Among two or more entries of the column that compete, 1: no mean is higher; 2: only the best are."""
    baseline_n: int | None = None
    """How many numbers the baseline's entry in its column has; None for the baseline itself, and without numbers."""
    comparison: Comparison | None = None
    """With the baseline over the repetitions that both have, None where there are none; p-values are corrected over
    the table."""
    odd: frozenset[str] = frozenset()
    """What a cell of the entry does not share with the rest of its row: code, data, lists."""

    @property
    def is_best(self) -> bool:
        """Whether no entry of the column that competes has a higher mean, and another one does compete."""
        return self.rank == 1

    @property
    def is_complete(self) -> bool:
        """Whether all cells of the entry are done."""
        return len(self.values) == self.expected

    @property
    def pairs(self) -> int | None:
        """How many repetitions the entry and its baseline have in common; None where there is nothing to compare."""
        if self.baseline_n is None:
            return None
        return self.comparison.n if self.comparison else 0

    @property
    def is_all_paired(self) -> bool:
        """Whether every number of the entry and of its baseline has a partner, so that means differ as pairs do."""
        return self.pairs == len(self.values) == self.baseline_n


@dataclass(frozen=True, slots=True)
class Table:
    """Entries by row and column, in the order of the records; a place without cells has none."""

    metric: str
    row_axes: list[str]
    column_axes: list[str]
    """Those of the blocks first."""
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
    """Of all cells; None where they differ in it."""
    settings: str = ""
    """What the cells were trained with, in words."""
    row_marks: Mapping[Key, str] = field(default_factory=dict)
    """Of the rows that are not what the others are."""
    row_notes: Sequence[str] = ()
    """What these marks mean."""

    def is_other_crop(self, figure: Figure) -> bool:
        """Tell whether a published figure is of another crop than ours."""
        return None not in (self.crop, figure.crop) and self.crop != figure.crop

    @property
    def blocks(self) -> list[tuple[Key, list[Key]]]:
        """The groups of columns; one with an empty key where no axis makes blocks."""
        groups: dict[Key, list[Key]] = {}
        for column in self.columns:
            groups.setdefault(column[: self.num_block_axes], []).append(column)
        return list(groups.items())

    @property
    def repeats(self) -> int | None:
        """How many cells every entry has, done or not; None where entries differ in that."""
        counts = {entry.expected for entry in self.entries.values()}
        return counts.pop() if len(counts) == 1 else None

    @property
    def sources(self) -> list[str]:
        """Where the published figures stand."""
        shown = {row for row in (*self.rows, *self.other_rows)}
        return sorted({figure.source for (row, _), figure in self.published.items() if row in shown})

    def name(self, axis: str, value: str) -> str:
        """Return what a row's value is called."""
        return self.names.get(axis, {}).get(value, value)

    def titles(self, columns: Sequence[Key]) -> list[str]:
        """Return the titles of columns of a block: an axis each for what names a row, then the columns."""
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
        """Return the last word of an axis' name, `learning_rate`, where it tells the axes of the columns apart."""
        words = [name.rpartition(".")[2] for name in self.column_axes]
        word = axis.rpartition(".")[2]
        return word if words.count(word) == 1 else axis


@dataclass(frozen=True, slots=True)
class Summary:
    """A row of a table in a few numbers."""

    row: Key
    mean_rank: float | None
    """Over the columns in which every row has an entry that competes; 1 is the best."""
    num_ranked: int
    """Number of these columns."""
    interquartile_mean: float | None
    """Over all numbers of the row."""
    probability_of_improvement: float | None
    """That a number is above one of the baseline in its column, mean over the columns; None for the baseline."""


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
        records: One for each cell, with its axes as text and `metric`, which is None before the cell is done.
        layout: Axes of rows and columns.
        metric: `best_miou` or `last_miou`.
        baseline: Axis values that turn an entry into the one that it is compared with.
        published: Published figures by row and column.
        settings: What the cells were trained with, in words for the note.

    Raises:
        ValueError: The metric is another one.
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
    """Sum up each row over the columns: ranks, interquartile mean, probability of improvement."""
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
        # Repetitions that no axis tells apart have no partner in another row; their number keeps them all.
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
    """Tell which entries compete: those that lack cells, or have fewer than others, may be the mean of lucky ones."""
    most: dict[Key, int] = {}
    for (_, column), entry in entries.items():
        if entry.is_complete:
            most[column] = max(most.get(column, 0), len(entry.values))
    return {
        place: replace(entry, competes=entry.is_complete and len(entry.values) == most[place[1]])
        for place, entry in entries.items()
    }


def _ranked(entries: Mapping[Place, Entry]) -> dict[Place, int]:
    """Find the best places of each column that has some to compare, and the second ones where they are three."""
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
    """Add what each entry gains on the baseline in its column; p-values are corrected over all of them."""
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

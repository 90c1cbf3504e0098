"""Build a table from records: mean and spread, ranks, gains on a baseline, published figures, and doubtful entries."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from orchestration.tables import comparisons, pairing, row_marks
from orchestration.tables.comparisons import Comparison
from orchestration.tables.consistency import odd_ones
from orchestration.tables.estimates import Estimate, estimate

METRICS = {"best_miou": "best epoch", "last_miou": "last epoch"}
DASH, NOT_RUN = "—", "not run"
NEVER_BEGUN = "missing"
"""The status in the record of a cell without an attempt (`CellState.MISSING`)."""
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

    @property
    def note(self) -> str:
        """What its file says of it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The content of one place of a table."""

    values: dict[str, float]
    """The number of each finished cell."""
    points: dict[Key, str]
    """The finished cell of each repetition; a cell that does not read an axis stands for several."""
    expected: int
    """How many cells the entry has, finished or not."""
    num_points: int
    """How many points of the grid these stand for."""
    estimate: Estimate | None = None
    """None while no cell of the entry is done."""
    is_begun: bool = True
    """Whether a cell of the entry has an attempt."""
    competes: bool = True
    """Whether it is complete and no other complete entry of its column stands for more points of the grid."""
    rank: int | None = None
    """Among two or more competing entries of the column, 1: no mean is higher; 2: only the best ones are."""
    has_baseline: bool = False
    """Whether it and its baseline, another entry of its column, both have numbers."""
    is_all_paired: bool = False
    """Whether all numbers of the entry and its baseline are paired, so that the means differ like the pairs."""
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
        if not self.has_baseline:
            return None
        return self.comparison.n if self.comparison else 0


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

    def marks_of(self, row: Key, column: Key) -> list[str]:
        """Return in words what the marks at an entry, its row and its published figure say, but of its tests."""
        figure = self.published.get((row, column))
        of_figure = {"other crop": self.is_other_crop(figure), "published of best epoch": figure and self._is_last}
        return [*row_marks.words(self.row_marks.get(row, "")), *(word for word, is_so in of_figure.items() if is_so)]

    @property
    def compares_last(self) -> bool:
        """Whether figures of the last epoch stand beside published ones, which are as a rule of the best."""
        return self._is_last and any(row in self.rows for row, _ in self.published)

    @property
    def _is_last(self) -> bool:
        return self.metric == "last_miou"

    def is_other_crop(self, figure: Figure | None) -> bool:
        """Return whether there is a published figure, trained with another crop than ours."""
        return figure is not None and None not in (self.crop, figure.crop) and self.crop != figure.crop

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
    entries = _compared(entries, [*layout.rows, *column_axes], baseline or {})
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


def _entries(records: Sequence[Record], layout: Layout, metric: str) -> dict[Place, Entry]:
    odd: dict[int, set[str]] = {}
    for found in odd_ones(records, layout.rows):
        odd.setdefault(found.place, set()).add(found.what)
    places: dict[Place, list[int]] = {}
    for number, record in enumerate(records):
        place = _key(record, layout.rows), _key(record, [*layout.blocks, *layout.columns])
        places.setdefault(place, []).append(number)
    return {
        place: _entry([(number, records[number]) for number in numbers], layout, metric, odd)
        for place, numbers in places.items()
    }


def _entry(
    placed: Sequence[tuple[int, Record]], layout: Layout, metric: str, odd: Mapping[int, AbstractSet[str]]
) -> Entry:
    """Sum up the records of a place, each cell once, however many points of the place it stands for."""
    cells = {number: str(record.get("signature", number)) for number, record in placed}
    known = [(number, record) for number, record in placed if record[metric] is not None]
    by_name: dict[Key, list[int]] = {}
    for number, record in known:
        by_name.setdefault(_key(record, layout.over), []).append(number)
    # Repetitions that no axis distinguishes have no partner in another row.
    points = {name: cells[numbers[0]] for name, numbers in by_name.items() if len(numbers) == 1}
    values = {cells[number]: float(record[metric]) for number, record in known}
    made = estimate(list(values.values())) if values else None
    what = frozenset().union(*(odd.get(number, set()) for number, _ in placed))
    is_begun = any(record.get("status") != NEVER_BEGUN for _, record in placed)
    return Entry(values, points, len(set(cells.values())), len(placed), made, is_begun, odd=what)


def _key(record: Record, axes: Sequence[str]) -> Key:
    return tuple(str(record[axis]) for axis in axes)


def _competing(entries: Mapping[Place, Entry]) -> dict[Place, Entry]:
    """Return the competing entries; incomplete ones, or ones with fewer cells, may be means of lucky cells."""
    most: dict[Key, int] = {}
    for (_, column), entry in entries.items():
        if entry.is_complete:
            most[column] = max(most.get(column, 0), entry.num_points)
    return {
        place: replace(entry, competes=entry.is_complete and entry.num_points == most[place[1]])
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


def _compared(entries: Mapping[Place, Entry], axes: Sequence[str], baseline: Mapping[str, str]) -> dict[Place, Entry]:
    """Add each entry's gain on the baseline in its column; p-values are corrected over all of them."""
    compared = dict(entries)
    tested: dict[tuple[frozenset[str], frozenset[str]], list[Place]] = {}
    for place, entry in entries.items():
        where = baseline_place(place, axes, baseline)
        other = entries.get(where)
        if where == place or other is None or other.estimate is None or entry.estimate is None:
            continue
        pairs = pairing.pairs(entry.points, other.points)
        made = comparisons.summarise(
            [pair.difference(entry.values, other.values) for pair in pairs],
            is_complete=entry.is_complete and other.is_complete,
        )
        balanced = bool(pairs) and pairing.are_balanced(pairs, len(entry.values), len(other.values))
        compared[place] = replace(entry, has_baseline=True, is_all_paired=balanced, comparison=made)
        if made:  # the same cells may stand in several columns: one test
            tested.setdefault((frozenset(entry.values), frozenset(other.values)), []).append(place)
    p_values = [_comparison(compared[places[0]]).p_t for places in tested.values()]
    for places, p in zip(tested.values(), comparisons.holm(p_values), strict=True):
        for place in places:
            made = replace(_comparison(compared[place]), p_holm=p)
            compared[place] = replace(compared[place], comparison=made)
    return compared


def _comparison(entry: Entry) -> Comparison:
    assert entry.comparison is not None
    return entry.comparison


def baseline_place(place: Place, axes: Sequence[str], baseline: Mapping[str, str]) -> Place:
    """Return the place of the entry that a place is compared with; its own if it is the baseline."""
    row, column = place
    named = tuple(baseline.get(axis, text) for axis, text in zip(axes, row + column, strict=True))
    return named[: len(row)], named[len(row) :]

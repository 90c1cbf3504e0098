"""Build a table from records: mean and spread, ranks, gains on a baseline, published figures, and doubtful entries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from orchestration.tables import comparisons, looks, pairing, row_marks
from orchestration.tables.comparisons import Comparison
from orchestration.tables.consistency import odd_ones
from orchestration.tables.entries import NEVER_BEGUN as NEVER_BEGUN
from orchestration.tables.entries import Entry as Entry
from orchestration.tables.entries import Key as Key
from orchestration.tables.entries import Layout as Layout
from orchestration.tables.entries import Place as Place
from orchestration.tables.entries import Record as Record
from orchestration.tables.entries import entries as entries_of

METRICS = {"best_miou": "best epoch", "last_miou": "last epoch"}
DASH, NOT_RUN = "—", "not run"
MIN_FOR_SECOND = 3
"""Mark a second best only among at least this many entries; of two it is just the other one."""


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
    baseline: Mapping[str, str]
    published: Mapping[Place, Figure] = field(default_factory=dict)
    other_rows: list[Key] = field(default_factory=list)
    """Rows that only the published table has."""
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    crop: int | None = None
    """Crop size of all cells; None if they differ."""
    settings: str = ""
    """The settings of the cells in words."""
    without_figures: Sequence[str] = ()
    """Axes for which the file of published figures has no column, so that there are none."""
    row_marks: Mapping[Key, str] = field(default_factory=dict)
    """Marks of special rows."""
    row_notes: Sequence[str] = ()
    """The meanings of these marks."""
    adaptive: str = ""
    """How seeds were added, if not all entries have all."""

    def marks_of(self, row: Key, column: Key) -> list[str]:
        """Return in words what the marks at an entry, its row and its published figure say, but of its tests."""
        figure = self.published.get((row, column))
        of_figure = {"other crop": self.is_other_crop(figure), "published of best epoch": figure and self._is_last}
        of_row = [*row_marks.words(self.row_marks.get(row, "")), *(["seeds added adaptively"] if self.adaptive else [])]
        entry = self.entries.get((row, column))
        of_entry = [row_marks.LEFT_OUT_WORDS] if entry and entry.left_out else []
        return [*of_row, *of_entry, *(word for word, is_so in of_figure.items() if is_so)]

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

    def against(self, row: Key, columns: Sequence[Key] | None = None) -> str:
        """Return the displayed names of what a row is compared with in columns of a table, by default all.

        Settings that both have alike are left out.
        """
        axes = [*self.row_axes, *self.column_axes]
        places = [(row, column) for column in (self.columns if columns is None else columns)]
        compared = [place for place in places if (one := self.entries.get(place)) and one.pairs is not None]
        return " or ".join(dict.fromkeys(self._named_against(place, axes) for place in compared))

    def _named_against(self, place: Place, axes: Sequence[str]) -> str:
        own, its = (dict(zip(axes, sum(one, ()), strict=True)) for one in (place, self.entries[place].against or place))
        differing = {axis: text for axis, text in its.items() if text != own[axis]}
        return ", ".join(self.name(axis, text) for axis, text in {**self.baseline, **differing}.items())

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
    without_figures: Sequence[str] = (),
) -> Table:
    """Arrange the records' fractions: mean and spread over all that share a row and a column.

    Args:
        records: One for each cell, with its axes as text and `metric`, which is None until the cell is done.
        layout: Axes of rows and columns.
        metric: `best_miou` or `last_miou`.
        baseline: Axis values that turn an entry into its baseline.
        published: Published figures by row and column.
        settings: The settings of the cells in words, for the note.
        without_figures: Axes that published figures lack.

    Raises:
        ValueError: The metric is unknown.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}; got {metric!r}")
    column_axes, published = [*layout.blocks, *layout.columns], published or {}
    entries = entries_of(records, layout, metric, baseline or {}, _odd(records, layout))
    judged = looks.pairs(entries, layout)
    if judged:
        asked = judged if metric == looks.METRIC else looks.of_records(records, layout, baseline or {})[1]
        entries = looks.with_needed(entries, asked, layout)
    entries = _competing(entries, is_adaptive=bool(layout.adaptive))
    for place, rank in _ranked(entries).items():
        entries[place] = replace(entries[place], rank=rank)
    entries = _compared(entries, judged)
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
        baseline=baseline or {},
        published=published,
        other_rows=list(dict.fromkeys(others)),
        names=layout.names,
        crop=crops.pop() if len(crops := {record.get("crop_size") for record in records}) == 1 else None,
        settings=settings,
        without_figures=without_figures,
        row_marks=marked,
        row_notes=row_notes,
        adaptive=looks.note(layout, entries.values()) if layout.adaptive else "",
    )


def _odd(records: Sequence[Record], layout: Layout) -> dict[int, set[str]]:
    odd: dict[int, set[str]] = {}
    for found in odd_ones(records, layout.rows):
        odd.setdefault(found.place, set()).add(found.what)
    return odd


def _competing(entries: Mapping[Place, Entry], *, is_adaptive: bool) -> dict[Place, Entry]:
    """Return the competing entries; incomplete ones, or ones with fewer cells, may be means of lucky cells.

    Where seeds are added adaptively, who has fewer was clearly ahead or behind: among unequal ones nobody competes.
    """
    counts: dict[Key, set[int]] = {}
    for (_, column), entry in entries.items():
        if entry.is_complete:
            counts.setdefault(column, set()).add(entry.num_points)
    counts = {column: found for column, found in counts.items() if not is_adaptive or len(found) == 1}
    return {
        place: replace(entry, competes=entry.is_complete and entry.num_points == max(counts.get(place[1], {0})))
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


def _compared(entries: Mapping[Place, Entry], judged: Mapping[Place, looks.Pair]) -> dict[Place, Entry]:
    """Add each entry's gain on the baseline in its column; p-values are corrected over all of them."""
    compared = dict(entries)
    tested: dict[tuple[frozenset[str], frozenset[str]], list[Place]] = {}
    for place, entry in entries.items():
        other = entries.get(entry.against) if entry.against else None
        if entry.against == place or other is None or other.estimate is None or entry.estimate is None:
            continue
        pairs = pairing.pairs(entry.points, other.points)
        made = comparisons.summarise(
            [pair.difference(entry.values, other.values) for pair in pairs],
            is_complete=entry.is_complete and other.is_complete,
        )
        made = judged[place].corrected(made) if made and place in judged else made
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

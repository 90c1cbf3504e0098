"""The entries of a table: the numbers of finished cells by row and column, and where each is compared."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Protocol

from orchestration.tables.baselines import Baseline
from orchestration.tables.comparisons import Comparison
from orchestration.tables.estimates import Estimate, estimate

NEVER_BEGUN = "missing"
"""The status in the record of a cell without an attempt (`CellState.MISSING`)."""
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
    def adaptive(self) -> int:
        """With how many seeds an entry begins that gets more only where they decide something; 0: all have all."""

    @property
    def names(self) -> Mapping[str, Mapping[str, str]]:
        """Names of axis values."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The content of one place of a table."""

    values: dict[str, float]
    """The number of each finished cell."""
    points: dict[Key, str]
    """The finished cell of each repetition; a cell that does not read an axis stands for several."""
    planned: tuple[tuple[Key, str], ...]
    """The cell of each repetition, finished or not."""
    expected: int
    """How many cells the entry has, finished or not; where seeds are added adaptively, those that it needs."""
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
    against: Place | None = None
    """The place of its baseline, which may have no entry; its own if it is one. None: its cells have several."""
    odd: frozenset[str] = frozenset()
    """Provenance in which a cell of the entry differs from the rest of its row: code, data, lists."""
    left_out: tuple[int, int] | None = None
    """Of the finished cell with the largest share of steps without an update, how many they are, of how many."""

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


def entries(
    records: Sequence[Record],
    layout: Layout,
    metric: str,
    baseline: Mapping[str, str],
    odd: Mapping[int, AbstractSet[str]] | None = None,
) -> dict[Place, Entry]:
    """Return the entries of some records by row and column; `odd` says by place in the records what differs in each."""
    places: dict[Place, list[int]] = {}
    for number, record in enumerate(records):
        place = _key(record, layout.rows), _key(record, [*layout.blocks, *layout.columns])
        places.setdefault(place, []).append(number)
    made = {
        place: _entry([(number, records[number]) for number in numbers], layout, metric, odd or {})
        for place, numbers in places.items()
    }
    axes = [*layout.rows, *layout.blocks, *layout.columns]
    return {place: replace(entry, against=_against(place, entry, axes, baseline)) for place, entry in made.items()}


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
    return Entry(
        values=(values := {cells[number]: float(record[metric]) for number, record in known}),
        points=points,
        planned=tuple((_key(record, layout.over), cells[number]) for number, record in placed),
        expected=len(set(cells.values())),
        num_points=len(placed),
        estimate=estimate(list(values.values())) if values else None,
        is_begun=any(record.get("status") != NEVER_BEGUN for _, record in placed),
        odd=frozenset().union(*(odd.get(number, set()) for number, _ in placed)),
        left_out=_left_out([record for _, record in known]),
    )


def _left_out(finished: Sequence[Record]) -> tuple[int, int] | None:
    found = [(len(steps), record["num_steps"]) for record in finished if (steps := record.get("steps_left_out"))]
    return largest_share(found)


def largest_share(left_out: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the pair of steps without an update and all steps whose share is the largest; None if there is none."""
    return max(left_out, key=lambda one: one[0] / max(one[1], 1), default=None)  # a damaged result may have no step


def _key(record: Record, axes: Sequence[str]) -> Key:
    return tuple(str(record[axis]) for axis in axes)


def _against(place: Place, entry: Entry, axes: Sequence[str], baseline: Mapping[str, str]) -> Place | None:
    row, column = place
    cells = {cell for _, cell in entry.planned}
    values = baseline.of(cells, axes) if isinstance(baseline, Baseline) else baseline
    if values is None:
        return None
    named = tuple(values.get(axis, text) for axis, text in zip(axes, row + column, strict=True))
    return named[: len(row)], named[len(row) :]

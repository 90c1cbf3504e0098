"""Seeds that are added only where they decide something: the looks at each comparison, and what they conclude; pure.

An entry begins with the first seeds of its grid. After these, and after each seed that is added to a pair of an entry
and its baseline, somebody looks at the difference: a look takes the first n seeds in the grid's order. A pair gets no
more seeds once a look has decided it. Whoever looks several times finds too much, so each look has a share of the level
of the test (Bonferroni), and the shares do not hang on when anybody stops: the error is kept whatever is trained.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestration.tables import pairing
from orchestration.tables.comparisons import LEVEL, Comparison, p_of_t
from orchestration.tables.entries import Entry, Key, Layout, Place, Record
from orchestration.tables.entries import entries as entries_of
from orchestration.tables.estimates import interval

SEED = "seed"
METRIC = "best_miou"
"""What decides whether a pair gets another seed; the tests of other metrics are corrected for the same looks."""
OF_LAST = 0.5
"""The share of the level that the last look has: a pair that takes all seeds is tested as if there were twice as many
comparisons, however many looks come before. These stop early only at what is large and consistent."""


@dataclass(frozen=True, slots=True)
class Look:
    """A comparison over the first seeds of a grid."""

    num_seeds: int
    share: float
    """Of the level of the test."""
    differences: list[float]
    """Of the pairs."""
    p: float | None
    """That of the paired t test, corrected for all looks; None if it cannot be tested."""

    @classmethod
    def at(cls, num_seeds: int, share: float, differences: list[float]) -> "Look":
        """Look at some differences."""
        p = p_of_t(differences)
        return cls(num_seeds, share, differences, None if p is None else min(1.0, p / share))


@dataclass(frozen=True, slots=True)
class Pair:
    """An entry and its baseline, with the looks at them so far: all whose cells are done."""

    place: Place
    baseline: Place
    looks: list[Look]
    num_seeds: int
    """How many seeds it needs."""
    is_decided: bool
    """Whether it needs no more, as a look has decided it."""

    @property
    def p(self) -> float | None:
        """The p-value over all looks, corrected for their number; more looks never raise it."""
        return _p_of(self.looks)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval, 95 % for all looks together: what is in that of each look. It holds 0 exactly if p >= 0.05."""
        return _common_interval(self.looks)

    def corrected(self, made: Comparison) -> Comparison:
        """Return a comparison with p and interval corrected for the looks; it holds at any time.

        Cells beyond the look that decided a pair may be done too, and say something else: where the effect of all cells
        lies outside of what the looks have in common, the last one is told alone, at its share. If it lies outside of
        that as well, seeds between are missing, and nothing is concluded.
        """
        told = next((looks for looks in (self.looks, self.looks[-1:]) if _holds(looks, made.effect)), None)
        if told is None:
            return replace(made, interval=None, p_t=None, p_wilcoxon=None, is_complete=False)
        return replace(made, interval=_common_interval(told), p_t=_p_of(told), p_wilcoxon=None)


def _p_of(found: Sequence[Look]) -> float | None:
    return min((p for look in found if (p := look.p) is not None), default=None)


def _common_interval(found: Sequence[Look]) -> tuple[float, float] | None:
    each = [interval(look.differences, 1 - LEVEL * look.share) for look in found if look.p is not None]
    lows, highs = zip(*filter(None, each), strict=True) if each else ((), ())
    return (max(lows), min(highs)) if each and max(lows) <= min(highs) else None


def _holds(found: Sequence[Look], effect: float) -> bool:
    """Return whether an effect agrees with some looks: those that cannot be tested say nothing against it."""
    bounds = _common_interval(found)
    return bool(found) and (bounds[0] <= effect <= bounds[1] if bounds else _p_of(found) is None)


def shares(num_looks: int) -> list[float]:
    """Return which share of the level each look has: the last one half of it, the others alike."""
    return [(1 - OF_LAST) / (num_looks - 1)] * (num_looks - 1) + [OF_LAST] if num_looks > 1 else [1.0]


def seeds_of(entries: Collection[Entry], layout: Layout) -> list[str]:
    """Return the seeds of a table in the order in which they are added, which is the grid's."""
    at = layout.over.index(SEED)
    return list(dict.fromkeys(key[at] for entry in entries for key, _ in entry.planned))


def pairs(entries: Mapping[Place, Entry], layout: Layout) -> dict[Place, Pair]:
    """Return each pair of a table whose seeds are added adaptively, by the place of its entry; else none.

    A pair is decided once its corrected p, multiplied by the number of comparisons in the table, is below 0.05. So it
    hangs on no other pair and not on the order in which cells end, and Holm's correction keeps its mark in the table.
    """
    if not layout.adaptive or SEED not in layout.over:
        return {}
    seeds = seeds_of(entries.values(), layout)
    wheres = {place: entry.against for place, entry in entries.items() if entry.against not in (None, place)}
    wheres = {place: where for place, where in wheres.items() if where in entries}
    tests = {(_cells(entries[place]), _cells(entries[where])) for place, where in wheres.items()}
    return {
        place: _pair(place, where, entries, seeds, layout, len(tests)) for place, where in wheres.items()
    }  # fmt: skip


def of_records(
    records: Sequence[Record], layout: Layout, baseline: Mapping[str, str]
) -> tuple[dict[Place, Entry], dict[Place, Pair]]:
    """Return the entries of a table by which seeds are added, and its pairs; records are those of `table.build`."""
    made = entries_of(records, layout, METRIC, baseline)
    return made, pairs(made, layout)


def num_seeds(entries: Mapping[Place, Entry], found: Mapping[Place, Pair], layout: Layout) -> dict[Place, int]:
    """Return how many seeds each entry needs: as many as the pair that needs most of those that it is part of."""
    needed = dict.fromkeys(entries, layout.adaptive)
    for pair in found.values():
        for place in (pair.place, pair.baseline):
            needed[place] = max(needed[place], pair.num_seeds)
    return needed


def needed(entry: Entry, num: int, seeds: Sequence[str], layout: Layout) -> set[str]:
    """Return the cells of an entry that has the first seeds."""
    at, first = layout.over.index(SEED), {*seeds[:num]}
    return {cell for key, cell in entry.planned if key[at] in first}


def with_needed(entries: Mapping[Place, Entry], found: Mapping[Place, Pair], layout: Layout) -> dict[Place, Entry]:
    """Return the entries of a table so that they count the cells that they need, and others only if these are done."""
    seeds, nums = seeds_of(entries.values(), layout), num_seeds(entries, found, layout)
    made = {}
    for place, entry in entries.items():
        mine = needed(entry, nums[place], seeds, layout) | entry.values.keys()
        points = sum(cell in mine for _, cell in entry.planned)
        made[place] = replace(entry, expected=len(mine), num_points=points)
    return made


def _pair(
    place: Place, where: Place, entries: Mapping[Place, Entry], seeds: Sequence[str], layout: Layout, num_tests: int
) -> Pair:
    looks = _looks(entries[place], entries[where], seeds, layout)
    for look in looks:
        if (p := look.p) is not None and p * num_tests < LEVEL:
            return Pair(place, where, looks, look.num_seeds, is_decided=True)
    reached = looks[-1].num_seeds + 1 if looks else layout.adaptive
    return Pair(place, where, looks, min(reached, len(seeds)), is_decided=False)


def _looks(entry: Entry, other: Entry, seeds: Sequence[str], layout: Layout) -> list[Look]:
    """Return the looks whose cells are done, up to the first one that lacks a cell."""
    first = min(layout.adaptive, len(seeds))
    found = []
    for num, share in zip(range(first, len(seeds) + 1), shares(len(seeds) + 1 - first), strict=True):
        ours, others = (_points(of, {*seeds[:num]}, layout) for of in (entry, other))
        if ours is None or others is None:
            break
        differences = [pair.difference(entry.values, other.values) for pair in pairing.pairs(ours, others)]
        found.append(Look.at(num, share, differences))
    return found


def _points(entry: Entry, seeds: set[str], layout: Layout) -> dict[Key, str] | None:
    """Return the finished cells of some seeds by their points; None if one is not done."""
    at = layout.over.index(SEED)
    wanted = [key for key, _ in entry.planned if key[at] in seeds]
    return {key: entry.points[key] for key in wanted} if all(key in entry.points for key in wanted) else None


def _cells(entry: Entry) -> frozenset[str]:
    return frozenset(cell for _, cell in entry.planned)


def note(layout: Layout, entries: Collection[Entry]) -> str:
    """Say that and how seeds were added to the entries of a table, and what is corrected for it."""
    if SEED not in layout.over:
        return f"seeds were added adaptively (from {layout.adaptive} on), for which nothing here is corrected"
    num = len(seeds_of(entries, layout))
    first = min(layout.adaptive, num)
    looks = num - first + 1
    return (
        f"seeds were added adaptively: each entry has the first {first}, and one more at a time up to {num} only where "
        f"a difference was not decided; p and intervals of differences are corrected for the {looks} looks (the last "
        "one has half of the level), those of single entries are not, a difference that was decided early is "
        "rather too large, and few seeds that fall into groups can agree by chance"
    )

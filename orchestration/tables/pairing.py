"""Pair the runs of two entries that were trained at the same points of the grid, each run once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Runs of an entry and of its baseline at the same points; one of each, unless one side reads fewer axes."""

    ours: frozenset[str]
    others: frozenset[str]

    def difference(self, ours: Mapping[str, float], others: Mapping[str, float]) -> float:
        """Return the mean of our runs less that of the others."""
        return fmean(ours[run] for run in sorted(self.ours)) - fmean(others[run] for run in sorted(self.others))


def pairs(ours: Mapping[Key, str], others: Mapping[Key, str]) -> list[Pair]:
    """Pair the runs of two sides so that each run is in one pair at most and pairs do not depend on each other.

    A run that does not read an axis stands at several points. It is one number, so the runs of the other side at these
    points are averaged into one number, too.

    Args:
        ours: The run at each point that has a number.
        others: The same of the other side.
    """
    found: list[Pair] = []
    for point in sorted(ours.keys() & others.keys()):
        mine, theirs = frozenset([ours[point]]), frozenset([others[point]])
        linked = [pair for pair in found if pair.ours & mine or pair.others & theirs]
        joined = Pair(mine.union(*(pair.ours for pair in linked)), theirs.union(*(pair.others for pair in linked)))
        found = [*(pair for pair in found if pair not in linked), joined]
    return found


def are_balanced(found: Sequence[Pair], num_ours: int, num_others: int) -> bool:
    """Return whether the mean difference of the pairs is the difference of the two means: all runs count alike."""
    for sizes, num in (([len(p.ours) for p in found], num_ours), ([len(p.others) for p in found], num_others)):
        if sum(sizes) != num or len(set(sizes)) > 1:
            return False
    return True

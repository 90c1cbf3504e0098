"""The order in which cells start, and when they end in it; pure.

Cells of a smaller priority start before others: so a table that is wanted first is complete first. Those of the same
priority start round by round: a cell of each entry of the tables before a second cell of any, so that every table is
there early and gets narrower. In a round the longest cell starts first, which wastes least time at the end.
"""

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from orchestration.grids.cells import Cell
from orchestration.grids.composed import Grid


def rounds_of(tables: Sequence[Grid]) -> dict[str, int]:
    """Return by signature in which round each cell of some tables starts, priorities included; the first is 0.

    A cell of several tables starts as early as the first of them says.
    """
    places: dict[str, tuple[int, int, int]] = {}
    for table in tables:
        seconds = rounds(table.cells, table.table.over)
        for cell in table.cells:
            place = (table.priority, _priority(table, cell), seconds[cell.signature])
            places[cell.signature] = min(place, places.get(cell.signature, place))
    numbers = {place: number for number, place in enumerate(sorted({*places.values()}))}
    return {signature: numbers[place] for signature, place in places.items()}


def added_last(rounds: Mapping[str, int], ranks: Mapping[str, int]) -> dict[str, int]:
    """Return the rounds of cells of which some were added by what others showed: these start last, by their ranks."""
    last = max(rounds.values(), default=0)
    return {signature: last + ranks[signature] if signature in ranks else one for signature, one in rounds.items()}


def _priority(table: Grid, cell: Cell) -> int:
    """Return the smallest number that the table's file gives the points of a cell; of one point the largest counts."""
    given = table.spec.priority if table.spec else {}
    points = [cell.axes, *cell.also]
    return min(max((of[point[axis]] for axis, of in given.items() if point.get(axis) in of), default=0)
               for point in points)  # fmt: skip


def rounds(cells: Sequence[Cell], over: Collection[str]) -> dict[str, int]:
    """Return by signature how many cells of the same entry come before a cell.

    Args:
        cells: The cells of a grid, in its order.
        over: The axes over which its table gives mean and spread, such as the seed.
    """
    seen = Counter[frozenset[tuple[str, str]]]()
    found: dict[str, int] = {}
    for cell in cells:
        entry = frozenset((axis, value) for axis, value in cell.axes.items() if axis not in over)
        found[cell.signature] = seen[entry]
        seen[entry] += 1
    return found


class Places:
    """Places where so many jobs run at a time; each job takes the one that becomes free first."""

    def __init__(self, max_concurrent: int) -> None:
        self._free = [0.0] * max_concurrent

    def next_end(self, duration_s: float) -> float:
        """Return when a job would end if it took a place now."""
        return self._free[0] + duration_s

    def take(self, duration_s: float) -> float:
        """Give a job its place; return when it ends."""
        end = self.next_end(duration_s)
        heapq.heapreplace(self._free, end)
        return end


def ends(durations_s: Iterable[float], max_concurrent: int) -> list[float]:
    """Return when each job ends if they start in this order, on the place that becomes free first."""
    places = Places(max_concurrent)
    return [places.take(duration) for duration in durations_s]


def makespan(durations_s: Iterable[float], max_concurrent: int) -> float:
    """Return when the last of these jobs ends; see `ends`."""
    return max(ends(durations_s, max_concurrent), default=0.0)

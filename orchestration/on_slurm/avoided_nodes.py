"""Which nodes a cell keeps away from: where it failed, and where others did while elsewhere it went well; pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from orchestration.failures import AVOIDED_S

MANY_CELLS = 2
"""So many cells that failed on a node make it one that all keep away from."""


@dataclass(frozen=True, slots=True)
class Try:
    """An attempt, as far as its node is concerned."""

    cell: str
    node: str
    time: float
    """When it ended, or wrote last."""
    failed: bool
    """It ended in a way that may be the fault of its node."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of the nodes of a campaign."""

    failed: Sequence[Try]
    """Of the last day, newest first."""
    for_all: Collection[str]
    """The nodes that every cell keeps away from."""
    seen: Collection[str]
    """The nodes that cells have been on."""

    def avoided(
        self, cell: str, usable: Collection[str] | None, needed: int = 1, *, up: Collection[str] | None = None
    ) -> tuple[str, ...]:
        """Return the nodes that a cell keeps away from, never so that nothing is left for it.

        Args:
            cell: Whose next try it is.
            usable: The nodes that could hold it; None: nobody knows, and at most half of those seen are avoided.
            needed: How many nodes it takes.
            up: Where nobody knows which could hold it, those of which one does know that some other could not.
        """
        wanted = list(dict.fromkeys(one.node for one in self.failed if one.cell == cell or one.node in self.for_all))
        left = [node for node in self.seen if up is None or node in up] if usable is None else usable
        there = [node for node in wanted if node in left]  # sbatch refuses the names of nodes that are gone
        most = len(left) - needed if usable is not None else min(len(left) // 2, len(left) - needed)
        return tuple(sorted(there[: max(0, most)]))


def record(tries: Sequence[Try], now: float) -> Record:
    """Sum up the attempts of all cells of a campaign; what failed longer than a day ago is forgotten."""
    lately = [one for one in tries if now - one.time < AVOIDED_S]
    failed = sorted((one for one in lately if one.failed), key=lambda one: one.time, reverse=True)
    return Record(failed, _bad_for_all(lately), {one.node for one in tries})


def _bad_for_all(tries: Sequence[Try]) -> set[str]:
    """Return the nodes where two different cells failed, while elsewhere more cells did not fail than did."""
    bad, good = (_nodes_of_cells(one for one in tries if one.failed is failed) for failed in (True, False))
    cells: dict[str, set[str]] = defaultdict(set)
    for cell, nodes in bad.items():
        for node in nodes:
            cells[node].add(cell)
    return {
        node
        for node, failed in cells.items()
        if len(failed) >= MANY_CELLS and _num_elsewhere(good, node) > _num_elsewhere(bad, node)
    }


def _nodes_of_cells(tries: Iterable[Try]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for one in tries:
        found[one.cell].add(one.node)
    return found


def _num_elsewhere(nodes_of_cells: dict[str, set[str]], node: str) -> int:
    return sum(nodes != {node} for nodes in nodes_of_cells.values())

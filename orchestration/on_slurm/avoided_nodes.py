"""Which nodes a cell avoids: where it failed, and where others did while cells elsewhere succeeded; pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestration.machine.counts import counted
from orchestration.runs.failures import AVOIDED_S

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
    kind: str = ""
    """The class of its failure."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of the nodes of a campaign."""

    failed: Sequence[Try]
    """The failures of the last day, newest first."""
    for_all: Collection[str]
    """The nodes that every cell avoids."""
    seen: Collection[str]
    """The nodes that cells have been on."""
    num_elsewhere: Mapping[str, int] = field(default_factory=dict)
    """How many cells did not fail on other nodes, for each node that every cell avoids."""

    def evidence(self) -> list[str]:
        """Say of each node that every cell avoids which cells failed there, of what, and how many did not elsewhere."""
        return [self._evidence(node) for node in sorted(self.for_all)]

    def _evidence(self, node: str) -> str:
        there = {one.cell: one.kind for one in reversed(self.failed) if one.node == node}
        failed = ", ".join(f"{cell} ({kind})" for cell, kind in sorted(there.items()))
        others = f"{counted(self.num_elsewhere[node], 'cell')} did not fail on other nodes"
        return f"all cells avoid node {node} for a day, if there is another: {failed} failed there, {others}"

    def avoided(
        self, cell: str, usable: Collection[str] | None, needed: int = 1, *, up: Collection[str] | None = None
    ) -> tuple[str, ...]:
        """Return the nodes that a cell avoids, never so many that none is left for it.

        Args:
            cell: The cell that is tried next.
            usable: The nodes that could hold it; None: unknown, and at most half of the nodes seen are avoided.
            needed: How many nodes it needs.
            up: The nodes that exist, if it is unknown which could hold it; no others are counted or avoided.
        """
        wanted = list(dict.fromkeys(one.node for one in self.failed if one.cell == cell or one.node in self.for_all))
        left = [node for node in self.seen if up is None or node in up] if usable is None else usable
        there = [node for node in wanted if node in left]  # sbatch refuses the names of nodes that are gone
        most = len(left) - needed if usable is not None else min(len(left) // 2, len(left) - needed)
        return tuple(sorted(there[: max(0, most)]))


def record(tries: Sequence[Try], now: float) -> Record:
    """Summarize the attempts of all cells of a campaign; failures older than a day are forgotten."""
    lately = [one for one in tries if now - one.time < AVOIDED_S]
    failed = sorted((one for one in lately if one.failed), key=lambda one: one.time, reverse=True)
    bad = _bad_for_all(lately)
    return Record(failed, {*bad}, {one.node for one in tries}, bad)


def _bad_for_all(tries: Sequence[Try]) -> dict[str, int]:
    """Return the nodes where two different cells failed, while elsewhere more cells succeeded than failed.

    With each comes how many succeeded elsewhere.
    """
    bad, good = (_nodes_of_cells(one for one in tries if one.failed is failed) for failed in (True, False))
    cells: dict[str, set[str]] = defaultdict(set)
    for cell, nodes in bad.items():
        for node in nodes:
            cells[node].add(cell)
    return {
        node: num_good
        for node, failed in cells.items()
        if len(failed) >= MANY_CELLS and (num_good := _num_elsewhere(good, node)) > _num_elsewhere(bad, node)
    }


def _nodes_of_cells(tries: Iterable[Try]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for one in tries:
        found[one.cell].add(one.node)
    return found


def _num_elsewhere(nodes_of_cells: dict[str, set[str]], node: str) -> int:
    return sum(nodes != {node} for nodes in nodes_of_cells.values())

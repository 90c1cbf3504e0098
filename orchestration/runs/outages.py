"""What hits many cells within minutes is no fault of theirs: a file server that is away, a rack without power; pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestration.runs.failures import POLICY, AttemptEnd, Fault

MANY_CELLS = 3
WITHIN_S = 600.0


@dataclass(frozen=True, slots=True)
class Outage:
    """Ends of attempts that came close together."""

    ends: Sequence[tuple[str, AttemptEnd]]
    """The ends with the names of their cells, in order of time."""

    @property
    def cells(self) -> list[str]:
        """The cells, each once."""
        return list(dict.fromkeys(cell for cell, _ in self.ends))

    @property
    def nodes(self) -> list[str]:
        """The nodes, each once."""
        return list(dict.fromkeys(end.node for _, end in self.ends))

    @property
    def kinds(self) -> str:
        """The classes, each once."""
        return ", ".join(dict.fromkeys(str(end.kind) for _, end in self.ends))

    @property
    def fault(self) -> Fault:
        """Who is to blame: the node or the site."""
        return Fault.NODE if len(self.nodes) == 1 and self.nodes[0] else Fault.SITE

    def __str__(self) -> str:
        """Describe the outage in one line."""
        where = f"node {self.nodes[0]}" if self.fault is Fault.NODE else f"{len(self.nodes)} nodes"
        minutes = max(1, round((self.ends[-1][1].time - self.ends[0][1].time) / 60))
        return f"{self.kinds} ended {len(self.cells)} cells on {where} within {minutes} min"


def outages(ends: Mapping[str, Sequence[AttemptEnd]]) -> list[Outage]:
    """Find groups of ends of a grid's attempts that came close together, in order of time."""
    due = sorted(
        ((cell, end) for cell, some in ends.items() for end in some if end.is_told and POLICY[end.kind].by_site),
        key=lambda item: item[1].time,
    )
    found: list[list[tuple[str, AttemptEnd]]] = []
    taken = 0
    for first, until in _crowded(due):
        if first >= taken:
            found.append([])
        found[-1] += due[max(first, taken) : until]
        taken = until
    return [Outage(group) for group in found]


def _crowded(due: Sequence[tuple[str, AttemptEnd]]) -> Iterator[tuple[int, int]]:
    """Yield the time spans, as index ranges, in which many cells ended."""
    inside, first = Counter[str](), 0
    for place, (cell, end) in enumerate(due):
        inside[cell] += 1
        while end.time - due[first][1].time > WITHIN_S:
            inside -= Counter([due[first][0]])
            first += 1
        if len(inside) >= MANY_CELLS:
            yield first, place + 1


def excused(ends: Mapping[str, Sequence[AttemptEnd]]) -> dict[str, list[AttemptEnd]]:
    """Return the ends, each with who is to blame for it, for `failures.decide`."""
    faults = {(cell, end): outage.fault for outage in outages(ends) for cell, end in outage.ends}
    return {
        cell: [replace(end, fault=faults.get((cell, end), Fault.CELL)) for end in some] for cell, some in ends.items()
    }

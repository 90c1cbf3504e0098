"""What each table of a grid takes of a plan: cells, GPU-hours and disk; a cell of several tables is in each of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestration.grids.composed import Grid
from orchestration.machine.counts import counted
from orchestration.planning import costs
from orchestration.planning.plan import Item, Plan, format_amount
from orchestration.runs.states import Action

_HEAD = ("table", "cells", "not above", "done", "GPU-hours left", "GB when done")
_ALL = "in all"


@dataclass(frozen=True, slots=True)
class Share:
    """A table's part of a plan."""

    grid: str
    """The name of its grid."""
    number: str
    """Of the table in the paper; empty if it has none."""
    priority: int
    num_cells: int
    num_distinct: int
    """How many of its cells no table before it has."""
    num_done: int
    num_left_out: int
    gpu_hours: float | None
    """Estimated GPU-hours left of its cells, also of those that stand in other tables; null without GPUs."""
    num_unknown: int
    """How many of its cells cannot be estimated."""
    disk_bytes: float
    """Estimated bytes when all of its cells are done."""

    @property
    def title(self) -> str:
        """The table in words."""
        return f"{self.number} {self.grid}" if self.number else f"- {self.grid}"


def of_tables(tables: Sequence[Grid], planned: Plan) -> list[Share]:
    """Return the share of each table of a grid, in their order."""
    items, seen, found = {item.cell.signature: item for item in planned.items}, set[str](), list[Share]()
    for table in tables:
        own = {cell.signature for cell in table.cells}
        mine = [items[signature] for signature in own]
        found.append(_share(table.name, table.table.number, table.priority, mine, len(own - seen), planned))
        seen |= own
    return found


def _share(name: str, number: str, priority: int, items: Sequence[Item], num_distinct: int, planned: Plan) -> Share:
    return Share(
        grid=name,
        number=number,
        priority=priority,
        num_cells=len(items),
        num_distinct=num_distinct,
        num_done=sum(item.action is Action.KEEP for item in items),
        num_left_out=sum(item.action is Action.LEAVE_OUT for item in items),
        gpu_hours=sum(item.gpu_hours for item in items) if planned.uses_gpus else None,
        num_unknown=sum(item.estimate_s is None for item in items),
        disk_bytes=sum(costs.finished_bytes(item.cell.config) for item in items),
    )


def lines(shares: Sequence[Share], planned: Plan) -> list[str]:
    """Write the shares of several tables as lines below each other, with their sum; nothing for a single table."""
    if len(shares) < 2:
        return []
    num_cells, distinct = (sum(of) for of in zip(*((one.num_cells, one.num_distinct) for one in shares), strict=True))
    whole = _share(_ALL, "", 0, planned.items, distinct, planned)
    rows = [_HEAD, *(_row(one.title, one.num_cells, one) for one in shares), _row(_ALL, num_cells, whole)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    twice = num_cells - distinct
    said = (
        [f"{counted(twice, 'cell', 'stands')} in a table above, too, and {'is' if twice == 1 else 'are'} trained once"]
        if twice
        else []
    )
    unknown = (
        ["+ ?: without cells that cannot be estimated, as their split lists are not here"] if whole.num_unknown else []
    )
    return [*text, *said, *unknown]


def _row(title: str, num_cells: int, share: Share) -> tuple[str, ...]:
    hours = "-" if share.gpu_hours is None else format_amount(share.gpu_hours) + (" + ?" if share.num_unknown else "")
    return (title, str(num_cells), str(share.num_distinct), str(share.num_done), hours,
            format_amount(share.disk_bytes / 1e9))  # fmt: skip

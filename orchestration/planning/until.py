"""A launch with an end: which cells are done by a time, by estimate, and which are left out; pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from orchestration.grids.cells import Cell
from orchestration.planning.order import Places
from orchestration.planning.plan import Action, Item, Plan, in_order

EXAMPLE = "2026-12-18 18:00"
_SHOWN = 20
"""So many entries that are not complete are named."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A place of the table, by the axes over which it does not average."""

    axes: dict[str, str]
    num_cells: int
    num_done: int
    """How many of its cells are done by the time."""
    table: str = ""
    """The name of the table's grid."""

    @property
    def is_complete(self) -> bool:
        """Whether all of its cells are done by then."""
        return self.num_done == self.num_cells


def parse(text: str, now: float) -> float:
    """Read the value of `--until`; return seconds since 1970. Without a zone it is the time of this machine.

    Raises:
        ValueError: It is no time, or not in the future.
    """
    example = f"a date and a time to come, such as '{EXAMPLE}' or '{EXAMPLE}+01:00'"
    try:
        if ":" not in text:
            raise ValueError("a date alone does not say when")
        moment = datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"--until must be {example}; got {text!r}") from None
    if moment <= now:
        raise ValueError(f"--until must be {example}; got {text!r}, and it is {in_words(now)} now")
    return moment


def in_words(moment: float) -> str:
    """Write a time of this machine, to the minute."""
    return datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M")


def left_out(planned: Plan, until: float, now: float) -> Plan:
    """Leave out the cells that would end after a time if they started in the plan's order.

    A cell that does not fit takes no place from a later one that does.
    """
    places = Places(planned.max_concurrent)
    for item in planned.items:
        if item.action is Action.RUNNING:
            places.take(item.estimate_s or 0.0)
    items = []
    for item in planned.items:
        if item.to_do and now + places.next_end(item.estimate_s or 0.0) > until:
            why = f"would end about {in_words(now + places.next_end(item.estimate_s or 0.0))}"
            items.append(
                replace(item, action=Action.LEAVE_OUT, reason=f"{why}, after {in_words(until)}", estimate_s=0.0)
            )
            continue
        if item.to_do:
            places.take(item.estimate_s or 0.0)
        items.append(item)
    return replace(planned, items=in_order(items))


def entries(cells: Sequence[Cell], planned: Plan, over: Collection[str], left_s: float) -> list[Entry]:
    """Return each place of the table of these cells, with how many of its cells are done within some seconds.

    Args:
        cells: The cells of the grid, in its order.
        planned: Their plan.
        over: The axes over which the table averages.
        left_s: The seconds until then.
    """
    ends = planned.ends_s
    done = {item.cell.signature for item in planned.items if _is_done(item, ends.get(item.cell.signature), left_s)}
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for cell in cells:
        place = tuple((axis, value) for axis, value in cell.axes.items() if axis not in over)
        groups.setdefault(place, []).append(cell.signature)
    return [Entry(dict(place), len(found), sum(one in done for one in found)) for place, found in groups.items()]


def _is_done(item: Item, end_s: float | None, left_s: float) -> bool:
    return item.action is Action.KEEP or (end_s is not None and item.estimate_s is not None and end_s <= left_s)


def lines(planned: Plan, found: Sequence[Entry], until: float, now: float) -> list[str]:
    """Report what is done by a time, and what is left out."""
    ends = planned.ends_s
    num_left_out = sum(item.action is Action.LEAVE_OUT for item in planned.items)
    complete = [entry for entry in found if entry.is_complete]
    others = [entry for entry in found if not entry.is_complete]
    num_done = sum(_is_done(item, ends.get(item.cell.signature), until - now) for item in planned.items)
    counts = f"{num_done} of {len(planned.items)} cells are done"
    tables = list(dict.fromkeys(entry.table for entry in found))
    whole = [name for name in tables if all(entry.is_complete for entry in found if entry.table == name)]
    several = len(tables) > 1
    text = [
        f"by {in_words(until)}, with {planned.max_concurrent} at a time: {counts}, {num_left_out} are left out",
        f"complete by then: {len(complete)} of {len(found)} entries of the {'tables' if several else 'table'}",
        *([f"tables that are complete by then: {', '.join(whole) or 'none'}, of {len(tables)}"] if several else []),
    ]
    if others:
        names = [f"{entry.table} {_name(entry)}" if several else _name(entry) for entry in others]
        named = [
            f"{name} ({entry.num_done} of {entry.num_cells} cells)"
            for name, entry in zip(names[:_SHOWN], others, strict=False)
        ]
        more = [f"{len(others) - _SHOWN} more"] if len(others) > _SHOWN else []
        text.append(f"not complete: {', '.join([*named, *more])}")
    return text


def _name(entry: Entry) -> str:
    return " ".join(f"{axis}={value}" for axis, value in entry.axes.items()) or "the only one"

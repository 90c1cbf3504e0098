"""Which seeds a launch trains that adds them only where they decide something; pure.

The rule is that of the table (`tables/looks.py`): it hangs on the numbers of finished cells alone, so a launch that was
killed, a controller and the table come to the same, whoever looks and whenever.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from orchestration.grids.composed import Grid
from orchestration.machine.counts import counted
from orchestration.planning.plan import Item, Plan, format_amount
from orchestration.runs.states import Action
from orchestration.tables import looks
from orchestration.tables.comparisons import LEVEL, p_of_t
from orchestration.tables.entries import Entry, Place
from orchestration.tables.looks import Pair

WHY = "adaptive:"
"""How the reason begins for which a cell is not trained before a pair needs it."""
_SHOWN = 20
"""So many pairs that are not decided are named."""
_DRAWS = 99
"""Over so many quantiles of the next difference the chance of a decision is taken."""


@dataclass(frozen=True, slots=True)
class Open:
    """A pair of a table that no look has decided."""

    table: str
    place: str
    """In words."""
    num_seeds: int
    """How many it needs next."""
    most: int
    cells: frozenset[str]
    """The signatures of its cells that are not done, of these seeds."""
    chance: float
    """The probability that the next look decides it; 0 before the first one."""
    can_go_on: bool
    """Whether it may get more seeds than it has."""
    is_begun: bool
    """Whether a cell of it is done."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the tables of a grid need now."""

    cells: frozenset[str]
    """The signatures of all cells that are needed, finished ones too."""
    begin: frozenset[str]
    """Those of the first seeds."""
    pairs: tuple[Open, ...]
    """The pairs that are not decided."""
    num_pairs: int

    def why_not(self, cells: Sequence[str]) -> dict[str, str]:
        """Return why cells are not trained now, by signature."""
        why = f"{WHY} no pair needs its seed so far"
        return {signature: why for signature in cells if signature not in self.cells}

    def ranks(self, hours: Mapping[str, float]) -> dict[str, int]:
        """Return in which order the cells start that were added: what decides most per GPU-hour first.

        Args:
            hours: What each cell takes, in any unit, by signature.
        """
        worth = {
            pair: pair.chance / max(1e-9, sum(hours.get(cell, 1.0) for cell in pair.cells))
            for pair in self.pairs
            if pair.cells - self.begin
        }
        found: dict[str, int] = {}
        for rank, pair in enumerate(sorted(worth, key=lambda one: -worth[one]), start=1):
            for cell in pair.cells - self.begin:
                found.setdefault(cell, rank)
        return found


def needs(tables: Sequence[Grid], numbers: Mapping[str, float]) -> Needs:
    """Return what the tables of a grid need, by the numbers of its finished cells; other tables need all their cells.

    Args:
        tables: Those of the whole grid, with cells of earlier launches.
        numbers: The best mIoU of each finished cell, by signature.
    """
    cells, begin, found, num = set[str](), set[str](), list[Open](), 0
    for table in tables:
        if not table.table.adaptive:
            cells |= {cell.signature for cell in table.cells}
            begin |= {cell.signature for cell in table.cells}
            continue
        entries, pairs = looks.of_records(records(table, numbers), table.table, table.baseline)
        seeds, counts = looks.seeds_of(entries.values(), table.table), looks.num_seeds(entries, pairs, table.table)
        for place, entry in entries.items():
            cells |= looks.needed(entry, counts[place], seeds, table.table)
            begin |= looks.needed(entry, table.table.adaptive, seeds, table.table)
        found += [_open(table, pair, entries, seeds, len(pairs)) for pair in pairs.values() if not pair.is_decided]
        num += len(pairs)
    return Needs(frozenset(cells), frozenset(begin), tuple(found), num)


def records(table: Grid, numbers: Mapping[str, float]) -> list[dict[str, str | float | None]]:
    """Return a record for each point of a table, as a decision about its seeds needs it."""
    return [
        {**point, "signature": cell.signature, looks.METRIC: numbers.get(cell.signature)}
        for cell in table.cells
        for point in (cell.axes, *cell.also)
    ]


def _open(table: Grid, pair: Pair, entries: Mapping[Place, Entry], seeds: Sequence[str], num_pairs: int) -> Open:
    layout = table.table
    axes = [*layout.rows, *layout.blocks, *layout.columns]
    words = " ".join(f"{axis}={value}" for axis, value in zip(axes, sum(pair.place, ()), strict=True))
    both = (entries[pair.place], entries[pair.baseline])
    cells = set().union(*(looks.needed(one, pair.num_seeds, seeds, layout) - one.values.keys() for one in both))
    last = pair.looks[-1].num_seeds if pair.looks else 0
    shares = looks.shares(len(seeds) + 1 - layout.adaptive) if len(seeds) > layout.adaptive else [1.0]
    share = shares[min(len(pair.looks), len(shares) - 1)]
    chance = _chance(pair.looks[-1].differences, LEVEL * share / num_pairs) if pair.looks else 0.0
    return Open(
        table=table.name,
        place=words,
        num_seeds=pair.num_seeds,
        most=len(seeds),
        cells=frozenset(cells),
        chance=chance,
        can_go_on=last < len(seeds),
        is_begun=any(one.values for one in both),
    )


def _chance(differences: Sequence[float], level: float) -> float:
    """Return the probability that one more difference takes the p-value below a level, if it is as those so far."""
    n = len(differences)
    if n < 2 or not (spread := stdev(differences)):
        return 0.0
    from scipy.special import stdtrit  # takes a tenth of the import time of scipy.stats

    middle, width = fmean(differences), spread * (1 + 1 / n) ** 0.5
    steps = stdtrit(n - 1, [(number + 0.5) / _DRAWS for number in range(_DRAWS)])
    p_values = [p_of_t([*differences, middle + width * float(step)]) for step in steps]
    return sum(p is not None and p < level for p in p_values) / _DRAWS


def waits(item: Item) -> bool:
    """Return whether a cell is not trained as no pair needs its seed so far."""
    return item.action is Action.LEAVE_OUT and item.reason.startswith(WHY)


def lines(found: Needs, planned: Plan) -> list[str]:
    """Say what a launch that adds seeds adaptively trains now, and what at most may follow."""
    later = [item for item in planned.items if waits(item)]
    now = counted(len(planned.jobs), "cell")
    hours = more_gpu_hours(planned)
    more = f", {format_amount(hours)} GPU-hours" if hours else ""
    head = (
        f"seeds are added adaptively: {now} now, at most {counted(len(later), 'cell')} more{more}, "
        "for pairs that are not decided"
    )
    return [head, *in_words(found)]


def in_words(found: Needs) -> list[str]:
    """Say how many pairs are decided, and which need which seeds."""
    ended = [pair for pair in found.pairs if not pair.can_go_on]
    going = [pair for pair in found.pairs if pair.can_go_on]
    num = found.num_pairs - len(found.pairs)
    said = [
        f"pairs: {num} of {found.num_pairs} are decided" + (f", {len(ended)} stay open with all seeds" if ended else "")
    ]
    tables = {pair.table for pair in found.pairs}
    named = [_named(pair, pair.table if len(tables) > 1 else "") for pair in going if pair.is_begun]
    more = [f"not decided: {len(named) - _SHOWN} more"] if len(named) > _SHOWN else []
    num_new = sum(not pair.is_begun for pair in going)
    return [*said, *named[:_SHOWN], *more, *([f"{num_new} of them have no cell that is done"] if num_new else [])]


def _named(pair: Open, table: str) -> str:
    rest = f"{counted(len(pair.cells), 'cell')} to come" if pair.cells else "which are done"
    title = f"{table} " if table else ""
    return f"not decided: {title}{pair.place} against its baseline, {pair.num_seeds} of {pair.most} seeds, {rest}"


def more_gpu_hours(planned: Plan) -> float:
    """Return the estimated GPU-hours of the cells that may still be added; 0 on CPUs."""
    return sum(_gpu_hours(item) for item in planned.items if waits(item)) if planned.uses_gpus else 0.0


def _gpu_hours(item: Item) -> float:
    return (
        item.cell.config.execution.trainer.num_workers * (item.num_steps or 0) * (item.seconds_per_step or 0.0) / 3600
    )

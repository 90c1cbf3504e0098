"""Grids whose tables begin with a few seeds, and get more only where these decide something."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestration.grids import grid_spec, parts
from orchestration.grids.composed import Grid
from orchestration.tables.looks import SEED

FIRST_SEEDS = 5
"""With how many seeds an entry begins if nobody says: three agree by chance too often where numbers have two modes."""


def asked(loaded: Grid, first: int | None, stored: Mapping[str, Any]) -> Grid:
    """Return a grid with the number of first seeds that the command line asks for; 0: all at once.

    None: what its file says, else the file of the grid's folder, `stored`, as that launch began. Tables that cannot be
    tested, or have no more seeds, keep all their cells.

    Raises:
        ValueError: No table can have seeds added to it.
    """
    if first is None:
        return _with(
            {one.name: one.table.adaptive or _begun_with(loaded, one, stored) for one in loaded.tables}, loaded
        )
    if not first:
        return _with(dict.fromkeys((one.name for one in loaded.tables), 0), loaded)
    whys = {one.name: _why_not(one, first) for one in loaded.tables}
    if all(whys.values()):
        name, why = next(iter(whys.items()))
        raise ValueError(f"--adaptive must be given for a grid with a baseline and seeds to add: {name} {why}")
    return _with({name: 0 if why else first for name, why in whys.items()}, loaded)


def check(one: Grid) -> None:
    """Refuse a file by which seeds are to be added to a table that cannot be tested.

    Raises:
        ValueError: It averages over no seeds, or has no baseline.
    """
    if not one.table.adaptive or SEED not in one.axes:
        return
    if SEED not in one.table.over or not (one.spec and one.spec.baseline):
        raise ValueError(
            "table: adaptive must go with `over: [seed]` and with a baseline, as pairs of seeds are tested"
        )


def kept(every: Grid, loaded: Grid, content: Mapping[str, Any]) -> Grid:
    """Return a whole grid that keeps adding seeds adaptively once it has: its tests are corrected for the looks.

    Args:
        every: The grid with all cells that it was ever launched with.
        loaded: The grid or the part of it that is launched now.
        content: The grid's stored file as it was.

    Raises:
        ValueError: The looks would be others than those that were taken.
    """
    if not every.parts:
        _refuse_other_looks(loaded, content)
        return _one(every, loaded.table.adaptive or _first_in(content))
    stored = content.get(parts.GRIDS)
    named = stored if isinstance(stored, dict) else {}
    each = {str(name): one.get("grid") for name, one in named.items() if isinstance(one, dict)}
    for part in loaded.parts:
        _refuse_other_looks(part, each.get(part.name))
    firsts = {name: _first_in(one) for name, one in each.items()}
    return _with(firsts | {one.name: one.table.adaptive for one in loaded.parts if one.table.adaptive}, every)


def _refuse_other_looks(one: Grid, content: Any) -> None:  # noqa: ANN401 (of a file that is yet to be checked)
    """Refuse what would take other looks than a grid began with: its tests are corrected for those."""
    began, axes = _first_in(content), content.get("axes") if isinstance(content, Mapping) else None
    if not began:
        return
    since = f"{one.name} has had looks at its first seeds, for which its tests are corrected"
    if one.table.adaptive not in (0, began):
        raise ValueError(f"--first-seeds must stay {began}, as {since}; got {one.table.adaptive}")
    now, stored = one.axes.get(SEED, []), axes.get(SEED) if isinstance(axes, Mapping) else None
    known = [seed for seed in map(str, stored if isinstance(stored, list) else []) if seed in now]
    if now[: len(known)] != known:
        raise ValueError(f"seed must begin with {', '.join(known)}, in this order, as {since}; got {', '.join(now)}")


def _begun_with(loaded: Grid, one: Grid, stored: Mapping[str, Any]) -> int:
    """Return with how many seeds a table began by the file of the grid's folder; 0: with all, or none can be added."""
    first = _first_in(_part_of(stored, one.name) if loaded.parts else stored)
    return first if first and not _why_not(one, first) else 0


def _part_of(stored: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 (of a file that is yet to be checked)
    named = stored.get(parts.GRIDS)
    part = named.get(name) if isinstance(named, dict) else None
    return part.get("grid") if isinstance(part, dict) else None


def _first_in(content: Any) -> int:  # noqa: ANN401 (of a file that is yet to be checked)
    table = content.get("table") if isinstance(content, Mapping) else None
    text = str(table.get("adaptive", "")) if isinstance(table, dict) else ""
    return int(text) if text.isdecimal() else 0


def _why_not(one: Grid, first: int) -> str:
    if SEED not in one.table.over:
        return "averages over no seeds"
    if not one.baseline:
        return "has no baseline"
    if len(one.axes.get(SEED, [])) <= first:
        words = "'seed=[0,1,2,3,4,5,6,7]' makes more"
        return f"has {len(one.axes.get(SEED, []))} seeds, of which {first} are the first: {words}"
    return ""


def _with(firsts: Mapping[str, int], loaded: Grid) -> Grid:
    if loaded.parts:
        made = [_one(part, firsts.get(part.name, part.table.adaptive)) for part in loaded.parts]
        return loaded if made == [*loaded.parts] else parts.joined(loaded.name, made, loaded.site)
    return _one(loaded, firsts.get(loaded.name, loaded.table.adaptive))


def _one(one: Grid, first: int) -> Grid:
    if one.spec is None or one.table.adaptive == first:
        return one
    spec = replace(one.spec, table={**one.spec.table, "adaptive": first})
    layout = replace(one.table, adaptive=first)
    return replace(one, spec=spec, table=layout, text=grid_spec.resolved_text(one.name, spec, layout))

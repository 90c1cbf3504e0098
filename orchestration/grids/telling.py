"""What tells the cells of several launches apart in one table, and which of them belong to the baseline of which."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestration.grids.cells import Cell, short_names_once
from orchestration.grids.composed import Grid
from orchestration.grids.parts import value_of
from orchestration.grids.values import GROUPS, flatten
from orchestration.tables.baselines import Baseline
from rankmatch.unused import unused_settings


def settings(cells: Sequence[Cell], keys: Sequence[str], over: Sequence[str], loaded: Sequence[Cell] = ()) -> list[str]:
    """Return further settings that tell cells apart which would be alike, or which an entry would take for repetitions.

    Args:
        cells: All cells of a table.
        keys: Its axes.
        over: Those over which an entry gives mean and spread. They hide no setting that two launches had differently.
        loaded: The cells of the newest launch: what differs among its repetitions is meant so.
    """
    plain = [key for key in keys if key not in over or key in GROUPS]  # a data set comes with settings of its own
    known: dict[str, Mapping[str, Any]] = {}
    meant = _differing(loaded, plain, known)
    found = _differing(cells, keys, known)
    found += [key for key in _differing(cells, plain, known) if key not in meant]
    return [key for key in dict.fromkeys(found) if key not in keys]


def _differing(cells: Sequence[Cell], keys: Sequence[str], known: dict[str, Mapping[str, Any]]) -> list[str]:
    """Return the settings that differ among cells with equal values of some keys, and that these cells read.

    `known` receives the settings of each cell by signature, as reading them takes a while.
    """
    alike: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        alike.setdefault(tuple(value_of(cell, key) for key in keys), []).append(cell)
    shorts = {full: short for short, full in short_names_once().items()}
    found: dict[str, None] = {}
    for group in alike.values():
        seen: dict[str, Any] = {}
        for cell in group if len(group) > 1 else ():
            flat = known.get(cell.signature) or known.setdefault(cell.signature, _numerics(cell))
            found |= {shorts[full]: None for full, value in flat.items() if seen.setdefault(full, value) != value}
    return [*found]


def _numerics(cell: Cell) -> Mapping[str, Any]:
    unused = {f"numerics.{name}" for name in unused_settings(cell.config.numerics)}
    flat = flatten({"numerics": asdict(cell.config.numerics)})
    return {full: value for full, value in flat.items() if full not in unused}


def baseline(fixed: Mapping[str, str], loaded: Grid, every: Sequence[Cell]) -> Mapping[str, str]:
    """Return a baseline with its values of the axes that came in by settings of `per` that belong to its axes.

    Such a setting is one of a method as the grid has it, if methods differ in it, so its cells are compared across it:
    as they are without cells of earlier launches, where it is no axis. Of a part without the baseline, all cells count.
    """
    per = loaded.spec.per if loaded.spec else {}
    keys = {key for axis, groups in per.items() if axis in fixed for own in groups.values() for key in own}
    added = [key for key in every[0].axes if key in keys and key not in loaded.axes]
    mine, known = ([cell for cell in cells if _is_of(cell, fixed)] for cells in (loaded.cells, every))
    values = {key: {value_of(cell, key) for cell in mine or known} for key in added}
    others = {key: {value_of(cell, key) for cell in loaded.cells} for key in added}
    own = {key: next(iter(one)) for key, one in values.items() if len(one) == 1 and one != others[key]}
    if all({value_of(cell, key) for cell in known} == {text} for key, text in own.items()):
        return {**fixed, **own}
    axes = [*fixed, *own]
    return Baseline(dict(fixed), own, {tuple(value_of(cell, key) for key in axes) for cell in loaded.cells})


def _is_of(cell: Cell, values: Mapping[str, str]) -> bool:
    return all(value_of(cell, key) == text for key, text in values.items())

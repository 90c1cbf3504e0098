"""What tells the cells of several launches apart in one table, and with which of them each is compared."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestration.grids.cells import Cell, compose, short_names_once
from orchestration.grids.composed import Grid
from orchestration.grids.parts import value_of
from orchestration.grids.values import GROUPS, Value, flatten, format_value, read_value
from orchestration.tables.baselines import Baseline
from rankmatch.unused import unused_settings

_AS_IN_THE_FILE = object()
Point = Mapping[str, str]


class NewestFile:
    """What the file of the newest launch, which may have been of a part, says of the cells of all launches."""

    def __init__(self, loaded: Grid) -> None:
        assert loaded.spec is not None
        self._spec = loaded.spec
        earlier = {*loaded.earlier}
        self._own = {cell.signature for cell in loaded.cells if cell.signature not in earlier}
        own = (cell for cell in loaded.cells if cell.signature in self._own)
        self._made: dict[tuple[str, ...], Cell | None] = {
            self._key(point): cell for cell in own for point in (cell.axes, *cell.also)
        }
        self._values = {axis: {*map(format_value, values)} for axis, values in self._spec.axes.items()}
        self._baseline = {axis: format_value(value) for axis, value in self._spec.baseline.items()}

    def makes(self, cell: Cell) -> bool:
        """Return whether it has a cell as that was trained."""
        return cell.signature in self._own or (
            (made := self.cell_at(cell)) is not None and made.identity == cell.identity
        )

    def says_where(self, cell: Cell, values: Point) -> bool:
        """Return whether it says if a cell stands also for some values: the cell is its own, and so are they."""
        is_own = all(text in self._values.get(key, ()) for key, text in values.items())
        return is_own and cell.signature in self._own

    def baseline_of(self, cell: Cell) -> Cell | None:
        """Return the cell with the baseline's values and else that of a cell it makes; None if there is neither."""
        return self._at(self._point(cell) | self._baseline) if self._baseline and self.makes(cell) else None

    def cell_at(self, cell: Cell) -> Cell | None:
        """Return the cell that it has in the place of another; None if that can no longer be composed."""
        return self._at(self._point(cell))

    def _point(self, cell: Cell) -> dict[str, str]:
        return {axis: value_of(cell, axis) for axis in self._spec.axes}

    def _at(self, point: Point) -> Cell | None:
        key = self._key(point)
        if key not in self._made:
            self._made[key] = self._composed(point)
        return self._made[key]

    def _composed(self, point: Point) -> Cell | None:
        try:
            given = {axis: _value(axis, point[axis], values) for axis, values in self._spec.axes.items()}
            return Cell(compose(self._spec.settings(given), self._spec.places), dict(point))
        except ValueError:
            return None

    def _key(self, point: Point) -> tuple[str, ...]:
        return tuple(point[axis] for axis in self._spec.axes)


def settings(
    cells: Sequence[Cell], keys: Sequence[str], over: Sequence[str], newest: NewestFile | None = None
) -> list[str]:
    """Return further settings that tell cells apart which would be alike, or which an entry would take for repetitions.

    Args:
        cells: All cells of a table.
        keys: Its axes.
        over: Those over which an entry gives mean and spread. They hide no setting that two launches had differently.
        newest: The newest file, or none: what differs among its repetitions is meant so.
    """
    plain = [key for key in keys if key not in over or key in GROUPS]  # a data set comes with settings of its own
    raw = {cell.signature: _numerics(cell) for cell in cells}
    beside = {cell.signature: _beside(cell, raw[cell.signature], newest) for cell in cells}
    found = [*_differing(cells, keys, raw), *_differing(cells, plain, beside)]
    return [key for key in dict.fromkeys(found) if key not in keys]


def _differing(cells: Sequence[Cell], keys: Sequence[str], known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the settings, by signature in `known`, that differ among cells with equal values of some keys."""
    alike: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        alike.setdefault(tuple(value_of(cell, key) for key in keys), []).append(cell)
    shorts = {full: short for short, full in short_names_once().items()}
    found: dict[str, None] = {}
    for group in alike.values():
        seen: dict[str, Any] = {}
        for cell in group:
            flat = known[cell.signature]
            found |= {shorts[full]: None for full, value in flat.items() if seen.setdefault(full, value) != value}
    return [*found]


def _beside(cell: Cell, flat: Mapping[str, Any], newest: NewestFile | None) -> Mapping[str, Any]:
    """Return a cell's settings, without the values of those that are as the newest file has them in its place."""
    made = newest.cell_at(cell) if newest else None
    if made is None:
        return flat
    if made.signature == cell.signature:
        return dict.fromkeys(flat, _AS_IN_THE_FILE)
    its = flatten({"numerics": asdict(made.config.numerics)})
    return {full: _AS_IN_THE_FILE if its.get(full) == value else value for full, value in flat.items()}


def _numerics(cell: Cell) -> Mapping[str, Any]:
    unused = _unused(cell)
    flat = flatten({"numerics": asdict(cell.config.numerics)})
    return {full: value for full, value in flat.items() if full not in unused}


def _unused(cell: Cell) -> set[str]:
    return {f"numerics.{name}" for name in unused_settings(cell.config.numerics)}


def at_all_points(cells: Sequence[Cell], newest: NewestFile | None = None) -> list[Cell]:
    """Return cells that stand also for the values which others have of settings that they do not read.

    A file has decided this for its own cells and values. What came in by other launches is treated alike, so that rows
    of each value find their baseline, and seeds of a row that ignores it stay together.
    """
    full = short_names_once()
    idle = [[key for key in cell.axes if full.get(key, "") in unused] for cell in cells for unused in [_unused(cell)]]
    values: dict[tuple[str, ...], dict[tuple[str, ...], None]] = {}
    for ignored in {tuple(keys) for keys in idle if keys}:
        reading = (cell for cell, mine in zip(cells, idle, strict=True) if not {*ignored} & {*mine})
        values[ignored] = dict.fromkeys(tuple(cell.axes[key] for key in ignored) for cell in reading)
    made = []
    for cell, keys in zip(cells, idle, strict=True):
        given = [dict(zip(keys, texts, strict=True)) for texts in values.get(tuple(keys), ())]
        others = [one for one in given if not (newest and newest.says_where(cell, one))]
        own = {key: cell.axes[key] for key in keys}
        is_meant = own in given or not others or (newest is not None and newest.says_where(cell, own))
        first = cell.axes if is_meant else {**cell.axes, **others[0]}
        points = [first, *cell.also, *({**cell.axes, **one} for one in others)]
        once = [point for place, point in enumerate(points) if point not in points[:place]]
        made.append(cell if len(once) == 1 and first is cell.axes else Cell(cell.config, once[0], tuple(once[1:])))
    return made


def partners(
    cells: Sequence[Cell], newest: NewestFile, recorded: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    """Return for each cell, by signature, the identities of the cells of the baseline that it is compared with.

    The newest file that makes a cell says so; `recorded` is what earlier ones said, which of a grid in several tables
    may be one for each.
    """
    found: dict[str, Sequence[str]] = {}
    for cell in cells:
        partner = newest.baseline_of(cell)
        found[cell.signature] = (partner.identity,) if partner else tuple(recorded.get(cell.signature, ()))
    return found


def baseline(fixed: Point, cells: Sequence[Cell], compared: Mapping[str, Sequence[str]]) -> Baseline:
    """Return the baseline of a table from its values and the cells' partners."""
    known = {cell.identity: cell for cell in cells if any(_is_at(point, fixed) for point in _points(cell))}
    beyond: dict[str, Point] = {}
    for cell in cells:
        partner = next((known[name] for name in compared.get(cell.signature, ()) if name in known), None)
        if partner and partner is not known.get(cell.identity):
            beyond[cell.signature] = _beyond(cell.axes | dict(fixed), partner)
    return Baseline(dict(fixed), beyond)


def _beyond(point: Point, partner: Cell) -> Point:
    """Return the values in which the point of a partner that is nearest to a point differs from it."""
    differences = [{key: text for key, text in one.items() if text != point[key]} for one in _points(partner)]
    return min(differences, key=len)


def _points(cell: Cell) -> Iterator[Point]:
    yield cell.axes
    yield from cell.also


def _is_at(point: Point, values: Point) -> bool:
    return all(point.get(key) == text for key, text in values.items())


def _value(axis: str, text: str, known: Sequence[Value]) -> Value:
    """Return an axis value of a cell, which a part of the grid may have left out."""
    return next((value for value in known if format_value(value) == text), None) or read_value(axis, text)

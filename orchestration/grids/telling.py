"""What tells the cells of several launches apart in one table, and which of them belong to the baseline of which."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestration.grids.cells import Cell, compose, short_names_once
from orchestration.grids.composed import Grid
from orchestration.grids.parts import value_of
from orchestration.grids.values import GROUPS, Value, flatten, format_value, read_value
from orchestration.tables.baselines import Baseline
from rankmatch.unused import unused_settings


def settings(cells: Sequence[Cell], keys: Sequence[str], over: Sequence[str], loaded: Grid | None = None) -> list[str]:
    """Return further settings that tell cells apart which would be alike, or which an entry would take for repetitions.

    Args:
        cells: All cells of a table.
        keys: Its axes.
        over: Those over which an entry gives mean and spread. They hide no setting that two launches had differently.
        loaded: The newest launch, or none: what differs among its repetitions, or would by its file, is meant so.
    """
    plain = [key for key in keys if key not in over or key in GROUPS]  # a data set comes with settings of its own
    known: dict[str, Mapping[str, Any]] = {}
    per = loaded.spec.per if loaded and loaded.spec else {}
    meant = {key for axis, groups in per.items() if axis not in plain for own in groups.values() for key in own}
    meant |= {*_differing(loaded.cells if loaded else (), plain, known)}
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
    as they are without cells of earlier launches, where it is no axis.
    """
    own = _own(fixed, loaded, every)
    values = {key: {cell.axes[key] for cell in every if _is_of(cell, fixed)} for key in own}
    if all(len(texts) == 1 for texts in values.values()):
        return {**fixed, **{key: next(iter(texts)) for key, texts in values.items()}}
    return _Rows(fixed, own, loaded, every).baseline()


def _own(fixed: Mapping[str, str], loaded: Grid, every: Sequence[Cell]) -> list[str]:
    """Return the settings in which the file has values of the baseline's axes differ, and which only came in as axes.

    The file is asked, not the launch: that may be of the baseline alone, or of all the others.
    """
    if loaded.spec is None:
        return []
    per, found = loaded.spec.per, []
    for key in (key for key in every[0].axes if key not in loaded.axes):
        for axis in (axis for axis in fixed if any(key in own for own in per.get(axis, {}).values())):
            names = dict.fromkeys(point[axis] for cell in every for point in (cell.axes, *cell.also))
            if len({text for name in names for text in _texts(key, axis, name, loaded, every)}) > 1:
                found.append(key)
                break
    return found


def _texts(key: str, axis: str, name: str, loaded: Grid, every: Sequence[Cell]) -> set[str]:
    """Return a setting of the cells with a value of an axis as the file has it; where it does not say, as they do."""
    assert loaded.spec is not None
    given = {**loaded.spec.fixed, **loaded.spec.per[axis].get(name, {})}
    if key in given:
        return {format_value(given[key])}
    mine, known = (
        {value_of(one, key) for one in cells if value_of(one, axis) == name} for cells in (loaded.cells, every)
    )
    return mine or known


class _Rows:
    """The rows of a table, by their values of all axes but those over which an entry gives mean and spread."""

    def __init__(self, fixed: Mapping[str, str], own: Sequence[str], loaded: Grid, every: Sequence[Cell]) -> None:
        self._fixed, self._own, self._spec = fixed, own, loaded.spec
        self._axes = [key for key in every[0].axes if key not in loaded.table.over]
        self._points = {self._key(point): point for cell in every for point in (cell.axes, *cell.also)}
        new = {cell.signature for cell in loaded.cells}
        self._now = {
            self._key(point) for cell in every if cell.signature in new for point in (cell.axes, *cell.also)
        }  # those of the newest launch

    def baseline(self) -> Baseline:
        """Return the settings of the baseline with which each row is compared."""
        options: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for point in self._points.values():
            if self._is_baseline(point):
                options.setdefault(self._rest(point), []).append(self._settings(point))
        chosen: dict[tuple[str, ...], Mapping[str, str]] = {}
        for row, point in self._points.items():
            if not self._is_baseline(point) and (of := self._partner(point, options.get(self._rest(point), []))):
                chosen[row] = {key: text for key, text in zip(self._own, of, strict=True) if text != point[key]}
        return Baseline(dict(self._fixed), self._axes, chosen)

    def _partner(self, point: Mapping[str, str], options: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
        """Return the only baseline there is; of several that of now for a row of now, else that of equal settings."""
        if len(options) == 1:
            return options[0]
        if len(options) > 1 and self._is_of_now(point):
            of_now = self._as_now({**point, **self._fixed})
            if of_now and (settings := self._settings(of_now)) in options:
                return settings
        return self._settings(point) if self._settings(point) in options else None

    def _is_of_now(self, point: Mapping[str, str]) -> bool:
        """Return whether the file has a row as it is: the newest launch may have been another part of it."""
        made = None if self._key(point) in self._now else self._as_now(point)
        return self._key(point) in self._now or (made is not None and all(made[key] == point[key] for key in made))

    def _as_now(self, point: Mapping[str, str]) -> Mapping[str, str] | None:
        """Return what the file makes of a point's values of its own axes; None if that can no longer be composed."""
        assert self._spec is not None
        try:
            given = {axis: _value(axis, point[axis], values) for axis, values in self._spec.axes.items()}
            made = Cell(compose(self._spec.settings(given), self._spec.places), {axis: point[axis] for axis in given})
        except ValueError:
            return None
        return {key: value_of(made, key) for key in self._axes}

    def _is_baseline(self, point: Mapping[str, str]) -> bool:
        return all(point[key] == text for key, text in self._fixed.items())

    def _rest(self, point: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(point[key] for key in self._axes if key not in self._own and key not in self._fixed)

    def _settings(self, point: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(point[key] for key in self._own)

    def _key(self, point: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(point[key] for key in self._axes)


def _value(axis: str, text: str, known: Sequence[Value]) -> Value:
    """Return an axis value of a cell, which a part of the grid may have left out."""
    return next((value for value in known if format_value(value) == text), None) or read_value(axis, text)


def _is_of(cell: Cell, values: Mapping[str, str]) -> bool:
    return all(value_of(cell, key) == text for key, text in values.items())

"""Word the values of many runs: once if all have the same, otherwise each value with its rows."""

import itertools
from collections.abc import Mapping, Sequence

from orchestration.machine.counts import counted as counted
from rankmatch.methods import METHODS

BACKBONES = {"resnet50": "ResNet-50", "resnet101": "ResNet-101", "xception": "Xception-65",
             "mobilenet_v2": "MobileNetV2"}  # fmt: skip
_BARE = ("method", "backbone", "dataset", "preset")
"""Axes whose values are self-explanatory."""
_FIRST, _LAST = ("method", "dataset", "backbone", "split"), ("seed",)
MAX_VALUES = 4
"""If more different numbers than this, give them as a range."""

Point = Mapping[str, str]
"""A run's values of the axes."""


def _name(axis: str, value: str) -> str:
    if axis == "method" and value in METHODS:
        return METHODS[value].title
    return BACKBONES.get(value, value) if axis == "backbone" else value


def listed(words: Sequence[str], last: str = "and") -> str:
    """Write a list in English: `a, b and c`."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def worded(points: Sequence[Point], values: Sequence[str], own: str = "") -> str:
    """Word the value of the runs: `8`, or `8 (supervised training) or 16 (RankMatch)`.

    Args:
        points: The runs.
        values: The value of each run, in the same order.
        own: The axis that is this value; it explains itself.
    """
    distinct = list(dict.fromkeys(values))
    axes = _explaining(points, values)
    if len(distinct) == 1 or not axes or axes == (own,):
        return listed(distinct, "or")
    if len(distinct) > MAX_VALUES and (span := _span(distinct)):
        return f"{span}, depending on the {listed([_title(axis) for axis in axes])}"
    return listed([f"{value} ({_where(points, values, value, axes)})" for value in distinct], "or")


def named(axis: str, values: Sequence[str]) -> str:
    """Name some values of an axis: `UniMatch and RankMatch`, `splits 92 and 183`."""
    words = listed([_name(axis, value) for value in values])
    if axis in _BARE:
        return words
    return f"{_title(axis)}{'s' if axis in ('split', 'seed') and len(values) > 1 else ''} {words}"


def _title(axis: str) -> str:
    return axis.rpartition(".")[2].replace("_", " ")


def _explaining(points: Sequence[Point], values: Sequence[str]) -> tuple[str, ...]:
    """Return the fewest axes that decide the value; none if runs that agree in all axes differ in it."""
    known = dict.fromkeys(axis for point in points for axis in point)
    first, last = ([axis for axis in some if axis in known] for some in (_FIRST, _LAST))
    order = [*first, *(axis for axis in known if axis not in (*first, *last)), *last]
    for size in range(1, len(order) + 1):
        for axes in itertools.combinations(order, size):
            found: dict[tuple[str, ...], str] = {}
            if all(
                found.setdefault(_at(point, axes), value) == value for point, value in zip(points, values, strict=True)
            ):
                return axes
    return ()


def _at(point: Point, axes: Sequence[str]) -> tuple[str, ...]:
    return tuple(point.get(axis, "") for axis in axes)


def _where(points: Sequence[Point], values: Sequence[str], value: str, axes: Sequence[str]) -> str:
    """Say which runs have a value, by the axes that decide it; leave out an axis if all its values have it."""
    here = dict.fromkeys(_at(point, axes) for point, own in zip(points, values, strict=True) if own == value)
    if len(axes) == 1:
        return named(axes[0], [key[0] for key in here])
    groups: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for first in dict.fromkeys(key[0] for key in here):
        rest = tuple(key[1:] for key in here if key[0] == first)
        everywhere = {_at(point, axes)[1:] for point in points if point.get(axes[0]) == first}
        groups.setdefault(() if set(rest) == everywhere else rest, []).append(first)
    parts = []
    for rest, firsts in groups.items():
        others = [named(axis, list(dict.fromkeys(key[place] for key in rest))) for place, axis in enumerate(axes[1:])]
        parts.append(named(axes[0], firsts) + (f" with {listed(others)}" if rest else ""))
    return "; ".join(parts)


def _span(values: Sequence[str]) -> str:
    """Write numbers with the same unit as a range; empty if they are not numbers."""
    parts = [value.partition(" ") for value in values]
    try:
        numbers = sorted((float(number.replace(",", "")), number) for number, _, _ in parts)
    except ValueError:
        return ""
    return f"{numbers[0][1]} to {numbers[-1][1]} {parts[0][2]}".strip()

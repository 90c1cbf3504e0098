"""The layout of a table: the section `table` of a grid file, or a separate YAML file."""

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestration.machine import yaml_text
from orchestration.tables.comparisons import MIN_T

PLACES = ("rows", "blocks", "columns", "over")
KEYS = (*PLACES, "published", "others", "names", "number", "adaptive")
OF_PUBLISHED = ("file", "dataset", "where", "axes", "row", "rows", "crop")


@dataclass(frozen=True, slots=True)
class Published:
    """The source of a table's published figures."""

    file: str
    """A CSV file in experiments/paper, or a path."""
    dataset: str
    """Name of their data set; cells of another one are not compared with them."""
    where: dict[str, str] = field(default_factory=dict)
    """Values of columns that select the table within the file."""
    axes: dict[str, str] = field(default_factory=dict)
    """The file's column for an axis, if the names differ (`split` is `partition`)."""
    row: str = ""
    """The file's column of row names, if rows are not given by one axis with the same names."""
    rows: dict[str, list[str]] = field(default_factory=dict)
    """With `row`: a name in the file, and the values of the row's axes."""
    crop: str = ""
    """The file's column of crop sizes; figures with our crop are preferred to those of the source in `where`."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The place of each axis of a grid in its table."""

    rows: list[str]
    columns: list[str]
    over: list[str]
    """The axes over which each place of the table gives mean and spread."""
    blocks: list[str] = field(default_factory=list)
    """Axes with a group of columns for each value, such as the backbones in the paper's tables."""
    published: Published | None = None
    others: bool = False
    """Whether to show rows that only the published table has."""
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    """Names of axis values in the table."""
    number: str = ""
    """The number of the table in the paper."""
    adaptive: int = 0
    """With how many seeds each entry begins, if it gets more only where they decide something; 0: it gets all."""


def read(table: Mapping[str, Any], axes: Iterable[str]) -> dict[str, Any]:
    """Check the section `table` of a grid file, scalars as text; return its values by the fields of `Layout`.

    Raises:
        ValueError: A key, an axis or a value is not allowed.
    """
    axes = list(axes)
    said: dict[str, Any] = {}
    for key, value in table.items():
        if key not in KEYS:
            raise ValueError(f"table may have the keys {', '.join(KEYS)}; got {key!r}")
        if key in PLACES:
            said[key] = _axes(key, value, axes)
    named = list(itertools.chain.from_iterable(said.values()))
    for axis in named:
        if named.count(axis) > 1:
            raise ValueError(f"table must name an axis once; {axis} occurs twice")
    readers = {"published": _published, "others": _is_true, "number": _number, "adaptive": _first_seeds}
    said |= {key: reader(table[key]) for key, reader in readers.items() if key in table}
    if "names" in table:
        said["names"] = _names(table["names"], axes)
    return said


def read_file(path: Path, axes: Iterable[str], added: Collection[str] = ()) -> Layout:
    """Read a layout file for a grid with these axes; axes that it does not name are averaged over.

    Those that launches have added to the grid's file, which whoever wrote the layout need not know, make rows.

    Raises:
        ValueError: The file cannot be read, or a key, an axis or a value is not allowed.
    """
    if not path.is_file():
        raise ValueError(f"--layout must be a YAML file; there is no {path}")
    content = yaml_text.read(path)
    axes = list(axes)
    try:
        if not isinstance(content, dict):
            raise ValueError(f"a layout must be a mapping with the keys {', '.join(KEYS)}; got {content!r}")
        said = read(content, axes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    named = {axis for place in PLACES for axis in said.get(place, ())}
    said["rows"] = [*said.get("rows", ()), *(axis for axis in axes if axis in added and axis not in named)]
    named |= {*said["rows"]}
    said["over"] = [*said.get("over", ()), *(axis for axis in axes if axis not in named)]
    return Layout(**{"columns": []} | said)


def to_tree(layout: Layout) -> dict[str, Any]:
    """Write a layout as the section for `read`, without empty parts."""
    tree = asdict(layout)
    published = {key: value for key, value in (tree.pop("published") or {}).items() if value}
    tree = {
        key: tree[key]
        for key in (*PLACES, "others", "names", "number", "adaptive")
        if tree[key] or key in ("rows", "columns", "over")
    }
    return tree | ({"published": published} if published else {})


def _axes(place: str, value: Any, axes: list[str]) -> list[str]:  # noqa: ANN401
    named = [value] if isinstance(value, str) else value
    if not isinstance(value, str | list) or not all(isinstance(axis, str) for axis in named):
        raise ValueError(f"table: {place} must be an axis or a list of axes; got {value!r}")
    for axis in named:
        if axis not in axes:
            raise ValueError(f"table: {place} may name the axes {', '.join(axes) or '(none)'}; got {axis!r}")
    return list(named)


def _published(value: Any) -> Published:  # noqa: ANN401
    said = _mapping("published", value)
    for key in said:
        if key not in OF_PUBLISHED:
            raise ValueError(f"table: published may have the keys {', '.join(OF_PUBLISHED)}; got {key!r}")
    for key in ("file", "dataset"):
        if not isinstance(said.get(key), str):
            raise ValueError(f"table: published must have a {key}; got {said.get(key)!r}")
    for key in ("where", "axes"):
        said[key] = _mapping(f"published: {key}", said.get(key, {}))
        if not all(isinstance(text, str) for text in said[key].values()):
            raise ValueError(f"table: published: {key} must map names to text; got {said[key]!r}")
    if not isinstance(said.get("crop", ""), str):
        raise ValueError(f"table: published: crop must name a column of the file; got {said['crop']!r}")
    said["rows"] = _mapping("published: rows", said.get("rows", {}))
    if not all(isinstance(values, list) for values in said["rows"].values()) or (said["rows"] and not said.get("row")):
        raise ValueError("table: published: rows must map values of the column `row` to lists of axis values")
    return Published(**said)


def _is_true(value: Any) -> bool:  # noqa: ANN401
    if value not in ("true", "false"):
        raise ValueError(f"table: others must be true or false; got {value!r}")
    return bool(value == "true")


def _number(value: Any) -> str:  # noqa: ANN401
    if not isinstance(value, str) or not value.isdecimal():
        raise ValueError(f"table: number must be a whole number; got {value!r}")
    return value


def _first_seeds(value: Any) -> int:  # noqa: ANN401
    if not isinstance(value, str) or not value.isdecimal() or int(value) < MIN_T:
        raise ValueError(f"table: adaptive must be a whole number of seeds, at least {MIN_T}; got {value!r}")
    return int(value)


def _names(value: Any, axes: list[str]) -> dict[str, dict[str, str]]:  # noqa: ANN401
    names = {axis: _mapping(f"names: {axis}", named) for axis, named in _mapping("names", value).items()}
    for axis in names:
        if axis not in axes:
            raise ValueError(f"table: names may name the axes {', '.join(axes) or '(none)'}; got {axis!r}")
        for value, name in names[axis].items():
            if not isinstance(name, str) or list(names[axis].values()).count(name) > 1:
                raise ValueError(f"table: names: {axis} must have a name of its own for {value}; got {name!r}")
    return names


def _mapping(key: str, value: Any) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(value, dict):
        raise ValueError(f"table: {key} must be a mapping; got {value!r}")
    return dict(value)

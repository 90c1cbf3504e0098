"""A grid file and what the command line changes in it -> checked cells, before any job."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestration import alike, yaml_text
from orchestration.cells import Cell, check_choice, compose, experiments_folder
from orchestration.tables import layouts
from orchestration.tables.layouts import Layout
from orchestration.values import (
    GROUPS,
    PATH_KEYS,
    Node,
    Value,
    check_key,
    comma_hint,
    format_value,
    is_axis,
    parse,
    read_axis,
    read_value,
)

KEYS = ("set", "axes", "exclude", "baseline", "table")
FILE, LAUNCHES = "grid.yaml", "launches"
"""Of a folder of runs: the grid as it was resolved, and the folder of its launches."""
_SAME = "are the same run"
SEARCH = "search"
"""The section that a file of `rankmatch tune` has."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A checked grid: every cell composed, no two of them the same."""

    name: str
    cells: list[Cell]
    axes: dict[str, list[str]]
    """The varied keys in order, with their values as text."""
    baseline: dict[str, str]
    """The axis values of the entries that others are compared with."""
    table: Layout
    text: str
    """The grid as resolved; loading it gives the same cells."""


@dataclass(slots=True)
class _Spec:
    """A grid file with values read, changed by the command line before it is expanded."""

    fixed: dict[str, Value] = field(default_factory=dict)
    axes: dict[str, list[Value]] = field(default_factory=dict)
    exclude: list[dict[str, list[Value]]] = field(default_factory=list)
    baseline: dict[str, Value] = field(default_factory=dict)
    table: dict[str, Any] = field(default_factory=dict)
    """Fields of a `Layout`, as far as the file gives them."""


def load(
    name_or_file: str, overrides: Sequence[str] = (), runs: Path | None = None, *, launched_first: bool = False
) -> Grid:
    """Read a grid by name or file, change it by `key=value` overrides, and compose every cell.

    Args:
        name_or_file: As `find` takes it.
        overrides: Words of the command line.
        runs: As `find` takes it.
        launched_first: As `find` takes it.

    Raises:
        ValueError: If the file, a key, a value, a choice or a cell is not allowed, or two cells are the same.
    """
    path = find(name_or_file, runs=runs, launched_first=launched_first)
    content = read_yaml(path)
    try:
        spec = _read_spec(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        _apply(spec, overrides)
        cells = alike.adopt(alike.once(_compose_all(spec)), _folder_of_runs(path, runs))
    except ValueError as error:
        raise ValueError(f"{error}{_hint_of_commas(overrides, str(error))}") from error
    axes = {key: [format_value(value) for value in values] for key, values in spec.axes.items()}
    baseline = {key: format_value(value) for key, value in _baseline_within(spec).items()}
    layout = _layout(spec)
    name = name_of(path)
    return Grid(name, cells, axes, baseline, layout, _resolved_text(name, spec, layout))


def is_search(path: Path) -> bool:
    """Tell whether a file is one of `rankmatch tune`.

    Raises:
        ValueError: It cannot be read.
    """
    return SEARCH in read_yaml(path)


def available(*, searches: bool = False) -> list[str]:
    """Return the names of the grids, or of the searches, that come with the project."""
    files = (experiments_folder() / "grids").glob("*.yaml")
    return sorted(path.stem for path in files if is_search(path) is searches)


def find(name_or_file: str, *, searches: bool = False, runs: Path | None = None, launched_first: bool = False) -> Path:
    """Return the file of a grid, or of a search.

    Args:
        name_or_file: A path (with a folder or `.yaml` in it), also of a folder of runs, or a name.
        searches: A search is meant.
        runs: A grid that was launched into this folder can be named, too; its file is there, as it was resolved.
        launched_first: What was launched comes before what experiments/grids has under the same name.

    Raises:
        ValueError: If there is no such file or name, or the name cannot be a folder's.
    """
    path = Path(name_or_file).expanduser()
    if is_path(name_or_file):
        path = path / FILE if path.is_dir() else path
    else:
        shipped = experiments_folder() / "grids" / f"{name_or_file}.yaml"
        launched = [runs.resolve() / name_or_file / FILE] if runs else []
        places = [*launched, shipped] if launched_first else [shipped, *launched]
        path = next((place for place in places if place.is_file()), shipped)
    if not path.is_file():
        kind, known = "search" if searches else "grid", ", ".join(available(searches=searches))
        also = f", or one that was launched into {runs} ({launched_names(runs)})" if runs else ""
        raise ValueError(f"{kind} must be a YAML file or one of {known}{also}; got {name_or_file!r}")
    check_name(path)
    return path


def check_name(path: Path) -> None:
    """Refuse a grid file whose name cannot be a folder's.

    Raises:
        ValueError: Naming what it may consist of.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name_of(path)):
        raise ValueError(f"the name of a grid file must consist of letters, digits and . _ -; got {name_of(path)!r}")


def is_path(name_or_file: str) -> bool:
    """Tell a file or a folder of the command line from a name."""
    return "/" in name_or_file or name_or_file.endswith((".yaml", ".yml"))


def name_of(path: Path) -> str:
    """Return the name of the grid that a file holds: its own, or that of the folder of runs that it lies in."""
    folder = path.resolve().parent
    if path.name != FILE:
        return path.stem
    if folder.parent.name == LAUNCHES:
        return folder.parents[1].name
    return folder.name if (folder / LAUNCHES).is_dir() else path.stem


def _folder_of_runs(path: Path, runs: Path | None) -> Path:
    """Return where the run folders of a grid are, whose file is given; one without a place has none."""
    if path.name == FILE:
        folder = path.resolve().parent
        return folder.parents[1] if folder.parent.name == LAUNCHES else folder
    return runs.resolve() / name_of(path) if runs else path.resolve() / "none"


def launched_names(runs: Path) -> str:
    """Return the names of the grids and searches that were launched into a folder, as text."""
    return ", ".join(sorted(path.parent.name for path in runs.resolve().glob(f"*/{FILE}"))) or "none"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a grid file, all scalars as text.

    Raises:
        ValueError: It cannot be read as YAML, or is no mapping.
    """
    content = yaml_text.read(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a grid must be a mapping with the keys {', '.join(KEYS)}; got {content!r}")
    return content


def _read_spec(content: Mapping[str, Any]) -> _Spec:
    if SEARCH in content:
        raise ValueError("a file with the section search is for `rankmatch tune`; its figures belong in no table")
    for key in content:
        if key not in KEYS:
            raise ValueError(f"a grid may have the keys {', '.join(KEYS)}; got {key!r}")
    spec = _Spec()
    spec.fixed = read_set(content)
    for key, nodes in mapping_at("axes", content).items():
        check_key(key)
        if not isinstance(nodes, list):
            raise ValueError(f"axes: {key} must be a list of values; got {nodes!r}")
        if key in spec.fixed:
            raise ValueError(f"{key} must stand in set or in axes; it stands in both")
        spec.axes[key] = read_axis(key, nodes)
    spec.exclude = [_read_point("exclude", spec, point) for point in _list("exclude", content)]
    spec.baseline = {key: values[0] for key, values in _read_point("baseline", spec, content.get("baseline")).items()}
    spec.table = layouts.read(mapping_at("table", content), spec.axes)
    return spec


def read_set(content: Mapping[str, Any]) -> dict[str, Value]:
    """Read the section `set` of a grid file: one value for each key.

    Raises:
        ValueError: A key or a value is not allowed.
    """
    return {key: _read_fixed(key, node) for key, node in mapping_at("set", content).items()}


def mapping_at(key: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section of a grid file; an empty one where there is none.

    Raises:
        ValueError: It is no mapping.
    """
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be a mapping; got {value!r}")
    return value


def _list(key: str, content: Mapping[str, Any]) -> list[Any]:
    value = content.get(key) or []
    if not isinstance(value, list):
        raise ValueError(f"{key} must be a list; got {value!r}")
    return value


def _read_fixed(key: str, node: Node) -> Value:
    check_key(key)
    if isinstance(node, list) and is_axis(key, node):
        raise ValueError(f"set: {key} must be one value; got {node!r} (several values stand in axes)")
    return read_value(key, node)


def _read_point(name: str, spec: _Spec, point: Any) -> dict[str, list[Value]]:  # noqa: ANN401
    if point is not None and not isinstance(point, dict):
        raise ValueError(f"{name} must map axes to values; got {point!r}")
    values: dict[str, list[Value]] = {}
    for key, node in (point or {}).items():
        if key not in spec.axes:
            raise ValueError(f"{name} may name the axes {', '.join(spec.axes) or '(none)'}; got {key!r}")
        several = name == "exclude" and is_axis(key, node)
        values[key] = read_axis(key, node) if several else [read_value(key, node)]
        for value in values[key]:
            if value not in spec.axes[key]:
                allowed = ", ".join(map(format_value, spec.axes[key]))
                raise ValueError(f"{name}: {key} must be one of {allowed}; got {format_value(value)}")
    return values


def _apply(spec: _Spec, overrides: Sequence[str]) -> None:
    for key, text in divide(overrides).items():
        check_key(key)
        _apply_one(spec, key, parse(key, text))


def divide(overrides: Sequence[str]) -> dict[str, str]:
    """Divide the `key=value` words of a command line.

    Raises:
        ValueError: A word has another form, or a key is given twice.
    """
    given: dict[str, str] = {}
    for override in overrides:
        key, mark, text = override.partition("=")
        if not mark:
            raise ValueError(f"an override must be key=value; got {override!r}")
        if key in given:
            raise ValueError(f"{key} must be given once; it is given twice")
        given[key] = text
    return given


def _hint_of_commas(overrides: Sequence[str], fault: str) -> str:
    """Say of a path in a fault how it is given as one value, where a comma in it has made it an axis."""
    texts = [word.partition("=")[::2] for word in overrides]
    paths = [(key, text) for key, text in texts if key in PATH_KEYS or (key == "dataset" and ".y" in text)]
    meant = [pair for pair in paths if f"{pair[0]} must" in fault or _SAME in fault]
    return "".join(comma_hint(key, text) for key, text in meant)


def _apply_one(spec: _Spec, key: str, node: Node) -> None:
    if isinstance(node, list) and is_axis(key, node):
        spec.fixed.pop(key, None)
        spec.axes[key] = read_axis(key, node)
    elif key in spec.axes:
        spec.axes[key] = [read_value(key, node)]
    else:
        spec.fixed[key] = read_value(key, node)


def _compose_all(spec: _Spec) -> list[Cell]:
    _check_choices(spec)
    cells: dict[str, Cell] = {}
    for values in itertools.product(*spec.axes.values()):
        point = dict(zip(spec.axes, values, strict=True))
        if any(all(point[key] in dropped for key, dropped in rule.items()) for rule in spec.exclude):
            continue
        cell = _compose_one(spec, point)
        if other := cells.get(cell.signature):
            raise ValueError(
                f"cells {_describe(other.axes)} and {_describe(cell.axes)} {_SAME}: "
                "an axis has no effect on what is trained"
            )
        cells[cell.signature] = cell
    if not cells:
        raise ValueError("a grid must have at least one cell; exclude drops all of them")
    return list(cells.values())


def _check_choices(spec: _Spec) -> None:
    for group in GROUPS:
        for choice in spec.axes.get(group, [spec.fixed[group]] if group in spec.fixed else []):
            check_choice(group, choice)


def _compose_one(spec: _Spec, point: dict[str, Value]) -> Cell:
    text = {key: format_value(value) for key, value in point.items()}
    try:
        cell = Cell(compose(spec.fixed | point), text)
    except ValueError as error:
        raise ValueError(f"cell {_describe(text)}: {error}" if text else str(error)) from error
    if held_out := cell.config.numerics.evaluation.held_out:
        raise ValueError(
            "evaluation.held_out must be 0 in a grid, whose tables are of the validation list (`rankmatch tune` holds "
            f"images out); got {held_out:g}"
        )
    return cell


def _describe(axes: Mapping[str, str]) -> str:
    return " ".join(f"{key}={text}" for key, text in axes.items())


def _layout(spec: _Spec) -> Layout:
    said = {place: spec.table.get(place, []) for place in layouts.PLACES}
    over = spec.table.get("over", [key for key in ("seed",) if key in spec.axes and not _is_named(key, said)])
    named = {*over, *said["rows"], *said["columns"], *said["blocks"]}
    free = [key for key in spec.axes if key not in named]
    rows = spec.table.get("rows", [key for key in free if key == "method"] or free[:1])
    columns = spec.table.get("columns", [key for key in free if key not in rows])
    # An axis that the command line adds has no place in the file: it gets rows of its own.
    rows = [*rows, *(key for key in free if key not in rows and key not in columns)]
    return Layout(**spec.table | {"rows": rows, "columns": columns, "over": over})


def _is_named(key: str, table: Mapping[str, list[str]]) -> bool:
    return any(key in names for names in table.values())


def _resolved_text(name: str, spec: _Spec, layout: Layout) -> str:
    content = {
        "set": spec.fixed,
        "axes": spec.axes,
        "exclude": _rules_within(spec),
        "baseline": _baseline_within(spec),
        "table": layouts.to_tree(layout),
    }
    body = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return f"# Grid {name} as it was launched, command line included.\n{body}"


def _baseline_within(spec: _Spec) -> dict[str, Value]:
    is_there = all(value in spec.axes[key] for key, value in spec.baseline.items())
    return spec.baseline if is_there else {}  # the command line has taken it out


def _rules_within(spec: _Spec) -> list[dict[str, list[Value]]]:
    kept = []
    for rule in spec.exclude:
        within = {key: [value for value in values if value in spec.axes[key]] for key, values in rule.items()}
        kept += [within] if all(within.values()) else []
    return kept

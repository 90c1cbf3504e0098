"""The sections of a grid file: read, changed by the command line before the grid is expanded, and written again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestration.grids import own_dataset, places
from orchestration.grids.cells import check_choice
from orchestration.grids.own_dataset import OwnDataset, is_own
from orchestration.grids.places import Places
from orchestration.grids.values import (
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
    read_scalar,
    read_value,
    user_path,
)
from orchestration.tables import layouts
from orchestration.tables.layouts import Layout

SEARCH = "search"
"""The section that marks a file for `rankmatch tune`."""
KEYS = ("set", "axes", "per", "exclude", "priority", "baseline", "table")
DATASETS, EARLIER, PLACES = "datasets", "earlier", "places"
"""Further sections of a stored grid: contents of its data set files; signatures of cells that its axes do not give;
where the site keeps data and weights."""
SAME = "are the same run"

Per = dict[str, dict[str, dict[str, Value]]]


@dataclass(slots=True)
class Spec:
    """A grid file with its values read, changed by the command line before it is expanded."""

    fixed: dict[str, Value] = field(default_factory=dict)
    axes: dict[str, list[Value]] = field(default_factory=dict)
    per: Per = field(default_factory=dict)
    """Settings of the cells with a certain value of an axis, by axis and text of the value."""
    exclude: list[dict[str, list[Value]]] = field(default_factory=list)
    priority: dict[str, dict[str, int]] = field(default_factory=dict)
    """Numbers of the cells with a certain value of an axis; those with smaller ones start first."""
    baseline: dict[str, Value] = field(default_factory=dict)
    table: dict[str, Any] = field(default_factory=dict)
    """The fields of a `Layout` that the file gives."""
    earlier: list[str] = field(default_factory=list)
    """Signatures of further cells of a launch, which have run folders but are not given by the axes."""
    places: Places = field(default_factory=Places)
    """Where a site keeps data and weights; takes precedence over the settings."""

    def settings(self, point: Mapping[str, Value]) -> dict[str, Value]:
        """Return the settings to compose a cell from."""
        own: dict[str, Value] = {}
        for axis, value in point.items():
            own |= self.per.get(axis, {}).get(format_value(value), {})
        return self.fixed | own | dict(point)

    def is_excluded(self, point: Mapping[str, Value]) -> bool:
        """Return whether a rule excludes a point."""
        return any(all(point[key] in dropped for key, dropped in rule.items()) for rule in self.exclude)


class Reader:
    """Reads the sections of a file; paths in it are relative to the file."""

    def __init__(self, path: Path, content: Mapping[str, Any], *, is_stored: bool = False) -> None:
        self._content, self._is_stored = content, is_stored
        self._folder = path.resolve().parent
        kept = mapping_at(DATASETS, content) if is_stored else {}
        self._kept = {
            name: own_dataset.of_tree(name, tree, self._folder, f"{path}: {DATASETS}: {name}")
            for name, tree in kept.items()
        }

    def read(self) -> Spec:
        """Read all sections.

        Raises:
            ValueError: A key or a value is not allowed.
        """
        content = self._content
        if SEARCH in content:
            raise ValueError("a file with the section search is for `rankmatch tune`; its figures belong in no table")
        for key in content:
            if key not in (*KEYS, *((DATASETS, EARLIER, PLACES) if self._is_stored else ())):
                raise ValueError(f"a grid may have the keys {', '.join(KEYS)}; got {key!r}")
        spec = Spec(self.read_set())
        for key, nodes in mapping_at("axes", content).items():
            check_key(key)
            if not isinstance(nodes, list):
                raise ValueError(f"axes: {key} must be a list of values; got {nodes!r}")
            if key in spec.fixed:
                raise ValueError(f"{key} must be in set or in axes; it is in both")
            spec.axes[key] = self._axis(key, nodes)
        spec.per = self._per(spec)
        spec.exclude = [self._point("exclude", spec, point) for point in _list("exclude", content)]
        spec.priority = self._priority(spec)
        baseline = self._point("baseline", spec, content.get("baseline"))
        spec.baseline = {key: values[0] for key, values in baseline.items()}
        spec.table = layouts.read(mapping_at("table", content), spec.axes)
        spec.earlier = [str(name) for name in _list(EARLIER, content)]
        spec.places = places.of_tree(mapping_at(PLACES, content))
        return spec

    def read_set(self) -> dict[str, Value]:
        """Read the section `set` of a file: one value for each key.

        Raises:
            ValueError: A key or a value is not allowed.
        """
        return {key: self._fixed("set", key, node) for key, node in mapping_at("set", self._content).items()}

    def value(self, key: str, node: Node) -> Value:
        """Read one value; also read the file of a data set."""
        if not (is_own(key, node) and isinstance(node, str)):
            return read_value(key, node, self._folder)
        return self._kept.get(node) or _first_own(node, self._folder, looks_here=self._is_stored)

    def _axis(self, key: str, nodes: Sequence[Node]) -> list[Value]:
        values = read_axis(key, nodes, self._folder)
        return [self.value(key, str(value)) for value in values] if key == "dataset" else values

    def _fixed(self, section: str, key: str, node: Node) -> Value:
        check_key(key)
        if isinstance(node, list) and is_axis(key, node):
            raise ValueError(f"{section}: {key} must be one value; got {node!r} (several values belong in axes)")
        return self.value(key, node)

    def _per(self, spec: Spec) -> Per:
        found: Per = {}
        for axis, groups in mapping_at("per", self._content).items():
            _check_axis("per", axis, spec)
            for text, node in _mapping(f"per: {axis}", groups).items():
                # The file of a part says what the others have, too: with what its rows are compared depends on it.
                name = text if self._is_stored else format_value(_among("per", axis, self.value(axis, text), spec))
                settings = _mapping(f"per: {axis}: {text}", node)
                for key in settings:
                    if key in spec.axes:
                        raise ValueError(f"per: {axis}: {text}: {key} must not be an axis; its values belong in axes")
                place = f"per: {axis}: {text}"
                found.setdefault(axis, {})[name] = {key: self._fixed(place, key, one) for key, one in settings.items()}
        return found

    def _priority(self, spec: Spec) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for axis, numbers in mapping_at("priority", self._content).items():
            _check_axis("priority", axis, spec)
            for text, node in _mapping(f"priority: {axis}", numbers).items():
                name = format_value(_among("priority", axis, self.value(axis, text), spec))
                found.setdefault(axis, {})[name] = int(read_scalar(f"priority: {axis}: {text}", int, node))
        return found

    def _point(self, name: str, spec: Spec, point: Any) -> dict[str, list[Value]]:  # noqa: ANN401
        if point is not None and not isinstance(point, dict):
            raise ValueError(f"{name} must map axes to values; got {point!r}")
        values: dict[str, list[Value]] = {}
        for key, node in (point or {}).items():
            _check_axis(name, key, spec)
            several = name == "exclude" and isinstance(node, list) and is_axis(key, node)
            values[key] = self._axis(key, node) if several else [self.value(key, node)]
            if not (self._is_stored and name == "baseline"):  # which only cells of earlier launches may have
                values[key] = [_among(name, key, value, spec) for value in values[key]]
        return values


def _first_own(name: str, folder: Path, *, looks_here: bool) -> OwnDataset:
    """Read the file of a data set; in files of earlier versions, its path is relative to the launch's directory."""
    is_here = looks_here and not (folder / user_path(name)).is_file() and Path(name).is_file()
    return own_dataset.read(name, None if is_here else folder)


def _check_axis(section: str, key: str, spec: Spec) -> None:
    if key not in spec.axes:
        raise ValueError(f"{section} may name the axes {', '.join(spec.axes) or '(none)'}; got {key!r}")


def _among(section: str, key: str, value: Value, spec: Spec) -> Value:
    if value not in spec.axes[key]:
        allowed = ", ".join(map(format_value, spec.axes[key]))
        raise ValueError(f"{section}: {key} must be one of {allowed}; got {format_value(value)}")
    return value


def mapping_at(key: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section of a grid file; empty if it is missing.

    Raises:
        ValueError: It is no mapping.
    """
    return _mapping(key, content.get(key) or {})


def _mapping(name: str, value: Any) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping; got {value!r}")
    return value


def _list(key: str, content: Mapping[str, Any]) -> list[Any]:
    value = content.get(key) or []
    if not isinstance(value, list):
        raise ValueError(f"{key} must be a list; got {value!r}")
    return value


def apply(spec: Spec, overrides: Sequence[str]) -> None:
    """Change a grid by `key=value` words of the command line; they have the last word, for every cell.

    Raises:
        ValueError: A word, a key or a value is not allowed.
    """
    known = [value for values in _all_of(spec, "dataset") for value in values]
    given = divide(overrides)
    spec.places = spec.places.without({*given, *spec.axes})
    for key, text in given.items():
        check_key(key)
        _apply_one(spec, key, parse(key, text), [one for one in known if isinstance(one, OwnDataset)])


def apply_all(spec: Spec, settings: Mapping[str, Node], folder: Path) -> None:
    """Change a grid as `apply` does, by what a grid of grids in some folder sets for all its parts.

    Raises:
        ValueError: A key or a value is not allowed.
    """
    for key, node in settings.items():
        check_key(key)
        _apply_one(spec, key, node, (), folder)


def _all_of(spec: Spec, key: str) -> list[list[Value]]:
    return [spec.axes.get(key, []), [spec.fixed[key]] if key in spec.fixed else []]


def divide(overrides: Sequence[str]) -> dict[str, str]:
    """Divide the `key=value` words of a command line.

    Raises:
        ValueError: A word has another form, or a key is given twice.
    """
    given: dict[str, str] = {}
    for override in overrides:
        key, mark, text = override.partition("=")
        if not mark or not key.strip():
            raise ValueError(f"an override must be key=value; got {override!r}")
        if key in given:
            raise ValueError(f"{key} must be given once; it is given twice")
        given[key] = text
    return given


def hint_of_commas(overrides: Sequence[str], fault: str) -> str:
    """Say how to quote a path of which a comma has made an axis, if a fault names one; otherwise nothing."""
    texts = [word.partition("=")[::2] for word in overrides]
    paths = [(key, text) for key, text in texts if key in PATH_KEYS or (key == "dataset" and ".y" in text)]
    meant = [pair for pair in paths if f"{pair[0]} must" in fault or SAME in fault]
    return "".join(comma_hint(key, text) for key, text in meant)


def _apply_one(spec: Spec, key: str, node: Node, known: Sequence[OwnDataset], folder: Path | None = None) -> None:
    for settings in (one for groups in spec.per.values() for one in groups.values()):
        settings.pop(key, None)
    if isinstance(node, list) and is_axis(key, node):
        spec.fixed.pop(key, None)
        spec.axes[key] = [typed(key, value, known, folder) for value in read_axis(key, node, folder)]
        return
    value = typed(key, read_value(key, node, folder), known, folder)
    if key in spec.axes:
        spec.axes[key] = [value]
    else:
        spec.fixed[key] = value


def typed(key: str, value: Value, known: Sequence[OwnDataset] = (), folder: Path | None = None) -> Value:
    """Read a data set file named on the command line: an existing one, else one stored in the grid."""
    if not is_own(key, value) or folder or Path(value).is_file():
        return own_dataset.read(value, folder) if is_own(key, value) else value
    return next((one for one in known if one.name == value), None) or own_dataset.read(value)


def check_choices(spec: Spec) -> None:
    """Refuse unknown choices of groups before a cell is composed.

    Raises:
        ValueError: A choice is unknown; the message lists the choices.
    """
    for group in GROUPS:
        for choice in spec.axes.get(group, [spec.fixed[group]] if group in spec.fixed else []):
            check_choice(group, choice)


def layout_of(spec: Spec) -> Layout:
    """Give every axis its place in the table."""
    said = {place: spec.table.get(place, []) for place in layouts.PLACES}
    over = spec.table.get("over", [key for key in ("seed",) if key in spec.axes and not _is_named(key, said)])
    named = {*over, *said["rows"], *said["columns"], *said["blocks"]}
    free = [key for key in spec.axes if key not in named]
    rows = spec.table.get("rows", [key for key in free if key == "method"] or free[:1])
    columns = spec.table.get("columns", [key for key in free if key not in rows])
    # The file has no place for an axis that the command line adds: it gets rows of its own.
    rows = [*rows, *(key for key in free if key not in rows and key not in columns)]
    return Layout(**spec.table | {"rows": rows, "columns": columns, "over": over})


def _is_named(key: str, table: Mapping[str, list[str]]) -> bool:
    return any(key in names for names in table.values())


def resolved_text(
    name: str,
    spec: Spec,
    layout: Layout,
    baseline: Mapping[str, Value] | None = None,
    earlier: Iterable[str] = (),
) -> str:
    """Write a grid for storage, with the contents of its files; reading it gives the same cells."""
    written = to_yaml(resolved(spec, layout, baseline, earlier))
    return f"# Grid {name} as it was launched, command line included.\n{written}"


def resolved(
    spec: Spec, layout: Layout, baseline: Mapping[str, Value] | None = None, earlier: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the sections of a grid for storage; see `resolved_text`."""
    content = {
        "set": spec.fixed,
        "axes": spec.axes,
        "per": {
            axis: left for axis, one in spec.per.items() if (left := {text: own for text, own in one.items() if own})
        },
        "exclude": _rules_within(spec),
        "priority": _within(spec.priority, spec),
        "baseline": baseline_within(spec) if baseline is None else baseline,
        "table": layouts.to_tree(layout),
        DATASETS: datasets_of(*spec.fixed.values(), *_values_of_axes(spec), *_values_per(spec)),
        EARLIER: list(earlier),
        PLACES: spec.places.to_tree(),
    }
    left_out = [key for key in ("per", "priority", DATASETS, EARLIER, PLACES) if not content[key]]
    return {key: value for key, value in content.items() if key not in left_out}


def to_yaml(content: Mapping[str, Any]) -> str:
    """Write sections of a file; the file of a data set is written as its name."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def datasets_of(*values: Value) -> dict[str, dict[str, Any]]:
    """Return the contents of the data set files among some values, by name."""
    return {value.name: value.fields for value in values if isinstance(value, OwnDataset)}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401 (as the parent has it)
        return True


_Dumper.add_representer(OwnDataset, lambda dumper, own: dumper.represent_str(own.name))


def _values_of_axes(spec: Spec) -> list[Value]:
    return [value for values in spec.axes.values() for value in values]


def _values_per(spec: Spec) -> list[Value]:
    return [value for groups in spec.per.values() for own in groups.values() for value in own.values()]


def _within(by_value: Mapping[str, Mapping[str, int]], spec: Spec) -> dict[str, dict[str, int]]:
    """Drop the values that the command line removed."""
    known = {axis: {*map(format_value, spec.axes[axis])} for axis in by_value}
    within = {axis: {text: n for text, n in one.items() if text in known[axis]} for axis, one in by_value.items()}
    return {axis: numbers for axis, numbers in within.items() if numbers}


def baseline_within(spec: Spec) -> dict[str, Value]:
    """Return the baseline; empty if the command line removed it."""
    is_there = all(value in spec.axes[key] for key, value in spec.baseline.items())
    return spec.baseline if is_there else {}


def _rules_within(spec: Spec) -> list[dict[str, list[Value]]]:
    kept = []
    for rule in spec.exclude:
        within = {key: [value for value in values if value in spec.axes[key]] for key, values in rule.items()}
        kept += [within] if all(within.values()) else []
    return kept

"""Grids of grids: their files, and one grid of all their cells, each trained once, with a table for each part."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orchestration.grids import grid_spec
from orchestration.grids.cells import Cell, short_names_once
from orchestration.grids.composed import Grid
from orchestration.grids.places import Places
from orchestration.grids.values import Node, flatten, format_value, parse, read_scalar
from orchestration.tables.baselines import Baseline
from orchestration.tables.layouts import Layout
from rankmatch.config import TrainConfig

GRIDS, SET = "grids", "set"
"""The sections of such a file: its parts, and settings for the cells of all of them."""
_GRID, _PRIORITY = "grid", "priority"
_TABLE = "table="
_PLACES = ("dataset", "data_root", "split_root", "data_store")


@dataclass(frozen=True, slots=True)
class Asked:
    """A part as a file names it."""

    word: str
    """A grid of the project by its name, or a path relative to the file."""
    priority: int


@dataclass(frozen=True, slots=True)
class Part:
    """The sections of a part, as its own file has them or as a launch stored them."""

    name: str
    file: Path
    content: Mapping[str, Any]
    priority: int

    @property
    def number(self) -> str:
        """The number of its table in the paper; empty if it has none."""
        table = self.content.get("table")
        return str(table.get("number", "")) if isinstance(table, dict) else ""

    def values_of(self, key: str) -> list[str]:
        """Return the values of a key that its sections name."""
        named = [grid_spec.mapping_at(section, self.content).get(key, []) for section in (SET, "axes")]
        return [str(value) for one in named for value in (one if isinstance(one, list) else [one])]


@dataclass(frozen=True, slots=True)
class ForAll:
    """What a file sets for the cells of all its parts; paths are relative to its folder."""

    settings: Mapping[str, Node]
    folder: Path


def asked(path: Path, content: Mapping[str, Any]) -> list[Asked]:
    """Return the parts that a file names.

    Raises:
        ValueError: It has other sections, or names none, or not as names and priorities.
    """
    if others := [key for key in content if key not in (GRIDS, SET)]:
        raise ValueError(f"{path}: a grid that consists of {GRIDS} may have the keys {GRIDS}, {SET}; got {others[0]!r}")
    named = content[GRIDS]
    if not isinstance(named, list) or not named:
        raise ValueError(f"{path}: {GRIDS} must be a list of grids; got {named!r}")
    return [_asked(path, one) for one in named]


def _asked(path: Path, one: Any) -> Asked:  # noqa: ANN401
    given = {_GRID: one} if isinstance(one, str) else one
    if not isinstance(given, dict) or {*given} - {_GRID, _PRIORITY} or not isinstance(given.get(_GRID), str):
        raise ValueError(f"{path}: {GRIDS} may have names and files, and {{grid: NAME, priority: 1}}; got {one!r}")
    return Asked(given[_GRID], _number(path, given))


def for_all(path: Path, content: Mapping[str, Any]) -> ForAll:
    """Return what a file sets for all of its parts.

    Raises:
        ValueError: It is no mapping.
    """
    return ForAll(grid_spec.mapping_at(SET, content), path.resolve().parent)


def stored(path: Path, content: Mapping[str, Any]) -> list[Part]:
    """Return the parts in a file that a launch wrote.

    Raises:
        ValueError: It is not as `text` writes it.
    """
    named = grid_spec.mapping_at(GRIDS, content)
    for name, one in named.items():
        if not isinstance(one, dict) or not isinstance(one.get(_GRID), dict):
            raise ValueError(f"{path}: {GRIDS}: {name} must have the sections of a grid; got {one!r}")
    return [Part(name, path, one[_GRID], _number(path, one)) for name, one in named.items()]


def chosen(path: Path, parts: Sequence[Part], only: Sequence[str]) -> list[Part]:
    """Return the parts that are named by their names or as `table=NUMBER`; all if none is named.

    Raises:
        ValueError: There is no such part.
    """
    known = [*(f"{_TABLE}{part.number}" for part in parts if part.number), *(part.name for part in parts)]
    for word in only:
        if word not in known:
            raise ValueError(f"--only must be one of {', '.join(known)}, the tables of {path}; got {word!r}")
    return [part for part in parts if not only or part.name in only or f"{_TABLE}{part.number}" in only]


def refuse_only(name: str, only: Sequence[str]) -> None:
    """Refuse a choice of tables of a grid that has one.

    Raises:
        ValueError: A table is chosen.
    """
    if only:
        raise ValueError(f"--only must be left out where a grid does not consist of {GRIDS}; {name} has one table")


def check_overrides(parts: Sequence[Part], given: Mapping[str, str], of_all: ForAll | None) -> None:
    """Refuse settings for all parts that cannot fit parts of different data sets.

    Raises:
        ValueError: With the part that it does not fit.
    """
    names = list(dict.fromkeys(name for part in parts for name in part.values_of("dataset")))
    if len(names) < 2:
        return
    settings = {**(of_all.settings if of_all else {}), **{key: parse(key, text) for key, text in given.items()}}
    for key in _PLACES:
        if key in settings:
            raise ValueError(
                f"{key} must be left out where parts are of several data sets ({', '.join(names)}): {_way(key, names)}"
            )
    node = settings.get("split", [])
    wanted = [str(value) for value in (node if isinstance(node, list) else [node])]
    for part in parts:
        known = part.values_of("split")
        if others := [value for value in wanted if value not in known]:
            raise ValueError(
                f"{GRIDS}: {part.name}: split must be one of {', '.join(known)}, as parts are of several data sets; "
                f"got {others[0]}; --only chooses a part"
            )


def _way(key: str, names: Sequence[str]) -> str:
    """Return what to do instead of giving all parts one place."""
    if key == "dataset":
        return "--only chooses parts of one"
    lines = ", ".join(f"{name}: FOLDER" for name in names)
    return (
        f"a site's file has a place for each, `{key}: {{{lines}}}`, for --cluster FILE; or --only chooses parts of one"
    )


def _number(path: Path, given: Mapping[str, Any]) -> int:
    try:
        return int(read_scalar(_PRIORITY, int, given.get(_PRIORITY, "0")))
    except ValueError as error:
        raise ValueError(f"{path}: {GRIDS}: {error}") from error


def check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse two parts with one name.

    Raises:
        ValueError: With the name.
    """
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path}: {GRIDS} must have different names; {name} occurs {names.count(name)} times")


def joined(name: str, parts: Sequence[Grid], site: Places | None = None) -> Grid:
    """Make one grid of several: it has their cells, those with the same identity once, and their tables."""
    shared = _once(parts)
    every = [cell for part in shared for cell in part.cells]
    several = len({cell.config.numerics.dataset.name for cell in every}) > 1
    cells: dict[str, Cell] = {}
    for cell in every:
        if cell.signature not in cells:
            dataset = {"dataset": value_of(cell, "dataset")} if several else {}
            cells[cell.signature] = replace(cell, axes=dataset | cell.axes)
    keys = dict.fromkeys(key for cell in cells.values() for key in cell.axes)
    axes = {key: list(dict.fromkeys(c.axes[key] for c in cells.values() if key in c.axes)) for key in keys}
    layout = Layout(rows=[], columns=[], over=list(axes))
    return Grid(name, [*cells.values()], axes, {}, layout, text(name, shared), site=site, parts=tuple(shared))


def _once(parts: Sequence[Grid]) -> list[Grid]:
    """Give cells of several parts that must get the same numbers the configuration of the first of them."""
    first: dict[str, TrainConfig] = {}
    return [
        _with_cells(part, [_with(cell, first.setdefault(cell.identity, cell.config)) for cell in part.cells])
        for part in parts
    ]


def _with_cells(part: Grid, cells: Sequence[Cell]) -> Grid:
    names = {old.signature: new.signature for old, new in zip(part.cells, cells, strict=True)}
    baseline = part.baseline.renamed(names) if isinstance(part.baseline, Baseline) else part.baseline
    partners = {names.get(name, name): identities for name, identities in part.partners.items()}
    return replace(part, cells=[*cells], baseline=baseline, partners=partners)


def _with(cell: Cell, config: TrainConfig) -> Cell:
    return cell if cell.config is config else replace(cell, config=config)


def with_runs(whole: Grid, cells: Sequence[Cell]) -> Grid:
    """Return a grid of grids whose cells are replaced, in their order, by runs of the same identity."""
    configs = {old.signature: new.config for old, new in zip(whole.cells, cells, strict=True)}
    made = [replace(part, cells=[_with(cell, configs[cell.signature]) for cell in part.cells]) for part in whole.parts]
    return joined(whole.name, made, whole.site)


def value_of(cell: Cell, key: str) -> str:
    """Return a cell's value of a key, as text; nothing for a choice that its configuration does not name."""
    if key in cell.axes:
        return cell.axes[key]
    numerics = cell.config.numerics
    names = {"dataset": numerics.dataset.name, "backbone": numerics.backbone.name, "method": numerics.method.name}
    if key in names or key not in short_names_once():
        return names.get(key, "")
    return format_value(flatten(asdict(cell.config))[short_names_once()[key]])


def text(name: str, parts: Sequence[Grid]) -> str:
    """Write a grid of grids for storage; its parts name their cells of earlier launches, too."""
    tree = {part.name: {_PRIORITY: part.priority, _GRID: _sections(part)} for part in parts}
    return f"# Grid {name} as it was launched, command line included.\n" + grid_spec.to_yaml({GRIDS: tree})


def _sections(part: Grid) -> dict[str, Any]:
    assert part.spec is not None
    baseline = {key: text for key, text in part.baseline.items() if key in part.spec.axes}
    return grid_spec.resolved(part.spec, grid_spec.layout_of(part.spec), baseline, part.earlier)

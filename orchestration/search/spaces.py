"""Search files: read into checked spaces whose points are cells like a grid's, scored on a held-out part."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from orchestration.grids import grid, grid_spec, index, places
from orchestration.grids.cells import Cell, compose, short_names_once
from orchestration.grids.grid import Grid
from orchestration.grids.grid_spec import DATASETS, PLACES, SEARCH, mapping_at
from orchestration.grids.places import Places
from orchestration.grids.values import (
    GROUPS,
    Node,
    Value,
    check_key,
    comma_hint,
    flatten,
    format_value,
    is_axis,
    key_types,
    near_matches,
    parse,
    read_axis,
    read_scalar,
    read_value,
)
from orchestration.machine import yaml_text
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.runs.folders import GridFolder
from orchestration.runs.patience import patiently
from orchestration.runs.run_folder import RunFolder, folders
from orchestration.runs.states import CellState
from orchestration.tables.layouts import Layout
from orchestration.tables.search_table import OUTPERFORMED, Point
from rankmatch.checks import in_range, one_of
from rankmatch.config import HELD_OUT_FROM

KEYS = ("set", SEARCH)
_NOT_SEARCHED = ("seed", "split", "trainer.epochs", "dataset.", "evaluation.")
"""Settings that change the scored images or the length of the training; points would not be comparable."""
_ASHA = ("grace_epochs", "reduction_factor")
HELD_OUT, HELD_OUT_FROM_KEY = "evaluation.held_out", "evaluation.held_out_from"


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included; integers if both are."""

    low: float
    high: float
    log: bool = False

    @property
    def ends(self) -> list[Value]:
        """The values to check for combinations of settings that are not allowed."""
        return [self.low, self.high]

    def holds(self, value: Value) -> bool:
        """Return whether a value is in the range."""
        return bool(self.low <= value <= self.high)

    def to_tree(self) -> dict[str, Value]:
        """Return it as it is written in a file."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True, slots=True)
class Choices:
    """A list of values."""

    values: tuple[Value, ...]

    @property
    def ends(self) -> list[Value]:
        """The values to check for combinations of settings that are not allowed."""
        is_ordered = all(isinstance(value, int | float) for value in self.values)
        return [min(self.values), max(self.values)] if is_ordered else list(self.values)

    def holds(self, value: Value) -> bool:
        """Return whether a value is one of the choices."""
        return value in self.values

    def to_tree(self) -> list[Value]:
        """Return it as it is written in a file."""
        return list(self.values)


Space = Range | Choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a search: fields of the section `search`."""

    num_samples: int = 20
    """Number of points to try."""
    held_out: float = 0.2
    """Share of a training list to score the points on."""
    held_out_from: str = "unlabeled"
    seed: int = 0
    """Seed of the sampler; the seed of the trainings is `seed` in `set`."""
    grace_epochs: int = 1
    """Epochs for which every point is trained."""
    reduction_factor: float = 3.0
    """One in this many points continues past each rung; rungs are at `grace_epochs` times its powers."""

    def __post_init__(self) -> None:
        in_range("search.num_samples", self.num_samples, 1)
        if not 0 < self.held_out < 1:
            raise ValueError(f"search.held_out must be above 0 and below 1; got {self.held_out!r}")
        one_of("search.held_out_from", self.held_out_from, HELD_OUT_FROM)
        in_range("search.seed", self.seed, 0, 2**31 - 1)
        in_range("search.asha.grace_epochs", self.grace_epochs, 1)
        in_range("search.asha.reduction_factor", self.reduction_factor, 1.1, 100)


@dataclass(frozen=True, slots=True)
class Search:
    """A checked search."""

    name: str
    fixed: dict[str, Value]
    spaces: dict[str, Space]
    settings: Settings
    epochs: int
    """Epochs of a point that is never stopped."""
    places: Places = field(default_factory=Places)
    """Where a site keeps data and weights; takes precedence over `fixed`."""
    site: Places | None = None
    """What the site of this launch says of them."""

    @property
    def base(self) -> Cell:
        """A point at one end of every space; it represents what all points have in common."""
        return self.cell({key: space.ends[0] for key, space in self.spaces.items()})

    @property
    def text(self) -> str:
        """The resolved search as text; loading it gives the same search."""
        settings = asdict(self.settings)
        asha = {name: settings.pop(name) for name in _ASHA}
        spaces = {key: space.to_tree() for key, space in self.spaces.items()}
        content = {"set": self.fixed, SEARCH: {"spaces": spaces, **settings, "asha": asha}}
        if own := grid_spec.datasets_of(*self.fixed.values()):
            content[DATASETS] = own
        if self.places:
            content[PLACES] = self.places.to_tree()
        return f"# Search {self.name} as it was started, command line included.\n{grid_spec.to_yaml(content)}"

    def cell(self, point: Mapping[str, Value]) -> Cell:
        """Compose the cell of a point.

        Raises:
            ValueError: The settings contradict each other.
        """
        held_out = {HELD_OUT: self.settings.held_out, HELD_OUT_FROM_KEY: self.settings.held_out_from}
        text = {key: format_value(point[key]) for key in self.spaces}
        try:
            return Cell(compose(self.fixed | dict(point) | held_out, self.places), text)
        except ValueError as error:
            described = " ".join(f"{key}={value}" for key, value in text.items())
            raise ValueError(f"point {described}: {error}") from error

    def values(self, cell: Cell) -> dict[str, Value]:
        """Return a cell's values of the searched settings."""
        return {key: read_value(key, parse(key, text)) for key, text in cell.axes.items()}


def load(
    name_or_file: str, overrides: Sequence[str] = (), runs: Path | None = None, site: Places | None = None
) -> Search:
    """Read a search by name or file, change it by `key=value` overrides, and compose the ends of its spaces.

    A search that was started into `runs` can also be named.

    Raises:
        ValueError: If the file, a key, a value, a space or a combination of settings is not allowed.
    """
    path = grid.find(name_or_file, searches=True, runs=runs)
    content = grid.read_yaml(path)
    try:
        for key in content:
            one_of("a key of a search file", key, (*KEYS, *([DATASETS, PLACES] if grid.is_stored(path) else [])))
        section = mapping_at(SEARCH, content)
        fixed = grid_spec.Reader(path, content, is_stored=grid.is_stored(path)).read_set()
        spaces = _read_spaces(mapping_at("spaces", section))
        settings, kept = _flat(section), places.of_tree(mapping_at(PLACES, content))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    given = grid_spec.divide(overrides)
    for key, text in given.items():
        node = parse(key, text)
        if key.startswith(f"{SEARCH}."):
            settings[key.removeprefix(f"{SEARCH}.")] = node
        elif isinstance(node, dict) or (key in key_types() and isinstance(node, list) and is_axis(key, node)):
            fixed.pop(key, None)
            try:
                spaces |= _read_spaces({key: node})
            except ValueError as error:
                raise ValueError(f"{error}{comma_hint(key, text)}") from error
        else:
            check_key(key)
            spaces.pop(key, None)
            fixed[key] = grid_spec.typed(key, read_value(key, node))
    held = (site.over(kept) if site else kept).without({*given, *spaces})
    return _checked(Search(grid.name_of(path), fixed, spaces, _read_settings(settings), 0, held, site))


def _checked(draft: Search) -> Search:
    fixed, spaces, settings = draft.fixed, draft.spaces, draft.settings
    if not spaces:
        raise ValueError("search.spaces must name a setting; it names none")
    for key in spaces:
        if key in fixed:
            raise ValueError(f"{key} must be in set or in search.spaces; it is in both")
    for key in (HELD_OUT, HELD_OUT_FROM_KEY):
        if key in fixed:
            raise ValueError(f"{key} must not be set in a search: search.{key.rpartition('.')[2]} says it")
    search = replace(draft, epochs=draft.base.config.numerics.trainer.epochs)
    in_range(f"search.asha.grace_epochs (trainer.epochs={search.epochs})", settings.grace_epochs, 1, search.epochs)
    for ends in itertools.product(*(space.ends for space in spaces.values())):
        search.cell(dict(zip(spaces, ends, strict=True)))
    return search


def _flat(section: Mapping[str, Any]) -> dict[str, Node]:
    """Return the fields of the section `search` without the spaces; those of `asha` have dotted names."""
    settings = {name: node for name, node in section.items() if name not in ("spaces", "asha")}
    return settings | {f"asha.{name}": node for name, node in mapping_at("asha", section).items()}


def _read_settings(given: Mapping[str, Node]) -> Settings:
    kinds, values = get_type_hints(Settings), {}
    known = {f"asha.{part.name}" if part.name in _ASHA else part.name: part.name for part in fields(Settings)}
    for name, node in given.items():
        if name not in known:
            near = near_matches(name, known) or list(known)
            raise ValueError(f"unknown key 'search.{name}'; did you mean {' or '.join(f'search.{n}' for n in near)}?")
        values[known[name]] = read_scalar(f"search.{name}", kinds[known[name]], node)
    return Settings(**values)  # type: ignore[arg-type]  # read by the types of its fields


def _read_spaces(content: Mapping[str, Node]) -> dict[str, Space]:
    return {key: _read_space(key, node) for key, node in content.items()}


def _read_space(key: str, node: Node) -> Space:
    check_key(key)
    is_barred = any(key == name or (name.endswith(".") and key.startswith(name)) for name in _NOT_SEARCHED)
    kind = key_types()[key]
    if (
        key in GROUPS
        or is_barred
        or not short_names_once()[key].startswith("numerics.")
        or get_origin(kind) is not None
    ):
        raise ValueError(
            f"search.spaces may name single settings of how a network is trained; {key} is none, or would have points "
            "scored on other images or trained for another time"
        )
    if isinstance(node, dict):
        return _read_range(key, kind, node)
    values = read_axis(key, node) if isinstance(node, list) else []
    if len(values) < 2:
        raise ValueError(
            f"search.spaces: {key} must be {{low: , high: }} or a list of two values or more; got {node!r}"
        )
    return Choices(tuple(values))


def _read_range(key: str, kind: type, node: Mapping[str, Node]) -> Range:
    name = f"search.spaces: {key}"
    if kind not in (int, float):
        raise ValueError(f"{name} must be a list of values, as it is no number; got {dict(node)!r}")
    if not {"low", "high"} <= set(node) <= {"low", "high", "log"}:
        raise ValueError(f"{name} must have low and high, and may have log; got {', '.join(node) or 'nothing'}")
    low, high = (float(read_scalar(f"{name}: {end}", kind, node[end])) for end in ("low", "high"))
    is_log = bool(read_scalar(f"{name}: log", bool, node.get("log", "false")))
    if not low < high:
        raise ValueError(f"{name}: low must be below high; got {low:g} and {high:g}")
    if is_log and low <= 0:
        raise ValueError(f"{name}: low must be above 0 with log; got {low:g}")
    return Range(int(low), int(high), is_log) if kind is int else Range(low, high, is_log)


def cells_of(search: Search, grid_dir: Path) -> list[Cell]:
    """Return the points that have a run folder, in the order of their draws; skip cells with other settings."""
    found = folders(grid_dir)
    listed = [cell.signature for cell in index.read_if_there(grid_dir)]
    order = [signature for signature in listed if signature in found]
    cells = [_cell_of(search, found[signature]) for signature in dict.fromkeys([*order, *found])]
    return [cell for cell in cells if cell is not None]


def _cell_of(search: Search, folder: RunFolder) -> Cell | None:
    try:
        axes = folder.axes()
    except DamagedFileError as error:  # its configuration has the same values
        tell(error)
        axes = _axes_by_configuration(search, folder)
    if list(axes) != list(search.spaces):
        return None
    try:
        values = {key: read_value(key, parse(key, text)) for key, text in axes.items()}
        cell = search.cell(values)
    except ValueError:  # left by a search with other spaces or settings
        return None
    is_within = all(space.holds(values[key]) for key, space in search.spaces.items())
    return cell if is_within and folder.signature == cell.signature else None


def _axes_by_configuration(search: Search, folder: RunFolder) -> dict[str, str]:
    """Return the searched values as text, from the configuration; None if that cannot be read either."""
    try:
        given = flatten(yaml_text.parse(folder.config()))
        values = {key: str(given[short_names_once()[key]]) for key in search.spaces}
        return {key: format_value(read_value(key, parse(key, text))) for key, text in values.items()}
    except (ValueError, KeyError) as error:
        tell(f"{folder.config_file} cannot be read, so the point is left out: {error}")
        return {}


def point_of(cell: Cell, folder: RunFolder) -> Point:
    """Return a point as its run folder describes it."""
    state = patiently(folder.look)  # the sampler must not learn of a failure that has not happened
    status = "failed" if state.status is CellState.DAMAGED else state.status
    return Point(
        cell=folder.name,
        signature=folder.signature,
        values=cell.axes,
        status=OUTPERFORMED if state.failure_class == OUTPERFORMED else status,
        mious=tuple(row["miou"] for row in folder.epochs()),
    )


def as_grid(search: Search, cells: Sequence[Cell]) -> Grid:
    """Return some points as a grid, for the parts of a launch that treat all cells alike."""
    axes = {key: list(dict.fromkeys(cell.axes[key] for cell in cells)) for key in search.spaces}
    return Grid(search.name, list(cells), axes, {}, Layout([], [], list(axes)), search.text, site=search.site)


def load_folder(grid_dir: Path) -> Grid:
    """Return the points of a search started into a folder, as a grid.

    Raises:
        ValueError: Its file cannot be read.
    """
    search = load(str(GridFolder(grid_dir).grid_file))
    return as_grid(search, cells_of(search, grid_dir))

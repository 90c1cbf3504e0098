"""A grid file and what the command line changes in it -> checked cells, before any job."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration import alike, grid_spec, yaml_text
from orchestration.cells import Cell, compose, experiments_folder
from orchestration.grid_spec import KEYS, SAME, SEARCH, Spec
from orchestration.tables.layouts import Layout
from orchestration.values import Value, format_value

FILE, LAUNCHES = "grid.yaml", "launches"
"""Of a folder of runs: the grid as it was resolved, and the folder of its launches."""


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
    spec: Spec | None = None
    """What it was composed of; a search has none."""
    earlier: tuple[str, ...] = ()
    """Signatures of the cells of earlier launches that this does not give."""


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
    return load_file(find(name_or_file, runs=runs, launched_first=launched_first), overrides, runs)


def load_file(path: Path, overrides: Sequence[str] = (), runs: Path | None = None) -> Grid:
    """Read the file of a grid; see `load`.

    Raises:
        ValueError: As `load` does.
    """
    content = read_yaml(path)
    try:
        spec = grid_spec.Reader(path, content, is_stored=is_stored(path)).read()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        grid_spec.apply(spec, overrides)
        cells = alike.adopt(alike.once(_compose_all(spec)), _folder_of_runs(path, runs))
    except ValueError as error:
        raise ValueError(f"{error}{grid_spec.hint_of_commas(overrides, str(error))}") from error
    axes = {key: [format_value(value) for value in values] for key, values in spec.axes.items()}
    baseline = {key: format_value(value) for key, value in grid_spec.baseline_within(spec).items()}
    layout, name = grid_spec.layout_of(spec), name_of(path)
    return Grid(name, cells, axes, baseline, layout, grid_spec.resolved_text(name, spec, layout), spec)


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
    if is_path(name_or_file) and not path.is_file():
        what = "a search" if searches else "a grid"
        raise ValueError(f"{what} must be a file that is there, or a name; there is no {path.absolute()}")
    if not path.is_file():
        kind, known = "search" if searches else "grid", ", ".join(available(searches=searches))
        also = f", or one that was launched into {runs} ({launched_names(runs)})" if runs else ""
        near = next((one for one in (f"{name_or_file}.yaml", f"{name_or_file}.yml") if Path(one).is_file()), "")
        hint = f"; did you mean {near}?" if near else ""
        raise ValueError(f"{kind} must be a YAML file or one of {known}{also}; got {name_or_file!r}{hint}")
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


def is_stored(path: Path) -> bool:
    """Tell whether a file was written by a launch: that of a grid's folder, or of the folder of one of its launches."""
    folder = path.resolve().parent
    return path.name == FILE and (folder.parent.name == LAUNCHES or (folder / LAUNCHES).is_dir())


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


def _compose_all(spec: Spec) -> list[Cell]:
    grid_spec.check_choices(spec)
    cells: dict[str, Cell] = {}
    for values in itertools.product(*spec.axes.values()):
        point = dict(zip(spec.axes, values, strict=True))
        if spec.is_excluded(point):
            continue
        cell = _compose_one(spec, point)
        if other := cells.get(cell.signature):
            raise ValueError(
                f"cells {_describe(other.axes)} and {_describe(cell.axes)} {SAME}: "
                "an axis has no effect on what is trained"
            )
        cells[cell.signature] = cell
    if not cells:
        raise ValueError("a grid must have at least one cell; exclude drops all of them")
    return list(cells.values())


def _compose_one(spec: Spec, point: dict[str, Value]) -> Cell:
    text = {key: format_value(value) for key, value in point.items()}
    try:
        cell = Cell(compose(spec.settings(point)), text)
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

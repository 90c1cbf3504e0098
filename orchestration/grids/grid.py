"""Grid files: read, changed by the command line, and expanded into checked cells, before any job."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestration.grids import adaptively, alike, grid_spec, parts
from orchestration.grids.cells import Cell, compose, experiments_folder
from orchestration.grids.composed import Grid as Grid
from orchestration.grids.grid_spec import KEYS, SAME, SEARCH, Spec
from orchestration.grids.places import Places
from orchestration.grids.values import Value, format_value, user_path
from orchestration.machine import yaml_text
from orchestration.runs.folder_above import grid_of, launch_of
from orchestration.runs.folders import GridFolder, RunsFolder


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


def load_file(
    path: Path,
    overrides: Sequence[str] = (),
    runs: Path | None = None,
    site: Places | None = None,
    only: Sequence[str] = (),
) -> Grid:
    """Read the file of a grid; see `load`. What a site says of data and weights beats the file, not the overrides.

    Of a grid of grids `only` some parts can be read, by name or `table=NUMBER`.

    Raises:
        ValueError: As `load` does, or there is no such part.
    """
    content, grid_dir = read_yaml(path), _folder_of_runs(path, runs)
    if parts.GRIDS not in content:
        parts.refuse_only(name_of(path), only)
        loaded = _expanded(path, content, overrides, site)
        return replace(loaded, cells=alike.adopt(loaded.cells, grid_dir))
    joined = parts.joined(name_of(path), _parts(path, content, overrides, site, only), site)
    return parts.with_runs(joined, alike.adopt(joined.cells, grid_dir))


def _expanded(
    path: Path,
    content: Mapping[str, Any],
    overrides: Sequence[str],
    site: Places | None,
    for_all: parts.ForAll | None = None,
) -> Grid:
    """Compose the cells of one grid."""
    try:
        spec = grid_spec.Reader(path, content, is_stored=is_stored(path)).read()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    spec.places = site.over(spec.places) if site else spec.places
    try:
        if for_all:
            grid_spec.apply_all(spec, for_all.settings, for_all.folder)
        grid_spec.apply(spec, overrides)
        cells = alike.once(_compose_all(spec))
    except ValueError as error:
        raise ValueError(f"{error}{grid_spec.hint_of_commas(overrides, str(error))}") from error
    axes = {key: [format_value(value) for value in values] for key, values in spec.axes.items()}
    baseline = {key: format_value(value) for key, value in grid_spec.baseline_within(spec).items()}
    layout, name = grid_spec.layout_of(spec), name_of(path)
    made = Grid(name, cells, axes, baseline, layout, grid_spec.resolved_text(name, spec, layout), spec, site=site)
    try:
        adaptively.check(made)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return made


def _parts(
    path: Path, content: Mapping[str, Any], overrides: Sequence[str], site: Places | None, only: Sequence[str]
) -> list[Grid]:
    """Compose the grids that a grid of grids consists of, or some of them."""
    for_all = None if is_stored(path) else parts.for_all(path, content)
    found = parts.chosen(path, parts.stored(path, content) if is_stored(path) else _read_parts(path, content), only)
    parts.check_overrides(found, grid_spec.divide(overrides), for_all)
    made = []
    for part in found:
        with _named(path, part.name):
            loaded = _expanded(part.file, part.content, overrides, site, for_all)
        made.append(replace(loaded, name=part.name, priority=part.priority))
    return made


def _read_parts(path: Path, content: Mapping[str, Any]) -> list[parts.Part]:
    found = []
    for one in parts.asked(path, content):
        with _named(path, one.word):
            file = _file_of_part(path, one.word)
            found.append(parts.Part(name_of(file), file, read_yaml(file), one.priority))
    parts.check_names(path, [part.name for part in found])
    return found


@contextmanager
def _named(path: Path, part: str) -> Iterator[None]:
    """Say in which part of a grid of grids a fault is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {parts.GRIDS}: {part}: {error}") from error


def _file_of_part(path: Path, word: str) -> Path:
    """Return the file of a part: a grid of the project by its name, or a path relative to the file that names it."""
    file = find(str(path.resolve().parent / user_path(word)) if is_path(word) else word)
    if file.resolve() == path.resolve():
        raise ValueError("a grid must not be a part of itself")
    if parts.GRIDS in read_yaml(file):
        raise ValueError(f"a part must have cells of its own; {file} consists of {parts.GRIDS}: name these instead")
    return file


def is_search(path: Path) -> bool:
    """Return whether a file is for `rankmatch tune`.

    Raises:
        ValueError: It cannot be read.
    """
    return SEARCH in read_yaml(path)


def available(*, searches: bool = False) -> list[str]:
    """Return the names of the grids, or of the searches, included in the project."""
    files = (experiments_folder() / "grids").glob("*.yaml")
    return sorted(path.stem for path in files if is_search(path) is searches)


def find(name_or_file: str, *, searches: bool = False, runs: Path | None = None, launched_first: bool = False) -> Path:
    """Return the file of a grid, or of a search.

    Args:
        name_or_file: A path (with a folder or `.yaml` in it), also of a folder of runs, or a name.
        searches: Find a search instead of a grid.
        runs: Also accept the name of a grid launched into this folder; its resolved file is there.
        launched_first: A launched grid takes precedence over one in experiments/grids with the same name.

    Raises:
        ValueError: If there is no such file or name, or the name cannot be that of a folder.
    """
    path = user_path(name_or_file)
    if is_path(name_or_file):
        path = GridFolder(path).grid_file if path.is_dir() else path
    else:
        shipped = experiments_folder() / "grids" / f"{name_or_file}.yaml"
        launched = [RunsFolder(runs.resolve()).grid(name_or_file).grid_file] if runs else []
        places = [*launched, shipped] if launched_first else [shipped, *launched]
        path = next((place for place in places if place.is_file()), shipped)
    if is_path(name_or_file) and not path.is_file():
        what = "a search" if searches else "a grid"
        raise ValueError(f"{what} must be an existing file, or a name; there is no {path.absolute()}")
    if not path.is_file():
        kind, known = "search" if searches else "grid", ", ".join(available(searches=searches))
        also = f", or one that was launched into {runs} ({launched_names(runs)})" if runs else ""
        near = next((one for one in (f"{name_or_file}.yaml", f"{name_or_file}.yml") if Path(one).is_file()), "")
        hint = f"; did you mean {near}?" if near else ""
        raise ValueError(f"{kind} must be a YAML file or one of {known}{also}; got {name_or_file!r}{hint}")
    check_name(path)
    return path


def check_name(path: Path) -> None:
    """Refuse a grid file whose name cannot be that of a folder.

    Raises:
        ValueError: The name has other characters; the message lists the allowed ones.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name_of(path)):
        raise ValueError(f"the name of a grid file must consist of letters, digits and . _ -; got {name_of(path)!r}")
    if name_of(path) == RunsFolder.cells_dir.name:
        raise ValueError(
            f"the name of a grid file must be another than {name_of(path)!r}: that is the folder of all cells below "
            "a runs folder"
        )


def is_path(name_or_file: str) -> bool:
    """Return whether a word of the command line is a path instead of a name."""
    return "/" in name_or_file or name_or_file.endswith((".yaml", ".yml"))


def name_of(path: Path) -> str:
    """Return the name of the grid in a file: the file's, or that of the grid's folder that contains it."""
    return grid_of(path).name if is_stored(path) else path.stem


def _folder_of_runs(path: Path, runs: Path | None) -> Path:
    """Return the folder with the run folders of a grid, given its file; None for a file elsewhere."""
    if path.name == GridFolder.grid_file.name:
        return grid_of(path).path
    return RunsFolder(runs.resolve()).grid(name_of(path)).path if runs else path.resolve() / "none"


def is_stored(path: Path) -> bool:
    """Return whether a launch wrote a file: in the grid's folder, or in that of one of its launches."""
    is_of_folder = path.name == GridFolder.grid_file.name and grid_of(path).launches_dir.is_dir()
    return launch_of(path) is not None or is_of_folder


def launched_names(runs: Path) -> str:
    """Return the names of the grids and searches launched into a folder, as text."""
    names = ", ".join(folder.name for folder in RunsFolder(runs.resolve()).grids())
    return names or ("none" if runs.is_dir() else "none: there is no such folder")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a grid file, all scalars as text.

    Raises:
        ValueError: It is not valid YAML, or not a mapping.
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
        cell = Cell(compose(spec.settings(point), spec.places), text)
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

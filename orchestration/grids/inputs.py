"""What cells need to be trained and is not there, and what brings it: data, split lists, weights."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from orchestration.grids import kept_lists
from orchestration.grids.cells import Cell, experiments_folder
from orchestration.machine import yaml_text

ABSENT = "not here:"
"""How the reason begins for which a launch leaves out a cell that lacks inputs."""


def absent(cells: Iterable[Cell]) -> dict[str, str]:
    """Return the cells that lack an input, by signature, with why they are left out."""
    lacking = {cell.signature: missing_inputs(cell) for cell in cells}
    return {signature: f"{ABSENT} {'; '.join(lines)}" for signature, lines in lacking.items() if lines}


def missing_inputs_of(cells: Sequence[Cell], among: Sequence[Cell] = ()) -> list[str]:
    """Return the missing inputs of some cells and what brings them, one line each.

    Where these, or those among which they are, have several data sets, each line names its data set.
    """
    names = list(dict.fromkeys(cell.config.numerics.dataset.name for cell in among or cells))
    found: dict[str, dict[str, None]] = {name: {} for name in names}
    for cell in cells:
        found[cell.config.numerics.dataset.name] |= dict.fromkeys(_with_ways(cell))
    return [f"{name}: {line}" if len(names) > 1 else line for name in names for line in found[name]]


def missing_inputs(cell: Cell) -> list[str]:
    """Return the inputs that a cell needs and its configuration does not give, one line each."""
    return [line for line, _ in _missing(cell)]


def _with_ways(cell: Cell) -> list[str]:
    return [f"{line}; {way}" if way else line for line, way in _missing(cell)]


def _missing(cell: Cell) -> list[tuple[str, str]]:
    """Return what is missing, each with what brings it as far as that is known."""
    numerics, execution = cell.config.numerics, cell.config.execution
    missing = []
    if numerics.backbone.pretrained and not execution.backbone.weights:
        line = (
            f"backbone.weights must be the ImageNet file of {numerics.backbone.name} where backbone.pretrained is true;"
            " give it, name it in the site's file, or set backbone.pretrained=false"
        )
        missing.append((line, _sources("backbone").get(numerics.backbone.name, "")))
    missing += _missing_data(cell)
    if execution.split_root and not Path(execution.split_root).is_dir():
        line = f"split_root must be the folder of the split lists; {_not_there('split_root', execution.split_root)}"
        missing.append((line, ""))
    if execution.data_store and not Path(execution.data_store).is_dir():
        words = _not_there("data_store", execution.data_store)
        missing.append((f"data_store must be a folder that `rankmatch data pack` wrote; {words}", ""))
    return missing


def _missing_data(cell: Cell) -> list[tuple[str, str]]:
    """Return whether the images, or else the lists of the cell's split, are missing."""
    name, root = cell.config.numerics.dataset.name, cell.config.execution.data_root
    if name == "synthetic":
        return []
    if not Path(root or "/nowhere").is_dir():
        ways = [_sources("dataset").get(name, ""), _command_of_lists(name, "FOLDER", Path("FOLDER/splits"))]
        return [
            (f"data_root must be the folder of {name}; {_not_there('data_root', root)}", "; ".join(filter(None, ways)))
        ]
    roots = kept_lists.split_roots(cell.config)
    there = next((one for one in roots if one.is_dir()), None)
    if there is None:
        places = " or ".join(map(str, roots))
        return [(f"the split lists of {name} must be in {places}", _command_of_lists(name, root, roots[0]))]
    split = cell.config.numerics.split
    if (there / split / "labeled.txt").is_file():
        return []
    known = ", ".join(sorted(path.parent.name for path in there.glob("*/labeled.txt"))) or "there are none"
    return [(f"split must be one of those in {there} ({known}); got {split!r}", _command_of_lists(name, root, there))]


def _command_of_lists(name: str, root: str, folder: Path) -> str:
    command = _sources("lists").get(name, "").format(folder=folder, root=root)
    return f"`{command}` brings the lists" if command else ""


def _sources(kind: str) -> Mapping[str, str]:
    return _read(experiments_folder() / "paper" / "sources.yaml")[kind]


@cache
def _read(path: Path) -> Mapping[str, Mapping[str, str]]:
    found: Mapping[str, Mapping[str, str]] = yaml_text.read(path)
    return found


def _not_there(key: str, folder: str) -> str:
    return (
        f"there is no {folder}; if it has moved: {key}=FOLDER"
        if folder
        else (f"got {folder!r}: give {key}=FOLDER, or name it in the site's file")
    )

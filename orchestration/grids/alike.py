"""Cells that must get the same numbers: one of them is trained and stands for all."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestration.grids.cells import NAMES, Cell, from_yaml, names_in
from orchestration.grids.identity import identity, signature
from orchestration.machine.damage import DamagedFileError
from orchestration.runs import store
from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import RunFolder, folders
from rankmatch.config import NumericsConfig


def once(cells: Sequence[Cell]) -> list[Cell]:
    """Return the first cell of each identity; it stands for the others, which differ only in unused settings."""
    kept: dict[str, Cell] = {}
    for cell in cells:
        first = kept.get(cell.identity)
        kept[cell.identity] = replace(first, also=(*first.also, cell.axes)) if first else cell
    return list(kept.values())


def adopt(cells: Sequence[Cell], grid_dir: Path) -> list[Cell]:
    """Return the cells; replace one without a run folder by a run of the same identity that was begun, if there is one.

    That run, perhaps another grid's, has other values of unused settings; it keeps its signature and these values.
    """
    mine = folders(grid_dir)
    found = store.stored(GridFolder(grid_dir).runs.path) | mine
    lacking = {cell.identity: cell for cell in cells if cell.signature not in found}
    own = {cell.signature for cell in cells}
    names = {_names(cell.config.numerics) for cell in lacking.values()}
    others = [folder for name, folder in found.items() if name not in own] if lacking else []
    begun: dict[str, NumericsConfig] = {}
    # if there are several, the last one counts: a finished one, of the grid itself
    for folder in sorted(others, key=lambda one: (one.has_result(), one.signature in mine)):
        numerics = _numerics(folder, names)
        if numerics and identity(numerics) in lacking:
            begun[identity(numerics)] = numerics
    return [
        replace(cell, config=replace(cell.config, numerics=begun[cell.identity]))
        if cell.signature not in found and cell.identity in begun
        else cell
        for cell in cells
    ]


def _names(numerics: NumericsConfig) -> tuple[str, ...]:
    return (
        numerics.dataset.name,
        numerics.backbone.name,
        numerics.method.name,
        numerics.split,
        str(numerics.seed),
    )


def _numerics(folder: RunFolder, names: set[tuple[str, ...]]) -> NumericsConfig | None:
    """Read the settings of a run with one of the names, unless it is of other code or cannot be read."""
    try:
        text = folder.config()
        named = names_in(text)
        if tuple(named[key] for key in NAMES) not in names:
            return None
        numerics = from_yaml(text).numerics
    except (DamagedFileError, OSError, ValueError):  # not asked for here; a command that asks for it gets the error
        return None
    return numerics if folder.signature == signature(numerics) else None


def notes(cells: Sequence[Cell]) -> list[str]:
    """Report settings that some methods, or some of their cells, do not use, one line per setting."""
    idle: dict[str, Counter[str]] = {}
    for cell in cells:
        for key in _idle_keys(cell.axes, cell.also):
            idle.setdefault(key, Counter())[cell.config.numerics.method.name] += 1
    total = Counter(cell.config.numerics.method.name for cell in cells)
    return [
        f"{key} has no effect for "
        + " and ".join(name if count == total[name] else f"some cells of {name}" for name, count in methods.items())
        + ": one run stands for all of its values"
        for key, methods in idle.items()
    ]


def _idle_keys(axes: Mapping[str, str], also: Sequence[Mapping[str, str]]) -> list[str]:
    return [key for key in axes if any(point[key] != axes[key] for point in also)]

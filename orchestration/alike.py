"""Cells that can only come to the same numbers: one of them is trained, and stands for all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestration.cells import NAMES, Cell, from_yaml, names_in
from orchestration.damage import DamagedFileError
from orchestration.identity import identity, signature
from orchestration.run_folder import RunFolder, folders
from rankmatch.config import NumericsConfig


def once(cells: Sequence[Cell]) -> list[Cell]:
    """Return the first cell of each identity, which stands for the others; they differ in what decides nothing."""
    kept: dict[str, Cell] = {}
    for cell in cells:
        first = kept.get(cell.identity)
        kept[cell.identity] = replace(first, also=(*first.also, cell.axes)) if first else cell
    return list(kept.values())


def adopt(cells: Sequence[Cell], grid_dir: Path) -> list[Cell]:
    """Return the cells, those without a run folder as the run of the same identity that was begun there, if one was.

    It has other values of settings that decide nothing; its signature and these values are kept.
    """
    found = folders(grid_dir)
    lacking = {cell.identity: cell for cell in cells if cell.signature not in found}
    own = {cell.signature for cell in cells}
    names = {_names(cell.config.numerics) for cell in lacking.values()}
    others = [folder for name, folder in found.items() if name not in own] if lacking else []
    begun: dict[str, NumericsConfig] = {}
    for folder in sorted(others, key=RunFolder.has_result):  # the last of several counts: one that is done
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
    """Read the settings of a run that has one of the names, unless it is of other code or cannot be read."""
    try:
        text = folder.config()
        named = names_in(text)
        if tuple(named[key] for key in NAMES) not in names:
            return None
        numerics = from_yaml(text).numerics
    except (DamagedFileError, OSError, ValueError):  # nobody asked for this run; whoever does is told
        return None
    return numerics if folder.path.name.startswith(f"{signature(numerics)}-") else None


def notes(cells: Sequence[Cell]) -> list[str]:
    """Say which settings decide nothing for some methods, a line for each setting."""
    idle: dict[str, list[str]] = {}
    for cell in cells:
        for key in _idle_keys(cell.axes, cell.also):
            idle.setdefault(key, []).append(cell.config.numerics.method.name)
    return [
        f"{key} decides nothing for {' and '.join(dict.fromkeys(methods))}: one run stands for all of its values"
        for key, methods in idle.items()
    ]


def _idle_keys(axes: Mapping[str, str], also: Sequence[Mapping[str, str]]) -> list[str]:
    return [key for key in axes if any(point[key] != axes[key] for point in also)]

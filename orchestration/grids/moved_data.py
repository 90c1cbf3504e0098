"""Where a run's data are now: in their original place, or, if that is gone, where the grid finds them today."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestration.grids.cells import Cell, changed
from orchestration.grids.grid import Grid
from rankmatch.config import TrainConfig

PLACES = ("data_root", "split_root", "data_store")


def followed(cells: Sequence[Cell], known: Sequence[Cell]) -> list[Cell]:
    """Return the cells; those whose data are gone get the places that other cells of the same data set agree on."""
    return [
        Cell(changed(cell.config, places), cell.axes, cell.also) if (places := new_places(cell.config, known)) else cell
        for cell in cells
    ]


def learned(stored: Grid, launched: Grid) -> Grid:
    """Return a stored grid of one data set; places that are gone are replaced by those of a launched part of it."""
    is_one = len({cell.config.numerics.dataset.name for cell in stored.cells}) == 1
    places: dict[str, str] = {}
    for cell in stored.cells:
        places |= new_places(cell.config, launched.cells)
    if not (is_one and places and stored.spec):
        return stored
    spec = replace(stored.spec, fixed=stored.spec.fixed | places)
    return replace(stored, spec=spec, cells=followed(stored.cells, launched.cells))


def new_places(config: TrainConfig, known: Sequence[Cell]) -> dict[str, str]:
    """Return new places for those of a run that are gone, from the cells of its data set."""
    name = config.numerics.dataset.name
    others = [cell.config.execution for cell in known if cell.config.numerics.dataset.name == name]
    places = {}
    for key in PLACES:
        own, now = getattr(config.execution, key), {getattr(execution, key) for execution in others}
        if own and not Path(own).is_dir() and len(now) == 1 and now != {own}:
            places[key] = now.pop()
    return places

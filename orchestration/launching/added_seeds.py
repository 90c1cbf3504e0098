"""What the tables of a grid need now whose seeds are added only where they decide something."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from orchestration.grids import launched
from orchestration.grids.grid import Grid
from orchestration.launching.target import Target
from orchestration.planning import adaptive
from orchestration.planning.adaptive import Needs
from orchestration.runs import folder_states
from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import FolderState, folders
from orchestration.runs.states import CellState


def of_target(target: Target, states: Mapping[str, FolderState] | None = None) -> Needs | None:
    """Return what the tables of a launch need; None if they all need all their cells.

    Args:
        target: What is launched. Its tables say how, those of the whole grid have the cells that are compared.
        states: The states of the grid's cells; by default they are read.
    """
    asked = {one.name: one.table.adaptive for one in target.loaded.tables}
    if not any(asked.values()):
        return None
    if states is None:
        states = folder_states.states(launched.known_folders(target.loaded, target.grid_dir))
    names = dict(zip(_names(target.every), target.every.tables, strict=True))
    mine = [
        replace(names[name], table=replace(names[name].table, adaptive=asked[one.name]))
        for name, one in zip(_names(target.loaded), target.loaded.tables, strict=True)
    ]
    return adaptive.needs(mine, _numbers(states))


def refuse_within_budget(loaded: Grid, *, within_budget: bool) -> None:
    """Refuse to leave out what exceeds a budget where seeds are added here: what the rounds take is known only later.

    Raises:
        ValueError: Both are asked for.
    """
    if within_budget and any(one.table.adaptive for one in loaded.tables):
        raise ValueError(
            "--within-budget must be left out where seeds are added adaptively and this process trains, as the seeds "
            "of later rounds are not known yet: give --budget-gpu-hours for all seeds, or --no-adaptive"
        )


def with_later_seeds(target: Target) -> Target:
    """Return a retry of all open cells by which seeds that no pair needs so far wait, instead of being passed over."""
    needs = of_target(target)
    refused = {key: why for key, why in target.refused.items() if needs is None or key in needs.cells}
    return replace(target, refused=refused)


def of_folder(grid_dir: Path) -> Needs | None:
    """Return what the tables of a launched grid need; None if they all need all their cells.

    Raises:
        ValueError: Its file cannot be read.
    """
    loaded = _added_to(grid_dir)
    return _of_loaded(loaded, grid_dir) if loaded else None


def not_needed(grid_dir: Path) -> set[str]:
    """Return the signatures of the cells of a launched grid that no pair needs so far."""
    loaded = _added_to(grid_dir)
    return {cell.signature for cell in loaded.cells} - _of_loaded(loaded, grid_dir).cells if loaded else set()


def _added_to(grid_dir: Path) -> Grid | None:
    """Return a launched grid if seeds are added to one of its tables."""
    file = GridFolder(grid_dir).grid_file
    if not file.is_file() or "adaptive:" not in file.read_text(encoding="utf-8"):
        return None  # as most: composing takes seconds
    loaded = launched.load_folder(grid_dir)
    return loaded if any(one.table.adaptive for one in loaded.tables) else None


def _of_loaded(loaded: Grid, grid_dir: Path) -> Needs:
    return adaptive.needs(loaded.tables, _numbers({key: folder.state() for key, folder in folders(grid_dir).items()}))


def _names(grid: Grid) -> list[str]:
    """Name the tables of a grid; one that has a single table may have another name in its folder."""
    return [one.name for one in grid.parts] or [""]


def _numbers(states: Mapping[str, FolderState]) -> dict[str, float]:
    done = {key: state.best_miou for key, state in states.items() if state.status is CellState.DONE}
    return {key: number for key, number in done.items() if number is not None}

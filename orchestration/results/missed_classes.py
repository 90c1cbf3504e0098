"""The cells of a table that almost never predict a class: their figures say little of a method."""

from collections.abc import Sequence
from pathlib import Path

from orchestration.grids.cells import Cell
from orchestration.machine.counts import counted
from orchestration.runs import hints, unpredicted
from orchestration.runs.run_folder import folders


def of_cells(grid_dir: Path, cells: Sequence[Cell]) -> list[tuple[Cell, tuple[int, ...]]]:
    """Return those of some cells, each with the classes."""
    known = folders(grid_dir)
    found = ((cell, known[cell.signature].state().unpredicted) for cell in cells if cell.signature in known)
    return [(cell, classes) for cell, classes in found if classes]


def in_a_line(grid_dir: Path, cells: Sequence[Cell]) -> list[str]:
    """Say how many they are, and where advice is; nothing if there are none."""
    if not (found := of_cells(grid_dir, cells)):
        return []
    # the same number is another class in another data set
    alike = {unpredicted.in_words(classes, cell.config.execution.class_names) for cell, classes in found}
    what = alike.pop() if len(alike) == 1 else "almost never predicts some class"
    many = f"{len(found)} of {counted(len(cells), 'cell')}"
    return [f"warning: {many}: each {what}; {hints.command('status', grid_dir)} says what to look at"]

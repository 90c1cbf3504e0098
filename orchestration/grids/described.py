"""The description of a cell in its run folder, which a running job of an earlier version may yet read."""

from contextlib import suppress

from orchestration.grids.cells import Cell, from_yaml, to_yaml
from orchestration.runs.run_folder import RunFolder
from rankmatch.config import TrainConfig


def describe(folder: RunFolder, cell: Cell) -> None:
    """Write configuration and varied keys of a cell; a stored configuration that reads as equal stays as it is."""
    folder.create(_text(folder, cell.config), cell.axes)


def _text(folder: RunFolder, config: TrainConfig) -> str:
    text = to_yaml(config)
    with suppress(OSError, ValueError):  # what cannot be read is written anew
        stored = folder.config()
        if stored != text and from_yaml(stored) == config:
            return stored
    return text

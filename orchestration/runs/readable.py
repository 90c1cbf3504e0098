"""Look at many cells one by one: one that cannot be read keeps nobody from the others."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from orchestration.machine.damage import DamagedFileError
from orchestration.runs.patience import say_once
from orchestration.runs.run_folder import RunFolder

Key = TypeVar("Key")
T = TypeVar("T")


def each(cells: Mapping[Key, RunFolder], look: Callable[[RunFolder], T]) -> dict[Key, T]:
    """Return what is found in each cell; leave out, and say once, those that cannot be read now."""
    found: dict[Key, T] = {}
    for key, folder in cells.items():
        try:
            found[key] = look(folder)
        except (OSError, DamagedFileError) as error:
            say_once(f"{folder.path} is left out until it can be read", error)
    return found


def of(folder: RunFolder, look: Callable[[RunFolder], T], otherwise: T) -> T:
    """Return what is found in a cell, or something else if it cannot be read now, which is said once."""
    return each({folder.path: folder}, look).get(folder.path, otherwise)

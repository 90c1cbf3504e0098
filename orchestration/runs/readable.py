"""Look at many cells one by one: one that cannot be read keeps nobody from the others."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from orchestration.machine.damage import DamagedFileError
from orchestration.runs.patience import passes, say_once
from orchestration.runs.run_folder import RunFolder

Key = TypeVar("Key")
T = TypeVar("T")
Error = OSError | DamagedFileError


def each(cells: Mapping[Key, RunFolder], look: Callable[[RunFolder], T]) -> dict[Key, T]:
    """Return what is found in each cell; leave out, and say once, those that cannot be read now."""
    return each_or_error(cells, look)[0]


def each_or_error(
    cells: Mapping[Key, RunFolder], look: Callable[[RunFolder], T]
) -> tuple[dict[Key, T], dict[Key, Error]]:
    """Return what is found in each cell, and why others cannot be read, which is said once."""
    found, errors = dict[Key, T](), dict[Key, Error]()
    for key, folder in cells.items():
        try:
            found[key] = look(folder)
        except (OSError, DamagedFileError) as error:
            say_once(f"{folder.path} is left out until it can be read", error)
            errors[key] = error
    return found, errors


def in_words(error: Error) -> str:
    """Say what cannot be read for now, and why."""
    if isinstance(error, DamagedFileError):
        return str(error)
    return f"{error.filename or 'a file'} cannot be read for now: {error.strerror}"


def passing(errors: Iterable[Error]) -> OSError | None:
    """Return the first of some errors that may pass, as when a file server is away."""
    return next((error for error in errors if isinstance(error, OSError) and passes(error)), None)


def of(folder: RunFolder, look: Callable[[RunFolder], T], otherwise: T) -> T:
    """Return what is found in a cell, or something else if it cannot be read now, which is said once."""
    return each({folder.path: folder}, look).get(folder.path, otherwise)

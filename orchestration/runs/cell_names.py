"""The names in a folder of the layout, read as fast as they can be: commands and steps look many times."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_CELL_NAME = re.compile(r"[0-9a-f]{12}-")


def cell_names(folder: str) -> list[str]:
    """Return the names of the run folders in a folder `cells`, unordered; a link that leads nowhere is none.

    One whose end cannot be looked at is a cell: only that one is unreadable.
    """
    with os.scandir(folder) as entries:
        return [one.name for one in entries if is_cell_name(one.name) and (not one.is_symlink() or _may_lead(one))]


def entries_in(
    folder: Path, is_meant: Callable[[os.DirEntry[str]], bool], *, may_be_closed: bool = False
) -> list[Path]:
    """Return the entries that are meant, by name; none where there is no folder.

    Raises:
        PermissionError: The folder is closed to this user, and may not be.
    """
    names: list[str] = []
    closed = (PermissionError,) if may_be_closed else ()
    with suppress(FileNotFoundError, NotADirectoryError, *closed), os.scandir(folder) as entries:
        names = sorted(one.name for one in entries if is_meant(one))
    return [folder / name for name in names]


def is_cell_name(name: str) -> bool:
    """Return whether a folder or link of this name is a cell's."""
    return bool(_CELL_NAME.match(name))


def _may_lead(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError:  # a link to itself, a file server that is away, a folder that is closed to this user
        return True

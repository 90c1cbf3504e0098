"""Which names in a folder `cells` are those of cells."""

import os
import re

_CELL_NAME = re.compile(r"[0-9a-f]{12}-")


def cell_names(folder: str) -> list[str]:
    """Return the names of the run folders in a folder `cells`, unordered; a link that leads nowhere is none.

    One whose end cannot be looked at is a cell: only that one is unreadable.
    """
    with os.scandir(folder) as entries:
        return [one.name for one in entries if is_cell_name(one.name) and (not one.is_symlink() or _may_lead(one))]


def is_cell_name(name: str) -> bool:
    """Return whether a folder or link of this name is a cell's."""
    return bool(_CELL_NAME.match(name))


def _may_lead(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError:  # a link to itself, a file server that is away, a folder that is closed to this user
        return True

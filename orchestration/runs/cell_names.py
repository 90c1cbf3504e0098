"""The names in a folder of the layout, read as fast as they can be: commands and steps look many times."""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from orchestration.runs.patience import passes, say_once

_SIGNATURE = 12
_CELL_NAME = re.compile(rf"[0-9a-f]{{{_SIGNATURE}}}-")


def one_for_each_cell(folder: str, result: str) -> list[str]:
    """Return the names of the run folders in a folder `cells`, unordered; a file or a link that leads nowhere is none.

    One whose end cannot be looked at is a cell: only that one is unreadable. Of several folders of one cell, as of a
    copy beside it, the one with a result is used, else the one with the shortest name, and this is said.

    Args:
        folder: A folder `cells`.
        result: Name of the file that makes a cell a finished one.
    """
    with os.scandir(folder) as entries:
        names = [one.name for one in entries if is_cell_name(one.name) and _may_be_folder(one)]
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name[:_SIGNATURE], []).append(name)
    return names if len(alike) == len(names) else [_used(folder, some, result) for some in alike.values()]


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


def _used(folder: str, names: Sequence[str], result: str) -> str:
    used, *others = sorted(names, key=lambda name: (not _may_be_there(f"{folder}/{name}/{result}"), len(name), name))
    for other in others:
        what = f"{folder}/{used} is used, as it has the cell of {folder}/{other} too"
        say_once(what, "one of them should be moved away")
    return used


def _may_be_there(file: str) -> bool:
    try:
        os.stat(file)  # noqa: PTH116 (commands look many times)
    except OSError as error:  # one that cannot be looked for now may be there: better unreadable than trained anew
        return passes(error)
    return True


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, a file server that is away, a folder that is closed to this user
        return True

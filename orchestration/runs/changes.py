"""The uncommitted changes with which a cell was trained, in its own folder: a grid's may be renamed or removed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestration.machine import files
from orchestration.runs.folders import RunsFolder
from orchestration.runs.made_with import CHANGE
from orchestration.runs.patience import say_once
from orchestration.runs.run_folder import RunFolder
from rankmatch.durable import make_folder

PLACE = "difference"
"""The field of a provenance that names the launch's copy, below the grid's folder."""


def keep(cell: RunFolder, made: Mapping[str, Any]) -> None:
    """Copy the changes of a launch into the folder of a cell that it trains, each content once.

    Raises:
        OSError: They cannot be read or written now.
    """
    place, sha256 = made.get(PLACE), made.get(CHANGE)
    if not place or not sha256 or cell.change_file(sha256).exists():
        return
    source = cell.grid.path / place
    try:
        content = source.read_bytes()
    except FileNotFoundError as error:
        say_once(f"{cell.path} cannot be reproduced later, as its uncommitted changes are not there", error)
        return
    if hashlib.sha256(content).hexdigest() != sha256:
        say_once(f"{cell.path} cannot be reproduced later", f"{source} is not what was launched")
        return
    _write(cell, sha256, content)


def take_along(source: RunFolder, runs: RunsFolder, copy: RunFolder) -> None:
    """Put the changes of a copied cell of an earlier version into the copy: they lie in its grid's folder alone."""
    for attempt in source.attempts():
        owner = attempt.known_owner()
        made: Mapping[str, Any] = owner.get("provenance", {})
        path = find(copy, made, runs.grid(str(owner.get("grid") or source.grid.name)).path)
        if path and path.is_file() and not path.is_relative_to(copy.path):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == made.get(CHANGE):
                _write(copy, made[CHANGE], content)


def find(cell: RunFolder, made: Mapping[str, Any], launched: Path) -> Path | None:
    """Return the file of the changes of an attempt; None if there were none.

    Args:
        cell: The cell.
        made: The attempt's provenance.
        launched: The folder of the grid whose launch it was: cells of earlier versions have their changes there alone.
    """
    place, sha256 = made.get(PLACE), made.get(CHANGE)
    if sha256 and cell.change_file(sha256).is_file():
        return cell.change_file(sha256)
    return launched / str(place) if place else None


def _write(cell: RunFolder, sha256: str, content: bytes) -> None:
    make_folder(cell.changes_dir)
    files.replace(cell.change_file(sha256), content)

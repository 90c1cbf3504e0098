"""Which files a folder holds: one way to list it, for images, labels and whatever else is looked for by name."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_NOT_THE_USERS = frozenset({"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini", "lost+found"})
"""What archives of a Mac, network drives and file systems add to a folder."""


@dataclass(slots=True)
class Found:
    """The files below a folder, and what was passed over."""

    files: list[Path] = field(default_factory=list)
    """In the order of their paths."""
    hidden: list[Path] = field(default_factory=list)
    """Files and folders that are hidden, or that no user put there."""
    repeated: list[Path] = field(default_factory=list)
    """Links to folders that are listed by another path, or that would go round in circles."""
    broken: list[Path] = field(default_factory=list)
    """Links to nothing that can be reached."""

    def skipped(self) -> str:
        """Say in one line what was passed over; empty where nothing was."""
        kinds = (
            (self.hidden, "hidden"),
            (self.repeated, "linked to a folder that is listed already"),
            (self.broken, "linked to nothing"),
        )
        parts = [f"{len(paths)} {what} (first {paths[0]})" for paths, what in kinds if paths]
        return f"passed over: {', '.join(parts)}" if parts else ""


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of this name is no user's: hidden ones, and what systems leave behind."""
    return name.startswith(".") or name in _NOT_THE_USERS


def find_files(root: Path) -> Found:
    """List the files below a folder; links are followed, each folder is listed once, by its own path if it has one.

    Raises:
        ValueError: The folder is not there, or it or one below it cannot be read.
    """
    found, links, seen = Found(), [root], set[str]()
    while links:
        linked: list[Path] = []
        for link in links:
            _list(link, found, linked, seen)
        links = sorted(linked)
    for paths in (found.files, found.hidden, found.repeated, found.broken):
        paths.sort()
    return found


def _list(folder: Path, found: Found, links: list[Path], seen: set[str]) -> None:
    """List a folder and those in it; links to folders wait until all that can be reached without them is listed."""
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        if (real := os.path.realpath(path)) in seen:
            found.repeated.append(path)
            continue
        seen.add(real)
        for entry in _entries(path):
            place = Path(entry.path)
            if is_hidden(entry.name):
                found.hidden.append(place)
            elif _is(entry.is_dir):
                (links if entry.is_symlink() else waiting).append(place)
            elif _is(entry.is_file):
                found.files.append(place)
            elif entry.is_symlink():
                found.broken.append(place)


def _is(ask: Callable[[], bool]) -> bool:
    """Ask what an entry is; of a link that leads to itself or to where nobody may go, nothing can be said."""
    try:
        return ask()
    except OSError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise ValueError(f"folder {folder} cannot be read: {error.strerror}") from error

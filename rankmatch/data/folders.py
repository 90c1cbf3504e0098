"""List the files of a folder: the one way to do it, for images, labels and everything else that is found by name."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_NOT_THE_USERS = frozenset({"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini", "lost+found"})
"""What archives of a Mac, network drives and file systems add to a folder."""


@dataclass(slots=True)
class Found:
    """The files below a folder, and what was skipped."""

    files: list[Path] = field(default_factory=list)
    """Sorted by path."""
    hidden: list[Path] = field(default_factory=list)
    """Hidden files and folders, and those that a system left there."""
    repeated: list[Path] = field(default_factory=list)
    """Links to folders that are listed under another path, or that lead in a circle."""
    broken: list[Path] = field(default_factory=list)
    """Links whose target cannot be reached."""

    def skipped(self) -> str:
        """Report in one line what was skipped; empty if nothing was."""
        kinds = (
            (self.hidden, "hidden"),
            (self.repeated, "linked to a folder that is listed already"),
            (self.broken, "linked to nothing"),
        )
        parts = [f"{len(paths)} {what} (first {paths[0]})" for paths, what in kinds if paths]
        return f"skipped: {', '.join(parts)}" if parts else ""


def is_hidden(name: str) -> bool:
    """Return whether a name is that of a hidden file or folder, or of one that a system leaves behind."""
    return name.startswith(".") or name in _NOT_THE_USERS


def find_files(root: Path) -> Found:
    """List the files below a folder; follow links, and list each folder once, under its own path if it has one.

    Raises:
        ValueError: The folder does not exist, or it or one below it cannot be read.
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
    """List a folder and those in it; follow links to folders only after everything that is reachable without them."""
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
    """Return whether an entry is of a kind; false for a link that leads to itself or to a forbidden place."""
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

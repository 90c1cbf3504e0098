"""What a folder of the layout is: a path, whose members are paths on a folder and names on its class."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self, overload


class Inner:
    """A member of a folder: a path on a folder, a name on the folder's class."""

    def __init__(self, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, folder: None, kind: type) -> Self: ...

    @overload
    def __get__(self, folder: "Folder", kind: type) -> Path: ...

    def __get__(self, folder: "Folder | None", kind: type) -> Self | Path:
        return self if folder is None else folder.path / self.name


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of the layout."""

    path: Path

    @property
    def name(self) -> str:
        """Its own name."""
        return self.path.name or self.path.absolute().name  # of `.`

"""A data set described by the user's own YAML file; its content is kept, so that its grid can be read anywhere."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestration.grids.values import PATH_KEYS, flatten, user_path
from orchestration.machine import yaml_text

_PATHS = frozenset(f"execution.{key}" for key in PATH_KEYS)


@dataclass(frozen=True, slots=True)
class OwnDataset:
    """The value of `dataset` for such a file; equal if name and content are equal."""

    name: str
    """As typed by the user; tables and run folders use it."""
    content: str = field(repr=False)
    """Its fields by their full names as JSON; values are still text, paths absolute."""
    place: str = field(default="", compare=False)
    """The file's path, for messages."""

    def __str__(self) -> str:
        return self.name

    @property
    def fields(self) -> dict[str, Any]:
        """The file's fields by their full names, values still text."""
        found: dict[str, Any] = json.loads(self.content)
        return found

    @property
    def hydras_name(self) -> str:
        """Its name for Hydra, which accepts no path as a name."""
        return f"own_{hashlib.sha256(f'{self.name} {self.content}'.encode()).hexdigest()[:12]}"


def is_own(group: str, choice: object) -> bool:
    """Return whether a choice is a data set file, not a name in experiments/conf."""
    return isinstance(choice, OwnDataset) or (group == "dataset" and str(choice).endswith((".yaml", ".yml")))


def read(name: str, folder: Path | None = None) -> OwnDataset:
    """Read a file named on the command line, or in another file (then relative to its folder).

    Raises:
        ValueError: It does not exist, or is not a mapping.
    """
    path = (folder or Path()) / user_path(name)
    if not path.is_file():
        where = "" if Path(name).is_absolute() else f", and there is no {path.absolute()}"
        raise ValueError(f"dataset must be an existing YAML file; got {name!r}{where}")
    tree = yaml_text.read(path)
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: a configuration must be a mapping; got {tree!r}")
    return of_tree(name, tree, path.resolve().parent, str(path))


def of_tree(name: str, tree: Mapping[str, Any], folder: Path, place: str) -> OwnDataset:
    """Build one from a file's content; paths are relative to the folder."""
    fields = {full: _absolute(node, folder) if full in _PATHS else node for full, node in flatten(tree).items()}
    return OwnDataset(name, json.dumps(fields), place)


def _absolute(node: Any, folder: Path) -> Any:  # noqa: ANN401 (what the file holds)
    return str(folder / user_path(node)) if isinstance(node, str) and node else node

"""A data set that a YAML file of one's own describes, with what the file holds, wherever its grid is read later."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestration import yaml_text
from orchestration.values import PATH_KEYS, flatten

_PATHS = frozenset(f"execution.{key}" for key in PATH_KEYS)


@dataclass(frozen=True, slots=True)
class OwnDataset:
    """The value of `dataset` that such a file stands for; equal if called alike and holding the same."""

    name: str
    """As it was typed: what tables and run folders call it."""
    content: str = field(repr=False)
    """Its fields by their full names as JSON, values text still, paths absolute."""
    place: str = field(default="", compare=False)
    """Where it was read, for messages."""

    def __str__(self) -> str:
        return self.name

    @property
    def fields(self) -> dict[str, Any]:
        """What the file sets, by the full names of the fields, values text still."""
        found: dict[str, Any] = json.loads(self.content)
        return found

    @property
    def hydras_name(self) -> str:
        """What Hydra calls it, for which a path is no name."""
        return f"own_{hashlib.sha256(f'{self.name} {self.content}'.encode()).hexdigest()[:12]}"


def is_own(group: str, choice: object) -> bool:
    """Tell whether a choice is the file of a data set that experiments/conf does not have."""
    return isinstance(choice, OwnDataset) or (group == "dataset" and str(choice).endswith((".yaml", ".yml")))


def read(name: str, folder: Path | None = None) -> OwnDataset:
    """Read a file that was named in a file of a folder, or on the command line.

    Raises:
        ValueError: It is not there, or no mapping.
    """
    path = (folder or Path()) / Path(name).expanduser()
    if not path.is_file():
        raise ValueError(f"dataset must be a YAML file that is there; got {name!r}, and there is no {path.absolute()}")
    tree = yaml_text.read(path)
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: a configuration must be a mapping; got {tree!r}")
    return of_tree(name, tree, path.resolve().parent, str(path))


def of_tree(name: str, tree: Mapping[str, Any], folder: Path, place: str) -> OwnDataset:
    """Make one of what a file in a folder holds."""
    fields = {full: _absolute(node, folder) if full in _PATHS else node for full, node in flatten(tree).items()}
    return OwnDataset(name, json.dumps(fields), place)


def _absolute(node: Any, folder: Path) -> Any:  # noqa: ANN401 (what the file holds)
    return str(folder / Path(node).expanduser()) if isinstance(node, str) and node else node

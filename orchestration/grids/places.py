"""Where a site keeps data sets and weights: named once in its file, for every grid that is launched there.

Places are no part of a cell's identity: data are known by their fingerprint, weights by their hash.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

BY_DATASET = ("data_root", "split_root", "data_store")
WEIGHTS = "weights"
SECTIONS = (*BY_DATASET, WEIGHTS)
_KEYS = {section: "backbone.weights" if section == WEIGHTS else section for section in SECTIONS}


@dataclass(frozen=True, slots=True)
class Places:
    """Absolute paths, by the name of the data set or of the backbone."""

    data_root: Mapping[str, str] = field(default_factory=dict)
    split_root: Mapping[str, str] = field(default_factory=dict)
    data_store: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    source: str = field(default="", compare=False)
    """What names them, for messages."""

    def section(self, name: str) -> Mapping[str, str]:
        """Return the paths of one of `SECTIONS`."""
        found: Mapping[str, str] = getattr(self, name)
        return found

    def __bool__(self) -> bool:
        return any(self.section(name) for name in SECTIONS)

    def over(self, others: "Places") -> "Places":
        """Return these, and those of others for what these do not name."""
        return Places(**{name: {**others.section(name), **self.section(name)} for name in SECTIONS}, source=self.source)

    def without(self, keys: Collection[str]) -> "Places":
        """Return these without the settings that somebody gave for every cell."""
        gone: dict[str, Any] = {name: {} for name in SECTIONS if _KEYS[name] in keys}
        return replace(self, **gone) if gone else self

    def only(self, sections: Collection[str]) -> "Places":
        """Return the given sections of these."""
        gone: dict[str, Any] = {name: {} for name in SECTIONS if name not in sections}
        return replace(self, **gone)

    def fields_of(self, flat: Mapping[str, Any]) -> dict[str, str]:
        """Return the fields that the places give a configuration, both by full names."""
        dataset, backbone = flat["numerics.dataset.name"], flat["numerics.backbone.name"]
        found = {name: self.section(name).get(dataset, "") for name in BY_DATASET}
        found[WEIGHTS] = self.weights.get(backbone, "") if flat["numerics.backbone.pretrained"] else ""
        return {f"execution.{_KEYS[name]}": path for name, path in found.items() if path}

    def to_tree(self) -> dict[str, dict[str, str]]:
        """Return them for a stored grid; empty if there are none."""
        return {name: dict(self.section(name)) for name in SECTIONS if self.section(name)}


def of_tree(tree: Mapping[str, Any]) -> Places:
    """Read what `to_tree` returned.

    Raises:
        ValueError: It is something else.
    """
    for name, paths in tree.items():
        is_mapping = isinstance(paths, dict) and all(isinstance(path, str) for path in paths.values())
        if name not in SECTIONS or not is_mapping:
            raise ValueError(f"places may map {', '.join(SECTIONS)} to paths by name; got {name}: {paths!r}")
    return Places(**tree)

"""The preset that a configuration is nearest to, and the fields in which it differs from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from orchestration.grids.cells import experiments_folder
from orchestration.machine import yaml_text
from rankmatch.config import NumericsConfig
from rankmatch.unused import unused_settings

SAID_ELSEWHERE = "method.num_agents"
"""Notes and paragraphs say the number of agents, whether it is the preset's or not."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """The preset with the fewest fields of which a run reads another value."""

    name: str
    differing: Mapping[str, str]
    """These fields, with the run's values as text."""
    idle: frozenset[str]
    """Fields that the run does not read."""

    @property
    def words(self) -> str:
        """The preset, with these fields."""
        fields = [f"{field}={text}" for field, text in self.differing.items()]
        return f"{self.name} (with {', '.join(fields)})" if fields else self.name

    def is_part_of(self, other: "Nearest") -> bool:
        """Return whether it differs from another only by fields that the run does not read."""
        return self.name == other.name and all(
            field in self.idle or self.differing.get(field) == text for field, text in other.differing.items()
        )


def nearest(numerics: NumericsConfig) -> Nearest:
    """Find the preset that a run is nearest to."""
    idle = unused_settings(numerics)
    found = []
    for name, fields in _presets().items():
        values = {field: _value(numerics, field) for field in fields if field not in idle}
        differing = {field: _text(value) for field, value in values.items() if not _agrees(value, fields[field])}
        found.append(Nearest(name, differing, idle))
    return min(found, key=lambda one: len(one.differing))


def in_words(numerics: Sequence[NumericsConfig]) -> list[str]:
    """Name the preset of each run, with every field that differs from it; runs that do not read it have it, too."""
    found = [nearest(each) for each in numerics]
    most = sorted({one.words: one for one in found}.values(), key=lambda one: -len(one.differing))
    return [next(other for other in most if one.is_part_of(other) and len(one.differing) <= len(other.differing)).words
            for one in found]  # fmt: skip


@cache
def _presets() -> Mapping[str, Mapping[str, str]]:
    """Return the text of each field in each preset, as `section.field`."""
    found = {}
    for path in sorted((experiments_folder() / "conf" / "preset").glob("*.yaml")):
        sections = yaml_text.read(path)["numerics"]
        fields = {f"{section}.{name}": text for section in sections for name, text in sections[section].items()}
        found[path.stem] = {field: text for field, text in fields.items() if field != SAID_ELSEWHERE}
    return found


def _value(numerics: NumericsConfig, field: str) -> bool | float:
    section, _, name = field.partition(".")
    value: bool | float = getattr(getattr(numerics, section), name)
    return value


def _agrees(value: bool | float, text: str) -> bool:
    return text == _text(value) if isinstance(value, bool) else float(text) == value


def _text(value: bool | float) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"

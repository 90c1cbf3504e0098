"""What identifies a run: its signature, which names its folder, and its identity, which leaves out unused settings.

A signature includes every field, also those that the method or the data set does not read, so that existing runs keep
their names. Two runs with the same identity have the same numbers, so only one of them is trained.
"""

import hashlib
import json
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

import rankmatch
from rankmatch.config import NumericsConfig
from rankmatch.unused import unused_settings

SCHEMA = 1
SIGNATURE_LENGTH = 12


def signature(numerics: NumericsConfig) -> str:
    """Return the name of a run: 12 hexadecimal digits of the SHA-256 over canonical JSON."""
    return _digest(_content(numerics))


def identity(numerics: NumericsConfig) -> str:
    """Return the key shared by all runs that must get the same numbers, in the form of a signature."""
    content = _content(numerics)
    for name in unused_settings(numerics):
        *path, last = name.split(".")
        section = content
        for step in path:
            section = section.get(step, {})
        section.pop(last, None)
    return _digest(content)


def _digest(numerics: dict[str, Any]) -> str:
    content = {"schema": SCHEMA, "NUMERICS": rankmatch.NUMERICS, "numerics": numerics}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:SIGNATURE_LENGTH]


def _content(section: Any) -> dict[str, Any]:  # noqa: ANN401
    content: dict[str, Any] = {}
    kind: Any = type(section)
    for name, is_section, is_float, neutral in _hashed_fields(kind):
        value = getattr(section, name)
        if neutral and value == neutral[0]:
            continue
        if is_section:
            if inner := _content(value):  # otherwise a section added later, with only neutral fields, would count
                content[name] = inner
        else:
            content[name] = float(value) if is_float else value  # JSON distinguishes 1 and 1.0, which are equal numbers
    return content


@cache
def _hashed_fields(section: Any) -> list[tuple[str, bool, bool, list[Any]]]:  # noqa: ANN401
    kinds, hashed = get_type_hints(section), []
    for part in fields(section):
        neutral = [part.metadata["neutral"]] if "neutral" in part.metadata else []
        hashed.append((part.name, is_dataclass(kinds[part.name]), kinds[part.name] is float, neutral))
    return hashed

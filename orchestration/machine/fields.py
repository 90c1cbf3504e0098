"""Check the fields of a JSON row: valid JSON may still have a wrong name or a wrong kind of value."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value, in words and as a check."""

    words: str
    holds: Callable[[Any], bool]

    def or_null(self) -> "Kind":
        """Return this kind extended by null."""
        return Kind(f"{self.words}, or null", lambda value: value is None or self.holds(value))

    def listed(self) -> "Kind":
        """Return the kind of a list of such values."""
        return Kind(f"a list, each {self.words}", lambda value: isinstance(value, list) and all(map(self.holds, value)))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)  # JSON has no infinity, but 1e999 is read as one
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_date(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


ANYTHING = Kind("anything", lambda value: True)
TEXT = Kind("text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
COUNT = Kind("a whole number from 0", _is_count)
NUMBER = Kind("a number", _is_number)
DATE = Kind("a date in the form of ISO 8601", _is_date)
TEXTS = Kind(
    "names with texts", lambda value: isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
)


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a row: required ones, optional ones, and the kind of all others."""

    needed: Mapping[str, Kind]
    known: Mapping[str, Kind] = field(default_factory=dict)
    others: Kind = ANYTHING

    def fault(self, row: object) -> str:
        """Return the fault of a row; empty if there is none."""
        lacking = [name for name in self.needed if not isinstance(row, dict) or name not in row]
        if lacking:
            return f"it lacks {', '.join(lacking)}"
        if not isinstance(row, dict):
            return "it holds no fields"
        for name, value in row.items():
            kind = self.needed.get(name) or self.known.get(name) or self.others
            if not kind.holds(value):
                return f"its {name} must be {kind.words}; got {repr(value)[:_SHOWN]}"
        return ""

    def kind(self, words: str) -> Kind:
        """Return the kind of a value that is itself such a row."""
        return Kind(words, lambda value: not self.fault(value))


def named(*needed: str) -> Fields:
    """Return the fields of a row for which only names are given."""
    return Fields(dict.fromkeys(needed, ANYTHING))

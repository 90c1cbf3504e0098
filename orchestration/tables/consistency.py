"""Find runs made differently from the rest of their table row: other code or image, other data, other split lists."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]

SHARED = {
    "code": ("code", ()),
    "image": ("image", ()),
    "data": ("data_fingerprint", ("dataset", "split")),
    "lists": ("split_sha256", ("dataset", "split")),
}
"""What the runs of a row must share: the field, and the axes that must be equal for it."""
WITHIN = {"code": "code", "image": "image", "numerics": "numerics", "device": "device"}
"""What the attempts of one run must share, and the field."""
BETWEEN = ", "
"""Separator between the values of attempts that differ."""


@dataclass(frozen=True, slots=True)
class Odd:
    """A run that differs from the others of its row."""

    place: int
    """The record's index."""
    what: str
    """A key of `SHARED` or `WITHIN`."""
    value: str
    usual: str
    """The most frequent value of the row; empty if there is none, and then all runs are odd."""

    @property
    def values(self) -> list[str]:
        """The run's values; more than one if its own attempts differ."""
        return self.value.split(BETWEEN)


def odd_ones(records: Sequence[Record], row_axes: Sequence[str]) -> list[Odd]:
    """Find the finished runs that do not match their neighbours, or whose attempts do not match each other.

    A record without a field is not compared by it.
    """
    found = [
        Odd(place, what, str(record[name]), "")
        for place, record in enumerate(records)
        for what, name in WITHIN.items()
        if record.get("best_miou") is not None and BETWEEN in str(record.get(name))
    ]
    for what, (name, within) in SHARED.items():
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place, record in enumerate(records):
            is_whole = BETWEEN not in str(record.get(name))
            if record.get("best_miou") is not None and record.get(name) and is_whole:
                groups.setdefault(tuple(record.get(axis) for axis in (*row_axes, *within)), []).append(place)
        for places in groups.values():
            found += _odd_of(what, {place: str(records[place][name]) for place in places}, records)
    return sorted(found, key=lambda odd: odd.place)


def _odd_of(what: str, values: Mapping[int, str], records: Sequence[Record]) -> list[Odd]:
    # A run that stands for several points of the grid has several records and one vote.
    votes = {str(records[place].get("signature", place)): value for place, value in values.items()}
    counts = Counter(votes.values()).most_common(2)
    is_tied = len(counts) > 1 and counts[0][1] == counts[1][1]
    usual = "" if is_tied else counts[0][0]
    return [Odd(place, what, value, usual) for place, value in values.items() if value != usual]

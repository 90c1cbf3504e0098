"""Runs that were not made as their neighbours in a table's row: other code, other data, other split lists."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]

SHARED = {
    "code": ("code", ()),
    "data": ("data_fingerprint", ("dataset", "split")),
    "lists": ("split_sha256", ("dataset", "split")),
}
"""What runs of a row share: the field that names it, and what else must be the same for that."""
WITHIN = {"code": "code", "numerics": "numerics", "device": "device"}
"""What the attempts of one run share, and the field that names it."""
BETWEEN = ", "
"""Stands between the values of attempts that differ."""


@dataclass(frozen=True, slots=True)
class Odd:
    """A run that differs from the others of its row."""

    place: int
    """The record's place among all."""
    what: str
    """A key of `SHARED` or `WITHIN`."""
    value: str
    usual: str
    """What most of the row have; empty where no value is the most frequent one, and all are odd."""

    @property
    def values(self) -> list[str]:
        """The values; more than one where the attempts of the run itself differ."""
        return self.value.split(BETWEEN)


def odd_ones(records: Sequence[Record], row_axes: Sequence[str]) -> list[Odd]:
    """Find the finished runs that do not match their neighbours, or whose attempts do not match each other.

    Records without a field are not judged by it.
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
            found += _odd_of(what, {place: str(records[place][name]) for place in places})
    return sorted(found, key=lambda odd: odd.place)


def _odd_of(what: str, values: Mapping[int, str]) -> list[Odd]:
    counts = Counter(values.values()).most_common(2)
    is_tied = len(counts) > 1 and counts[0][1] == counts[1][1]
    usual = "" if is_tied else counts[0][0]
    return [Odd(place, what, value, usual) for place, value in values.items() if value != usual]

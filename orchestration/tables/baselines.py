"""The axis values of the entries that others are compared with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Baseline(Mapping[str, str]):
    """A baseline with entries of several settings: each entry is compared with one of them.

    As a mapping it has the values that hold for all.
    """

    fixed: Mapping[str, str]
    axes: Sequence[str]
    """The axes of the entries."""
    chosen: Mapping[tuple[str, ...], Mapping[str, str]]
    """The baseline's settings where an entry has others, by the entry's values of these axes."""

    def at(self, point: Mapping[str, str]) -> Mapping[str, str]:
        """Return the values for an entry at some point."""
        return {**self.fixed, **self.chosen.get(tuple(point.get(axis, "") for axis in self.axes), {})}

    def __getitem__(self, axis: str) -> str:
        return self.fixed[axis]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fixed)

    def __len__(self) -> int:
        return len(self.fixed)

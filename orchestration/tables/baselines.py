"""The axis values of the entries that others are compared with."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Baseline(Mapping[str, str]):
    """A baseline whose own settings were changed: entries of now have the one of now, older ones that of their setting.

    As a mapping it has the values that hold for all.
    """

    fixed: Mapping[str, str]
    own: Mapping[str, str]
    """The settings that its cells have now."""
    now: AbstractSet[tuple[str, ...]]
    """The entries of now, by their values of all these axes, in this order."""

    def at(self, point: Mapping[str, str]) -> Mapping[str, str]:
        """Return the values for an entry at some point."""
        key = tuple(point.get(axis, "") for axis in (*self.fixed, *self.own))
        return {**self.fixed, **self.own} if key in self.now else self.fixed

    def __getitem__(self, axis: str) -> str:
        return self.fixed[axis]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fixed)

    def __len__(self) -> int:
        return len(self.fixed)

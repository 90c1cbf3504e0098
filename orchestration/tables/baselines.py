"""With which cells of the baseline the cells of a table are compared."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Baseline(Mapping[str, str]):
    """A baseline that was launched with several settings; as a mapping it has the values that hold for all."""

    fixed: Mapping[str, str]
    beyond: Mapping[str, Mapping[str, str]]
    """By the signature of each cell whose partner is in the table: the axis values in which that differs besides."""

    def of(self, cells: Collection[str], axes: Collection[str]) -> Mapping[str, str] | None:
        """Return the axis values that lead from an entry with some cells to its baseline; None if it has several."""
        known = (self.beyond[cell] for cell in cells if cell in self.beyond)
        found = {frozenset((axis, text) for axis, text in one.items() if axis in axes) for one in known}
        return None if len(found) > 1 else {**self.fixed, **dict(next(iter(found), ()))}

    def renamed(self, names: Mapping[str, str]) -> "Baseline":
        """Return it for cells whose signatures are others."""
        return Baseline(self.fixed, {names.get(name, name): values for name, values in self.beyond.items()})

    def __getitem__(self, axis: str) -> str:
        return self.fixed[axis]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fixed)

    def __len__(self) -> int:
        return len(self.fixed)

"""A checked grid: every cell composed, and the tables that they fill."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestration.grids.cells import Cell
from orchestration.grids.grid_spec import Spec
from orchestration.grids.places import Places
from orchestration.tables.layouts import Layout


@dataclass(frozen=True, slots=True)
class Grid:
    """A checked grid: every cell composed, no two of them the same."""

    name: str
    cells: list[Cell]
    axes: dict[str, list[str]]
    """The varied keys in order, with their values as text."""
    baseline: Mapping[str, str]
    """The axis values of the entries to compare others with."""
    table: Layout
    text: str
    """The grid as resolved; loading it gives the same cells."""
    spec: Spec | None = None
    """The sections it was composed from; a search and a grid of grids have none."""
    earlier: tuple[str, ...] = ()
    """Signatures of cells of earlier launches that the axes do not give."""
    partners: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By signature: identities of the baseline's cells that cells are compared with, where there are some of earlier
    launches."""
    site: Places | None = None
    """What the site of this launch says of data and weights."""
    priority: int = 0
    """As a part: parts with a smaller one start first."""
    parts: tuple["Grid", ...] = ()
    """The grids that it consists of, each with a table over its part of the cells; empty: it has one table itself."""

    @property
    def tables(self) -> tuple["Grid", ...]:
        """The grids with one table each: its parts, or itself."""
        return self.parts or (self,)

    def parts_of_cells(self) -> dict[str, list[str]]:
        """Return the names of the parts that have each cell, by signature; none where it does not consist of grids."""
        found: dict[str, list[str]] = {}
        for part in self.parts:
            for signature in dict.fromkeys(cell.signature for cell in part.cells):
                found.setdefault(signature, []).append(part.name)
        return found

    @property
    def shares_cells(self) -> bool:
        """Whether other grids may have its cells too; a search keeps its points to itself, as it stops them early."""
        return self.spec is not None or bool(self.parts)

    @property
    def added_axes(self) -> list[str]:
        """The axes that the file does not have: what several launches had differently."""
        return [axis for axis in self.axes if self.spec and axis not in self.spec.axes]

    @property
    def title(self) -> str:
        """The name for its table, with the table's number in the paper."""
        return f"Table {self.table.number}: {self.name}" if self.table.number else self.name

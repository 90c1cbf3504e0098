"""What the steps of a launch work on: cells, their folder, and what is known of them besides."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from orchestration.grids import launched
from orchestration.grids.cells import Cell
from orchestration.grids.grid import Grid
from orchestration.launching.options import Workers
from orchestration.planning import enlarged
from orchestration.planning.history import Size, kind_of
from orchestration.planning.plan import Action, Item
from orchestration.runs.folders import GridFolder
from orchestration.runs.requests import Larger


@dataclass(frozen=True)  # without slots, since cached properties need a __dict__
class Target:
    """A grid, or the part of one that is launched."""

    loaded: Grid
    grid_dir: Path
    workers: Workers
    retried: Collection[str] = ()
    """Signatures of cells that are tried again however they failed."""
    queued: Mapping[str, str] = field(default_factory=dict)
    """What Slurm says of the cells that it has a job of, by signature."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why cells are not submitted, by signature."""
    until: float | None = None
    """Cells that would end later are left out: seconds since 1970."""
    larger: Mapping[str, Larger] = field(default_factory=dict)
    """What cells ask for that ran out of something, by signature."""
    sizes: Sequence[Size] | None = None
    """What finished cells took, by which jobs are sized; None: by what the site says."""
    is_step: bool = False
    """It is the next step of an earlier launch: the grid's file of a later one stays."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why cells are left out from the beginning, by signature: inputs of theirs are not here, or a budget is spent."""

    @classmethod
    def of(
        cls,
        loaded: Grid,
        grid_dir: Path,
        workers: Workers,
        *,
        retried: Collection[str] = (),
        queued: Mapping[str, str] | None = None,
        refused: Mapping[str, str] | None = None,
        until: float | None = None,
        larger: Mapping[str, Larger] | None = None,
        sizes: Sequence[Size] | None = None,
        left_out: Mapping[str, str] | None = None,
    ) -> "Target":
        """Take a grid, or for a retry only some of its cells."""
        others = {cell.signature for cell in loaded.cells} - {*retried} if retried else set()
        why = dict.fromkeys(others, "not asked for") | dict(refused or {})
        asked = {key: one for key, one in (larger or {}).items() if one}
        grid = enlarged.grid(loaded, asked)
        out = left_out or {}
        return cls(grid, grid_dir, workers, retried, queued or {}, why, until, asked, sizes, left_out=out)

    def passes_over(self, item: Item) -> bool:
        """Return whether a cell is to be trained, but not by this launch: it is not asked for, or refused now."""
        return item.action is Action.GIVE_UP and item.reason == self.refused.get(item.cell.signature)

    def size_of(self, item: Item) -> Size | None:
        """Return what finished cells of a cell's kind took, if jobs are sized by it."""
        kind = kind_of(item.cell.config) if self.sizes else ""
        return next((size for size in self.sizes or () if size.kind == kind), None)

    @property
    def cells(self) -> list[Cell]:
        """The cells whose inputs must be here."""
        return [cell for cell in self.loaded.cells if cell.signature not in self.left_out]

    @cached_property
    def every(self) -> Grid:
        """The grid with all cells that it was ever launched with, composed once."""
        return launched.whole(self.loaded, self.grid_dir, is_newest=not self.is_step)

    @property
    def runs(self) -> Path:
        """The folder of all grids."""
        return GridFolder(self.grid_dir).runs.path

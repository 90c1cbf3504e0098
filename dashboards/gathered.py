"""A grid's run folders, read once for its figures and its page."""

from collections.abc import Sequence
from csv import DictReader
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestration.grids.cells import experiments_folder
from orchestration.grids.grid import Grid
from orchestration.results import epoch_rows, run_table
from orchestration.results.report import build_table
from orchestration.runs.folders import GridFolder
from orchestration.runs.states import CellState

if TYPE_CHECKING:
    from orchestration.tables.table import Table

SPLITS = "splits_manifest.csv"


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the run folders of a grid say."""

    loaded: Grid
    grid_dir: Path
    runs: pa.Table
    """A row for each cell, as `run_table.collect` gives it."""
    points: pa.Table
    """The same for each point of the grid: a cell may stand for several."""
    epochs: pa.Table
    """A row for each epoch of each run, with `run`, the name of its folder."""
    damaged_rows: frozenset[str]
    """The folders whose epoch rows are not all readable."""
    is_part: bool = False
    """Whether it is one table of several of the grid in the folder."""

    @property
    def words(self) -> list[str]:
        """The words of a command line that name its grid, and it."""
        return ["--grid", self.grid_dir.name, *(["--only", self.loaded.name] if self.is_part else [])]

    @property
    def places(self) -> pa.Table:
        """The points, but each cell once in each place of the grid's table, where it is one number."""
        if self.points.num_rows == self.runs.num_rows:
            return self.points
        layout = self.loaded.table
        axes = [*layout.rows, *layout.blocks, *layout.columns]
        first: dict[tuple[str, ...], int] = {}
        for number, row in enumerate(self.points.select(["signature", *axes]).to_pylist()):
            first.setdefault((row["signature"], *(row[axis] for axis in axes)), number)
        return self.points.take(list(first.values()))

    @property
    def class_names(self) -> list[str]:
        """What the classes are called; nothing where they have numbers only."""
        names = [list(cell.config.execution.class_names) for cell in self.loaded.cells]
        return names[0] if names and all(one == names[0] for one in names) else []

    def table(self, metric: str) -> "Table":
        """Return the grid's table, as the terminal and the report have it."""
        return build_table(self.runs.to_pylist(), self.loaded.cells, self.loaded.table, metric, self.loaded.baseline)


def gather_tables(loaded: Grid, grid_dir: Path) -> list[Gathered]:
    """Read the cells of each table of a grid; see `gather`."""
    return [replace(gather(one, grid_dir), is_part=bool(loaded.parts)) for one in loaded.tables]


def gather(loaded: Grid, grid_dir: Path) -> Gathered:
    """Read the cells of a grid with one table; missing and damaged ones are rows, too."""
    runs = _with_unreadable_ones_as_damaged(run_table.collect(grid_dir, loaded.cells))
    damaged: set[str] = set()
    epochs = _epochs(grid_dir, runs, damaged)
    return Gathered(loaded, grid_dir, runs, _at_all_points(loaded, runs), epochs, frozenset(damaged))


def _with_unreadable_ones_as_damaged(runs: pa.Table) -> pa.Table:
    """Show a cell that cannot be read now as those that cannot be read at all: why differs, and stands with it."""
    is_away = pc.equal(runs["status"], CellState.UNREADABLE.value)
    status = pc.if_else(is_away, CellState.DAMAGED.value, runs["status"])
    return runs.set_column(runs.schema.get_field_index("status"), "status", status)


def num_labeled(records: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return the numbers of labels of the published splits of the records' data set, by the names of the splits."""
    datasets = {record["dataset"] for record in records}
    path = experiments_folder() / "paper" / SPLITS
    if len(datasets) != 1 or not path.is_file():
        return {}
    dataset = datasets.pop()
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(row["path"].split("/"), int(row["num_samples"])) for row in DictReader(file)]
    return {parts[1]: count for parts, count in rows if parts[0] == dataset and parts[-1] == "labeled.txt"}


def _epochs(grid_dir: Path, runs: pa.Table, damaged: set[str]) -> pa.Table:
    begun = [(row["folder"], row["status"] == "done") for row in runs.select(["folder", "status"]).to_pylist()
             if row["status"] not in ("missing", "damaged")]  # fmt: skip
    tables = list(epoch_rows.read(str(GridFolder(grid_dir).cells_dir), begun, damaged)) if begun else []
    if not any(table.num_rows for table in tables):
        return pa.table({"run": pa.array([], pa.string()), "epoch": pa.array([], pa.int64())})
    plain = [table.set_column(0, "run", table["run"].cast(pa.string())) for table in tables if table.num_rows]
    return pa.concat_tables(plain, promote_options="permissive")


def _at_all_points(loaded: Grid, runs: pa.Table) -> pa.Table:
    also = {cell.signature: cell.also for cell in loaded.cells}
    if not any(also.values()):
        return runs
    rows = [{**row, **point} for row in runs.to_pylist() for point in ({}, *also.get(row["signature"], ()))]
    return pa.Table.from_pylist(rows, schema=runs.schema)

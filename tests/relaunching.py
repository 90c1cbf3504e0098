"""A grid that somebody launches again and again with other settings, and what its tables then compare."""

from pathlib import Path
from typing import Any

import yaml

from orchestration.grids import grid, index, launched
from orchestration.grids.cells import to_yaml
from orchestration.grids.grid import Grid
from orchestration.grids.index import IndexedCell
from orchestration.planning import adaptive
from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import RunFolder
from orchestration.tables.table import Table, build
from rankmatch.config import NumericsConfig

BOTH = ("supervised", "fixmatch")


class Lab:
    """Somebody who launches one grid with one text after another."""

    def __init__(self, folder: Path) -> None:
        self.file, self.grid_dir = folder / "g.yaml", folder / "runs" / "g"
        (self.grid_dir / "launches").mkdir(parents=True)

    def write(
        self, file: Path, *, seeds: tuple[int, ...] = (0, 1, 2), methods: tuple[str, ...] = BOTH,
        has_baseline: bool = True, per: object = None, adaptive: int = 0, **fixed: object,
    ) -> None:  # fmt: skip
        settings = {name.replace("__", "."): value for name, value in fixed.items()}
        table = {"rows": ["method"], "columns": ["split"], "over": ["seed"]}
        text = {
            "set": {"dataset": "pascal", **settings},
            "axes": {"method": [*methods], "split": [92], "seed": [*seeds]},
            "per": per or {},
            "baseline": {"method": "supervised"} if has_baseline else {},
            "table": table | ({"adaptive": adaptive} if adaptive else {}),
        }
        file.write_text(yaml.safe_dump(text))

    def launch(self, *, part: tuple[str, ...] = (), **content: Any) -> Grid:
        """Launch the grid, or a part of it; return what its folder then says of it."""
        if content:
            self.write(self.file, **content)
        loaded = grid.load_file(self.file, part)
        every = launched.whole(loaded, self.grid_dir)
        for cell in loaded.cells:
            folder = RunFolder(GridFolder(self.grid_dir).cell(cell.folder_name).path)
            if not folder.path.is_dir():
                folder.create(to_yaml(cell.config), cell.axes)
        (self.grid_dir / "grid.yaml").write_text(launched.text_of(every))
        compared = launched.partners(every)
        index.write(
            self.grid_dir,
            [
                IndexedCell(
                    one.signature, one.slug, one.axes["method"], 1, 1.0, 0, axes=one.axes,
                    partners=compared.get(one.signature, ()),
                )
                for one in every.cells
            ],
        )  # fmt: skip
        stored = launched.load_folder(self.grid_dir)
        assert stored.axes == every.axes and compared == launched.partners(stored)
        assert [compared_rows(one) for one in every.tables] == [compared_rows(one) for one in stored.tables]
        return stored


def epochs(supervised: int, fixmatch: int) -> dict[str, dict[str, dict[str, int]]]:
    return {"method": {"supervised": {"trainer.epochs": supervised}, "fixmatch": {"trainer.epochs": fixmatch}}}


def number(numerics: NumericsConfig) -> float:
    """Return what a cell has when it is done: half a point for each epoch, and ten for the method."""
    is_better = numerics.method.name == "fixmatch"
    return 0.3 + 0.005 * numerics.trainer.epochs + is_better * (0.1 + 0.001 * (numerics.seed % 3 - 1))


def numbers_of(stored: Grid) -> dict[str, float]:
    return {cell.signature: number(cell.config.numerics) for cell in stored.cells}


def table_of(stored: Grid) -> Table:
    return build([*adaptive.records(stored, numbers_of(stored))], stored.table, baseline=stored.baseline)


def compared_rows(stored: Grid) -> dict[str, tuple[str, float] | None]:
    return compared(table_of(stored))


def compared(table: Table) -> dict[str, tuple[str, float] | None]:
    """Return what each row is compared with, and by how many points it is better."""
    return {
        " ".join(row): (table.against(row), round(100 * entry.comparison.effect, 1)) if entry.comparison else None
        for (row, _), entry in table.entries.items()
    }

"""A grid that is launched again with other settings: which cells an entry has, and which row each is compared with."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from orchestration.grids import grid, index, launched
from orchestration.grids.cells import to_yaml
from orchestration.grids.grid import Grid
from orchestration.grids.index import IndexedCell
from orchestration.planning import adaptive
from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import RunFolder
from orchestration.tables import formats, lines
from orchestration.tables.differences import sections
from orchestration.tables.table import Table, build
from rankmatch.config import NumericsConfig

BOTH = ("supervised", "fixmatch")


class Lab:
    """Somebody who launches one grid with one text after another."""

    def __init__(self, folder: Path) -> None:
        self.file, self.grid_dir = folder / "g.yaml", folder / "runs" / "g"
        (self.grid_dir / "launches").mkdir(parents=True)

    def launch(
        self, *, seeds: tuple[int, ...] = (0, 1, 2), methods: tuple[str, ...] = BOTH, has_baseline: bool = True,
        per: object = None, adaptive: int = 0, part: tuple[str, ...] = (), **fixed: object,
    ) -> Grid:  # fmt: skip
        """Launch the grid, or a part of it; return what its folder then says of it."""
        settings = {name.replace("__", "."): value for name, value in fixed.items()}
        table = {"rows": ["method"], "columns": ["split"], "over": ["seed"]}
        text = {
            "set": {"dataset": "pascal", **settings},
            "axes": {"method": [*methods], "split": [92], "seed": [*seeds]},
            "per": per or {},
            "baseline": {"method": "supervised"} if has_baseline else {},
            "table": table | ({"adaptive": adaptive} if adaptive else {}),
        }
        self.file.write_text(yaml.safe_dump(text))
        loaded = grid.load_file(self.file, part)
        every = launched.whole(loaded, self.grid_dir)
        for cell in loaded.cells:
            folder = RunFolder(GridFolder(self.grid_dir).cell(cell.folder_name).path)
            if not folder.path.is_dir():
                folder.create(to_yaml(cell.config), cell.axes)
        (self.grid_dir / "grid.yaml").write_text(launched.text_of(every))
        index.write(
            self.grid_dir,
            [IndexedCell(one.signature, one.slug, one.axes["method"], 1, 1.0, 0, axes=one.axes) for one in every.cells],
        )
        stored = launched.load_folder(self.grid_dir)
        assert (stored.axes, dict(stored.baseline)) == (every.axes, dict(every.baseline))
        return stored


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


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


def compared(table: Table) -> dict[str, tuple[str, float] | None]:
    """Return what each row is compared with, and by how many points it is better."""
    return {
        " ".join(row): (table.against(row), round(100 * entry.comparison.effect, 1)) if entry.comparison else None
        for (row, _), entry in table.entries.items()
    }


def notes(table: Table) -> str:
    return "\n".join(lines.notes(table, best="b", second="s", significant="*", odd="o", with_n=False))


@pytest.mark.parametrize("of_method", [True, False])
def test_rows_of_each_launch_are_compared_among_themselves_where_methods_share_the_setting(
    lab: Lab, of_method: bool
) -> None:
    lab.launch(per=epochs(20, 20) if of_method else {"split": {92: {"trainer.epochs": 20}}})
    stored = lab.launch(per=epochs(60, 60) if of_method else {"split": {92: {"trainer.epochs": 60}}})
    assert compared(table_of(stored)) == {
        "supervised 60": None, "fixmatch 60": ("supervised", 10.0),
        "supervised 20": None, "fixmatch 20": ("supervised", 10.0),
    }  # fmt: skip


def test_row_whose_own_setting_was_changed_keeps_the_baseline_that_was_not(lab: Lab) -> None:
    lab.launch(per=epochs(20, 20))
    stored = lab.launch(per=epochs(20, 60))
    assert stored.baseline == {"method": "supervised", "trainer.epochs": "20"}
    assert compared(table_of(stored)) == {
        "supervised 20": None, "fixmatch 60": ("supervised, 20", 30.0), "fixmatch 20": ("supervised, 20", 10.0)
    }  # fmt: skip


def test_baseline_whose_own_setting_was_changed_is_that_of_the_newest_rows_only(lab: Lab) -> None:
    lab.launch(per=epochs(20, 20))
    table = table_of(lab.launch(per=epochs(30, 60)))
    assert compared(table) == {
        "supervised 30": None, "fixmatch 60": ("supervised, 30", 25.0),
        "supervised 20": None, "fixmatch 20": ("supervised", 10.0),
    }  # fmt: skip
    shown = [line.titles[0] for line in lines.lines(table, table.columns, with_n=False) if line.kind == "difference"]
    assert shown == ["vs supervised", "vs supervised, 30"]
    assert "Paired with supervised or supervised, 30, in points" in dict(sections(table))
    assert "not compared" not in notes(table)


def test_older_row_without_a_baseline_of_its_setting_is_compared_with_nothing_and_named(lab: Lab) -> None:
    lab.launch(per=epochs(10, 20))
    table = table_of(lab.launch(per=epochs(30, 60)))
    assert compared(table) == {
        "supervised 30": None, "fixmatch 60": ("supervised, 30", 25.0), "supervised 10": None, "fixmatch 20": None
    }  # fmt: skip
    assert "not compared: fixmatch, 20: no row of supervised has the same trainer.epochs" in notes(table)


def test_grid_without_a_baseline_gets_none_by_being_launched_again(lab: Lab) -> None:
    lab.launch(per=epochs(20, 20), has_baseline=False)
    stored = lab.launch(per=epochs(60, 60), has_baseline=False)
    assert stored.baseline == {} and set(compared(table_of(stored)).values()) == {None}


def test_seeds_are_added_to_the_pairs_that_the_table_compares(lab: Lab) -> None:
    lab.launch(per=epochs(20, 20), seeds=(0, 1, 2, 3), adaptive=3)
    stored = lab.launch(per=epochs(60, 60), seeds=(0, 1, 2, 3), adaptive=3)
    found = adaptive.needs([stored], {})
    assert found.num_pairs == 2 and [pair.place for pair in found.pairs] == [
        f"method=fixmatch trainer.epochs={number} split=92" for number in (20, 60)
    ]
    assert adaptive.needs([stored], numbers_of(stored)).pairs == ()


def test_seeds_that_were_trained_with_another_setting_are_rows_of_their_own(lab: Lab) -> None:
    lab.launch(trainer__epochs=20)
    stored = lab.launch(trainer__epochs=60, seeds=(3, 4, 5))
    assert stored.table.rows == ["method", "trainer.epochs"] and stored.axes["trainer.epochs"] == ["20", "60"]
    table = table_of(stored)
    assert {" ".join(row): sorted(entry.points) for (row, _), entry in table.entries.items()} == {
        f"{method} {number}": [(str(seed),) for seed in seeds]
        for number, seeds in ((60, (3, 4, 5)), (20, (0, 1, 2))) for method in BOTH
    }  # fmt: skip
    expected = {"supervised 60": None, "fixmatch 60": ("supervised", 10.0)}
    expected |= {"supervised 20": None, "fixmatch 20": ("supervised", 10.0)}
    assert compared(table) == expected
    again = lab.launch(trainer__epochs=60, seeds=(0, 6))
    assert {len(entry.values) for entry in table_of(again).entries.values()} == {3, 5}


def test_seeds_of_a_grid_whose_file_can_be_read_no_more_are_told_apart_too(lab: Lab) -> None:
    lab.launch(trainer__epochs=20)
    lab.launch(trainer__epochs=60, seeds=(3, 4, 5))
    file = lab.grid_dir / "grid.yaml"
    file.write_text(file.read_text().replace("dataset: pascal", "dataset: gone.yaml"))
    with pytest.warns(UserWarning, match="its cells are those that have run folders"):
        stored = launched.load_folder(lab.grid_dir)
    assert stored.table.rows == ["method", "trainer.epochs"]
    assert {len(entry.values) for entry in table_of(stored).entries.values()} == {3}


def test_setting_that_the_file_gives_some_seeds_makes_no_rows(lab: Lab) -> None:
    some = {"seed": {2: {"trainer.epochs": 60}}}
    lab.launch(per=some, trainer__epochs=20, trainer__learning_rate=0.01)
    stored = lab.launch(per=some, trainer__epochs=20, trainer__learning_rate=0.02)
    assert stored.table.rows == ["method", "trainer.learning_rate"]


def test_setting_that_a_method_does_not_read_makes_no_rows_of_its_seeds(lab: Lab) -> None:
    lab.launch(method__num_agents=4, methods=("supervised", "rankmatch"))
    stored = lab.launch(method__num_agents=8, methods=("supervised", "rankmatch"), seeds=(3, 4))
    rows = {" ".join(row): len(entry.values) for (row, _), entry in table_of(stored).entries.items()}
    assert "method.num_agents" in stored.axes
    assert rows == {"supervised 4": 3, "rankmatch 4": 3, "supervised 8": 2, "rankmatch 8": 2}
    alone = Lab(lab.file.parent / "alone")
    alone.launch(method__num_agents=4, methods=("supervised",))
    alone.launch(method__num_agents=8, methods=("supervised",), seeds=(3, 4))
    assert alone.launch(method__num_agents=8, methods=("supervised",), seeds=(5,)).table.rows == ["method"]


def test_part_with_the_baseline_alone_leaves_all_comparisons(lab: Lab) -> None:
    lab.launch(per=epochs(20, 60), seeds=(0, 1, 2, 3), adaptive=3)
    before = lab.launch(per=epochs(20, 80), seeds=(0, 1, 2, 3), adaptive=3)
    stored = lab.launch(per=epochs(20, 80), seeds=(0, 1, 2, 3, 4), adaptive=3, part=("method=supervised",))
    assert dict(stored.baseline) == dict(before.baseline) == {"method": "supervised", "trainer.epochs": "20"}
    assert adaptive.needs([before], {}).num_pairs == adaptive.needs([stored], {}).num_pairs == 2
    assert compared(table_of(stored)) == {
        "supervised 20": None, "fixmatch 60": ("supervised, 20", 30.0), "fixmatch 80": ("supervised, 20", 40.0)
    }  # fmt: skip


def test_rows_that_the_file_has_as_they_are_get_its_new_baseline_as_soon_as_that_is_launched(lab: Lab) -> None:
    lab.launch(per=epochs(20, 60))
    stored = lab.launch(per=epochs(30, 60), part=("method=supervised",))
    expected = {"supervised 20": None, "fixmatch 60": ("supervised, 30", 25.0), "supervised 30": None}
    assert compared(table_of(stored)) == expected


def test_row_is_not_compared_across_a_setting_that_methods_share(lab: Lab) -> None:
    lab.launch(per=epochs(20, 20))
    stored = lab.launch(per=epochs(60, 60), part=("method=fixmatch",))
    expected = {"supervised 20": None, "fixmatch 20": ("supervised", 10.0), "fixmatch 60": None}
    assert compared(table_of(stored)) == expected


def test_row_has_a_baseline_of_its_own_launch_where_another_setting_was_changed_for_all(lab: Lab) -> None:
    def rates(supervised: float) -> object:
        return {"method": {"supervised": {"trainer.learning_rate": supervised},
                           "fixmatch": {"trainer.learning_rate": 0.01}}}  # fmt: skip

    lab.launch(trainer__epochs=20, per=rates(0.01))
    table = table_of(lab.launch(trainer__epochs=60, per=rates(0.05)))
    assert compared(table) == {
        "supervised 20 0.01": None, "fixmatch 20 0.01": ("supervised", 10.0),
        "supervised 60 0.05": None, "fixmatch 60 0.01": ("supervised, 0.05", 10.0),
    }  # fmt: skip
    assert "not compared" not in notes(table)


def test_setting_that_the_file_gives_some_seeds_makes_no_rows_by_a_part_with_others(lab: Lab) -> None:
    some = {"seed": {2: {"trainer.epochs": 60}}}
    lab.launch(per=some, trainer__epochs=20)
    stored = lab.launch(per=some, trainer__epochs=20, seeds=(0, 1, 2, 3), part=("seed=[3]",))
    assert stored.table.rows == ["method"]


def test_seeds_that_began_from_another_file_of_weights_are_rows_of_their_own(lab: Lab) -> None:
    for number, seeds in enumerate([(0, 1, 2), (3, 4, 5)]):
        weights = lab.file.parent / f"{number}.pth"
        weights.write_bytes(bytes([number]))
        stored = lab.launch(backbone__weights=str(weights), seeds=seeds)
    assert stored.table.rows == ["method", "backbone.weights_sha256"]
    assert {len(entry.values) for entry in table_of(stored).entries.values()} == {3}


def test_file_with_settings_of_an_earlier_launch_again_has_the_baseline_that_it_had_then(lab: Lab) -> None:
    for supervised in (20, 30, 20):
        stored = lab.launch(per=epochs(supervised, 60))
    expected = {"supervised 20": None, "fixmatch 60": ("supervised, 20", 30.0), "supervised 30": None}
    assert compared(table_of(stored)) == expected
    part = lab.launch(per=epochs(20, 60), part=("method=fixmatch",))
    assert compared(table_of(part)) == expected


def test_each_difference_names_its_own_baseline_where_columns_have_several(lab: Lab) -> None:
    lab.launch(per=epochs(20, 20))
    stored = lab.launch(per=epochs(30, 60))
    layout = replace(stored.table, rows=["method"], columns=["split", "trainer.epochs"])
    table = build([*adaptive.records(stored, numbers_of(stored))], layout, baseline=stored.baseline)
    shown = [line.titles for line in lines.lines(table, table.columns, with_n=False) if line.kind == "difference"]
    assert shown == [["vs supervised or supervised, 30"]]
    assert "Paired with supervised or supervised, 30, in points" in dict(sections(table))
    written = csv.DictReader(formats.to_csv(table).splitlines())
    assert {f"{one['method']} {one['trainer.epochs']}": one["compared_with"] for one in written} == {
        "supervised 20": "", "fixmatch 20": "supervised", "supervised 30": "", "fixmatch 60": "supervised, 30"
    }  # fmt: skip

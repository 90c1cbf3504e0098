"""A grid that is launched again with other settings: which cells an entry has, and which row each is compared with."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from relaunching import BOTH, Lab, compared, compared_rows, epochs, numbers_of, table_of

from orchestration.grids import launched
from orchestration.planning import adaptive
from orchestration.tables import formats, layouts, lines
from orchestration.tables.baselines import Baseline
from orchestration.tables.differences import sections
from orchestration.tables.table import Table, build


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


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
    assert compared(table_of(stored)) == {
        "supervised 20": None, "fixmatch 60": ("supervised, 20", 30.0), "fixmatch 20": ("supervised", 10.0)
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


def test_row_that_the_newest_file_does_not_have_keeps_the_baseline_of_its_own_launch(lab: Lab) -> None:
    lab.launch(per=epochs(60, 20))
    stored = lab.launch(per=epochs(30, 60))
    expected = {
        "supervised 60": None, "fixmatch 20": ("supervised, 60", -10.0),
        "supervised 30": None, "fixmatch 60": ("supervised, 30", 25.0),
    }  # fmt: skip
    assert compared_rows(stored) == expected
    assert compared_rows(lab.launch(part=("seed=0", "trainer.epochs=5"), per=epochs(30, 60))) == expected | {
        "supervised 5": None, "fixmatch 5": ("supervised", 9.9)
    }  # fmt: skip
    without = lab.launch(trainer__epochs=80)
    assert compared_rows(without).items() >= expected.items()


def test_row_of_weights_that_the_file_gives_each_method_is_compared_with_the_baseline_of_its_own(lab: Lab) -> None:
    def weights(supervised: str, fixmatch: str) -> object:
        for name in (supervised, fixmatch):
            (lab.file.parent / name).write_text(name)
        given = {"supervised": supervised, "fixmatch": fixmatch}
        return {"method": {name: {"backbone.weights": str(lab.file.parent / file)} for name, file in given.items()}}

    lab.launch(per=weights("a", "b"))
    table = table_of(lab.launch(per=weights("a", "c")))
    assert [entry.comparison is not None for entry in table.entries.values()] == [False, True, True]


def test_row_has_the_same_baseline_however_its_table_is_laid_out(lab: Lab) -> None:
    lab.launch(per=epochs(20, 20))
    stored = lab.launch(per=epochs(30, 60))
    records = [*adaptive.records(stored, numbers_of(stored))]
    layout = replace(stored.table, rows=["method"], columns=["trainer.epochs"], over=["seed"])
    divided = replace(stored.table, rows=["method", "trainer.epochs"], columns=[], over=["seed", "split"])
    for one in (layout, divided):
        found = build(records, one, baseline=stored.baseline)
        effects = [round(100 * entry.comparison.effect, 1) for entry in found.entries.values() if entry.comparison]
        assert sorted(effects) == [10.0, 25.0]


def test_row_whose_cells_have_several_baselines_is_compared_with_none_and_named(lab: Lab) -> None:
    lab.launch(per=epochs(20, 20))
    stored = lab.launch(per=epochs(30, 60))
    of_both = [cell.signature for cell in stored.cells if cell.axes["method"] == "fixmatch"]
    baseline = Baseline({"method": "supervised"}, {name: {"trainer.epochs": name} for name in of_both})
    table = build([*adaptive.records(stored, numbers_of(stored))], stored.table, baseline=baseline)
    assert {*compared(table).values()} == {None}
    assert "not compared: fixmatch, 20; fixmatch, 60: their cells have several baselines" in notes(table)


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


def test_method_that_does_not_read_a_setting_stands_with_all_its_seeds_in_the_rows_of_each_value(lab: Lab) -> None:
    both = ("supervised", "rankmatch")
    lab.launch(method__num_agents=4, methods=both)
    table = table_of(lab.launch(method__num_agents=8, methods=both, seeds=(0, 1, 2, 3, 4)))
    found = {" ".join(row): (len(entry.values), entry.pairs) for (row, _), entry in table.entries.items()}
    assert found == {
        "supervised 4": (5, None), "supervised 8": (5, None), "rankmatch 4": (3, 3), "rankmatch 8": (5, 5)
    }  # fmt: skip
    assert "not compared" not in notes(table)
    more = table_of(lab.launch(method__num_agents=8, methods=both, part=("method.num_agents=16", "seed=0")))
    assert {" ".join(row): entry.pairs for (row, _), entry in more.entries.items() if row[0] == "rankmatch"} == {
        "rankmatch 4": 3, "rankmatch 8": 5, "rankmatch 16": 1
    }  # fmt: skip


def test_baseline_that_ignores_an_axis_of_the_file_keeps_its_pairs_when_seeds_are_added(lab: Lab) -> None:
    both = ("supervised", "rankmatch")
    lab.launch(methods=both, part=("method.num_agents=[4,8]",))
    table = table_of(lab.launch(methods=both, seeds=(3, 4), part=("method.num_agents=[4,8]",)))
    found = {" ".join(row): (len(entry.values), entry.pairs) for (row, _), entry in table.entries.items()}
    assert found == {
        "supervised 4": (5, None), "supervised 8": (5, None), "rankmatch 4": (5, 5), "rankmatch 8": (5, 5)
    }  # fmt: skip


def test_setting_that_no_method_reads_makes_no_rows(lab: Lab) -> None:
    alone = Lab(lab.file.parent / "alone")
    alone.launch(method__num_agents=4, methods=("supervised",))
    alone.launch(method__num_agents=8, methods=("supervised",), seeds=(3, 4))
    assert alone.launch(method__num_agents=8, methods=("supervised",), seeds=(5,)).table.rows == ["method"]


def test_part_with_the_baseline_alone_leaves_all_comparisons(lab: Lab) -> None:
    lab.launch(per=epochs(20, 60), seeds=(0, 1, 2, 3), adaptive=3)
    before = lab.launch(per=epochs(20, 80), seeds=(0, 1, 2, 3), adaptive=3)
    stored = lab.launch(per=epochs(20, 80), seeds=(0, 1, 2, 3, 4), adaptive=3, part=("method=supervised",))
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


def test_setting_that_an_earlier_launch_had_otherwise_makes_rows_also_where_the_file_gives_some_seeds_another(
    lab: Lab,
) -> None:
    lab.launch(trainer__epochs=20)
    stored = lab.launch(trainer__epochs=80, seeds=(3, 4, 5), per={"seed": {5: {"trainer.epochs": 100}}})
    rows = {" ".join(row): len(entry.values) for (row, _), entry in table_of(stored).entries.items()}
    assert rows == {f"{method} {epochs}": n for method in BOTH for epochs, n in ((20, 3), (80, 2), (100, 1))}


def test_grid_that_is_launched_by_its_stored_file_compares_as_by_its_own(lab: Lab) -> None:
    lab.launch(per=epochs(20, 60))
    lab.launch(per=epochs(20, 80))
    again = launched.whole(launched.load_folder(lab.grid_dir, ["method=fixmatch", "seed=[0,1,2,3]"]), lab.grid_dir)
    assert compared_rows(again) == {
        "supervised 20": None, "fixmatch 60": ("supervised, 20", 30.0), "fixmatch 80": ("supervised, 20", 40.0)
    }  # fmt: skip


def test_comparisons_outlive_a_file_that_can_be_read_no_more(lab: Lab) -> None:
    lab.launch(per=epochs(20, 60))
    before = compared_rows(lab.launch(per=epochs(20, 80)))
    file = lab.grid_dir / "grid.yaml"
    file.write_text(file.read_text().replace("dataset: pascal", "dataset: gone.yaml"))
    with pytest.warns(UserWarning, match="its cells are those that have run folders"):
        assert compared_rows(launched.load_folder(lab.grid_dir)) == before


def test_parts_of_a_grid_of_grids_compare_as_the_file_of_each_says_also_by_cells_that_they_share(lab: Lab) -> None:
    lab.file.write_text("grids: [./a.yaml, ./b.yaml]")
    a, b = (lab.file.parent / name for name in ("a.yaml", "b.yaml"))
    for supervised, num_agents in ((20, 4), (30, 8)):
        lab.write(a, per=epochs(supervised, 60))
        lab.write(b, methods=("supervised", "rankmatch"), trainer__epochs=20, method__num_agents=num_agents)
        stored = lab.launch()
    assert [compared_rows(one) for one in stored.parts] == [
        {"supervised 20": None, "fixmatch 60": ("supervised, 30", 25.0), "supervised 30": None},
        {"supervised 4": None, "supervised 8": None} | {f"rankmatch {n}": ("supervised", 0.0) for n in (4, 8)},
    ]  # fmt: skip


def test_layout_file_of_before_a_launch_makes_rows_of_what_that_had_otherwise(lab: Lab) -> None:
    lab.launch(trainer__epochs=20)
    stored = lab.launch(trainer__epochs=60, seeds=(3, 4, 5))
    file = lab.file.parent / "layout.yaml"
    file.write_text("rows: [method]")
    layout = layouts.read_file(file, stored.axes, stored.added_axes)
    assert (layout.rows, layout.over) == (["method", "trainer.epochs"], ["seed", "split"])
    file.write_text("rows: [method]\nover: [trainer.epochs]")
    assert layouts.read_file(file, stored.axes, stored.added_axes).rows == ["method"]


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
    told = dict(sections(table))["Paired with supervised or supervised, 30, in points"]
    assert [row[:3] for row in told] == [
        ["row", "column", "with"], ["fixmatch", "92, 20", "supervised"], ["fixmatch", "92, 60", "supervised, 30"]
    ]  # fmt: skip
    written = csv.DictReader(formats.to_csv(table).splitlines())
    assert {f"{one['method']} {one['trainer.epochs']}": one["compared_with"] for one in written} == {
        "supervised 20": "", "fixmatch 20": "supervised", "supervised 30": "", "fixmatch 60": "supervised, 30"
    }  # fmt: skip

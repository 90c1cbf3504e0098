from dataclasses import replace
from pathlib import Path

import pytest

from orchestration.grids import grid
from orchestration.results import report, run_table
from orchestration.results.published import Figure, figures
from orchestration.tables import layouts
from orchestration.tables.formats import FORMATS, markdown_note
from orchestration.tables.layouts import Layout, Published

PASCAL = [{"dataset": "pascal"}]


@pytest.mark.parametrize(
    ("name", "dataset", "row", "column", "percent", "source"),
    [
        ("pascal_classic", "pascal", ("rankmatch",), ("resnet101", "183"), 77.6, "RankMatch paper, Table 1"),
        ("pascal_blended", "pascal", ("rankmatch",), ("resnet50", "1_8"), 77.8, "RankMatch paper, Table 2"),
        ("cityscapes", "cityscapes", ("supervised",), ("resnet50", "1_16"), 63.3, "RankMatch paper, Table 3"),
        ("ablation_components", "pascal", ("rankmatch", "kl"), ("1464",), 79.5, "RankMatch paper, Table 4"),
        ("ablation_agent_selection", "pascal", ("top_n",), ("92",), 70.6, "RankMatch paper, Tables 5-8"),
        ("ablation_consistency", "pascal", ("ce",), ("92",), 70.1, "RankMatch paper, Tables 5-8"),
        ("ablation_num_agents", "pascal", ("512",), ("92",), 69.9, "RankMatch paper, Tables 5-8"),
        ("ablation_rank_weight", "pascal", ("0.2",), ("92",), 71.2, "RankMatch paper, Tables 5-8"),
        ("lucchi", "lucchi", ("rankmatch",), ("10",), 87.5, "RankMatch paper, Table 9"),
    ],
)
def test_every_table_of_the_paper_has_its_figures(name, dataset, row, column, percent, source, tmp_path):
    loaded = grid.load(name)
    records = run_table.collect(tmp_path / name, loaded.cells).to_pylist()
    assert {record["dataset"] for record in records} == {dataset}
    found = report.build_table(records, loaded.cells, loaded.table).published
    crop = None if name == "lucchi" else 801 if name == "cityscapes" else 513
    note = "the paper names neither metric, backbone nor crop" if name == "lucchi" else ""
    assert found[row, column] == Figure(pytest.approx(percent / 100), source, crop, note)
    ours = {
        (
            tuple(cell.axes[axis] for axis in loaded.table.rows),
            tuple(cell.axes[axis] for axis in (*loaded.table.blocks, *loaded.table.columns)),
        )
        for cell in loaded.cells
    }
    without = {place for place in ours - set(found) if name != "lucchi"}  # two of our methods are not in Table 9
    assert not without


def test_figures_of_another_data_set_are_not_shown():
    assert figures(grid.load("pascal_classic").table, [{"dataset": "camvid"}]) == {}


def test_figures_of_our_crop_come_before_those_of_the_paper_and_the_others_keep_their_crop():
    layout = grid.load("pascal_classic").table
    found = figures(layout, [{"dataset": "pascal", "crop_size": 321}])
    ours = found[("unimatch",), ("resnet50", "92")]
    assert (ours.value, ours.crop, ours.source) == (0.719, 321, "UniMatch repository README and logs")
    assert found[("rankmatch",), ("resnet50", "92")] == Figure(0.716, "RankMatch paper, Table 1", 513)
    assert found[("corrmatch",), ("resnet101", "92")].crop == 321
    at_513 = figures(layout, [{"dataset": "pascal", "crop_size": 513}])
    assert at_513[("unimatch",), ("resnet50", "92")] == Figure(0.674, "RankMatch paper, Table 1", 513)
    assert (("prevmatch",), ("resnet50", "92")) not in at_513


def test_figures_of_our_crop_are_of_our_data_set_only():
    loaded = grid.load("cityscapes")
    found = figures(loaded.table, [{"dataset": "cityscapes", "crop_size": 513}])
    assert {figure.source for figure in found.values()} == {"RankMatch paper, Table 3"}
    assert found[("rankmatch",), ("resnet101", "1_8")].value == 0.786


def test_figures_of_another_backbone_are_not_shown_and_ablations_know_their_crop():
    layout = grid.load("ablation_num_agents").table
    ours = {"dataset": "pascal", "crop_size": 321}
    assert figures(layout, [ours | {"backbone": "resnet101"}]) == {}
    found = figures(layout, [ours | {"backbone": "resnet50"}])
    assert found[("64",), ("92",)] == Figure(0.69, "RankMatch paper, Tables 5-8", 513)


def test_figures_without_a_backbone_fit_ours_and_the_table_shows_them_with_their_note(tmp_path):
    loaded = grid.load("lucchi", ["backbone=resnet50"])
    records = run_table.collect(tmp_path / "lucchi", loaded.cells).to_pylist()
    text = FORMATS["markdown"]([("lucchi", report.build_table(records, loaded.cells, loaded.table))])
    assert "| published | 86.9 | 87.5 | 88.1 |" in text and "| dualrel |" in text
    assert "; published supervised, rankmatch, " in text
    assert ": the paper names neither metric, backbone nor crop; " in text


def test_note_on_a_published_row_is_shown():
    loaded = grid.load("pascal_classic", ["backbone=resnet101"])
    records = [{"dataset": "pascal", "backbone": "resnet101", "crop_size": 321, "best_miou": None, **cell.axes,
                "signature": cell.signature, "num_steps": None} for cell in loaded.cells]  # fmt: skip
    table = report.build_table(records, loaded.cells, loaded.table)
    assert "published corrmatch: output stride 8" in markdown_note(table)


@pytest.mark.parametrize("name", ["pascal_classic", "ablation_components"])
def test_axis_that_the_file_does_not_know_leaves_no_figures_and_the_table_says_so(name, tmp_path):
    loaded = grid.load(name, ["trainer.epochs=[1,2]"])
    assert loaded.table.rows[-1] == "trainer.epochs" and figures(loaded.table, PASCAL) == {}
    notes = {}
    for one in (loaded, grid.load(name)):
        records = run_table.collect(tmp_path / name, one.cells).to_pylist()
        notes[one is loaded] = markdown_note(report.build_table(records, one.cells, one.table))
    said = "no published figures: their file has no column for trainer.epochs"
    assert said in notes[True] and "no published figures" not in notes[False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"file": "paper.csv"},
            "must be a CSV file, or one of paper_ablations.csv, paper_results.csv; got 'paper.csv'",
        ),
        ({"where": {"tabel": "1"}}, "must have a column 'tabel'; it has table, dataset"),
        ({"where": {"table": "11"}}, "has no row where table=11"),
    ],
)
def test_layout_that_does_not_fit_the_file_is_refused(change, message):
    table = grid.load("pascal_classic").table
    with pytest.raises(ValueError, match=message):
        figures(replace(table, published=replace(table.published, **change)), PASCAL)


def test_two_figures_for_one_place_are_refused(tmp_path):
    table = grid.load("pascal_classic").table
    with pytest.raises(ValueError, match=r"must have one figure for unimatch resnet50 92 where dataset=pascal; it has"):
        figures(replace(table, published=replace(table.published, where={"dataset": "pascal"})), PASCAL)
    (tmp_path / "mine.csv").write_text("backbone,method,partition,miou_percent,miou_percent,source\n")
    spec = replace(table.published, file=str(tmp_path / "mine.csv"), where={})
    with pytest.raises(ValueError, match="mine.csv must have each column once; 'miou_percent' occurs twice"):
        figures(replace(table, published=spec), PASCAL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "row: method",
            "table may have the keys rows, blocks, columns, over, published, others, names, number, adaptive; got "
            "'row'",
        ),
        ("rows: splits", "table: rows may name the axes method, split, seed; got 'splits'"),
        ("{rows: method, blocks: method}", "table must name an axis once; method occurs twice"),
        ("published: {file: a.csv}", "table: published must have a dataset; got None"),
        (
            "published: {tables: 1}",
            "published may have the keys file, dataset, where, axes, row, rows, crop; got 'tables'",
        ),
        ("others: some", "table: others must be true or false; got 'some'"),
        ("names: {backbone: {a: b}}", "table: names may name the axes method, split, seed; got 'backbone'"),
        (
            "names: {method: {a: one, b: one}}",
            "table: names: method must have a name of its own for a; got 'one'",
        ),
        ("[rows]", "a layout must be a mapping with the keys rows"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_bad_layout_file_is_refused(text, message, tmp_path):
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(ValueError) as caught:
        layouts.read_file(tmp_path / "my.yaml", ["method", "split", "seed"])
    assert message in str(caught.value) and "my.yaml" in str(caught.value)


def test_layout_of_ones_own_averages_over_what_it_does_not_name(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("rows: [split]\nblocks: method\nnames: {split: {1_16: 1/16}}\n")
    assert layouts.read_file(file, ["method", "split", "seed"]) == Layout(
        ["split"], [], ["seed"], blocks=["method"], names={"split": {"1_16": "1/16"}}
    )
    with pytest.raises(ValueError, match="--layout must be a YAML file; there is no"):
        layouts.read_file(Path("nowhere.yaml"), [])


def test_layout_that_is_written_is_read_back():
    published = Published("a.csv", "pascal", {"table": "1"}, {"split": "partition"}, "value", {"x": ["a", "b"]})
    layout = Layout(["a", "b"], ["split"], ["seed"], [], published, True, {"split": {"1": "one"}})
    tree = layouts.to_tree(layout) | {"others": "true"}
    assert Layout(**layouts.read(tree, ["a", "b", "split", "seed"])) == layout

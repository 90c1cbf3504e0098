import xml.etree.ElementTree as ET

import finished_grids
import pyarrow as pa
import pytest

from dashboards import drawing, figures, svg
from dashboards.gathered import gather, num_labeled
from dashboards.panels import Heat, Line, Lines, evenly
from orchestration.results.published import Figure
from orchestration.tables.layouts import Layout
from orchestration.tables.table import build

LAYOUT = Layout(["method"], ["split"], ["seed"])


def run(method, split, seed, best, folder="", **fields):
    named = {"method": method, "split": split, "seed": seed, "folder": folder or f"{method}-{split}-{seed}"}
    known = {"status": "done" if best is not None else "missing", "best_miou": best, "best_class_iou": None}
    return named | known | fields


def test_labels_are_means_with_spread_at_their_number_and_published_ones_beside_them():
    records = [run("ours", split, seed, best) for split, seed, best in
               (("1_16", "0", 0.60), ("1_16", "1", 0.62), ("92", "0", 0.5), ("92", "1", None))]  # fmt: skip
    published = {(("ours",), ("92",)): Figure(0.55, "A paper"), (("theirs",), ("1_16",)): Figure(0.65, "A paper")}
    layout = Layout(["method"], ["split"], ["seed"], others=True)
    (panel,) = figures.labels(build(records, layout, published=published), {"1_16": 662})
    assert panel.is_log and panel.ticks == [(92.0, "92"), (662.0, "662")]
    assert [line.label for line in panel.lines] == ["ours", "ours, published", "theirs, published"]
    assert panel.header == ["number of labels", "ours", "ours, published", "theirs, published"]
    assert panel.rows() == [["92", "50.0 (1)", "55.0", "—"], ["662", "61.0 ± 1.4 (2)", "—", "65.0"]]


def test_splits_whose_number_is_not_known_stand_in_their_order():
    (panel,) = figures.labels(build([run("a", "x", "0", 0.5), run("a", "10", "0", 0.6)], LAYOUT), {})
    assert not panel.is_log
    assert panel.ticks == [(1.0, "x"), (2.0, "10")]


def test_published_splits_have_their_number_of_labels():
    counts = num_labeled([{"dataset": "pascal"}])
    assert (counts["92"], counts["1_16"], counts["u2pl_1_8"]) == (92, 662, 1323)
    assert num_labeled([{"dataset": "pascal"}, {"dataset": "coco"}]) == {}


def test_curves_are_mean_and_spread_over_the_seeds_that_reached_an_epoch():
    points = pa.Table.from_pylist([run("a", "4", "0", 0.5), run("a", "4", "1", 0.5), run("b", "4", "0", 0.5)])
    rows = [("a-4-0", 1, 0.2), ("a-4-0", 2, 0.4), ("a-4-1", 1, 0.4), ("b-4-0", 1, 0.3), ("b-4-0", 2, None)]
    epochs = pa.Table.from_pylist([dict(zip(("run", "epoch", "miou"), row, strict=True)) for row in rows])
    (panel,) = figures.curves(points, epochs, LAYOUT, "miou")
    assert panel.title == "split=4"
    assert panel.rows() == [["1", "30.0 ± 14.1 (2)", "30.0 (1)"], ["2", "40.0 (1)", "—"]]
    assert "a 40.0 (1); b 30.0 (1)" in panel.description


def test_a_cell_that_stands_at_two_points_is_drawn_at_both():
    points = pa.Table.from_pylist([run("a", "4", "0", 0.5, "one"), run("a", "8", "0", 0.5, "one")])
    epochs = pa.table({"run": ["one"], "epoch": [1], "loss": [2.0]})
    assert [panel.rows() for panel in figures.curves(points, epochs, LAYOUT, "loss")] == [[["1", "2.000 (1)"]]] * 2


def test_single_runs_are_lines_of_their_own_in_the_style_of_their_row_and_thinned():
    points = pa.Table.from_pylist([run("a", "4", "0", 0.5), run("b", "4", "0", 0.5), run("b", "4", "1", 0.5)])
    rows = [(folder, epoch, epoch / 10) for folder in ("b-4-1", "a-4-0") for epoch in (3, 1, 2)]
    epochs = pa.Table.from_pylist([dict(zip(("run", "epoch", "miou"), row, strict=True)) for row in rows])
    (panel,) = figures.singles(points, epochs, LAYOUT, "miou", ["seed"], most=2)
    assert [(line.label, line.style, line.x) for line in panel.lines] == [
        ("a, seed=0", 0, [1.0, 3.0]), ("b, seed=1", 1, [1.0, 3.0])
    ]  # fmt: skip
    assert panel.lines[0].mean == pytest.approx([10.0, 30.0])
    assert panel.ends() == [["a, seed=0", "3", "30.0"], ["b, seed=1", "3", "30.0"]]


def test_classes_are_means_by_name_and_absent_ones_stay_out():
    points = pa.Table.from_pylist(
        [run("a", "4", "0", 0.5, best_class_iou=[0.2, None]), run("a", "4", "1", 0.5, best_class_iou=[0.4, None])]
    )
    (panel,) = figures.classes(points, LAYOUT, ["sky"])
    assert panel.rows() == [["sky", "30.0"], ["1", "—"]]


def test_states_stand_over_the_axes():
    points = pa.Table.from_pylist([run("a", "4", "0", 0.5), run("a", "4", "1", None), run("b", "4", "0", 0.5)])
    (panel,) = figures.states(points, LAYOUT, ["method", "split", "seed"])
    assert (panel.title, panel.x_title, panel.x_names, panel.y_names) == ("split=4", "seed", ["0", "1"], ["a", "b"])
    assert panel.values == [["done", "missing"], ["done", None]]
    assert panel.description == "State of the cells: 2 rows (method), 2 columns (seed). 2 done; 1 missing."


NAME = '<b>"a" & $x^{$</b> 日本'
PANEL = Lines("k", NAME, "epoch", "loss", [Line(NAME, 0, [1.0, 2.0], [0.5, 0.25], [0.1, None], [2, 1])], [])


def test_inline_svg_is_named_in_the_pages_colours_and_its_ids_are_its_own():
    text = svg.for_page(drawing.to_svg_text(drawing.figure_of([PANEL])), "k", NAME, PANEL.description)
    root = ET.fromstring(text)
    names = {child.tag.rpartition("}")[2]: child.text for child in root}
    assert (names["title"], names["desc"]) == (NAME, PANEL.description)
    assert root.get("role") == "img" and root.get("aria-labelledby") == "k-title k-desc"
    assert all(part.get("id", "k-").startswith("k-") for part in root.iter())
    assert NAME in [part.text for part in root.iter() if part.tag.endswith("}text")]
    assert "var(--s0,#0068a8)" in text and "var(--ink,#1f2328)" in text
    assert "<!DOCTYPE" not in text and "<metadata>" not in text


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_figure_files_are_the_same_to_the_byte(kind, tmp_path):
    panels = [Lines("k", "a", "epoch", "loss", [Line("a", 0, [1.0, 2.0], [0.5, 0.2], [0.1, None], [2, 1])], [])]
    for name in ("one", "two"):
        drawing.save(panels, tmp_path / f"{name}.{kind}")
    content = (tmp_path / f"one.{kind}").read_bytes()
    assert content == (tmp_path / f"two.{kind}").read_bytes()
    assert content.startswith({"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[kind])
    if kind == "svg":
        assert b"<title" in content and b"<desc" in content
        assert b'"fill: #ffffff"' in content  # it may lie on a dark page
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [f".{kind}"] * 2


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--output must end with .svg, .pdf, .png; got 'a.jpg'"):
        drawing.save([PANEL], tmp_path / "a.jpg")


def test_nothing_to_draw_is_an_empty_figure(tmp_path):
    drawing.save([], tmp_path / "a.png")
    drawing.save([Heat("k", "a", "x", "y", [], [], [])], tmp_path / "b.svg")
    assert min(path.stat().st_size for path in tmp_path.iterdir()) > 0


def test_tables_are_thinned_with_first_and_last():
    assert evenly([1.0, 2.0, 3.0, 4.0, 5.0], 3) == [1.0, 3.0, 5.0]
    assert evenly([1.0, 2.0], 3) == [1.0, 2.0]


def test_gathered_epochs_are_those_of_the_folders(tmp_path):
    loaded = finished_grids.written(tmp_path)
    finished_grids.finish(loaded, tmp_path / "made", loaded.cells[:2], epochs=3)
    found = gather(loaded, tmp_path / "made")
    assert found.runs.num_rows == len(loaded.cells) == 12
    assert sorted(found.epochs["run"].to_pylist()) == sorted([cell.folder_name for cell in loaded.cells[:2]] * 3)
    assert figures.metrics_of(found.epochs) == ["miou", "loss", "loss_x"]


def test_curves_say_what_the_marks_of_the_table_say():
    records = [run(method, split, "0", 0.6, crop_size=321, num_steps=steps) for split in ("92", "183")
               for method, steps in (("supervised", 10), ("unimatch", 100), ("rankmatch", 100))]  # fmt: skip
    crops = {"supervised": (513, 513), "unimatch": (321, 513), "rankmatch": (321, 321)}
    published = {((method,), (split,)): Figure(0.5, "A paper", crops[method][place])
                 for method in crops for place, split in enumerate(("92", "183"))}  # fmt: skip
    (panel,) = figures.labels(build(records, LAYOUT, published=published), {})
    assert [line.label for line in panel.lines] == [
        "supervised (fewer steps)", "supervised, published (crop 513)", "unimatch",
        "unimatch, published (partly crop 513)", "rankmatch", "rankmatch, published",
    ]  # fmt: skip

import weakref

import finished_grids
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from orchestration.mirror.figures import MAX_PANELS, PANEL_SIZE, curves
from orchestration.mirror.grid_mirror import curve_rows
from orchestration.runs.run_folder import RunFolder


def rows():
    for panel, label, cell, factor in (("split=4", "a", "1", 1), ("split=4", "b", "2", 2), ("split=8", "a", "3", 3)):
        for epoch in (1, 2):
            loss = None if cell == "3" else 1 / epoch
            place = {"panel": panel, "label": label, "cell": cell}
            yield {**place, "epoch": epoch, "miou": factor * epoch / 10, "loss": loss}


def test_each_cell_is_a_line_in_its_panel_and_colour():
    figure = curves(list(rows()))
    top_left, top_right, bottom_left, bottom_right = figure.axes
    assert (top_left.get_title(), top_right.get_title()) == ("split=4", "split=8")
    drawn = [line for line in top_left.get_lines() if len(line.get_xdata())]
    assert [list(line.get_ydata()) for line in drawn] == [[10.0, 20.0], [20.0, 40.0]]
    assert [line.get_color() for line in drawn] == ["C0", "C1"]
    assert [len(line.get_xdata()) for line in bottom_right.get_lines()] == []
    assert [list(line.get_ydata()) for line in bottom_left.get_lines()] == [[1.0, 0.5], [1.0, 0.5]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_many_places_are_in_bands_below_each_other_and_each_column_has_one_scale_of_epochs():
    places = [f"Table 1: a part with a long name split={number}" for number in range(MAX_PANELS + 2)]
    figure = curves([{"panel": place, "label": "a", "cell": place, "epoch": 1 + number, "miou": 0.1, "loss": 1.0}
                     for number, place in enumerate(places)])  # fmt: skip
    assert figure.get_figwidth() == MAX_PANELS * PANEL_SIZE[0]
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 2 * len(places)
    titles = [axes.get_title() for axes in shown if axes.get_title()]
    assert [title.replace("\n", " ") for title in titles] == places
    assert max(len(line) for title in titles for line in title.split("\n")) <= 36
    upper = [axes for axes in shown if axes.get_title()]
    lower = [axes for axes in shown if axes.get_xlabel() == "epoch"]
    assert sorted(axes.get_xlim() for axes in upper) == sorted(axes.get_xlim() for axes in lower)
    assert len({axes.get_xlim() for axes in upper}) == len(places)


def test_nothing_trained_makes_an_empty_figure(tmp_path):
    curves([]).savefig(tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 0


@pytest.mark.parametrize(
    "labels", [["a", "b"], [f"rankmatch, method.num_agents={n}" for n in range(6)], ["long " * 30], ["x" * 60, "y"]]
)
def test_legend_lies_within_the_figure_with_a_margin_whatever_its_labels_are(labels):
    rows = [{"panel": "p", "label": label, "cell": label, "epoch": 1, "miou": 0.1, "loss": 1.0} for label in labels]
    figure = curves(rows)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box, whole = figure.legends[0].get_window_extent(canvas.get_renderer()), figure.bbox
    assert min(box.x0 - whole.x0, whole.x1 - box.x1, box.y0 - whole.y0) >= 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels


def test_a_single_epoch_has_whole_numbers_below_it():
    figure = curves([{"panel": "p", "label": "a", "cell": "1", "epoch": 1, "miou": 0.1, "loss": 1.0}])
    FigureCanvasAgg(figure).draw()
    assert all(float(tick).is_integer() for tick in figure.axes[-1].get_xticks())


class Rows(list):
    __hash__ = object.__hash__


def test_curves_of_many_cells_hold_all_numbers_of_one_cell_at_a_time(tmp_path, monkeypatch):
    loaded = finished_grids.written(tmp_path)
    found = {cell.signature: RunFolder(tmp_path / "cells" / cell.folder_name) for cell in loaded.cells}
    alive, at_once = weakref.WeakSet(), []

    def epochs(folder):
        if folder.signature == loaded.cells[1].signature:
            raise OSError(5, "its disk is away")
        rows = Rows([{"step": 1, "epoch": 1, "miou": 0.5, "loss": 0.1, "class_iou_0": 0.7}])
        alive.add(rows)
        at_once.append(len(alive))
        return rows

    monkeypatch.setattr(RunFolder, "epochs", epochs)
    rows = curve_rows(loaded, found)
    assert at_once == [1] * (len(loaded.cells) - 1)
    expected = [cell.signature for cell in loaded.cells if cell is not loaded.cells[1]]
    assert [row["cell"] for row in rows] == expected
    assert rows[0] == {
        "panel": "split=4", "label": "supervised", "cell": expected[0], "epoch": 1, "miou": 0.5, "loss": 0.1
    }  # fmt: skip

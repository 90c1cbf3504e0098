import json
import re
from dataclasses import replace

import finished_grids
import numpy as np
import pytest

from dashboards import counts, figures, report
from dashboards.gathered import gather
from orchestration.tables.layouts import Layout


@pytest.fixture
def made(tmp_path):
    loaded = finished_grids.written(tmp_path)
    finished_grids.finish(loaded, tmp_path / "made", with_pictures=False)
    return loaded, tmp_path / "made"


def file_of(grid_dir, cell):
    return grid_dir / "cells" / cell.folder_name / "attempts" / "1" / "evaluation.json"


def test_counts_are_added_up_over_the_cells_of_an_entry(made):
    found = counts.entries(gather(*made))
    assert [(entry.row, entry.column, entry.num) for entry in found][:2] == [
        ("supervised", "split=4", 2), ("supervised", "split=8", 2)
    ]  # fmt: skip
    assert found[0].confusion[1].tolist() == [4, 180, 205, 4, 4, 4]  # of cells 0 and 1
    panel = counts.confusion(found, ["sky"])[0]
    assert panel.title == "supervised, split=4" and panel.y_names[:2] == ["sky", "1"]
    assert panel.rows()[1][:4] == ["1", "1.0", "44.9", "51.1"]
    assert counts.confused(found, ["sky"])[1] == ["supervised, split=4", "1", "2", "51.1"]


def test_calibration_is_the_share_of_right_pixels_by_confidence(made):
    found = counts.entries(gather(*made))
    panel = counts.calibration(found)[0]
    assert [line.label for line in panel.lines] == ["supervised", "unimatch", "rankmatch", counts.SURE]
    assert panel.lines[0].x[0] == 7.5 and panel.lines[0].mean == pytest.approx([200 / 3] * 19)
    middles, weights = (np.arange(1, 20) + 0.5) / 20, np.arange(1, 20)
    error = 100 * (np.abs(2 / 3 - middles) * weights).sum() / weights.sum()
    assert found[0].error == pytest.approx(error)
    assert counts.errors(found)[1] == ["supervised", f"{error:.1f}", f"{error:.1f}"]


@pytest.mark.parametrize(
    "content",
    ["{", '{"confusion": [[1, 2]], "calibration": [[1, 1]]}', '{"confusion": [[1]], "calibration": 3}',
     '{"confusion": [[-1]], "calibration": [[1, 1]]}', '{"confusion": [["a"]], "calibration": [[1, 1]]}', "[]"],
)  # fmt: skip
def test_counts_that_are_none_are_left_out(made, content):
    loaded, grid_dir = made
    file_of(grid_dir, loaded.cells[0]).write_text(content)
    file_of(grid_dir, loaded.cells[2]).unlink()
    found = counts.entries(gather(loaded, grid_dir))
    assert [entry.num for entry in found] == [1, 1, 2, 2, 2, 2]


def test_confusion_of_very_many_classes_is_a_list_alone(made):
    loaded, grid_dir = made
    for cell in loaded.cells:
        content = json.loads(file_of(grid_dir, cell).read_text())
        content["confusion"] = np.eye(40, dtype=int).tolist()
        file_of(grid_dir, cell).write_text(json.dumps(content))
    found = counts.entries(gather(loaded, grid_dir))
    assert counts.confusion(found, []) == [] and len(counts.confused(found, [])) == 1


def test_page_shows_them_and_single_runs_on_demand(made):
    page = report.render(gather(*made))
    section = page.partition('id="confusion"')[2].partition('id="samples"')[0]
    assert "Expected calibration error" in section and "Most confused classes" in section
    assert section.count("<svg xmlns") == 2 + 6
    curves = page.partition('id="curves"')[2].partition('id="classes"')[0]
    singles = re.findall(r"<summary>Single runs<", curves)
    assert len(singles) == len(re.findall(r"<figure>", curves)) > 0
    assert '<th scope="row">rankmatch, seed=1</th>' in curves


def test_cell_that_stands_for_several_points_of_a_place_is_one_of_its_cells(tmp_path):
    loaded = finished_grids.written(tmp_path, splits="[4]", seeds="[0, 1]\n  method.num_agents: [8, 16]")
    finished_grids.finish(loaded, tmp_path / "made", with_pictures=False)
    averaged = replace(loaded, table=Layout(["method"], ["split"], ["method.num_agents", "seed"]))
    found = gather(averaged, tmp_path / "made")
    assert (found.runs.num_rows, found.points.num_rows, found.places.num_rows) == (8, 12, 8)
    assert [entry.num for entry in counts.entries(found)] == [2, 2, 4]
    (curves,) = figures.curves(found.places, found.epochs, averaged.table, "miou")
    assert [set(line.n) for line in curves.lines] == [{2}, {2}, {4}]
    apart = gather(
        replace(loaded, table=Layout(["method"], ["method.num_agents"], ["split", "seed"])), tmp_path / "made"
    )
    assert [entry.num for entry in counts.entries(apart)] == [2] * 6

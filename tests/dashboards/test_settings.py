import json

import finished_grids
import pytest

from dashboards import attempts, report, settings
from dashboards.gathered import gather
from orchestration.results import facts
from orchestration.results.paragraph import methods_paragraph


@pytest.fixture
def made(tmp_path):
    return finished_grids.written(tmp_path), tmp_path / "made"


def told(loaded, grid_dir):
    gathered = gather(loaded, grid_dir)
    stories = {row["signature"]: attempts.story(grid_dir, row) for row in gathered.runs.to_pylist()}
    return gathered, stories, settings.runs_of(gathered, stories)


def log_power(grid_dir, cell, rows, worker=0):
    path = grid_dir / "cells" / cell.folder_name / "attempts" / "1" / f"system-{worker}.jsonl"
    lines = [json.dumps({"time": time, "cpu_percent": 1.5, "gpu_power_w": power}) for time, power in rows]
    path.write_text("\n".join([*lines, '{"time": 99']))


def test_settings_are_told_before_anything_is_trained(made):
    _, _, runs = told(*made)
    said = dict(settings.settings(runs))
    assert said["crop"] == "129 × 129 pixels" and said["agents"] == "64 agents" and said["epochs"] == "7"
    assert said["preset"] == "authors_code" and said["ranked agents (K)"] == "4"
    assert said["steps of supervised training"] == "as many as the other methods"
    assert "steps" not in said and settings.methods_paragraph(runs) == ""
    assert settings.totals(runs, {}) == []


def test_totals_are_those_of_the_finished_cells_and_of_all(made):
    loaded, grid_dir = made
    finished_grids.finish(loaded, grid_dir, loaded.cells[:3])
    _, stories, runs = told(loaded, grid_dir)
    costs = report.render(gather(loaded, grid_dir)).partition('id="costs"')[2].partition('id="failures"')[0]
    assert '<th scope="row">supervised</th><td><a href="#runs-0-0">2.000</a></td>' in costs
    said = dict(settings.totals(runs, stories))
    assert said["finished cells"] == "3" and said["GPU-hours of finished cells"] == "6"
    assert said["hours of all cells so far"] == "3"
    assert "energy of the GPUs, kWh" not in said
    assert dict(settings.settings(runs))["steps"] == "70 steps"
    text = settings.methods_paragraph(runs)
    assert "The 3 runs took 6 GPU-hours in all" in text and " That is " in text
    assert text == methods_paragraph(facts.finished_runs(grid_dir, loaded.cells))  # as `describe` and report.md have it


def test_energy_is_power_over_time_of_all_workers_and_a_long_gap_counts_as_a_short_one(made):
    loaded, grid_dir = made
    finished_grids.finish(loaded, grid_dir, loaded.cells[:2])
    log_power(grid_dir, loaded.cells[0], [(1000.5, 0.0), (1030.5, 100.0), (1060.5, 200.0)])
    log_power(grid_dir, loaded.cells[0], [(1000.0, 50.0), (1010.0, 50.0), (90000.0, 1.0)], worker=1)
    _, stories, runs = told(loaded, grid_dir)
    assert stories[loaded.cells[0].signature].energy_j == pytest.approx(30 * 100 + 30 * 200 + 10 * 50 + 600 * 1)
    assert stories[loaded.cells[1].signature].energy_j is None
    assert dict(settings.totals(runs, stories))["energy of the GPUs, kWh"] == "0.00281"
    page = report.render(gather(loaded, grid_dir))
    assert '<th scope="col">kWh</th>' in page.partition('id="runs"')[2]
    assert page.partition(f'id="r-{loaded.cells[0].signature}"')[2].partition("</tr>")[0].count("<td>0.00281</td>") == 1


def test_runs_that_never_predict_a_class_are_warned_of(made):
    loaded, grid_dir = made
    finished_grids.finish(loaded, grid_dir, loaded.cells[:2])
    path = grid_dir / "cells" / loaded.cells[1].folder_name / "result.json"
    result = json.loads(path.read_text())
    result["last_class_iou"][2] = 0.001
    path.write_text(json.dumps(result))
    gathered, stories, _ = told(loaded, grid_dir)
    (warning,) = settings.warnings(gathered, stories)
    assert warning["signature"] == loaded.cells[1].signature
    assert warning["text"] == "almost never predicts class 2 where it is (IoU below 1 %)"
    assert "Warnings" in report.render(gathered)


def test_run_that_left_out_a_step_is_warned_of_and_its_number_and_curve_are_marked(made):
    loaded, grid_dir = made
    finished_grids.finish(loaded, grid_dir, loaded.cells[:2])
    path = grid_dir / "cells" / loaded.cells[1].folder_name / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps_left_out": [3]}))
    gathered, stories, _ = told(loaded, grid_dir)
    (warning,) = settings.warnings(gathered, stories)
    assert warning["signature"] == loaded.cells[1].signature
    assert warning["text"] == "left out step 3, not finite (trainer.when_not_finite=leave_out)"
    page = report.render(gathered)
    assert "¶ a cell made no update at a step that was not finite" in page and "(a step left out)" in page


def test_provenance_counts_every_value_that_a_thing_had(made):
    loaded, grid_dir = made
    finished_grids.finish(loaded, grid_dir, loaded.cells[:3])
    path = grid_dir / "cells" / loaded.cells[1].folder_name / "result.json"
    path.write_text(path.read_text().replace("c0ffee" * 7, "decade" * 7))
    gathered, stories, _ = told(loaded, grid_dir)
    rows = settings.provenance(stories)
    assert [row for row in rows if row[0] == "commit"] == [
        ["commit", "c0ffee" * 7, "2"], ["commit", "decade" * 7, "1"]
    ]  # fmt: skip
    assert ["host", "node1", "3"] in rows
    assert "decade" * 7 in report.render(gathered).partition('id="provenance"')[2].partition('id="runs"')[0]

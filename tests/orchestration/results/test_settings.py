import csv
import io

import pytest
import torch

from orchestration.grids import grid
from orchestration.grids.cells import to_yaml
from orchestration.results import facts, report, run_table, settings
from orchestration.runs.run_folder import RunFolder
from orchestration.tables import formats
from orchestration.tables.table import METRICS
from rankmatch.optimisation import make_optimizer


def records(loaded, num_steps):
    """Rows of finished cells, as `run_table.collect` gives them."""
    numerics = [cell.config.numerics for cell in loaded.cells]
    return [
        {
            "signature": cell.signature,
            "num_steps": num_steps[each.method.name],
            "dataset": each.dataset.name,
            "crop_size": each.augment.crop_size,
            "best_miou": 0.7,
            **cell.axes,
        }
        for cell, each in zip(loaded.cells, numerics, strict=True)
    ]


def test_a_table_says_what_it_compares():
    loaded = grid.load("pascal_classic", ["split=[92,183]", "backbone=resnet50", "method=[supervised,rankmatch]"])
    said = settings.describe(loaded.cells, records(loaded, {"supervised": 880, "rankmatch": 104_880}))
    assert said == (
        "ours: resnet50, crop 321, 64 agents, preset authors_code, 8 or 8 + 8 images a step, learning rate 0.001, "
        "80 epochs, supervised takes 880 steps and the other methods 104,880"
    )
    paper = grid.load("pascal_classic", ["preset=paper", "split=92", "backbone=resnet50", "method=rankmatch", "seed=0"])
    assert settings.describe(paper.cells, []) == (
        "ours: resnet50, crop 513, 128 agents, preset paper, 8 + 8 images a step, learning rate 0.001, 80 epochs"
    )


def note_of(name, *words, steps=None):
    loaded = grid.load(name, words)
    return settings.describe(loaded.cells, records(loaded, steps) if steps else [])


def test_rate_is_the_one_that_is_trained_with_in_every_place(tmp_path):
    loaded = grid.load("pascal_classic", ["split=92", "backbone=resnet50", "trainer.labeled_batch_size=4", "seed=0"])
    numerics = loaded.cells[0].config.numerics
    weights = torch.nn.Module()
    weights.backbone = torch.nn.Linear(1, 1)
    assert make_optimizer(weights, numerics).param_groups[0]["lr"] == 0.0005
    assert ", learning rate 0.0005, " in settings.describe(loaded.cells, [])
    assert facts.rate(numerics) == "0.0005"
    folder = RunFolder(tmp_path / "pascal_classic" / "cells" / loaded.cells[0].folder_name)
    folder.create(to_yaml(loaded.cells[0].config), loaded.cells[0].axes)
    of_grid = run_table.collect(tmp_path / "pascal_classic", loaded.cells[:1])
    of_all = run_table.load(tmp_path).runs
    assert [table["learning_rate"].to_pylist() for table in (of_grid, of_all)] == [[0.0005]] * 2


def test_preset_is_named_with_every_field_that_differs_from_it():
    words = ("split=92", "backbone=resnet50", "seed=0")
    assert ", preset authors_code (with method.epsilon=0, method.rank_divide_by_orders=false), " in note_of(
        "pascal_classic", *words, "method.epsilon=0", "method.rank_divide_by_orders=false"
    )
    both = note_of("pascal_classic", *words, "method.epsilon=[0,1e-10]", "method=rankmatch")
    assert ", preset authors_code (with method.epsilon=0) or authors_code, " in both
    assert ", preset paper or authors_code, " in note_of("pascal_classic", *words, "preset=[paper,authors_code]")
    supervised = note_of("pascal_classic", *words, "method=supervised", "method.epsilon=0")
    assert ", preset authors_code, " in supervised


def test_equal_steps_of_the_supervised_method_are_said():
    words = ("split=92", "backbone=resnet50", "method.supervised_steps=equal")
    said = "supervised takes as many steps as the other methods"
    assert note_of("pascal_classic", *words).endswith(f", {said}")
    steps = {"supervised": 104_880, "unimatch": 104_880, "rankmatch": 104_880, "fixmatch": 104_880}
    assert note_of("pascal_classic", *words, steps=steps).endswith(f", {said}, 104,880")
    assert said not in note_of("pascal_classic", *words[:2])
    assert said not in note_of("pascal_classic", *words, "method=supervised")


def test_all_pixels_as_agents_are_no_number():
    assert ", 128 agents or all pixels as agents, " in note_of("ablation_agent_selection")
    assert ", crop 513, all pixels as agents, " in note_of("ablation_agent_selection", "method.selection=all")


@pytest.mark.parametrize("part", ["components", "agent_selection", "consistency", "num_agents", "rank_weight"])
def test_ablations_are_compared_with_a_row_of_their_own(part):
    loaded = grid.load(f"ablation_{part}")
    rows = [{"dataset": "pascal", "crop_size": 513, "num_steps": None, "last_miou": None, "signature": cell.signature,
             "best_miou": 0.6 + 0.01 * place + 0.001 * (place * place % 7), **cell.axes}
            for place, cell in enumerate(loaded.cells)]  # fmt: skip
    table = report.build_table(rows, loaded.cells, loaded.table, baseline=loaded.baseline)
    compared = [row for (row, _), entry in table.entries.items() if entry.comparison and entry.comparison.p_t]
    assert len(set(compared)) == len(table.rows) - 1


def test_last_epochs_beside_published_best_ones_are_said():
    loaded = grid.load("pascal_classic", ["split=92", "backbone=resnet50", "method=[supervised,unimatch]", "seed=0"])
    rows = [row | {"last_miou": 0.69} for row in records(loaded, {"supervised": 880, "unimatch": 104_880})]
    best, last = (report.build_table(rows, loaded.cells, loaded.table, metric) for metric in METRICS)
    said = "the distance is of ours after the last epoch; published figures are as a rule of the best one"
    assert said in formats.markdown_note(last) and said not in formats.markdown_note(best)
    marks = [row["marks"] for row in csv.DictReader(io.StringIO(formats.to_csv(best, last)))]
    assert ["published of best epoch" in text for text in marks] == [False, False, True, True]


def test_scoring_by_windows_is_said_and_that_of_whole_images_is_not():
    words = ["split=1_4", "backbone=resnet50", "method=rankmatch", "seed=0"]
    sliding, both = (grid.load("cityscapes", [*words, *more]) for more in ([], ["evaluation.mode=[whole,sliding]"]))
    assert ", crop 801, scored by windows of the crop, 64 agents," in settings.describe(sliding.cells, [])
    assert ", scored by windows of the crop or whole, " in settings.describe(both.cells, [])


def test_published_figures_of_another_crop_are_marked_and_the_note_says_so():
    loaded = grid.load("pascal_classic", ["split=92", "backbone=resnet50", "method=[supervised,unimatch]", "seed=0"])
    rows = records(loaded, {"supervised": 880, "unimatch": 104_880})
    table = report.build_table(rows, loaded.cells, loaded.table, baseline=loaded.baseline)
    text = formats.to_markdown(table) + formats.markdown_note(table)
    assert "44.0† (+26.0)" in text and "71.9 (-1.9)" in text
    assert "† published with crop 513, not 321" in text and "preset authors_code" in text

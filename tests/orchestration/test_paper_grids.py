"""The grids of the paper's tables: what they train, and that their headers quote the published figures."""

import csv
import re

import pytest

from orchestration.grids import grid
from orchestration.grids.cells import experiments_folder
from orchestration.planning.costs import num_steps

EXPERIMENTS = experiments_folder()
NUM_CELLS = {
    "pascal_classic": 120,
    "pascal_blended": 72,
    "cityscapes": 96,
    "coco": 60,
    "lucchi": 36,
    "ablation_components": 18,
    "ablation_agent_selection": 12,
    "ablation_consistency": 12,
    "ablation_num_agents": 12,
    "ablation_rank_weight": 12,
}
ABLATIONS = sorted(name for name in NUM_CELLS if name.startswith("ablation"))


def header(name):
    lines = (EXPERIMENTS / "grids" / f"{name}.yaml").read_text().splitlines()
    return [line[1:].strip() for line in lines[: [line.startswith("#") for line in lines].index(False)]]


def figures(lines):
    return [number for line in lines for number in re.findall(r"\b\d\d\.\d\b", line)]


def published(file, **wanted):
    with (EXPERIMENTS / "paper" / file).open(newline="") as rows:
        found = [row for row in csv.DictReader(rows) if all(row[key] == value for key, value in wanted.items())]
    return [row["miou_percent"] for row in found]


@pytest.mark.parametrize("name", NUM_CELLS)
def test_grid_of_the_paper_has_its_cells_and_says_how_many(name):
    text = " ".join(header(name))
    assert len(grid.load(name).cells) == NUM_CELLS[name]
    assert f"Cost: {NUM_CELLS[name]} cells." in text
    assert f"python orchestration/launch_grid.py --grid {name} " in text


@pytest.mark.parametrize("name", NUM_CELLS)
def test_grid_of_the_paper_has_three_seeds(name):
    loaded = grid.load(name)
    assert loaded.axes["seed"] == ["0", "1", "2"] and loaded.table.over == ["seed"]


@pytest.mark.parametrize(
    ("name", "table", "protocol", "crop"),
    [
        ("pascal_classic", "1", "classic", "513"),
        ("pascal_blended", "2", "blended", "513"),
        ("cityscapes", "3", "full", "801"),
    ],
)
def test_header_quotes_what_the_paper_reports(name, table, protocol, crop):
    of_table = {"table": table, "protocol": protocol, "crop_size": crop}
    methods = ("supervised", "fixmatch", "unimatch", "rankmatch")
    reported = [
        figure
        for backbone in ("resnet50", "resnet101")
        for method in methods
        for figure in published("paper_results.csv", **of_table, backbone=backbone, method=method)
    ]
    assert sorted(figures([" ".join(header(name)).partition("Expected")[2]])) == sorted(reported)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (4, "ablation_components"),
        *zip(
            (5, 6, 7, 8),
            ["ablation_agent_selection", "ablation_consistency", "ablation_num_agents", "ablation_rank_weight"],
            strict=True,
        ),
    ],
)
def test_header_of_an_ablation_quotes_its_table(number, name):
    after = " ".join(header(name)).partition("Expected")[2]
    assert figures([after]) == published("paper_ablations.csv", table=str(number))


def test_lucchi_quotes_table_9():
    expected = [
        value for m in ("supervised", "rankmatch") for value in published("paper_results.csv", table="9", method=m)
    ]
    assert figures(header("lucchi")) == expected


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_are_of_the_papers_preset(name):
    for cell in grid.load(name).cells:
        numerics = cell.config.numerics
        assert (numerics.augment.crop_size, numerics.method.epsilon, numerics.method.halve_total) == (513, 0.0, False)
        assert numerics.backbone.name == "resnet50"


def test_components_train_unimatch_once():
    points = {(cell.axes["method"], cell.axes["method.consistency"]) for cell in grid.load("ablation_components").cells}
    assert points == {("unimatch", "rank"), ("rankmatch", "kl"), ("rankmatch", "rank")}


@pytest.mark.parametrize(
    ("name", "classes", "epochs", "rate", "head", "threshold", "ohem", "mode"),
    [
        ("pascal_classic", 21, 80, 0.001, 10, 0.95, False, "whole"),
        ("cityscapes", 19, 240, 0.005, 1, 0.0, True, "sliding"),
        ("coco", 81, 30, 0.004, 10, 0.95, False, "whole"),
    ],
)
def test_published_settings_of_the_data_sets(name, classes, epochs, rate, head, threshold, ohem, mode):
    numerics = grid.load(name).cells[0].config.numerics
    assert (numerics.dataset.num_classes, numerics.trainer.epochs) == (classes, epochs)
    assert (numerics.trainer.learning_rate, numerics.trainer.head_lr_multiplier) == (rate, head)
    assert (numerics.method.confidence_threshold, numerics.method.ohem, numerics.evaluation.mode) == (
        threshold,
        ohem,
        mode,
    )
    assert (numerics.trainer.labeled_batch_size, numerics.trainer.unlabeled_batch_size) == (8, 8)


def test_supervised_cells_take_the_authors_number_of_steps():
    steps = {
        cell.axes["split"]: num_steps(cell.config) for cell in grid.load("pascal_classic", ["method=supervised"]).cells
    }
    assert steps["92"] == 880 and steps["1464"] == 14640

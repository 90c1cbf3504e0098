import shutil
from pathlib import Path

import pytest

from orchestration.grids import grid
from orchestration.grids.cells import to_yaml
from orchestration.machine.damage import DamageWarning
from orchestration.planning.costs import num_steps, split_size
from orchestration.running.run_cell import launcher
from orchestration.runs.failures import FailureClass
from orchestration.runs.run_folder import RunFolder
from orchestration.search import spaces
from orchestration.search.spaces import Choices, Range, cells_of, load, point_of
from rankmatch.data.splits import read_splits

FILE = Path(__file__).parents[1] / "search.yaml"


def write(folder: Path, spaces: str, settings: str = "", fixed: str = "") -> str:
    path = folder / "mine.yaml"
    path.write_text(
        f"set: {{backbone.pretrained: false, split: '4', {fixed}}}\nsearch: {{spaces: {{{spaces}}}, {settings}}}\n"
    )
    return str(path)


def make_folder(cell, grid_dir: Path) -> RunFolder:
    folder = RunFolder(grid_dir / "cells" / cell.folder_name)
    folder.create(to_yaml(cell.config), cell.axes)
    return folder


def test_search_is_read_with_types_of_its_fields():
    loaded = load(str(FILE))
    assert loaded.spaces == {"trainer.learning_rate": Range(1e-4, 0.1, log=True), "method.top_k": Choices((2, 4))}
    assert (loaded.settings.num_samples, loaded.settings.grace_epochs, loaded.epochs) == (4, 1, 4)
    whole = load(str(FILE), ["method.top_k={low: 2, high: 4}"]).spaces["method.top_k"]
    assert whole == Range(2, 4) and isinstance(whole.low, int)


def test_command_line_changes_spaces_settings_and_fixed_values():
    loaded = load(
        str(FILE), ["method.top_k=3", "search.num_samples=9", "search.asha.grace_epochs=2", "augment.hue=[0.1,0.2]"]
    )
    assert loaded.fixed["method.top_k"] == 3 and list(loaded.spaces) == ["trainer.learning_rate", "augment.hue"]
    assert (loaded.settings.num_samples, loaded.settings.grace_epochs) == (9, 2)


def test_resolved_search_gives_the_same_points(tmp_path):
    first = load(str(FILE), ["search.held_out=0.3", "split='8'"])
    (tmp_path / "search.yaml").write_text(first.text)
    again = load(str(tmp_path / "search.yaml"))
    assert again == first and again.base.signature == first.base.signature


def test_point_is_a_cell_on_the_held_out_part():
    cell = load(str(FILE)).base
    assert cell.config.numerics.evaluation.held_out == 0.25
    assert cell.axes == {"trainer.learning_rate": "0.0001", "method.top_k": "2"}
    splits = read_splits(cell.config)
    size = split_size(cell.config)
    assert (size.num_labeled, size.num_unlabeled, size.num_val) == (8, 9, 3)
    assert (len(splits.labeled), len(splits.unlabeled), len(splits.val)) == (8, 9, 3)
    assert num_steps(cell.config) == 4 * 4


@pytest.mark.parametrize(
    ("spaces", "settings", "message"),
    [
        ("", "", "search.spaces must name a setting"),
        ("method.weight: {low: 0, high: 1}", "", "unknown key 'method.weight'"),
        ("method.weight_rank: {low: 1, high: 0.1}", "", "method.weight_rank: low must be below high; got 1 and 0.1"),
        ("method.weight_rank: {low: 0, high: 1, log: true}", "", "low must be above 0 with log; got 0"),
        ("method.weight_rank: {low: 0}", "", "method.weight_rank must have low and high, and may have log; got low"),
        ("method.weight_rank: 0.1", "", "must be {low: , high: } or a list of two values or more; got '0.1'"),
        ("method.top_k: {low: 2.5, high: 4}", "", "method.top_k: low must be a whole number; got '2.5'"),
        ("method.selection: {low: 0, high: 1}", "", "method.selection must be a list of values, as it is no number"),
        ("seed: [0, 1]", "", "search.spaces may name single settings of how a network is trained; seed is none"),
        ("trainer.epochs: [4, 8]", "", "trainer.epochs is none"),
        ("trainer.num_threads: [1, 2]", "", "trainer.num_threads is none"),
        ("method: [unimatch, rankmatch]", "", "method is none"),
        ("evaluation.held_out: [0.1, 0.2]", "", "evaluation.held_out is none"),
        ("method.top_k: [2, 9]", "", r"point method.top_k=9: method.top_k must be from 2 to 6; got 9"),
        ("method.top_k: [2, 4]", "held_out: 1", "search.held_out must be above 0 and below 1; got 1.0"),
        ("method.top_k: [2, 4]", "held_out_from: val", "search.held_out_from must be one of unlabeled, labeled"),
        ("method.top_k: [2, 4]", "num_samples: 0", "search.num_samples must be at least 1; got 0"),
        ("method.top_k: [2, 4]", "samples: 3", "unknown key 'search.samples'"),
        (
            "method.top_k: [2, 4]",
            "asha: {grace_epochs: 99}",
            r"grace_epochs \(trainer.epochs=5\) must be from 1 to 5",
        ),
        ("method.top_k: [2, 4]", "asha: {reduction_factor: 1}", "search.asha.reduction_factor must be from 1.1 to 100"),
    ],
)
def test_bad_search_is_refused(tmp_path, spaces, settings, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path, spaces, settings))


def test_unknown_search_names_those_that_there_are():
    with pytest.raises(ValueError, match="search must be a YAML file or one of search_rank; got 'demo2'"):
        load("demo2")


def test_setting_stands_in_one_place(tmp_path):
    with pytest.raises(ValueError, match="method.top_k must be in set or in search.spaces; it is in both"):
        load(write(tmp_path, "method.top_k: [2, 4]", fixed="method.top_k: 4"))
    with pytest.raises(ValueError, match="evaluation.held_out must not be set in a search: search.held_out says it"):
        load(write(tmp_path, "method.top_k: [2, 4]", fixed="evaluation.held_out: 0.1"))


def test_grid_takes_neither_a_search_nor_cells_on_a_held_out_part():
    with pytest.raises(ValueError, match="a file with the section search is for `rankmatch tune`"):
        grid.load(str(FILE))
    with pytest.raises(ValueError, match="evaluation.held_out must be 0 in a grid, whose tables are of the validation"):
        grid.load("demo", ["evaluation.held_out=0.2"])


def test_points_of_a_folder_are_those_of_this_very_search_in_the_order_of_their_draws(tmp_path):
    loaded, other = load(str(FILE)), load(str(FILE), ["trainer.epochs=5"])
    points = [{"trainer.learning_rate": rate, "method.top_k": 2} for rate in (0.01, 0.001, 0.05)]
    cells = [loaded.cell(point) for point in points]
    for cell in (*cells, other.cell(points[0]), loaded.cell({"trainer.learning_rate": 0.5, "method.top_k": 2})):
        make_folder(cell, tmp_path)
    spaces.index.write(
        tmp_path, [spaces.index.IndexedCell(cell.signature, cell.slug, "rankmatch", 1, None, 0) for cell in cells]
    )
    assert [cell.signature for cell in cells_of(loaded, tmp_path)] == [cell.signature for cell in cells]
    assert [cell.signature for cell in cells_of(other, tmp_path)] == [other.cell(points[0]).signature]


def test_point_whose_files_are_damaged_is_known_and_not_drawn_again(tmp_path):
    loaded = load(str(FILE))
    cell = loaded.cell({"trainer.learning_rate": 0.01, "method.top_k": 2})
    folder = make_folder(cell, tmp_path)
    (folder.path / "axes.json").write_text("")
    (folder.path / "result.json").write_text("{")
    with pytest.warns(DamageWarning, match="axes.json is damaged: it is empty"):
        (found,) = cells_of(loaded, tmp_path)
    assert (found.signature, found.axes) == (cell.signature, cell.axes)
    with pytest.warns(DamageWarning, match="result.json is damaged"):
        assert point_of(found, folder).status == "failed"


def test_point_that_the_search_stopped_is_told_from_one_that_was_interrupted(tmp_path):
    cell = load(str(FILE)).base
    folder = make_folder(cell, tmp_path)
    for kind, status in ((FailureClass.CANCELLED, "interrupted"), (FailureClass.OUTPERFORMED, "outperformed")):
        attempt = folder.claim(launcher())
        attempt.event("started", step=0)
        attempt.event("stopped", step=4, kind=kind)
        assert point_of(cell, folder).status == status


def test_shipped_search_loads_and_says_its_cost(tmp_path):
    loaded = load("search_rank")
    text = (grid.find("search_rank")).read_text()
    assert f"Cost: {loaded.settings.num_samples} points" in text
    assert list(loaded.spaces) == [
        "method.weight_rank",
        "method.num_agents",
        "method.top_k",
        "method.confidence_threshold",
    ]
    shutil.copy(grid.find("search_rank"), tmp_path)
    assert load(str(tmp_path / "search_rank.yaml")).base.signature == loaded.base.signature

"""Grids of grids: what a file may say, one grid of all cells, and how it is stored."""

import json

import pytest
import yaml
from two_grids import NUM_CELLS, NUM_DISTINCT, TwoGrids

from orchestration.grids import grid
from orchestration.planning import disk_space, order


def signatures(loaded: grid.Grid) -> set[str]:
    return {cell.signature for cell in loaded.cells}


def test_cells_of_all_parts_are_there_once_and_each_part_has_its_table(tmp_path):
    both = grid.load(str(TwoGrids(tmp_path).file))
    assert [part.title for part in both.tables] == ["Table 1: methods", "Table 2: agents"]
    assert len(both.cells) == NUM_DISTINCT and sum(len(part.cells) for part in both.parts) == NUM_CELLS
    alone = [grid.load(str(tmp_path / f"{name}.yaml")) for name in ("methods", "agents")]
    assert [signatures(part) for part in both.parts] == [signatures(one) for one in alone]
    assert signatures(both) == signatures(alone[0]) | signatures(alone[1])
    assert [part.table for part in both.parts] == [one.table for one in alone]
    assert both.parts[0].baseline == {"method": "supervised"} and both.parts[1].baseline == {}


def test_cells_that_differ_in_unused_settings_only_are_one_over_all_parts(tmp_path):
    made = TwoGrids(tmp_path)
    others = yaml.safe_load((tmp_path / "methods.yaml").read_text())
    others["set"]["method.num_agents"] = 8
    others["axes"]["method"] = ["supervised"]
    made.write("unused", others)
    made.write("both", {"grids": ["methods.yaml", "unused.yaml"]})
    both = grid.load(str(made.file))
    assert len(both.cells) == 4 and signatures(both.parts[1]) < signatures(both.parts[0])


def test_plan_has_cells_hours_and_disk_of_each_table_and_in_all(tmp_path):
    made = TwoGrids(tmp_path)
    said = made("plan", "--grid", made.file, "--cluster", "slurm")
    assert f"{NUM_DISTINCT} cells: {NUM_DISTINCT} submit" in said
    assert "table cells not above done GPU-hours left GB when done 1 methods 4 4 0 " in said
    assert " 2 agents 4 2 0 " in said and f" in all {NUM_CELLS} {NUM_DISTINCT} 0 " in said
    assert "2 cells stand in a table above, too, and are trained once" in said
    alone = made("plan", "--grid", tmp_path / "methods.yaml")
    assert "GPU-hours left" not in alone and "in all" not in alone


def test_plan_as_json_has_the_tables(tmp_path):
    made = TwoGrids(tmp_path)
    answer = json.loads(made("plan", "--grid", made.file, "--json", "--cluster", "slurm"))
    found = [(one["grid"], one["number"], one["num_cells"], one["num_distinct"]) for one in answer["tables"]]
    assert found == [("methods", "1", 4, 4), ("agents", "2", 4, 2)] and len(answer["cells"]) == NUM_DISTINCT
    hours = [one["gpu_hours"] for one in answer["tables"]]
    assert 0 < answer["gpu_hours"] < sum(hours) and answer["gpu_hours"] > max(hours)
    (only,) = json.loads(made("plan", "--grid", tmp_path / "agents.yaml", "--json"))["tables"]
    assert (only["grid"], only["num_cells"], only["num_distinct"], only["gpu_hours"]) == ("agents", 4, 4, None)


def test_settings_of_the_file_hold_for_all_parts_and_the_command_line_beats_them(tmp_path):
    made = TwoGrids(tmp_path, set={"trainer.epochs": 3, "seed": [0, 1, 2]})
    both = grid.load(str(made.file), ["trainer.epochs=5", "trainer.num_threads=2"])
    assert {cell.config.numerics.trainer.epochs for cell in both.cells} == {5}
    assert {cell.config.execution.trainer.num_threads for cell in both.cells} == {2}
    assert [part.axes["seed"] for part in both.parts] == [["0", "1", "2"]] * 2
    assert {cell.config.numerics.trainer.epochs for cell in grid.load(str(made.file)).cells} == {3}


@pytest.mark.parametrize(
    ("parts", "more", "words"),
    [
        (["methods.yaml", "nothing"], {}, "grids: nothing: grid must be a YAML file or one of ablation_"),
        (["methods.yaml", "nothing.yaml"], {}, "grids: nothing.yaml: a grid must be an existing file, or a name; "),
        (["methods.yaml", "methods.yaml"], {}, "grids must have different names; methods occurs 2 times"),
        (["both.yaml"], {}, "grids: both.yaml: a grid must not be a part of itself"),
        (["paper"], {}, "grids: paper: a part must have cells of its own; "),
        (["search_rank"], {}, "a file with the section search is for `rankmatch tune`"),
        ([], {}, "grids must be a list of grids; got []"),
        ("methods.yaml", {}, "grids must be a list of grids; got 'methods.yaml'"),
        ([["methods.yaml"]], {}, "grids may have names and files, and {grid: NAME, priority: 1}; got ['methods.yaml']"),
        ([{"grid": "methods.yaml", "first": "yes"}], {}, "grids may have names and files, and {grid: NAME"),
        ([{"grid": "methods.yaml", "priority": "high"}], {}, "both.yaml: grids: priority must be a whole number"),
        (["methods.yaml"], {"axes": {"seed": [0]}}, "may have the keys grids, set; got 'axes'"),
        (["methods.yaml"], {"set": {"trainer.epoch": 3}}, "grids: methods: unknown key 'trainer.epoch'"),
    ],
)
def test_what_a_file_may_not_say_is_refused_with_its_part(tmp_path, parts, more, words):
    made = TwoGrids(tmp_path, parts, **more)
    said = made("plan", "--grid", made.file, code=2)
    assert words in said and f"{made.file}: " in said and not made.runs.exists()


def test_fault_of_the_command_line_names_the_part_that_cannot_take_it(tmp_path):
    made = TwoGrids(tmp_path)
    file = tmp_path / "methods.yaml"
    file.write_text(file.read_text() + "exclude: [{method: supervised}]\n")
    said = made("plan", "--grid", made.file, "method=supervised", code=2)
    assert f"{made.file}: grids: methods: a grid must have at least one cell; exclude drops all of them" in said


@pytest.mark.parametrize("key", ["data_root", "split_root", "data_store", "dataset"])
def test_place_for_parts_of_several_data_sets_is_refused(tmp_path, key, monkeypatch):
    monkeypatch.setattr(disk_space, "free_bytes", lambda runs: 10**15)
    made = TwoGrids(tmp_path)
    said = made("plan", "--grid", "paper", f"{key}=somewhere", code=2)
    assert f"{key} must be left out where parts are of several data sets (pascal, cityscapes, lucchi, coco)" in said
    ways = f"a site's file has a place for each, `{key}: {{pascal: FOLDER, cityscapes: FOLDER, lucchi: FOLDER, "
    assert ("--only chooses parts of one" if key == "dataset" else ways) in said
    if key == "data_root":
        made("plan", "--grid", "paper", f"{key}={tmp_path}", "--only", "table=5", "--only", "pascal_blended")


def test_split_that_a_part_of_another_data_set_lacks_is_refused_with_the_part(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_space, "free_bytes", lambda runs: 10**15)
    made = TwoGrids(tmp_path)
    said = made("plan", "--grid", "paper", "split=92", code=2)
    assert "grids: pascal_blended: split must be one of 1_16, 1_8, 1_4, as parts are of several data sets" in said
    assert "48 cells: 48 submit" in made(
        "plan", "--grid", "paper", "split=1_8", "--only", "table=2", "--only", "table=3"
    )


def test_only_some_tables_are_planned_where_they_are_named(tmp_path):
    made = TwoGrids(tmp_path)
    for word in ("table=2", "agents"):
        assert "4 cells: 4 submit" in made("plan", "--grid", made.file, "--only", word)
    both = made("plan", "--grid", made.file, "--only", "table=2", "--only", "methods")
    assert f"{NUM_DISTINCT} cells: " in both
    refused = made("plan", "--grid", made.file, "--only", "table=3", code=2)
    assert "--only must be one of table=1, table=2, methods, agents, the tables of " in refused
    alone = made("plan", "--grid", tmp_path / "agents.yaml", "--only", "table=2", code=2)
    assert "--only must be left out where a grid does not consist of grids; agents has one table" in alone


def test_stored_grid_of_grids_gives_the_same_cells_and_tables(tmp_path):
    made = TwoGrids(tmp_path, [{"grid": "methods.yaml", "priority": 3}, "agents.yaml"])
    both = grid.load(str(made.file), ["trainer.epochs=2"])
    (made.runs / "both" / "launches").mkdir(parents=True)
    (made.runs / "both" / "grid.yaml").write_text(both.text)
    stored = grid.load("both", runs=made.runs)
    assert stored.text == both.text and [part.priority for part in stored.parts] == [3, 0]
    assert [[cell.signature for cell in one.cells] for one in (stored, *stored.parts)] == [
        [cell.signature for cell in one.cells] for one in (both, *both.parts)
    ]


def placed(loaded: grid.Grid, keys: tuple[str, ...]) -> list[tuple[str, ...]]:
    rounds = order.rounds_of(loaded.tables)
    found: dict[int, set[tuple[str, ...]]] = {}
    for cell in loaded.cells:
        found.setdefault(rounds[cell.signature], set()).add(tuple(cell.axes.get(key, "-") for key in keys))
    assert sorted(found) == [*range(len(found))]
    return [tuple(sorted(" ".join(one) for one in found[number])) for number in sorted(found)]


def test_every_table_gets_first_seeds_before_any_gets_second_ones(tmp_path):
    both = grid.load(str(TwoGrids(tmp_path).file))
    first = ("- 8 ", "rankmatch - ", "supervised - ")
    keys = ("method", "method.num_agents", "seed")
    assert placed(both, keys) == [tuple(f"{one}{seed}" for one in first) for seed in (0, 1)]


def test_cells_of_the_part_that_is_wanted_first_start_first_those_of_others_with_it(tmp_path):
    both = grid.load(str(TwoGrids(tmp_path, [{"grid": "methods.yaml", "priority": 1}, "agents.yaml"]).file))
    keys = ("method", "method.num_agents", "seed")
    assert placed(both, keys) == [
        ("- 8 0", "rankmatch - 0"),
        ("- 8 1", "rankmatch - 1"),
        ("supervised - 0",),
        ("supervised - 1",),
    ]


def test_rows_of_a_smaller_priority_start_first(tmp_path):
    made = TwoGrids(tmp_path)
    file = tmp_path / "methods.yaml"
    file.write_text(file.read_text() + "priority: {method: {supervised: 1}}\n")
    loaded = grid.load(str(file))
    assert placed(loaded, ("method", "seed")) == [
        ("rankmatch 0",),
        ("rankmatch 1",),
        ("supervised 0",),
        ("supervised 1",),
    ]
    again = made.write("again", yaml.safe_load(loaded.text))
    assert placed(grid.load(str(again)), ("method", "seed"))[0] == ("rankmatch 0",)
    file.write_text(file.read_text().replace("supervised: 1}}", "unimatch: 1}}"))
    assert "priority: method must be one of supervised, rankmatch; got unimatch" in made("plan", "--grid", file, code=2)


def test_the_papers_grid_has_all_of_its_tables_and_trains_common_cells_once():
    paper = grid.load("paper")
    assert [part.table.number for part in paper.parts] == ["1", "2", "3", "4", "5", "6", "7", "8", "9", ""]
    assert (sum(len(part.cells) for part in paper.parts), len(paper.cells)) == (450, 435)
    ablations = [part for part in paper.parts if part.name.startswith("ablation_")]
    assert len({cell.signature for part in ablations for cell in part.cells}) == 51

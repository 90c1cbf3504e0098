"""A grid of two grids with common cells, launched inline: cells once, a table of each, and every command on it."""

import csv
import json
import re
import shutil
from collections import Counter

import pytest
import yaml
from two_grids import NUM_CELLS, NUM_DISTINCT, TwoGrids

from orchestration.grids import launched
from orchestration.runs.folders import RunsFolder
from orchestration.runs.run_folder import folders

ROWS = {"methods": ["supervised", "rankmatch"], "agents": ["4", "8"]}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The grid after its launch, to be left as it is."""
    made = TwoGrids(tmp_path_factory.mktemp("both"))
    made.printed = made.launch()
    return made


@pytest.fixture
def again(done, tmp_path):
    """The same in a folder of its own."""
    made = TwoGrids(tmp_path)
    shutil.copytree(done.runs, made.runs, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db", "runs.json"))
    return made


def attempts(made):
    return {
        folder.path.name.partition("-")[2]: len(folder.attempts()) for folder in folders(made.runs / "both").values()
    }


def rows_of(made):
    with (made.runs / "both" / "table.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["metric"] == "best_miou"]


def test_common_cells_are_trained_once_and_stand_in_both_tables(done):
    assert [*attempts(done).values()] == [1] * NUM_DISTINCT
    assert f"{NUM_DISTINCT} of {NUM_DISTINCT} cells are done" in done.printed
    rows = rows_of(done)
    found = {(row["table"], row["method"] or row["method.num_agents"]): row for row in rows}
    assert {*found} == {(name, row) for name, of in ROWS.items() for row in of}
    assert all((row["n"], row["expected"]) == ("2", "2") for row in rows)
    assert found["methods", "rankmatch"]["mean_percent"] == found["agents", "4"]["mean_percent"]


def test_cells_are_shared_with_grids_of_one_table_launched_before_or_after(done, again, tmp_path):
    after = again("launch", "--grid", again.folder / "methods.yaml", "--cluster", "inline")
    assert "4 cells: 4 keep" in after and "4 cells are kept from grid both" in after
    other = TwoGrids(tmp_path / "other")
    other("launch", "--grid", other.folder / "methods.yaml", "--cluster", "inline")
    assert "6 cells: 2 submit, 4 keep" in other.launch()
    for made in (done, again, other):
        assert all(folder.path.is_symlink() for folder in folders(made.runs / "both").values())
        assert len(RunsFolder(made.runs).cells()) == NUM_DISTINCT


def test_launch_prints_each_table_under_its_number(done):
    first, second = done.printed.index("Table 1: methods"), done.printed.index("Table 2: agents")
    assert "rankmatch" in done.printed[first:second] and "vs supervised" in done.printed[first:second]
    assert "num_agents" in done.printed[second:]


def test_report_has_all_tables_and_each_cell_once(done):
    text = (done.runs / "both" / "report.md").read_text()
    assert f"{NUM_DISTINCT} of {NUM_DISTINCT} cells are done. A cell of several tables is trained once." in text
    first, second, cells = (text.index(f"\n## {name}\n") for name in ("Table 1: methods", "Table 2: agents", "Cells"))
    assert first < second < cells and text[first:second].count("4 of 4 cells are done.") == 1
    for part in (text[first:second], text[second:cells]):
        assert all(f"\n### {name}" in part for name in ("Best epoch", "Last epoch", "Statistics of", "Settings and"))
    assert all(text[cells:].count(f"\n| {signature} |") == 1 for signature in folders(done.runs / "both"))


def test_page_has_each_table_with_its_runs_and_every_link_leads_somewhere(done):
    page = (done.runs / "both" / "report.html").read_text()
    first, second = (page.index(f'<h2 id="table-{number}">Table {number}: {name}</h2>')
                     for number, name in ((1, "methods"), (2, "agents")))  # fmt: skip
    assert first < second and "6 of 6 cells are done." in page[:first]
    assert "4 of 4 cells are done." in page[first:second] and "4 of 4 cells are done." in page[second:]
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)
    shared = [one for one in folders(done.runs / "both") if {f"t1-r-{one}", f"t2-r-{one}"} <= {*ids}]
    assert len(shared) == NUM_CELLS - NUM_DISTINCT
    (command,) = re.findall(r"rankmatch (launch --grid both --only agents .* method.num_agents=8 seed=1)</code>", page)
    assert "1 cell: 1 keep" in done(*command.replace("launch", "plan").split())
    assert (done.runs / "both" / "figures" / "methods-states.svg").exists()


def test_figure_is_of_one_table(again):
    words = ("figure", "states", "--grid", "both", "-o", again.folder / "states.svg")
    assert "--only must name one of the tables of both: methods, agents; got none" in again(*words, code=2)
    again(*words, "--only", "table=2")
    assert "num_agents" in (again.folder / "states.svg").read_text()


def test_table_prints_all_or_the_one_that_is_named(again):
    both = again("table", "--grid", "both")
    assert "Table 1: methods" in both and "Table 2: agents" in both
    for word in ("table=2", "agents"):
        only = again("table", "--grid", "both", "--only", word)
        assert "Table 2: agents" in only and "Table 1" not in only
    assert "## Table 1: methods" in (again.runs / "both" / "report.md").read_text()
    said = again("table", "--grid", "both", "--only", "table=7", code=2)
    assert "--only must be one of table=1, table=2, methods, agents, the tables of " in said


@pytest.mark.parametrize("kind", ["markdown", "latex", "html", "csv"])
def test_every_format_holds_every_table(again, kind):
    file = again.folder / f"all.{kind}"
    again("table", "--grid", "both", "--format", kind, "-o", file)
    text = file.read_text()
    assert "supervised" in text and "8" in text
    counts = {"markdown": ("# Table", 2), "latex": ("begin{tabular}", 2), "html": ("<table>", 2), "csv": ("table,", 1)}
    mark, number = counts[kind]
    assert text.count(mark) == number and text.count("</html>") == (kind == "html")
    one = again.folder / f"one.{kind}"
    again("table", "--grid", "both", "--only", "table=1", "--format", kind, "-o", one)
    assert "supervised" in one.read_text() and len(one.read_text()) < len(text)


def test_layout_of_ones_own_is_for_one_table(again):
    layout = again.write("layout", {"rows": ["seed"]})
    assert "--layout must go with one table" in again("table", "--grid", "both", "--layout", layout, code=2)
    assert "seed" in again("table", "--grid", "both", "--layout", layout, "--only", "agents")


def test_status_describe_verify_and_results_see_one_grid(again):
    answer = json.loads(again("status", "--grid", "both", "--json"))
    assert len(answer["cells"]) == NUM_DISTINCT and answer["counts"] == {"done": NUM_DISTINCT}
    assert f"{NUM_DISTINCT} runs" in again("results")
    rows = [json.loads(line) for line in again.lines("results", "--format", "json")]
    assert Counter(part for row in rows for part in row["parts"]) == {"methods": 4, "agents": 4}
    assert sum(len(row["parts"]) for row in rows) == NUM_CELLS  # as `explode("parts")` of pandas makes them
    assert f"{NUM_CELLS // 2} runs" in again("results", "parts=agents")
    assert f"{NUM_DISTINCT} runs" in again("results", "parts=[agents,methods]")
    described = again("describe", "both")
    assert described.index("Table 1: methods") < described.index("Table 2: agents")
    again("verify", "--count", "1")
    assert "@inproceedings" in again("table", "--grid", "both", "--cite")


def test_launch_of_what_is_done_trains_nothing(again):
    before = attempts(again)
    assert f"{NUM_DISTINCT} cells: {NUM_DISTINCT} keep" in again.launch()
    assert attempts(again) == before


def test_part_alone_is_launched_first_and_the_rest_with_the_whole_later(tmp_path):
    made = TwoGrids(tmp_path)
    said = made.launch("--only", "table=2")
    assert "4 of 4 cells are done" in said and "Table 1" not in said
    said = made.launch("seed=0")
    assert "3 keep" not in said and "1 submit, 2 keep" in said and "Table 1: methods" in said
    whole = made.launch()
    assert "1 submit, 5 keep" in whole and [*attempts(made).values()] == [1] * NUM_DISTINCT
    stored = launched.load_folder(made.runs / "both")
    assert sum(len(part.cells) for part in stored.parts) == NUM_CELLS and len(stored.cells) == NUM_DISTINCT


def test_launch_of_a_part_leaves_the_other_tables_in_the_report(again):
    again.launch("--only", "agents", "seed=2")
    rows = {(row["table"], row["method"] or row["method.num_agents"]): row["expected"] for row in rows_of(again)}
    assert rows == {
        ("methods", "supervised"): "2",
        ("methods", "rankmatch"): "2",
        ("agents", "4"): "3",
        ("agents", "8"): "3",
    }
    assert "rows" not in again("table", "--grid", "both", "--only", "methods")


def test_cell_that_failed_is_retried_and_what_is_dropped_is_trained_again(again):
    name = next(name for name in attempts(again) if name.endswith("num_agents_8-s1") or name == "num_agents_8-s1")
    again("drop", name, "--grid", "both")
    left = json.loads(again("status", "--grid", "both", "--json"))["counts"]
    assert left["done"] == NUM_DISTINCT - 1
    assert {row["n"] for row in _after_table(again) if row["method.num_agents"] == "8"} == {"1"}
    again("retry", name, "--grid", "both")
    assert attempts(again)[name] == 1 and len(attempts(again)) == NUM_DISTINCT
    assert {row["n"] for row in rows_of(again)} == {"2"}


def test_resume_trains_what_is_left(again):
    name = next(name for name in attempts(again) if name.startswith("supervised"))
    again("drop", name, "--grid", "both")
    again("resume", "--grid", "both")
    assert [*attempts(again).values()] == [1] * NUM_DISTINCT
    assert "nothing of both is at work" in again("cancel", "--grid", "both")


def _after_table(made):
    made("table", "--grid", "both")
    return rows_of(made)


def test_table_of_what_has_not_begun_says_not_run(again):
    for name in attempts(again):
        if "num_agents_8" in name:
            again("drop", name, "--grid", "both")
    said = again("table", "--grid", "both", "--only", "agents")
    assert "not run" in said
    report = (again.runs / "both" / "report.md").read_text()
    assert "4 of 6 cells are done, 2 not run." in report and "| 8 | not run |" in report


def test_folder_of_one_grid_does_not_become_that_of_several(again):
    (again.folder / "other").mkdir()
    shutil.copy(again.folder / "agents.yaml", again.folder / "other" / "both.yaml")
    said = again("launch", "--grid", again.folder / "other" / "both.yaml", "--cluster", "inline", code=2)
    assert "it consists of one grid, and " in said and " holds several grids; rename its file" in said


def test_mlflow_has_a_mean_for_each_place_of_each_table(done):
    from orchestration.grids.launched import run_folders
    from orchestration.mirror.grid_mirror import _summary

    both = launched.load_folder(done.runs / "both")
    names = {point.name for point in _summary(both, run_folders(both, done.runs / "both"))}
    assert {name.partition("/")[2] for name in names if "/" in name} == {
        "methods supervised split_4", "methods rankmatch split_4",
        "agents method.num_agents_4", "agents method.num_agents_8",
    }  # fmt: skip


def test_yaml_of_the_folder_is_a_grid_of_the_parts(done):
    content = yaml.safe_load((done.runs / "both" / "grid.yaml").read_text())
    assert {*content} == {"grids"} and [*content["grids"]] == ["methods", "agents"]


def made_with(folder, difference):
    path = folder.path / "result.json"
    result = json.loads(path.read_text())
    (attempt,) = result["provenance"]["attempts"]
    result["provenance"]["attempts"] = [attempt | {"difference_sha256": difference * 32}]
    result["provenance"] |= {"difference_sha256": difference * 32}
    path.write_text(json.dumps(result))


def test_verify_compares_cells_within_the_rows_of_each_table_and_names_each_once(again):
    found = folders(again.runs / "both").values()
    for folder in found:
        if "supervised" in folder.path.name:
            made_with(folder, "5a")  # all of a row, unlike those of other rows
    words = ("verify", "--count", "1", "--device", "cpu")
    assert "ODD" not in again(*words)
    made_with(next(folder for folder in found if folder.path.name.endswith("rankmatch-4-s0")), "c0")
    said = again(*words, code=1)
    assert said.count("ODD both/") == 2 and "2 findings in the rows of tables" in said

"""The page of injected faults names tests that there are, classes that there are, and as many as it promises."""

import re
from pathlib import Path

from fault_counts import Count, Ran, counts, faults, rows, table

from orchestration.runs.failure_class import FailureClass

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/faults.md").read_text()


def test_each_fault_names_a_test_that_there_is():
    assert len(rows(PAGE)) == PAGE.count("`tests/") - PAGE.count("`tests/slurm/cluster`")
    for row in rows(PAGE):
        path, name = row[-1].strip("`").split("::")
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M), row[-1]


def test_each_class_is_one_of_the_policys():
    classes = {row[1].strip("` ") for row in rows(PAGE)} - {""}
    assert classes <= {*map(str, FailureClass)}


def test_of_the_faults_on_a_real_slurm_at_least_18_end_in_the_table_and_the_others_in_a_notice():
    real = rows(PAGE.partition("## On a real Slurm")[2].partition("\n## ")[0])
    ends = [row[-2].strip() for row in real]
    assert {*ends} == {"the table", "a notice"}
    assert ends.count("the table") >= 18 and len({row[0] for row in real}) == len(real) >= 20


def test_readme_and_changelog_count_the_faults_of_the_page():
    real, recorded = (len(rows(part)) for part in PAGE.partition("## With Slurm's answers recorded")[::2])
    assert f"[{real + recorded} kinds of faults](docs/faults.md)" in (ROOT / "README.md").read_text()
    said = f"{real} faults that were injected on a real Slurm and {recorded} with its answers recorded"
    assert said in " ".join((ROOT / "CHANGELOG.md").read_text().split())


def test_counts_of_a_run_are_by_kind_and_a_test_loses_all_of_its_faults_or_none():
    injected = {"tests/slurm/a.py::test_a": ["killed", "preempted"], "tests/orchestration/b.py::test_b": ["full"]}
    ran = [
        Ran("tests/slurm/a.py::test_a", passed=False),
        Ran("tests/orchestration/b.py::test_b", passed=True),
        Ran("tests/orchestration/b.py::test_b", passed=True),  # with another parameter
        Ran("tests/crash/test_cell.py::test_c", passed=True, points=[("new cell", 148, 147)]),
        Ran("tests/simulation/test_d.py::test_d", passed=True, points=[("seeds", 1000, 1000)]),
        Ran("tests/test_docs.py::test_e", passed=True),
    ]
    assert counts(ran, injected) == [
        Count("crash points", "new cell", 148, 147),
        Count("histories", "seeds", 1000, 1000),
        Count("injected faults", "on a real Slurm", 2, 0),
        Count("injected faults", "with recorded answers", 1, 1),
    ]
    *lines, rest = table(counts(ran, injected), 5)
    totals = [line.split()[-3:] for line in lines[5:]]
    assert totals == [["148", "147", "1"], ["1000", "1000", "0"], ["3", "1", "2"], ["1151", "1148", "3"]]
    assert rest == "2 of the 5 faults of docs/faults.md were not injected by this run"


def test_faults_of_the_page_are_those_of_its_rows():
    assert sum(map(len, faults(PAGE).values())) == len(rows(PAGE))

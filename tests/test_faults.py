"""The page of injected faults names tests that there are, classes that there are, and as many as it promises."""

import re
from pathlib import Path

from orchestration.runs.failure_class import FailureClass

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/faults.md").read_text()


def rows(page: str) -> list[list[str]]:
    """Return the cells of each row of its tables, without heads."""
    lines = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("| ")
    ]
    return [line for line in lines if line[-1].startswith("`tests/")]


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

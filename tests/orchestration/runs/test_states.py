"""How a cell stands, by its folder and by its job, as docs/run_folder.md says it."""

import re
from pathlib import Path
from typing import get_args

import pytest

from orchestration.runs.failure_class import FailureClass
from orchestration.runs.states import READ, Action, CellState, FolderStatus, JobState, action_for, at_end, joined

PAGE = (Path(__file__).parents[3] / "docs/run_folder.md").read_text()
SECTION = PAGE.partition("## States of a cell\n")[2].partition("\n## ")[0]
FOLDER_WORDS = get_args(FolderStatus)
JOBS = {"anything": (None, *JobState), "nothing, as it never had one": (None,)}
JOBS |= {
    "pending": (JobState.PENDING,),
    "running": (JobState.RUNNING,),
    "silent: Slurm does not answer": (JobState.SILENT,),
    "gone, or any word for an end": tuple(state for state in JobState if state.has_ended),
}


def table(head: str) -> list[list[str]]:
    """Return the rows of the table of a head."""
    lines = SECTION.partition(f"| {head} |\n")[2].partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_what_status_shows_is_what_the_docs_say_of_every_folder_and_job() -> None:
    known: dict[tuple[FolderStatus, JobState | None], str] = {}
    for folder, job, shown in table("the folder says | of its newest job the scheduler says | `status` shows"):
        words = FOLDER_WORDS if folder == "anything" else [CellState(word) for word in folder.split(", ")]
        for pair in ((word, state) for word in words for state in JOBS[job]):
            known.setdefault(pair, shown)
    assert known == {(word, state): joined(word, state) for word in FOLDER_WORDS for state in (None, *JobState)}
    assert {*known.values()} == {*READ}
    assert {*READ} | {CellState.MISSING, CellState.UNREADABLE} == {*CellState}


def test_what_a_launch_does_is_what_the_docs_say_of_every_folder() -> None:
    rows = dict(table("the folder says | action"))
    assert [*rows] == ["done", "running", "missing", "interrupted", "failed", "damaged", "unreadable"]
    assert {CellState(word) for word in rows} == {*FOLDER_WORDS}
    for word, text in rows.items():
        expected = {action for action in Action if re.search(rf"\b{action}\b", text)}
        choices = [(has, given) for has in (False, True) for given in (False, True)]
        assert expected == {
            action_for(CellState(word), has_checkpoint=has, is_given_up=given)  # type: ignore[arg-type]
            for has, given in choices
        }


def test_docs_name_every_word_of_schedulers_that_a_file_holds() -> None:
    (words,) = re.findall(r"holds the scheduler's words: ([^.]+)\.", SECTION)
    assert {*words.split(", ")} == {*JobState} - {JobState.GONE, JobState.SILENT}


@pytest.mark.parametrize(
    ("folder", "job"),
    [
        (CellState.DONE, JobState.DONE),
        (CellState.FAILED, JobState.FAILED),
        (CellState.RUNNING, JobState.FAILED),
        (CellState.INTERRUPTED, JobState.STOPPED),
        (CellState.MISSING, JobState.STOPPED),
    ],
)
def test_job_that_is_over_became_what_it_left(folder: FolderStatus, job: JobState) -> None:
    assert at_end(folder) is job and job.has_ended


def test_one_word_means_one_thing() -> None:
    """A word that two of the vocabularies have is spelt as a member of the same name in both."""
    names: dict[str, set[str]] = {}
    for vocabulary in (CellState, JobState, Action, FailureClass):
        for member in vocabulary:
            names.setdefault(member.value, set()).add(member.name)
    assert all(len(found) == 1 for found in names.values())

"""A launch of thousands of cells looks twice a second: only at those that may have changed."""

from pathlib import Path

import pytest

from orchestration.launching.cell_states import CellStates
from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import FolderState, RunFolder
from orchestration.runs.states import CellState

DONE, RUNNING, WAITS = (f"{number:012x}" for number in range(3))
JOBS = {DONE: JobState.DONE, RUNNING: JobState.RUNNING, WAITS: JobState.PENDING}


@pytest.fixture
def cells(tmp_path: Path) -> dict[str, RunFolder]:
    made = {signature: RunFolder(tmp_path / "cells" / f"{signature}-supervised") for signature in JOBS}
    for folder in made.values():
        folder.create("config", {})
    return made


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells whose files are read, in order."""
    seen: list[str] = []
    state = RunFolder.state
    monkeypatch.setattr(RunFolder, "state", lambda folder: (seen.append(folder.signature), state(folder))[1])
    return seen


def test_cells_that_ended_or_wait_are_read_once_and_running_ones_at_each_look(tmp_path, cells, read):
    states = CellStates(tmp_path)
    assert {*states.look(JOBS, JOBS)} == {*JOBS}
    assert sorted(read) == sorted(JOBS)
    read.clear()
    for _ in range(3):
        states.look(JOBS, JOBS)
    assert read == [RUNNING] * 3


def test_attempt_of_a_waiting_cell_that_came_and_went_between_two_looks_is_seen(tmp_path, cells, read):
    states = CellStates(tmp_path)
    states.look(JOBS, JOBS)
    attempt = cells[WAITS].claim({"host": "elsewhere"})
    attempt.event("failed", kind="lost", error="LostError", message="gone", traceback="")
    assert states.look(JOBS, JOBS)[WAITS].status is CellState.FAILED


def test_cell_whose_job_ended_is_read_for_its_last_words(tmp_path, cells, read):
    states = CellStates(tmp_path)
    states.look(JOBS, JOBS)
    read.clear()
    states.look(JOBS, {**JOBS, WAITS: JobState.STOPPED})
    assert WAITS in read


def test_cell_that_a_file_server_keeps_is_read_until_it_can_be(tmp_path, cells, read, monkeypatch):
    states = CellStates(tmp_path)
    with monkeypatch.context() as changed:
        changed.setattr(RunFolder, "state", lambda folder: FolderState(CellState.UNREADABLE))
        states.look(JOBS, JOBS)
    assert states.look(JOBS, JOBS)[DONE].status is CellState.MISSING
    assert sorted(read) == sorted(JOBS)


def test_end_that_others_write_into_an_attempt_is_seen_while_the_job_waits_again(tmp_path, cells, read):
    states, attempt = CellStates(tmp_path), cells[WAITS].claim({"host": "elsewhere"})
    attempt.event("started", step=0)
    assert states.look(JOBS, JOBS)[WAITS].status is not CellState.FAILED
    attempt.event("failed", kind="node_failure", error="NodeFailure", message="NODE_FAIL", traceback="")
    assert states.look(JOBS, JOBS)[WAITS].status is CellState.FAILED


def test_folder_that_cannot_be_looked_into_is_its_cells_alone(tmp_path, cells):
    cells[WAITS].attempts_dir.symlink_to(cells[WAITS].attempts_dir)
    found = CellStates(tmp_path).look(JOBS, JOBS)
    assert {*found} == {*JOBS} and found[DONE].status is CellState.MISSING


def test_cell_that_a_search_adds_is_found(tmp_path, cells):
    states = CellStates(tmp_path)
    states.look([DONE], JOBS)
    new = RunFolder(tmp_path / "cells" / "aaaaaaaaaaaa-supervised")
    new.create("config", {})
    assert new.signature in states.look([DONE, new.signature], JOBS)

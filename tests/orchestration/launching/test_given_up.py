"""Who is told of cells that are given up: whoever found it, of whatever campaign, and in a pilot, too."""

import errno
import os
import time
from contextlib import ExitStack, contextmanager

import pytest
from campaign_life import Life

from orchestration.launching import control, step
from orchestration.on_slurm import queue_state, submissions
from orchestration.on_slurm.notices import WEBHOOK
from orchestration.runs.jobs import JobState, StateLog
from orchestration.runs.run_folder import RunFolder


def newest_launch(life: Life):
    return max((life.grid_dir / "launches").iterdir())


def is_lost(life: Life, cell: RunFolder, state: str) -> None:
    """Have the newest job of a cell begin it, and end without a word."""
    cell.claim(life.owner_of(cell)).event("started", step=0)
    job = submissions.newest_jobs(life.grid_dir)[cell.name].number
    life.slurm.queued.pop(job)
    life.slurm.accounted[job] = (state, "n1")


def retried(life: Life, kind: str) -> RunFolder:
    """Have a cell end, and somebody retry it, which begins a second campaign."""
    life.launch()
    cell = life.cell("rankmatch-4-s0")
    life.ends(cell, kind)
    control.retry(life.grid_dir, [cell.signature], [], [], life.console)
    life.slurm.queued |= life.jobs("RUNNING")
    return cell


def test_lost_job_of_a_retried_cell_is_judged_by_its_own_campaign_whoever_finds_it(life):
    cell = retried(life, "code error")
    is_lost(life, cell, "NODE_FAIL")
    step.take_step(life.campaign.folder(life.grid_dir).path, life.console)
    assert not life.said()
    assert step.take_step(newest_launch(life), life.console).submitted.num_cells == 1


def test_cell_of_another_campaign_that_is_given_up_is_told_by_name(life):
    cell = retried(life, "lost")
    is_lost(life, cell, "CANCELLED")
    step.take_step(life.campaign.folder(life.grid_dir).path, life.console)
    assert [line for line in life.said() if cell.name in line] == [f"small: {cell.name} is not tried again: cancelled"]


def test_cell_whose_end_resume_finds_is_told_and_one_that_somebody_retries_is_not(life):
    life.launch()
    cell = life.cell("rankmatch-4-s0")
    is_lost(life, cell, "CANCELLED")
    control.retry(life.grid_dir, [cell.signature], [], [], life.console)
    assert f"{cell.name} is not tried again: cancelled" in life.console.export_text() and not life.said()
    life.slurm.queued |= life.jobs("RUNNING")
    is_lost(life, cell, "CANCELLED")
    control.resume(life.grid_dir, life.console)
    assert life.said() == [f"small: {cell.name} is not tried again: cancelled"]


@pytest.mark.parametrize("num_cells", [1, 2])
def test_cell_of_a_pilot_that_its_head_gave_up_and_did_not_tell_is_told_by_the_next_step_once(num_cells, life):
    life.monkeypatch.setenv(WEBHOOK, "http://127.0.0.1:9/nobody")  # a broken way beside one that works
    life.launch(num_nodes=2)
    launch_dir, pilot = submissions.read(life.grid_dir)[-1]
    cells = [life.cell(name) for name in ("rankmatch-4-s0", "supervised-4-s0")[:num_cells]]
    slurm = {"job": f"{pilot.nodes_id}_0", "name": pilot.nodes_name, "restart": 0}
    for cell in cells:
        owner = {"commit": "abc", "campaign": life.campaign.name, "launch": launch_dir.name, "host": "n1", "pid": 1,
                 "process_started": 1, "slurm": slurm}  # fmt: skip
        cell.claim(owner).event("failed", kind="code error", message="x", step=0)
        StateLog(launch_dir).write(cell.name, JobState.FAILED)
    life.slurm.queued = {pilot.job_id: ("RUNNING", "n2"), f"{pilot.nodes_id}_0": ("RUNNING", "n1")}
    for _ in range(2):
        assert life.controller() == 0
    told = f"small: {cells[-1].name} is not tried again: code error; `rankmatch logs` has the traceback"
    assert life.said() == [told]
    now = time.time()
    with life.monkeypatch.context() as later:
        for hours in (2, 4):
            later.setattr(time, "time", lambda: now + 3600 * hours)  # noqa: B023
            assert life.controller() == 0
    life.slurm.queued, life.slurm.accounted[pilot.job_id] = {}, ("NODE_FAIL", "n2")
    assert life.controller() == 0
    assert life.said() == [told] and len(submissions.read(life.grid_dir)[-1][1].cells) == 4 - num_cells


@pytest.fixture
def cannot_be_read(life):
    """Have all folders of a cell unreadable while a block runs."""
    listdir = os.listdir

    @contextmanager
    def held(cell: RunFolder):
        def away(path="."):
            if cell.signature in str(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return listdir(path)

        with life.monkeypatch.context() as server:
            server.setattr(os, "listdir", away)
            yield

    return held


@pytest.mark.parametrize("is_lost_cell", [True, False])
def test_cell_that_could_not_be_decided_about_as_another_was_unreadable_is_told_once_it_can(
    is_lost_cell, life, cannot_be_read
):
    life.launch()
    cell, neighbour = life.cell("rankmatch-4-s0"), life.cell("rankmatch-4-s1")
    if is_lost_cell:
        for _ in range(3):
            life.ends(cell, "lost")
        is_lost_again(life, cell)
    else:
        life.ends(cell, "disk full")  # its job decides about it right after that
    words = f"small: {cell.name} is not tried again: "
    with cannot_be_read(neighbour):
        for _ in range(2):
            assert life.controller() == 0
        assert not any(line.startswith(words) for line in life.said())
    for _ in range(2):
        assert life.controller() == 0
    now = time.time()
    life.monkeypatch.setattr(time, "time", lambda: now + 2 * 3600)
    assert life.controller() == 0
    assert len([line for line in life.said() if line.startswith(words)]) == 1


def is_lost_again(life: Life, cell: RunFolder) -> None:
    cell.claim(life.owner_of(cell)).event("started", step=0)
    life.slurm.accounted[submissions.newest_jobs(life.grid_dir)[cell.name].number] = ("FAILED", "n1")


def test_lost_cell_that_cannot_be_read_keeps_nobody_from_being_told_of_another(life, cannot_be_read):
    life.launch()
    cell, other = life.cell("rankmatch-4-s0"), life.cell("rankmatch-4-s1")
    is_lost(life, cell, "CANCELLED")
    is_lost(life, other, "CANCELLED")
    record = queue_state.record_lost
    with ExitStack() as server:

        def recorded(grid_dir, only):
            found = record(grid_dir, only)
            server.enter_context(cannot_be_read(cell))
            return found

        life.monkeypatch.setattr(queue_state, "record_lost", recorded)
        assert life.controller() == 0
    assert f"small: {other.name} is not tried again: cancelled" in life.said()

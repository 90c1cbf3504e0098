"""Who is told of cells that are given up: whoever found it, of whatever campaign, and in a pilot, too."""

import time

import pytest
from campaign_life import Life

from orchestration.launching import control, step
from orchestration.on_slurm import submissions
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

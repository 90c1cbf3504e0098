"""Who is told of jobs that wait for what does not come by itself: each time, behind others, and in pilots."""

import json
import os
import time
from datetime import datetime

import pytest
from campaign_life import Life

from orchestration.launching import overview
from orchestration.on_slurm import commands, submissions
from orchestration.on_slurm.commands import SlurmError
from orchestration.runs.jobs import JobState, StateLog
from orchestration.runs.run_folder import folders


def wait_for(life: Life, reason: str) -> None:
    life.slurm.queued = life.jobs("PENDING")
    life.slurm.reasons = dict.fromkeys(life.slurm.queued, reason)
    assert life.controller() == 0


def run(life: Life) -> None:
    life.slurm.queued, life.slurm.reasons = life.jobs("RUNNING"), {}
    assert life.controller() == 0


def two_weeks_pass(life: Life) -> None:
    file = life.grid_dir / "notices.json"
    known = json.loads(file.read_text())
    file.write_text(json.dumps({cause: {**one, "time": one["time"] - 14 * 86_400} for cause, one in known.items()}))


def test_each_reason_for_which_all_stands_still_is_told_once_and_again_after_jobs_have_moved(life):
    life.launch()
    for _ in range(2):
        wait_for(life, "QOSMaxJobsPerUserLimit")
    run(life)
    two_weeks_pass(life)
    for _ in range(2):
        wait_for(life, "JobHeldAdmin")
        two_weeks_pass(life)
    run(life)
    wait_for(life, "JobHeldAdmin")
    told = [line.partition("still, ")[2].partition(":")[0] for line in life.said()]
    assert told == ["QOSMaxJobsPerUserLimit", "JobHeldAdmin", "JobHeldAdmin"]


def test_jobs_that_wait_for_others_that_stand_still_hide_nothing(life):
    life.launch()
    life.slurm.queued = life.jobs("PENDING")
    *first, last = life.slurm.queued
    life.slurm.reasons = {**dict.fromkeys(first, "PartitionDown"), last: "Dependency"}
    assert life.controller() == 0
    (said,) = life.said()
    assert said.startswith("small: all that is left stands still, PartitionDown: they wait until the site has it up")


def test_jobs_that_all_wait_for_another_one_are_no_news(life):
    life.launch()
    wait_for(life, "Dependency")
    assert not life.said()


def test_nodes_of_a_pilot_that_stand_still_are_named_by_a_notice_and_by_status_until_one_runs(life):
    life.launch(num_nodes=2)
    _, pilot = submissions.read(life.grid_dir)[-1]
    nodes = [f"{pilot.nodes_id}_{place}" for place in range(2)]
    life.slurm.queued = {pilot.job_id: ("RUNNING", "n2"), **dict.fromkeys(nodes, ("PENDING", ""))}
    life.slurm.reasons = dict.fromkeys(nodes, "JobHeldAdmin")
    assert life.controller() == 0
    (said,) = life.said()
    words = f"held by an administrator, who alone can release them; or end them: scancel {','.join(nodes)}"
    assert said == f"small: all that is left stands still, JobHeldAdmin: {words}"
    assert f"2 pilot nodes stand still, JobHeldAdmin: {words}" in overview.of_grid(life.grid_dir).notes
    life.slurm.queued[nodes[0]] = ("RUNNING", "n3")
    assert life.controller() == 0
    assert not any("still" in note for note in overview.of_grid(life.grid_dir).notes) and len(life.said()) == 1


def test_head_of_a_pilot_that_is_held_is_named_once_for_all_its_cells(life):
    life.launch(num_nodes=2)
    _, pilot = submissions.read(life.grid_dir)[-1]
    wait_for(life, "JobHeldUser")
    assert life.said() == [f"small: all that is left stands still, JobHeldUser: held: scontrol release {pilot.job_id}"]


def test_job_that_does_not_end_hurries_controllers_for_some_minutes_and_is_then_named_once_and_by_status(life):
    life.launch()
    cell, *others = folders(life.grid_dir).values()
    life.done(*others)
    job = submissions.newest_jobs(life.grid_dir)[cell.name].number
    life.ends(cell, "lost")
    life.slurm.queued[job] = ("COMPLETING", "n1")
    assert life.controller() == 0 and life.slurm.controllers[min(life.slurm.controllers)]["begin"] == "now+60"
    now, num = time.time(), len(life.slurm.scripts)
    for minutes in (20, 30, 60 * 24 * 4):
        with life.monkeypatch.context() as later:
            later.setattr(time, "time", lambda: now + 60 * minutes)  # noqa: B023
            assert life.controller() == 0
            assert all(one["begin"] != "now+60" for one in life.slurm.controllers.values())
            notes = overview.of_grid(life.grid_dir).notes
        words = [f"job {job} on n1 has nothing to do since", "(COMPLETING): nobody can train", "tell your site"]
        assert any(all(word in note for word in words) for note in notes)
    assert [line.partition(" since")[0] for line in life.said()] == [f"small: job {job} on n1 has nothing to do"]
    assert len(life.slurm.scripts) == num


def test_requeued_job_that_runs_again_and_has_not_begun_its_cell_yet_is_no_job_that_does_not_end(life):
    life.launch()
    cell, *_ = folders(life.grid_dir).values()
    job = submissions.newest_jobs(life.grid_dir)[cell.name].number
    life.ends(cell, "preempted")
    now = time.time()
    for state in ("RUNNING", "COMPLETING"):
        life.slurm.queued[job] = (state, "n1")
        with life.monkeypatch.context() as later:
            later.setattr(time, "time", lambda: now + 4 * 3600)
            log = submissions.newest_launches(life.grid_dir)[cell.name] / "jobs" / f"{job}_0_log.out"
            log.write_text("begins again\n")
            os.utime(log, (now + 4 * 3600 - 60,) * 2)
            assert life.controller() == 0
            assert not any("does not end" in note for note in overview.of_grid(life.grid_dir).notes)
    assert not life.said()


def test_head_of_a_pilot_that_does_not_end_is_named_once_for_all_its_cells(life):
    life.launch(num_nodes=2)
    launch_dir, pilot = submissions.read(life.grid_dir)[-1]
    (launch_dir / "jobs" / f"{pilot.job_id}_0_log.out").write_text("the driver began\n")
    life.slurm.queued = {pilot.job_id: ("COMPLETING", "n2")}
    now = time.time()
    life.monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert life.controller() == 0
    (said,) = life.said()
    assert said.startswith(f"small: job {pilot.job_id} has nothing to do since")


def test_reason_is_told_once_whichever_nodes_squeue_names_with_it(life):
    life.launch()
    for nodes in ("n1", "n[1-2]", "n[2-3]"):
        wait_for(life, f"ReqNodeNotAvail, UnavailableNodes:{nodes}")
        two_weeks_pass(life)
    (said,) = life.said()
    assert "stands still, ReqNodeNotAvail, UnavailableNodes:n1: they wait until" in said


@pytest.mark.parametrize("is_told", [True, False])
def test_job_that_does_not_end_and_has_left_nothing_is_named_by_when_it_ended_or_was_submitted(is_told, life):
    life.launch()
    cell, *others = folders(life.grid_dir).values()
    life.done(*others)
    job, now = submissions.newest_jobs(life.grid_dir)[cell.name], time.time()
    life.slurm.queued = {job.number: ("COMPLETING", "n1")}
    if is_told:
        fields = {"EndTime": f"{datetime.fromtimestamp(now + 7190):%Y-%m-%dT%H:%M:%S}"}
        life.monkeypatch.setattr(commands, "job_fields", lambda one, **_: fields if one == job else {})
    for hours in (2, 4):
        life.monkeypatch.setattr(time, "time", lambda: now + 3600 * hours)  # noqa: B023
        assert life.controller() == 0
        notes = overview.of_grid(life.grid_dir).notes
        is_stuck = hours == 4 or not is_told
        assert any(f"job {job} on n1 has nothing to do since" in note for note in notes) is is_stuck
        assert len(life.said()) == int(is_stuck)


@pytest.mark.parametrize("max_concurrent", [None, 1])
def test_node_of_a_pilot_that_does_not_end_after_its_head_is_named_once_and_by_status_and_nothing_begins_beside_it(
    max_concurrent, life
):
    life.launch(num_nodes=2, max_concurrent=max_concurrent)
    _, pilot = submissions.read(life.grid_dir)[-1]
    node, now = f"{pilot.nodes_id}_0", time.time()
    life.slurm.queued, life.slurm.accounted[pilot.job_id] = {node: ("COMPLETING", "n2")}, ("NODE_FAIL", "n1")
    for minutes in (5, 20, 60 * 24 * 4):
        with life.monkeypatch.context() as later:
            later.setattr(time, "time", lambda: now + 60 * minutes)  # noqa: B023
            assert life.controller() == 0
            words = [f"job {node} on n2 has nothing to do since", "(COMPLETING): the next pilot cannot begin until"]
            notes = overview.of_grid(life.grid_dir).notes
            assert any(all(word in note for word in words) for note in notes) is (minutes > 15)
    assert [line.partition(" since")[0] for line in life.said()] == [f"small: job {node} on n2 has nothing to do"]
    assert len(life.slurm.scripts) == 2
    life.slurm.queued = {}
    assert life.controller() == 0 and len(life.slurm.scripts) == 4


def test_head_of_a_pilot_that_does_not_end_after_all_its_cells_have_is_named(life):
    life.launch(num_nodes=2)
    launch_dir, pilot = submissions.read(life.grid_dir)[-1]
    for cell in folders(life.grid_dir).values():
        owner = {**life.owner_of(cell), "slurm": {"job": f"{pilot.nodes_id}_0", "name": pilot.nodes_name, "restart": 0}}
        cell.claim(owner).event("stopped", kind="preempted", message="x", step=0)
        StateLog(launch_dir).write(cell.name, JobState.STOPPED)
    life.slurm.queued, now = {pilot.job_id: ("COMPLETING", "n2")}, time.time()
    life.monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert life.controller() == 0 and len(life.slurm.scripts) == 2
    (said,) = life.said()
    assert said.startswith(f"small: job {pilot.job_id} on n2 has nothing to do since") and "the next pilot" in said


def test_node_of_a_pilot_that_does_not_end_is_no_news_once_all_cells_are_done(life):
    life.launch(num_nodes=2)
    _, pilot = submissions.read(life.grid_dir)[-1]
    life.done()
    life.slurm.queued, now = {f"{pilot.nodes_id}_0": ("COMPLETING", "n2")}, time.time()
    life.monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert not any("does not end" in note for note in overview.of_grid(life.grid_dir).notes)
    assert life.controller() == 0 and not any("does not end" in line for line in life.said())


def test_nobody_is_told_that_jobs_do_not_end_where_slurm_is_silent_about_them_and_it_is_asked_once(life):
    life.launch()
    life.slurm.queued = life.jobs("COMPLETING")
    answer, asked, now = commands.output, [], time.time()

    def silent(command: list[str]) -> str:
        if command[0] == "scontrol" and "job" in command:
            asked.append(command)
            raise SlurmError("scontrol did not answer within 30 s")
        return answer(command)

    life.monkeypatch.setattr(time, "time", lambda: now + 3600)
    with life.monkeypatch.context() as away:
        away.setattr(commands, "output", silent)
        assert life.controller() == 0
        assert not any("does not end" in note for note in overview.of_grid(life.grid_dir).notes)
    assert len(asked) == 2 and not life.said()
    assert life.controller() == 0 and len(life.said()) == len(life.slurm.queued) == 4

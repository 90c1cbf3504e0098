"""Controllers, one after the other, against a Slurm that is not there; tests/slurm has the real one."""

import errno
import itertools
import json
import pickle
import random
import re
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from campaign_life import Life
from orchestration_fakes import flags

from orchestration.grids import index, launched
from orchestration.launching import control, controller, overview, status_answer, step, steps
from orchestration.launching.controller import Controller, State
from orchestration.launching.launch_folder import only_launch_of
from orchestration.machine import clock, damage, files, snapshot
from orchestration.on_slurm import commands, policy, submissions
from orchestration.on_slurm import job as job_of_cell
from orchestration.on_slurm.campaign_file import Campaign, cancelled_in, open_campaigns
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.controller_script import MAX_FAILURES, REPORTED
from orchestration.planning import costs
from orchestration.runs.failures import FailureClass
from orchestration.runs.folders import JobFolder
from orchestration.runs.jobs import SchedulerError
from orchestration.runs.run_folder import RunFolder, folders


def test_controllers_are_submitted_before_the_cells_and_begin_by_the_clock(life, slurm):
    life.launch()
    first, second = slurm.controllers.values()
    assert (first["begin"], second["begin"], second["dependency"]) == ("now+600", "now+1200", "afterany:9001")
    script = (life.folder.path / "controller.sh").read_text()
    words = f"-m orchestration.launching.controller {life.grid_dir} {life.campaign.name}"
    assert words in script and "srun" not in script and "#SBATCH --requeue" in script
    assert f"rankmatch-controller-{life.campaign.name}" in slurm.scripts[0]  # a job that fails calls one


def test_cell_that_fails_is_tried_again_while_the_others_train(life, slurm):
    life.launch()
    life.ends(life.cell("rankmatch-4-s0"), "lost")
    assert life.controller() == 0
    assert len(slurm.scripts) == 2 and "array" not in flags(slurm.scripts[1])
    assert len(slurm.controllers) == 2


def test_preempted_cell_that_may_not_be_requeued_is_tried_again_while_the_others_train(life, slurm):
    life.launch(cluster_settings=("cluster.requeue=false",))
    life.ends(life.cell("rankmatch-4-s0"), "preempted", "COMPLETED")
    assert life.controller() == 0 and len(slurm.scripts) == 2


def test_controller_that_finds_nothing_to_do_leaves_everything_as_it_is(life, slurm, capsys):
    life.launch()
    before = sorted(path for path in life.grid_dir.rglob("*") if "controllers" not in path.parts)
    assert life.controller() == 0
    assert sorted(path for path in life.grid_dir.rglob("*") if "controllers" not in path.parts) == before
    assert [job["begin"] for job in slurm.controllers.values()] == ["now+1200", "now+600"]  # as the shell has it
    assert not life.said()


def test_controllers_look_less_often_while_no_job_runs_and_again_often_once_one_does(life, slurm):
    life.launch()
    slurm.queued = life.jobs("PENDING")
    begins = []
    for _ in range(6):
        life.controller()
        begins.append([job["begin"] for job in slurm.controllers.values()])
    assert begins[:2] == [["now+1200", "now+2400"], ["now+2400", "now+4800"]]
    assert begins[5] == ["now+14400", "now+28800"]  # four hours at most
    slurm.queued |= {"1_0": ("RUNNING", "n1")}
    life.controller()
    assert State.read(life.folder).num_quiet == 0
    assert [job["begin"] for job in slurm.controllers.values()] == ["now+600", "now+1200"]


def test_last_controller_writes_the_report_and_ends_those_that_wait(life, slurm):
    life.launch()
    life.done()
    assert life.controller() == 0
    assert (life.grid_dir / "report.md").exists() and not slurm.controllers
    assert "4 of 4 cells are done." in (life.grid_dir / "report.html").read_text()
    assert life.campaign.over(life.grid_dir).exists()
    assert life.said() == ["small: 4 of 4 cells are done"]


@pytest.mark.parametrize("fault", ["squeue", "sbatch", "lock", "data", "bug"])
def test_controller_that_cannot_do_its_work_says_so_once_and_the_next_one_does_it(fault, life, slurm, monkeypatch):
    life.launch()
    life.ends(life.cell("rankmatch-4-s0"), "lost")
    with monkeypatch.context() as changed, contexts(fault, life, changed):
        assert [life.controller(), life.controller()] == [REPORTED] * 2
        assert len(slurm.controllers) == 2
        words = {"squeue": "squeue did not answer", "sbatch": "sbatch refused", "lock": "another launch is at work",
                 "data": "the data files differ", "bug": "ZeroDivisionError: oh"}[fault]  # fmt: skip
        (line,) = life.said()
        mend = f"rankmatch resume --grid small --runs {life.runs}"
        assert line.startswith("small does not resume: ") and words in line and line.endswith(mend)
        assert int(life.folder.failures_file.read_text()) == 2
    control.status(life.grid_dir, life.console)
    said = life.console.export_text()
    assert words in said and "try again, at once rankmatch resume" in said
    assert life.controller() == 0
    assert len(slurm.scripts) == 2 and int(life.folder.failures_file.read_text()) == 0
    control.status(life.grid_dir, life.console)
    assert "rankmatch resume" not in life.console.export_text()


class contexts:  # noqa: N801
    """Something is wrong on entry and mended on exit."""

    def __init__(self, fault, life, changed):
        self.fault, self.life, self.changed, self.lock = fault, life, changed, only_launch_of(life.grid_dir)

    def __enter__(self):
        if self.fault == "squeue":
            output = self.life.slurm.output
            self.changed.setattr(
                commands, "output", lambda words: fails(words) if "--array" in words else output(words)
            )
        if self.fault == "sbatch":
            (self.life.slurm.folder / "refuses_cells").touch()
        if self.fault == "lock":
            self.lock.__enter__()
        if self.fault == "data":
            self.changed.setattr(steps, "prepare", conflicts)
        if self.fault == "bug":
            self.changed.setattr(step, "queued_jobs", lambda _: oh())

    def __exit__(self, *error):
        (self.life.slurm.folder / "refuses_cells").unlink(missing_ok=True)
        if self.fault == "lock":
            self.lock.__exit__(*error)


def fails(words):
    raise SlurmError(f"{words[0]} did not answer within 30 s")


def conflicts(*_):
    raise ValueError("cell x: the data files differ from those it was trained with")


def oh():
    raise ZeroDivisionError("oh")


def test_hiccup_of_slurm_is_waited_for_within_a_controllers_time(life, slurm, monkeypatch):
    life.launch()
    life.ends(life.cell("rankmatch-4-s0"), "lost")
    output, asked = slurm.output, itertools.count()
    monkeypatch.setattr(Controller, "_left_s", lambda _: 60.0)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    monkeypatch.setattr(
        commands, "output",
        lambda words: fails(words) if "--array" in words and next(asked) < 2 else output(words),
    )  # fmt: skip
    assert life.controller() == 0
    assert len(slurm.scripts) == 2 and not life.said()


def test_controller_says_what_hangs_before_its_own_time_is_up(life, slurm, monkeypatch):
    """A try takes as long as the one before: a second one would be cut short, and nobody would say why."""
    life.launch()
    life.ends(life.cell("rankmatch-4-s0"), "lost")
    now = [0.0]

    def hangs(*_, **__):
        now[0] += 315.0
        raise SchedulerError("nothing is known of what was submitted: sbatch did not answer within 300 s")

    monkeypatch.setattr(controller.clock, "monotonic", lambda: now[0])
    monkeypatch.setattr(Controller, "_left_s", lambda _: 450.0)
    monkeypatch.setattr(controller, "take_step", hangs)
    assert life.controller() == REPORTED
    assert now[0] == 315.0 and "sbatch did not answer" in life.said()[-1]


def test_controller_that_nobody_can_follow_counts_as_failed(life, slurm):
    life.launch()
    (slurm.folder / "refuses").touch()
    for number in list(slurm.controllers)[1:]:
        del slurm.controllers[number]
    for count in (1, 2, 3):
        assert life.controller() == REPORTED
        assert int(life.folder.failures_file.read_text()) == count
    (line,) = life.said()
    assert "no controller was submitted" in line
    life.folder.failures_file.write_text(f"{MAX_FAILURES}\n")
    assert life.controller() == REPORTED
    assert "nobody tries again" in life.said()[-1]


def test_status_tells_of_controllers_that_were_ended_before_they_could(life, slurm):
    life.launch()
    life.folder.failures_file.write_text("1\n")
    control.status(life.grid_dir, life.console)
    assert "controllers in a row" not in life.console.export_text()
    life.folder.failures_file.write_text("2\n")
    control.status(life.grid_dir, life.console)
    said = life.console.export_text()
    assert f"launch {life.campaign.name} does not resume: 2 controllers in a row did not come to their end" in said
    assert "at once rankmatch resume --grid small" in said


def test_campaign_that_nobody_mends_is_given_up_and_somebody_told(life, slurm, monkeypatch):
    life.launch()
    monkeypatch.setattr(step, "queued_jobs", lambda _: oh())
    life.folder.failures_file.write_text(f"{MAX_FAILURES - 1}\n")
    for _ in range(3):
        assert life.controller() == REPORTED
    assert not slurm.controllers
    first, last = life.said()
    assert "it is tried again, less and less often" in first and "nobody tries again" in last
    slurm.queued = {}
    control.status(life.grid_dir, life.console)
    said = life.console.export_text()
    assert f"no controller resumes launch {life.campaign.name}, the last one, job 9003, since " in said
    assert "ZeroDivisionError: oh; rankmatch resume --grid small" in said


def test_reconcile_has_somebody_go_on_at_once(life, slurm, monkeypatch):
    monkeypatch.setattr(control, "sync", lambda *_: None)
    life.launch()
    slurm.controllers.clear()
    control.reconcile(life.grid_dir, life.console)
    first, second = slurm.controllers.values()
    assert (first["begin"], second["begin"]) == ("now+1", "now+600")
    assert "resume launch" in life.console.export_text()
    first["begin"] = "now+600"
    control.reconcile(life.grid_dir, life.console)
    assert [job["begin"] for job in slurm.controllers.values()] == ["now+1", "now+600"]


def test_reconcile_takes_the_step_itself_where_nodes_may_not_submit(life, slurm, monkeypatch):
    monkeypatch.setattr(control, "sync", lambda *_: None)
    life.launch(cluster_settings=("cluster.controller=false",))
    life.ends(life.cell("rankmatch-4-s0"), "lost")
    control.reconcile(life.grid_dir, life.console)
    assert len(slurm.scripts) == 2 and not slurm.controllers


def test_reconcile_brings_back_the_sources_that_controllers_import(life, slurm, monkeypatch):
    monkeypatch.setattr(control, "sync", lambda *_: None)
    life.launch()
    asked = []
    monkeypatch.setattr(snapshot, "make_whole", lambda path: asked.append(path) or ["orchestration/cli.py"])
    control.reconcile(life.grid_dir, life.console)
    assert asked == [life.grid_dir / "snapshots/code"] and "brought back into" in life.console.export_text()


def test_controller_of_an_earlier_version_is_one(life, slurm):
    life.launch()
    slurm.controllers.clear()
    path = life.campaign.folder(life.grid_dir).path / "controller.json"
    path.write_text('{"job_id": "77", "name": "rm-small-1-controller"}')
    slurm.strangers["77"] = "rm-small-1-controller"
    slurm.queued["77"] = ("PENDING", "")
    control.status(life.grid_dir, life.console)
    assert "no controller resumes" not in life.console.export_text()
    del slurm.queued["77"]
    control.status(life.grid_dir, life.console)
    assert "no controller resumes" in life.console.export_text()


def test_somebody_is_told_of_jobs_that_are_held(life, slurm, monkeypatch):
    life.launch()
    slurm.reasons = dict.fromkeys(("1_1", "1_2"), "JobHeldUser")
    slurm.queued = life.jobs("PENDING")
    life.controller()
    assert not life.said()
    life.done(life.cell("rankmatch-4-s0"), life.cell("supervised-4-s1"))
    for _ in range(2):
        life.controller()
    assert life.said() == ["small: all that is left stands still, JobHeldUser: held: scontrol release 1_1,1_2"]


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        ("ReqNodeNotAvail, UnavailableNodes:n4", "they wait until the site has it up again, or go elsewhere: scontrol"),
        ("BadConstraints", "as they are asked for they never begin: scontrol update JobId=1_0 Partition=NAME"),
        ("PartitionTimeLimit", "as they are asked for they never begin: scontrol update JobId=1_0 Partition=NAME"),
    ],
)
def test_somebody_is_told_of_cells_that_wait_for_what_does_not_come_by_itself(reason, what, life, slurm):
    life.launch()
    slurm.queued = life.jobs("PENDING")
    slurm.reasons = dict.fromkeys(slurm.queued, reason)
    life.controller()
    (said,) = life.said()
    assert said.startswith(f"small: all that is left stands still, {reason}: {what}")


def test_cell_whose_job_is_just_ending_is_looked_at_again_in_a_minute(life, slurm):
    life.launch()
    life.ends(life.cell("rankmatch-4-s0"), "lost")
    slurm.queued["1_0"] = ("COMPLETING", "n1")
    life.controller()
    assert len(slurm.scripts) == 1
    assert [job["begin"] for job in slurm.controllers.values()] == ["now+60", "now+660"]


def test_cell_that_waits_before_its_next_try_is_looked_at_when_that_is_due(life, slurm):
    life.launch()
    cell = life.cell("rankmatch-4-s0")
    life.ends(cell, "file system")
    life.done(*(folder for folder in folders(life.grid_dir).values() if folder.path != cell.path))
    life.controller()
    assert len(slurm.scripts) == 1 and not life.campaign.over(life.grid_dir).exists()
    begin = int(next(iter(slurm.controllers.values()))["begin"].removeprefix("now+"))
    assert 60 < begin <= 121
    event = cell.attempts()[0].path / "events.jsonl"
    event.write_text(re.sub(r'"time": [\d.]+', f'"time": {1.0}', event.read_text()))
    life.controller()
    assert len(slurm.scripts) == 2


def test_waiting_cell_may_go_where_it_failed_once_no_other_node_is_left_and_keeps_away_from_what_the_site_excludes(
    life, slurm
):
    slurm.nodes = {f"n{number}": "idle" for number in range(1, 4)}
    life.launch(cluster_settings=("cluster.exclude=n3",))
    life.ends(life.cell("rankmatch-4-s0"), "GPU fault")  # on n1
    life.controller()
    assert flags(slurm.scripts[1])["exclude"] == "n3,n1"
    slurm.queued["2"] = ("PENDING", "")
    life.controller()
    assert slurm.excluded == {}  # n2 may be free in a while
    slurm.nodes["n2"] = "drained"
    life.controller()
    assert slurm.excluded == {"2": "n3"}
    assert len(slurm.scripts) == 2


def test_waiting_cells_may_go_where_they_failed_after_a_day(life, slurm):
    life.launch()
    names = ("rankmatch-4-s0", "rankmatch-4-s1")
    for name in names:
        life.ends(life.cell(name), "GPU fault")
    life.controller()
    slurm.queued |= {"2_0": ("RUNNING", "n2"), "2_1": ("PENDING", "")}
    later(life, 86_000)
    assert slurm.excluded == {}
    later(life, 87_000)
    assert slurm.excluded == {"2": ""}


def test_waiting_nodes_of_a_pilot_may_be_those_that_its_cells_need_not_avoid(life, slurm):
    life.launch(num_nodes=2)
    ((_, pilot),) = submissions.read(life.grid_dir)
    for name in ("rankmatch-4-s0", "rankmatch-4-s1"):
        owner = {"commit": "abc", "campaign": life.campaign.name, "host": "n1", "pid": 1, "process_started": 1,
                 "slurm": {"job": f"{pilot.nodes_id}_0", "name": pilot.nodes_name, "restart": 0}}  # fmt: skip
        life.cell(name).claim(owner).event("failed", kind="GPU fault", message="ECC", step=0)
    slurm.queued = {pilot.job_id: ("RUNNING", "n2"), f"{pilot.nodes_id}_1": ("PENDING", "")}
    slurm.excluded = {pilot.nodes_id: "n1"}  # as was due when more was known of n1
    life.controller()
    assert slurm.excluded == {pilot.nodes_id: ""}


@pytest.mark.parametrize("what", ["end", "given up"])
def test_last_word_is_told_by_a_way_that_fails_for_a_while(what, life, slurm):
    way = f"echo >> {life.told}.tries; test $(wc -l < {life.told}.tries) -eq 3 && echo $0 >> {life.told}"
    life.settings = (f"cluster.notify_command=[sh, -c, '{way}']",)
    life.launch()
    life.done()
    if what == "given up":
        life.folder.failures_file.write_text(f"{MAX_FAILURES}\n")
        slurm.is_down = True
    assert life.controller() == (REPORTED if what == "given up" else 0)
    (said,) = life.said()
    assert said == "small: 4 of 4 cells are done" or (what == "given up" and "nobody tries again" in said)


def test_jobs_that_never_began_are_failed_shown_told_and_retried(life, slurm, capsys):
    life.launch(cluster_settings=("cluster.partition=main",))
    (launch_dir,) = (life.grid_dir / "launches").iterdir()
    for number in range(4):
        log = launch_dir / "jobs" / f"1_{number}_0_log.out"
        log.write_text("Loading module\nslurmstepd: error: execve(): /gone/python: No such file or directory\n")
    for cell in folders(life.grid_dir).values():
        life.ends(cell, None)
    life.controller()
    cell = life.cell("rankmatch-4-s0")
    (last,) = cell.attempts()[0].events()
    words = "slurmstepd: error: execve(): /gone/python: No such file or directory"
    assert (last["kind"], last["slurm_state"], last["log_tail"].splitlines()[1]) == ("never began", "FAILED", words)
    assert life.said() == [
        f"small: no job of the launch {launch_dir.name} came to begin a cell: job 1_0 on n1 ended before it began the "
        f"cell, Slurm says FAILED, exit code 1:0: {words}"
    ]
    assert len(slurm.scripts) == 1  # they are tried again in a minute, and elsewhere
    assert 30 < int(slurm.controllers[min(slurm.controllers)]["begin"].removeprefix("now+")) <= 62
    later(life, 61)
    assert len(slurm.scripts) == 2 and "#SBATCH --exclude=n1\n" in slurm.scripts[1]
    slurm.queued |= life.jobs("RUNNING")
    life.ends(cell, None)
    capsys.readouterr()
    control.status(life.grid_dir, life.console)
    assert "never began: job 1_0 on n1 ended before it began the cell" in life.console.export_text()
    control.logs(life.grid_dir, "rankmatch-4-s0")
    assert words in capsys.readouterr().out
    control.retry(life.grid_dir, [], ["never began"], [], life.console)
    assert len(slurm.scripts) == 3


def later(life: Life, seconds: float) -> None:
    """Run the next controller so many seconds from now."""
    now = time.time()
    with life.monkeypatch.context() as changed:
        changed.setattr(time, "time", lambda: now + seconds)
        assert life.controller() == 0


def test_node_that_starts_no_job_is_avoided_by_all_once_two_cells_never_began_there_and_others_elsewhere_did(
    life, slurm
):
    life.launch(cluster_settings=("cluster.requeue=false",))
    bad, worse, fine, _ = folders(life.grid_dir).values()
    for cell in (bad, worse):
        life.ends(cell, None)  # on n1
    for cell in list(folders(life.grid_dir).values())[2:]:
        job = submissions.newest_jobs(life.grid_dir)[cell.path.name]
        cell.claim({"commit": "abc", "campaign": life.campaign.name, "host": "n2.host", "pid": 1, "process_started": 1,
                    "slurm": {"job": job.number, "name": job.name, "restart": 0, "node": "n2"}})  # fmt: skip
    later(life, 0)
    assert len(slurm.scripts) == 1  # each waits before its next try
    later(life, 61)
    assert "#SBATCH --array=0-1%2\n" in slurm.scripts[1] and "#SBATCH --exclude=n1\n" in slurm.scripts[1]
    failed = ", ".join(sorted(f"{cell.path.name} (never began)" for cell in (bad, worse)))
    said = f"all cells avoid node n1 for a day, if there is another: {failed} failed there"
    (note,) = status_answer.answer(life.grid_dir, overview.of_grid(life.grid_dir)).notes
    assert note == f"{said}, 2 cells did not fail on other nodes"
    slurm.queued |= life.jobs("RUNNING")
    fine.attempts()[-1].event("stopped", kind="preempted", step=3)
    del slurm.queued[submissions.newest_jobs(life.grid_dir)[fine.path.name].number]
    later(life, 62)
    assert "array" not in flags(slurm.scripts[2]) and "#SBATCH --exclude=n1\n" in slurm.scripts[2]
    assert life.said() == []  # neither the site's outage nor a launch that begins nowhere


def test_node_of_a_job_that_never_began_is_known_without_accounting_too(life, slurm, monkeypatch):
    life.launch()
    cell = life.cell("rankmatch-4-s0")
    job = submissions.newest_jobs(life.grid_dir)[cell.path.name]
    slurm.accounted, output = None, slurm.output
    slurm.queued.pop(job.number)
    array, _, task = job.number.partition("_")
    said = f"JobId=77 ArrayJobId={array} ArrayTaskId={task} JobName={job.name} JobState=FAILED ExitCode=0:53 " \
           "NodeList=n[3-4] BatchHost=n3\n"  # fmt: skip
    other = f"JobId=78 ArrayJobId={array} ArrayTaskId=3 JobName={job.name} JobState=RUNNING ExitCode=0:0 NodeList=n5\n"

    def asked(words):
        if words[-3:] == ["show", "job", array]:
            return said + other
        return "n3\nn4\n" if "hostnames" in words else output(words)

    monkeypatch.setattr(commands, "output", asked)
    assert life.controller() == 0
    end = cell.attempts()[0].end()
    assert (end.kind, end.node, end.nodes) == ("never began", "n3", "n[3-4]")
    assert "Slurm says FAILED, exit code 0:53" in cell.attempts()[0].events()[-1]["message"]


def test_retry_takes_every_cell_that_is_neither_done_nor_active(life, slurm):
    life.launch()
    names = ("rankmatch-4-s0", "rankmatch-4-s1", "supervised-4-s0", "supervised-4-s1")
    by_hand, failed, done, _ = map(life.cell, names)
    life.ends(by_hand, None, "CANCELLED")  # scancel, before it began
    life.ends(failed, "code error")
    life.done(done)
    life.controller()
    assert len(slurm.scripts) == 1 and by_hand.attempts()[0].events()[-1]["kind"] == "cancelled"
    with pytest.raises(ValueError, match="of class bad data that is neither done nor active; there are 1 cancelled, 1"):
        control.retry(life.grid_dir, [], ["bad data"], [], life.console)
    control.retry(life.grid_dir, [], ["cancelled"], [], life.console)
    assert len(submissions.read(life.grid_dir)[1][1].cells) == 1
    slurm.queued["2"] = ("RUNNING", "n1")
    control.retry(life.grid_dir, [], [], [], life.console)
    assert submissions.read(life.grid_dir)[2][1].cells == [failed.path.name]
    slurm.queued["3"] = ("RUNNING", "n1")
    with pytest.raises(ValueError, match="there must be a cell that is neither done nor active; there are none"):
        control.retry(life.grid_dir, [], [], [], life.console)


def test_elements_of_an_array_that_is_cancelled_before_they_begin_are_cancelled(life, slurm):
    life.launch()
    slurm.queued.clear()
    slurm.accounted = {"1_[0-3%1]": ("CANCELLED by 0", "None assigned")}  # one row for all of them
    life.controller()
    assert {folder.attempts()[-1].end().kind for folder in folders(life.grid_dir).values()} == {"cancelled"}
    assert len(slurm.scripts) == 1 and life.campaign.over(life.grid_dir).exists()


@pytest.mark.parametrize(
    ("word", "state", "kind", "num_scripts"),
    [
        ("nothing", "CANCELLED by 1000", "cancelled", 1),
        ("nothing", "PREEMPTED", "preempted", 2),
        ("nothing", "NODE_FAIL", "node failure", 2),
        ("PENDING", "NODE_FAIL", "node failure", 2),
        ("RUNNING", "CANCELLED by 1000", "preempted", 2),  # Slurm itself said that it went on
    ],
)
def test_accounting_overrules_a_job_that_could_not_ask_why_it_was_told_to_stop(
    word, state, kind, num_scripts, life, slurm
):
    life.launch(cluster_settings=("cluster.requeue=false",))
    cell = life.cell("rankmatch-4-s0")
    life.ends(cell, "preempted", state)
    (attempt,) = cell.attempts()
    event = attempt.path / "events.jsonl"
    event.write_text(event.read_text().replace("it ended", f"SIGTERM came; Slurm says {word}"))
    life.controller()
    assert attempt.end().kind == kind and len(slurm.scripts) == num_scripts
    excluded = flags(slurm.scripts[1]).get("exclude") if num_scripts > 1 else None
    assert excluded == ("n1" if kind == "node failure" else None)


def test_retry_of_one_cell_is_no_retry_of_the_others(life, slurm):
    life.launch()
    for name in ("rankmatch-4-s0", "rankmatch-4-s1"):
        life.ends(life.cell(name), "code error")
    control.retry(life.grid_dir, ["rankmatch-4-s0"], [], [], life.console)
    launch_dir = max((life.grid_dir / "launches").iterdir())
    life.ends(life.cell("rankmatch-4-s0"), None, "NODE_FAIL")
    outcome = step.take_step(launch_dir, life.console)
    assert outcome.submitted.num_cells == 1 and len(slurm.scripts) == 3


def test_cell_that_is_retried_after_an_error_in_the_code_stays_so_until_it_was_tried(life, slurm):
    life.launch()
    cell = life.cell("rankmatch-4-s0")
    life.ends(cell, "code error")
    control.retry(life.grid_dir, ["rankmatch-4-s0"], [], [], life.console)
    launch_dir = max((life.grid_dir / "launches").iterdir())
    life.ends(cell, None, "COMPLETED")  # as a job ends whose launch was killed before it wrote what the job runs
    assert step.take_step(launch_dir, life.console).submitted.num_cells == 1
    life.ends(cell, "code error", campaign=launch_dir.name)
    assert step.take_step(launch_dir, life.console).is_over and len(slurm.scripts) == 3


def test_campaign_whose_cells_a_newer_launch_has_ends_without_a_word(life, slurm):
    life.launch()
    first = life.campaign
    for cell in folders(life.grid_dir).values():
        life.ends(cell, "code error")
    life.launch()
    assert life.controller() == 0
    assert first.over(life.grid_dir).exists() and not life.said()
    assert {job["name"] for job in slurm.controllers.values()} != {first.controllers_name}


def test_array_that_is_refused_behind_another_is_submitted_by_a_controller(life, slurm):
    slurm.max_array_size = 2
    (slurm.folder / "refuses_cells").write_text("2")
    with pytest.raises(SchedulerError, match="what was submitted before stays, and controllers submit the rest"):
        life.launch()
    assert len(slurm.scripts) == 1 and len(slurm.controllers) == 2
    (slurm.folder / "refuses_cells").unlink()
    slurm.queued = life.jobs("RUNNING")
    assert life.controller() == 0
    assert len(slurm.scripts) == 2
    assert sorted(cell for _, one in submissions.read(life.grid_dir) for cell in one.cells if one.job_id) == sorted(
        folder.path.name for folder in folders(life.grid_dir).values()
    )


def test_launch_that_is_refused_leaves_no_controllers(life, slurm):
    (slurm.folder / "refuses_cells").touch()
    with pytest.raises(SchedulerError, match="Invalid account"):
        life.launch()
    assert not slurm.controllers and life.campaign.over(life.grid_dir).exists()


def test_launch_whose_controllers_are_refused_is_over(life, slurm):
    (slurm.folder / "refuses").touch()
    with pytest.raises(SchedulerError, match="no controller was submitted: .*Invalid account"):
        life.launch()
    assert not slurm.scripts and life.campaign.over(life.grid_dir).exists()


def test_reconcile_goes_on_with_every_launch_before_it_says_what_is_wrong_with_one(life, slurm, monkeypatch):
    life.launch()
    first = life.campaign.controllers_name
    life.ends(life.cell("rankmatch-4-s0"), "code error")
    life.launch()
    slurm.controllers.clear()
    submit = slurm.submit_controller

    def refuses_first(script, **options):
        if first in script.read_text():
            raise SlurmError("sbatch failed: Invalid account")
        return submit(script, **options)

    monkeypatch.setattr(commands, "submit_script", refuses_first)
    with pytest.raises(SchedulerError, match="no controller was submitted: sbatch failed: Invalid account"):
        control.reconcile(life.grid_dir, life.console)
    assert len(slurm.controllers) == 2


def test_controllers_whose_first_is_held_are_held(life, slurm, monkeypatch):
    monkeypatch.setattr(control, "sync", lambda *_: None)
    life.launch()
    slurm.reasons = {"9001": "JobHeldUser", "9002": "Dependency"}
    words = f"controllers of launch {life.campaign.name} stand still, JobHeldUser: held: scontrol release 9001"
    life.console.export_text()
    for look in (control.status, control.reconcile):
        look(life.grid_dir, life.console)
        said = life.console.export_text()
        assert words in said and "resume launch" not in said
    slurm.reasons = {"9001": "BeginTime", "9002": "Dependency"}
    control.status(life.grid_dir, life.console)
    assert "held" not in life.console.export_text()
    slurm.held, slurm.reasons = {"9001", "9002"}, dict.fromkeys(("9001", "9002"), "Dependency")
    control.status(life.grid_dir, life.console)  # what is held may show what else it waits for
    assert "stand still, Dependency: held: scontrol release 9001,9002" in life.console.export_text()


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("JobHeldAdmin", "held by an administrator, who alone can release them; or end them: scancel 9001"),
        ("BadConstraints", "they never begin: scontrol update JobId=9001 Partition=NAME"),
        ("PartitionDown", "or go elsewhere: scontrol update JobId=9001 Partition=NAME"),
        ("AssocMaxJobsLimit", "they wait until other jobs of this user or account have ended: squeue --me"),
        ("QOSMaxWallDurationPerJobLimit", "they never begin: scontrol update JobId=9001"),
        ("InvalidAccount", "scontrol update JobId=9001 Account=NAME"),
        ("InvalidQOS", "scontrol update JobId=9001 QOS=NAME"),
        ("DependencyNeverSatisfied", "scancel 9001"),
        ("SomethingNew", "scontrol show job 9001 says more"),
    ],
)
def test_status_says_why_controllers_and_cells_stand_still_and_what_helps(reason, words, life, slurm):
    life.launch()
    life.console.export_text()
    slurm.reasons = {"9001": reason, "9002": "Dependency", "1_1": reason, "1_2": reason, "1_3": "Priority"}
    slurm.queued = life.jobs("PENDING")
    control.status(life.grid_dir, life.console)
    said = life.console.export_text()
    assert f"the controllers of launch {life.campaign.name} stand still, {reason}: " in said and words in said
    assert f"2 cells stand still, {reason}: " in said
    slurm.reasons = {"9001": "BeginTime", "9002": "Dependency", "1_1": "Resources"}
    control.status(life.grid_dir, life.console)
    assert "still" not in life.console.export_text()


def test_status_says_since_when_no_controller_was_at_work_where_all_wait_for_long(life, slurm, monkeypatch):
    life.launch()
    slurm.reasons = {"9001": "Priority", "9002": "Dependency"}
    now = time.time()
    for hours, is_said in ((5, False), (7, True)):
        life.console.export_text()
        with monkeypatch.context() as changed:
            changed.setattr(time, "time", lambda: now + 3600 * hours)  # noqa: B023
            control.status(life.grid_dir, life.console)
        said = life.console.export_text()
        assert (f"no controller of launch {life.campaign.name} was at work since 20" in said) is is_said
        assert ("job 9001 waits: Priority" in said) is is_said


def test_launch_whose_campaign_cannot_be_read_is_named_and_passed_over(life, slurm, monkeypatch):
    monkeypatch.setattr(control, "sync", lambda *_: None)
    monkeypatch.setattr(damage, "_told", set())
    life.launch()
    first = life.campaign.folder(life.grid_dir).path / "campaign.json"
    life.ends(life.cell("rankmatch-4-s0"), None)
    first.write_text("")
    with pytest.warns(damage.DamageWarning, match=re.escape(f"{first} is damaged")):
        control.reconcile(life.grid_dir, life.console)
    life.launch()
    assert len(slurm.scripts) == 2


WRONG_KINDS = ["", "{", "[]", '{"name": 3}', '{"cluster": {"partition": ["main"]}}', '{"retried": "abc"}',
               '{"max_concurrent": 0}', '{"dirty": "no"}']  # fmt: skip


def damaged(path: Path, text: str) -> None:
    """Give a file this text, or where that is a whole mapping, these values beside the others."""
    change = json.loads(text) if text.startswith('{"') else None
    path.write_text(text if change is None else json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize("text", WRONG_KINDS)
def test_campaign_file_that_is_damaged_is_named_and_its_followers_say_the_same(text, life, slurm, monkeypatch):
    monkeypatch.setattr(damage, "_told", set())
    life.launch()
    life.ends(life.cell("rankmatch-4-s0"), "lost")
    first = life.campaign
    life.controller()
    slurm.queued |= life.jobs("RUNNING")
    life.ends(life.cell("rankmatch-4-s0"), "lost")
    path = first.folder(life.grid_dir).path / "campaign.json"
    damaged(path, text)
    with pytest.warns(damage.DamageWarning, match=re.escape(f"{path} is damaged")):
        assert Controller(life.grid_dir, first.name).run() == 0
    assert len(slurm.scripts) == 3


@pytest.mark.parametrize("text", WRONG_KINDS)
def test_retry_passes_over_a_damaged_campaign_file_to_the_next_newest_and_names_it(text, life, slurm, monkeypatch):
    monkeypatch.setattr(damage, "_told", set())
    life.launch(cluster_settings=("cluster.partition=big",))
    failed = life.cell("rankmatch-4-s0")
    life.ends(failed, "code error")
    control.retry(life.grid_dir, [failed.path.name], [], [], life.console)
    life.ends(failed, "code error")
    path = max((life.grid_dir / "launches").iterdir()) / "campaign.json"
    damaged(path, text)
    with pytest.warns(damage.DamageWarning, match=re.escape(f"{path} is damaged")):
        control.retry(life.grid_dir, [failed.path.name], [], [], life.console)
    assert len(slurm.scripts) == 3 and "--partition=big" in slurm.scripts[-1]


def test_launch_from_a_host_whose_clock_is_behind_comes_after_those_before_it(life, slurm, monkeypatch):
    life.launch()
    first = life.campaign
    ahead = life.grid_dir / "launches" / "20991231T235959.999999-7"
    first.folder(life.grid_dir).path.rename(ahead)
    replace(first, name=ahead.name).write(ahead)
    failed = life.cell("rankmatch-4-s0")
    life.ends(failed, "code error", campaign=ahead.name)
    control.retry(life.grid_dir, [failed.path.name], [], [], life.console)
    newest = max((life.grid_dir / "launches").iterdir())
    assert newest.name.startswith("21000101T000000.000000-") and newest != ahead
    assert submissions.newest_jobs(life.grid_dir)[failed.path.name].number == "2"
    loaded = launched.load_folder(life.grid_dir)
    assert policy.passed_on(loaded, life.grid_dir, ahead.name) == {failed.path.name[:12]: newest.name}
    assert policy.passed_on(loaded, life.grid_dir, newest.name) == {}


def as_a_newer_version(path: Path) -> None:
    """Give each row of a file a field that this version does not know, a site one too."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else None
    for row in [json.loads(path.read_text())] if rows is None else rows:
        row["priority"] = {"of": ["a", "newer", "version"]}
        if "cluster" in row:
            row["cluster"]["priority"] = "high"
        path.write_text(json.dumps(row) + "\n") if rows is None else None
    if rows is not None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_files_of_a_newer_version_are_read_by_what_this_one_knows(life, slurm, monkeypatch):
    monkeypatch.setattr(damage, "_told", set())
    monkeypatch.setattr(control, "sync", lambda *_: None)
    life.launch(cluster_settings=("cluster.partition=big",))
    assert life.controller() == 0
    lost, failed = life.cell("rankmatch-4-s0"), life.cell("rankmatch-4-s1")
    life.ends(lost, "lost")
    life.ends(failed, "code error")
    for path in (path for path in life.grid_dir.rglob("*") if path.suffix in (".json", ".jsonl")):
        as_a_newer_version(path)
    named = "campaign.json: cluster.priority are of a newer version and do nothing here"
    with pytest.warns(damage.DamageWarning, match=named) as caught:
        assert life.controller() == 0
        slurm.queued |= life.jobs("RUNNING")
        control.retry(life.grid_dir, [failed.path.name], [], [], life.console)
        slurm.queued |= life.jobs("RUNNING")
        control.status(life.grid_dir, life.console)
        control.reconcile(life.grid_dir, life.console)
        control.cancel(life.grid_dir, [], life.console)
    assert [str(one.message) for one in caught if named not in str(one.message)] == []
    assert len(slurm.scripts) == 3 and all("--partition=big" in script for script in slurm.scripts)
    assert not open_campaigns(life.grid_dir)


def test_retry_of_a_grid_none_of_whose_campaign_files_can_be_read_is_refused(life, monkeypatch):
    monkeypatch.setattr(damage, "_told", set())
    life.launch()
    (life.campaign.folder(life.grid_dir).path / "campaign.json").write_text("")
    with (
        pytest.warns(damage.DamageWarning, match=r"campaign.json is damaged"),
        pytest.raises(ValueError, match="no campaign.json in .* can be read, so nobody knows the settings of small"),
    ):
        control.retry(life.grid_dir, ["rankmatch-4-s0"], [], [], life.console)


@pytest.mark.parametrize("text", ["", "[]", '{"since": "yesterday"}', '{"job": 7}', '{"num_quiet": -1}'])
def test_damaged_note_of_controllers_is_named_and_the_next_one_writes_it_anew(text, life, slurm, monkeypatch):
    monkeypatch.setattr(damage, "_told", set())
    life.launch()
    life.controller()
    damaged(life.folder.path / "state.json", text)
    with pytest.warns(damage.DamageWarning, match=re.escape(f"{life.folder.path / 'state.json'} is damaged")):
        control.status(life.grid_dir, life.console)
        assert life.controller() == 0
    assert State.read(life.folder).job == "9002"


def test_site_that_is_full_of_this_grids_jobs_is_no_fault(life, slurm):
    slurm.max_submit_jobs = {"user": "us|us||6|\n"}
    life.launch()
    (one,) = (one for _, one in submissions.read(life.grid_dir))
    assert len(one.cells) == 3  # with two controllers, and room for one
    assert life.controller() == 0 and len(slurm.scripts) == 1 and not life.said()
    life.done(RunFolder(life.grid_dir / "cells" / one.cells[0]))
    assert life.controller() == 0 and len(slurm.scripts) == 2


def test_limit_of_cells_at_a_time_holds_for_what_is_tried_again(life, slurm):
    life.launch(max_concurrent=2)
    slurm.queued |= {"1_2": ("PENDING", ""), "1_3": ("PENDING", "")}
    life.ends(life.cell("rankmatch-4-s0"), "lost")
    slurm.queued["1_2"] = ("RUNNING", "n1")
    assert life.controller() == 0
    assert "#SBATCH --dependency='afterany:1_1?afterany:1_2'\n" in slurm.scripts[1] and slurm.throttles == {"1": 1}
    del slurm.queued["1_1"]
    slurm.queued |= {"2": ("RUNNING", "n1")}
    life.done(life.cell("supervised-4-s0"), life.cell("rankmatch-4-s0"))
    assert life.controller() == 0 and slurm.throttles == {"1": 2}  # nothing else runs any more


def test_launch_that_is_killed_behind_its_controllers_is_gone_on_with(life, slurm, monkeypatch):
    with monkeypatch.context() as changed, suppress(KeyboardInterrupt):
        changed.setattr("orchestration.launching.campaign.submit", lambda *_: interrupted())
        life.launch()
    assert not slurm.scripts and len(slurm.controllers) == 2
    assert life.controller() == 0 and "#SBATCH --array=0-3%4" in slurm.scripts[0]


def interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize("looks", ["launch", "cancel"])
def test_jobs_that_are_found_by_their_name_get_their_tasks_whoever_finds_them(looks, life, slurm, monkeypatch):
    ask, silent = slurm._squeue, [SlurmError("no answer") if looks == "launch" else KeyboardInterrupt()]

    def squeue(command):
        if silent and "--format=%F" in command:
            raise silent.pop()
        return ask(command)

    monkeypatch.setattr(slurm, "_squeue", squeue)
    with suppress(KeyboardInterrupt, SchedulerError):
        life.launch()
    slurm.queued |= {f"1_{place}": ("PENDING", "") for place in range(4)}
    if looks == "cancel":
        control.cancel(life.grid_dir, ["rankmatch-4-s0"], life.console)
    (launch_dir,) = (life.grid_dir / "launches").iterdir()
    assert sorted(path.name for path in (launch_dir / "jobs").glob("*.pkl")) == [
        f"1_{place}_submitted.pkl" for place in range(4)
    ]


def test_budget_holds_for_what_is_tried_again(life, slurm):
    life.launch(overrides=("trainer.device=cuda",), budget_gpu_hours=1.0)
    cell = life.cell("rankmatch-4-s0")
    life.ends(cell, "lost")
    owner = cell.attempts()[0].path / "owner.json"
    begun = json.loads(owner.read_text()) | {"started": "2026-01-01T00:00:00+00:00"}
    owner.write_text(json.dumps(begun))
    assert life.controller() == 0
    assert len(slurm.scripts) == 1
    (line,) = life.said()
    assert re.fullmatch(r"small: 1 cell is not tried again: --budget-gpu-hours=1 would become about \d+\.\d", line)


def test_one_cancel_ends_controllers_too_and_writes_the_report(life, slurm):
    life.launch()
    control.cancel(life.grid_dir, [], life.console)
    assert not slurm.controllers and (life.grid_dir / "report.md").exists()
    assert life.campaign.over(life.grid_dir).exists()


def test_controller_that_waited_while_its_launch_was_closed_submits_nothing(life, slurm):
    life.launch()
    life.ends(life.cell("rankmatch-4-s0"), "preempted")
    step.close(life.campaign, life.grid_dir, why="Slurm has no job of it")  # its batch script looked before
    assert life.controller() == 0
    assert len(slurm.scripts) == 1 and not slurm.controllers


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if "lock" not in path.name)


@pytest.mark.parametrize("cells", [[], ["rankmatch-4-s0"]])
def test_cancel_does_nothing_while_slurm_does_not_answer_and_says_so(cells, life, slurm):
    life.launch()
    before, slurm.is_down = files_in(life.grid_dir), True
    with pytest.raises(SchedulerError, match="nothing was cancelled, and jobs continue: squeue did not .* again"):
        control.cancel(life.grid_dir, cells, life.console)
    assert files_in(life.grid_dir) == before and slurm.controllers
    slurm.is_down = False
    control.cancel(life.grid_dir, [], life.console)
    assert "4 cells were told to end" in life.console.export_text() and not slurm.controllers


def test_cancel_that_slurm_leaves_half_done_says_what_is_left_and_can_be_given_again(life, slurm, monkeypatch):
    life.launch()
    output = slurm.output
    with (
        monkeypatch.context() as changed,
        pytest.raises(SchedulerError, match="jobs of theirs may still run: give the"),
    ):
        changed.setattr(commands, "output", lambda words: fails(words) if "1_0" in words else output(words))
        control.cancel(life.grid_dir, [], life.console)
    assert [one.name for one in open_campaigns(life.grid_dir).values()] == [life.campaign.name]  # its jobs run
    control.cancel(life.grid_dir, [], life.console)
    assert life.campaign.over(life.grid_dir).exists() and {"1_0", "1_3"} < {*slurm.cancelled}


def test_cell_that_is_cancelled_while_a_controller_submits_it_is_known_as_such_to_its_job(life, slurm, monkeypatch):
    life.launch()
    cell, campaign = life.cell("rankmatch-4-s0"), life.campaign
    life.ends(cell, "lost")
    submit_cells = step.submit

    def submits(*arguments):
        control.cancel(life.grid_dir, ["rankmatch-4-s0"], life.console)  # sees the launches that were there
        (life.grid_dir / "launches" / arguments[-1].name / "cancelled.json").unlink()
        return submit_cells(*arguments)

    monkeypatch.setattr(step, "submit", submits)
    monkeypatch.setattr(control, "CANCEL_LOOK_S", 0.1)
    life.controller()
    (path,) = life.grid_dir.glob("launches/*/jobs/2_submitted.pkl")
    task = pickle.loads(path.read_bytes()).function
    monkeypatch.setenv("SLURM_JOB_ID", "2")
    monkeypatch.setattr("signal.signal", lambda *_: None)
    trained = []
    monkeypatch.setattr(job_of_cell._Head, "_train", lambda *_: trained.append(1) or 0)
    head = job_of_cell._Head(task, JobFolder(life.grid_dir))
    assert head.run() == 0 and not trained
    assert cancelled_in(life.grid_dir, campaign.name) == {cell.path.name}
    control.retry(life.grid_dir, ["rankmatch-4-s0"], [], [], life.console)
    again = replace(task, owner={**task.owner, "campaign": max((life.grid_dir / "launches").iterdir()).name})
    assert job_of_cell._Head(again, JobFolder(life.grid_dir)).run() == 0 and trained  # somebody wants it again


def test_cell_that_is_cancelled_while_its_launch_waits_for_sbatch_is_ended_and_the_others_get_their_tasks(
    life, slurm, monkeypatch
):
    life.launch()
    ((launch_dir, one),) = submissions.read(life.grid_dir)
    one.job_id = ""  # as before sbatch has answered
    one.write(launch_dir)
    slurm.names[one.name] = "1\n"
    monkeypatch.setattr(control, "CANCEL_LOOK_S", 0.1)
    with only_launch_of(life.grid_dir):
        control.cancel(life.grid_dir, ["rankmatch-4-s0"], life.console)
    assert slurm.cancelled == ["1_0"]
    ((_, left),) = submissions.read(life.grid_dir)
    assert left.job_id == ""  # else nobody would look for it, and give it its tasks


def test_cell_whose_submission_is_not_answered_is_not_dropped(life, slurm):
    life.launch()
    ((launch_dir, one),) = submissions.read(life.grid_dir)
    one.job_id = ""
    one.write(launch_dir)
    slurm.names[one.name] = "1\n"
    with pytest.raises(ValueError, match="a cell that is dropped must not be at work"):
        control.drop(life.grid_dir, ["rankmatch-4-s0"], life.console)


def test_campaign_does_not_end_without_a_cell_that_cannot_be_read_for_now(life, slurm, monkeypatch):
    life.launch()
    life.done()
    path, read = str(life.cell("rankmatch-4-s0").path / "result.json"), files.read_bytes
    with monkeypatch.context() as changed:
        changed.setattr(files, "read_bytes", lambda name: stale(name) if name == path else read(name))
        for _ in range(2):
            assert life.controller() == 0
        assert not life.campaign.over(life.grid_dir).exists() and slurm.controllers
        (told,) = life.said()
        assert f"{path} cannot be read for now" in told
        control.status(life.grid_dir, life.console)
        said = life.console.export_text()
        assert "4 cells: 3 done, 1 unknown" in said and f"{path} cannot be read for now: Stale file handle" in said
    assert life.controller() == 0
    assert life.said() == [told, "small: 4 of 4 cells are done"]


def stale(name: str) -> bytes:
    raise OSError(errno.ESTALE, "Stale file handle", name)


def test_controllers_that_sbatch_refuses_for_days_leave_no_folders(life, slurm):
    life.launch()
    life.ends(life.cell("rankmatch-4-s0"), "lost")
    (slurm.folder / "refuses_cells").touch()
    for _ in range(3):
        assert life.controller() == REPORTED
    assert [one.name for one in (life.grid_dir / "launches").iterdir()] == [life.campaign.name]
    (slurm.folder / "refuses_cells").unlink()
    (slurm.folder / "silent").touch()  # it may have taken them: somebody has to look for them by their name
    assert life.controller() == REPORTED
    assert len([*(life.grid_dir / "launches").iterdir()]) > 1
    (slurm.folder / "silent").unlink()
    assert life.controller() == 0 and len(slurm.scripts) == 2


def test_old_logs_of_controllers_are_removed(life, slurm):
    life.launch()
    for number in range(60):
        (life.folder.path / f"{number}.log").write_text("")
    life.controller()
    assert len(list(life.folder.logs())) == controller.KEPT_LOGS


KINDS = ["lost", "preempted", "code error", None, "done", "done"]


@pytest.mark.parametrize("seed", range(10))
def test_as_long_as_cells_are_open_a_controller_is_due_or_somebody_was_told(seed, life, slurm, monkeypatch):
    """Whatever fails at whatever moment, and whatever becomes of the jobs, ends with a report or with a word."""
    chance, began = random.Random(seed), time.time()
    life.launch()
    output, submit = slurm.output, slurm.submit_controller

    def unsteady(words):
        if chance.random() < 0.1:
            is_killed = words[0] != "sbatch" and chance.random() < 0.3
            raise KeyboardInterrupt if is_killed else SlurmError(f"{words[0]} did not answer")
        return submit(words[1], **words[2]) if words[0] == "sbatch" else output(words)

    for turn in range(80):
        monkeypatch.setattr("time.time", lambda: began + 600 * turn)  # noqa: B023
        for cell in folders(life.grid_dir).values():
            job = submissions.newest_jobs(life.grid_dir)[cell.path.name].number
            if job in slurm.queued and chance.random() < 0.3:
                kind = chance.choice(KINDS)
                life.done(cell) if kind == "done" else life.ends(cell, kind)
        with monkeypatch.context() as changed:
            changed.setattr(commands, "output", unsteady)
            changed.setattr(commands, "submit_script", lambda script, **options: unsteady(["sbatch", script, options]))
            with suppress(KeyboardInterrupt, SlurmError):  # killed
                life.controller(dies=turn % 2 and chance.random() < 0.2)
        step.settle(life.grid_dir)
        slurm.queued |= {number: row for number, row in life.jobs("RUNNING").items() if number not in slurm.accounted
                         and not is_done(life, number)}  # fmt: skip
        if life.campaign.over(life.grid_dir).exists():
            break
        assert slurm.controllers or life.said()
    assert life.campaign.over(life.grid_dir).exists() and (life.grid_dir / "report.md").exists()
    given_up = {
        folder.attempts()[-1].end().kind for folder in folders(life.grid_dir).values() if folder.result() is None
    }
    assert given_up <= {FailureClass.CODE, FailureClass.LOST, FailureClass.NEVER_BEGAN, FailureClass.PREEMPTED}


def is_done(life: Life, number: str) -> bool:
    (cell,) = (name for name, job in submissions.newest_jobs(life.grid_dir).items() if job.number == number)
    return RunFolder(life.grid_dir / "cells" / cell).result() is not None


def with_a_job(life: Life) -> list:
    known = submissions.newest_jobs(life.grid_dir)
    return [folder for folder in folders(life.grid_dir).values() if folder.path.name in known]


@pytest.mark.parametrize("again", ["launch", "retry"])
def test_refused_launch_leaves_the_cells_to_the_campaign_that_had_them(again, life, slurm):
    life.launch(cluster_settings=("cluster.max_submit=2",))
    (slurm.folder / "refuses_cells").touch()
    with pytest.raises(SchedulerError, match="Invalid account"):
        if again == "launch":
            life.launch(cluster_settings=("cluster.max_submit=0",))
        else:
            control.retry(life.grid_dir, [], [], ["cluster.max_submit=0"], life.console)
    (slurm.folder / "refuses_cells").unlink()
    assert [one.name for one in open_campaigns(life.grid_dir).values()] == [life.campaign.name]
    assert len(submissions.read(life.grid_dir)) == 1  # nobody has to look for a job that sbatch refused
    life.done(*with_a_job(life))
    assert life.controller() == 0 and len(slurm.scripts) == 2 and slurm.controllers
    assert sum(len(one.cells) for _, one in submissions.read(life.grid_dir)) == 4


def test_submissions_that_brought_no_job_are_no_tries_of_a_cell_and_take_it_from_nobody(life, slurm):
    life.launch(cluster_settings=("cluster.max_submit=2",))
    first, cells = life.campaign.name, [folder.path.name for folder in folders(life.grid_dir).values()]
    later = life.grid_dir / "launches" / f"{first}-later"
    later.mkdir()
    replace(life.campaign, name=later.name).write(later)
    for place in range(4):  # by an earlier version, or where sbatch did not answer
        submissions.Submission(f"rankmatch-refused-{place}", cells).write(
            later if place == 3 else life.campaign.folder(life.grid_dir).path
        )
    life.done(*with_a_job(life))
    assert life.controller() == 0 and len(slurm.scripts) == 2
    assert "never begun" not in life.console.export_text()


def test_sbatch_that_refuses_again_and_again_gives_no_cell_up(life, slurm):
    slurm.max_array_size = 2
    (slurm.folder / "refuses_cells").write_text("2")
    with pytest.raises(SchedulerError, match="what was submitted before stays"):
        life.launch()
    slurm.queued |= life.jobs("RUNNING")
    for _ in range(4):
        assert life.controller() == REPORTED
    (slurm.folder / "refuses_cells").unlink()
    life.done(*with_a_job(life))
    assert life.controller() == 0 and len(slurm.scripts) == 2 and slurm.controllers


def test_report_is_written_anew_by_the_older_campaign_where_a_retry_has_ended_first(life, slurm):
    life.launch()
    failed, first = life.cell("rankmatch-4-s0"), life.campaign
    life.ends(failed, "code error")
    control.retry(life.grid_dir, [failed.path.name], [], [], life.console)
    second = Campaign.read(max((life.grid_dir / "launches").iterdir()))
    life.ends(failed, "code error", campaign=second.name)
    assert step.take_step(second.folder(life.grid_dir).path, life.console).is_over
    assert life.said()[-1] == "small: 0 of 4 cells are done, 1 are given up, 3 are left to other launches"
    early = (life.grid_dir / "report.md").read_text()
    life.done(*[folder for folder in folders(life.grid_dir).values() if folder.path != failed.path])
    assert step.take_step(first.folder(life.grid_dir).path, life.console).is_over
    assert (life.grid_dir / "report.md").read_text() != early
    assert life.said()[-1] == "small: 3 of 4 cells are done, 1 are given up"


def test_older_campaign_leaves_the_report_to_a_newer_one_that_is_open(life, slurm):
    life.launch()
    failed, first = life.cell("rankmatch-4-s0"), life.campaign
    life.ends(failed, "code error")
    control.retry(life.grid_dir, [failed.path.name], [], [], life.console)
    slurm.queued |= life.jobs("RUNNING")
    life.done(*[folder for folder in folders(life.grid_dir).values() if folder.path != failed.path])
    assert step.take_step(first.folder(life.grid_dir).path, life.console).is_over
    assert json.loads(first.over(life.grid_dir).read_text())["why"] == "a newer launch has its cells"
    assert not (life.grid_dir / "report.md").exists()


def test_what_would_end_too_late_is_told_once_and_the_campaign_ends_without_it(life, slurm, monkeypatch):
    monkeypatch.setattr(costs, "seconds_per_step", lambda *_: 600.0)  # a cell takes 20 minutes
    life.launch(until=f"{datetime.now() + timedelta(minutes=50):%Y-%m-%d %H:%M}", max_concurrent=1)
    [submitted] = [one.cells for _, one in submissions.read(life.grid_dir)]
    assert sorted(name.partition("-")[2] for name in submitted) == ["rankmatch-4-s0", "supervised-4-s0"]
    assert life.controller() == 0 and life.controller() == 0
    [said] = life.said()
    assert "small: 2 cells are left out, as they would not end by " in said and "`rankmatch retry --grid small" in said
    life.done(*[life.cell(name) for name in submitted])
    monkeypatch.setattr(costs, "seconds_per_step", lambda *_: 6000.0)  # what is left takes longer than thought
    assert life.controller() == 0
    assert len(slurm.scripts) == 1 and life.said()[1:] == ["small: 2 of 4 cells are done, 2 are left out"]
    assert (life.grid_dir / "report.md").exists()


def test_grid_is_open_while_a_controller_tries_its_cells_again(life, slurm):
    life.launch()
    cells = [*folders(life.grid_dir).values()]
    life.done(*cells[1:])
    life.ends(cells[0], "preempted")

    def is_open() -> bool:
        return status_answer.answer(life.grid_dir, overview.of_grid(life.grid_dir)).is_open

    assert is_open() and "4 cells: 3 done, 1 interrupted" in overview.of_grid(life.grid_dir).lines
    slurm.is_down = True
    assert is_open()
    slurm.is_down, waiting = False, {**slurm.controllers}
    slurm.held = {*waiting}
    assert not is_open()  # the user has to release them
    slurm.held.clear()
    slurm.controllers.clear()
    assert not is_open()  # the user has to resume
    slurm.controllers |= waiting
    assert life.controller() == 0 and is_open()
    life.done(cells[0])
    assert not is_open()


def test_status_is_watched_while_a_controller_tries_cells_again(life, monkeypatch):
    life.launch()
    for cell in folders(life.grid_dir).values():
        life.ends(cell, "preempted")
    looks = []

    def wait(_: float) -> None:
        looks.append(overview.of_grid(life.grid_dir).rows)
        life.done()

    monkeypatch.setattr(control.clock, "sleep", wait)
    control.status(life.grid_dir, life.console, watch=True)
    assert [{row.standing for row in rows} for rows in looks] == [{"interrupted"}]


def test_retry_of_one_cell_that_was_left_out_leaves_the_others_out(life, monkeypatch):
    monkeypatch.setattr(costs, "seconds_per_step", lambda *_: 600.0)  # a cell takes 20 minutes
    life.launch(until=f"{datetime.now() + timedelta(minutes=50):%Y-%m-%d %H:%M}", max_concurrent=1)
    life.done(*[life.cell(name) for _, one in submissions.read(life.grid_dir) for name in one.cells])
    monkeypatch.setattr(costs, "seconds_per_step", lambda *_: 6000.0)
    assert life.controller() == 0
    first, second = [cell for cell in index.read(life.grid_dir) if cell.left_out]
    control.retry(life.grid_dir, [first.signature], [], [], life.console)
    left_out = {cell.signature: cell.left_out for cell in index.read(life.grid_dir) if cell.left_out}
    assert left_out == {second.signature: second.left_out}
    assert "1 cell was left out by --until" in " ".join(overview.of_grid(life.grid_dir).notes)


def test_retry_keeps_the_budget_of_the_launch(life):
    life.launch(budget_gpu_hours=100.0)
    failed = life.cell("rankmatch-4-s0")
    life.ends(failed, "code error")
    control.retry(life.grid_dir, [failed.path.name], [], [], life.console)
    assert [Campaign.read(one).budget_gpu_hours for one in sorted((life.grid_dir / "launches").iterdir())] == [
        100.0
    ] * 2


def test_cell_that_another_grid_trains_whenever_its_jobs_come_is_not_given_up(life, slurm):
    life.launch()
    cell = life.cell("rankmatch-4-s0")
    for _ in range(4):
        life.ends(cell, None, state="COMPLETED")  # as a job ends that finds another grid's training
        other = {"commit": "abc", "grid": "another", "campaign": "l", "host": "n9", "pid": 1, "process_started": 1}
        cell.claim({**other, "started": clock.utc().isoformat()}).event("stopped", kind="preempted", step=0)
        num_scripts = len(slurm.scripts)
        assert life.controller() == 0 and len(slurm.scripts) == num_scripts + 1


def test_cell_whose_jobs_end_well_and_never_begin_it_is_given_up_also_where_another_grid_had_it_before(life, slurm):
    life.launch()
    cell = life.cell("rankmatch-4-s0")
    other = {"commit": "abc", "grid": "another", "campaign": "l", "host": "n9", "pid": 1, "process_started": 1}
    cell.claim({**other, "started": "2026-01-01T00:00:00+00:00"}).event("stopped", kind="preempted", step=0)
    num_scripts = len(slurm.scripts)
    for _ in range(4):
        life.ends(cell, None, state="COMPLETED")
        assert life.controller() == 0
    assert len(slurm.scripts) == num_scripts + 2

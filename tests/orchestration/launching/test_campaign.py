"""Launches and controllers' steps against a Slurm that is not there; tests/slurm has the real one."""

import hashlib
import json
import os
import pickle
import shlex
import shutil
import socket
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient
from orchestration_fakes import FakeSlurm, flags
from rich.console import Console
from typed_words import Options
from typed_words import launch as launch_on_slurm
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.grids import grid
from orchestration.launching import control, step, steps
from orchestration.launching.hand_in import queued_jobs
from orchestration.launching.launch_folder import only_launch_of
from orchestration.launching.step import take_step, tidy
from orchestration.machine import files, snapshot
from orchestration.machine.processes import process_start
from orchestration.mirror import grid_mirror
from orchestration.mirror.grid_mirror import only_writer
from orchestration.on_slurm import policy, submissions
from orchestration.on_slurm.campaign_file import Campaign
from orchestration.planning import costs
from orchestration.running.run_cell import run_cell, train_inline
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.jobs import SchedulerError
from orchestration.runs.outages import outages
from orchestration.runs.run_folder import RunFolder, folders

SMALL = Path(__file__).parents[1] / "small.yaml"
CPU = ("trainer.device=cpu",)


@pytest.fixture
def console() -> Console:
    return Console(width=200, record=True, quiet=False)


@pytest.fixture
def options(tmp_path: Path, slurm, monkeypatch) -> Options:
    monkeypatch.setattr(snapshot, "take", lambda grid_dir, **_: snapshot.Snapshot(grid_dir / "code", "abc", ""))
    return Options(grid=str(SMALL), overrides=CPU, runs=tmp_path / "runs", cluster="slurm")


def newest_launch(options: Options) -> Path:
    return max((options.runs / "small" / "launches").iterdir())


def cell_of(options: Options, name: str) -> RunFolder:
    (found,) = (folder for folder in folders(options.runs / "small").values() if name in folder.path.name)
    return found


def attempt_of(options: Options, name: str, job: str, node: str = "n1"):
    owner = {"commit": "abc", "campaign": json.loads((newest_launch(options) / "campaign.json").read_text())["name"],
             "slurm": {"job": job}, "host": node, "pid": 1, "process_started": 1}  # fmt: skip
    return cell_of(options, name).claim(owner)


def all_preempted(options: Options) -> None:
    for number, name in enumerate(cell_names(options)):
        attempt_of(options, name, f"1_{number}").event("stopped", kind="preempted", step=1)


def test_launch_submits_and_returns_with_the_commands_to_follow_it(options, slurm, console):
    assert launch_on_slurm(options, console) == 0
    said = console.export_text()
    assert "submitted: 4 cells as job 1\njobs rankmatch-controller-" in said
    assert f"rankmatch status --grid small --runs {options.runs}" in said
    assert len(slurm.scripts) == 1
    commands = [shlex.split(line) for line in said.splitlines() if line.startswith("  rankmatch ")]
    assert [words[1] for words in commands] == ["status", "logs", "cancel", "table"]
    assert [CliRunner().invoke(app, words[1:]).exit_code for words in commands] == [0, 0, 0, 0]


def test_dead_store_stops_no_submission_and_its_password_reaches_jobs_by_the_environment_only(
    options, slurm, console, monkeypatch
):
    uri = "http://me:s3cret-word@127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert launch_on_slurm(options, console) == 0
    said = console.export_text()
    assert "MLflow is not up to date" in said and "submitted: 4 cells" in said
    assert f"MLFLOW_TRACKING_URI={uri}" in (slurm.folder / "env.1").read_text()
    written = [path for path in options.runs.rglob("*") if path.is_file()]
    assert [path for path in written if b"s3cret-word" in path.read_bytes()] == []
    assert "s3cret-word" not in said + "".join(slurm.scripts)


def test_dry_run_prints_the_scripts_and_makes_nothing(options, slurm, console):
    assert launch_on_slurm(Options(**as_dict(options) | {"dry_run": True}), console) == 0
    assert "#SBATCH --array=0-3%4" in console.export_text()
    assert not options.runs.exists() and not slurm.scripts


def test_dry_run_where_slurm_does_not_answer_says_so_and_prints_the_scripts(options, slurm, console):
    slurm.is_down = True
    assert launch_on_slurm(Options(**as_dict(options) | {"dry_run": True}), console) == 0
    said = console.export_text()
    assert "scontrol did not answer within 30 s; the scripts below know no limits of the site" in said
    assert "#SBATCH --array=0-3%4" in said


def as_dict(options: Options) -> dict:
    return {name: getattr(options, name) for name in Options.__slots__}


def test_cells_that_have_a_job_are_not_submitted_twice(options, slurm, console):
    launch_on_slurm(options, console)
    slurm.queued = {f"1_{number}": ("PENDING", "") for number in range(4)}
    launch_on_slurm(options, console)
    assert "job 1_0 is pending" in console.export_text(clear=False) and len(slurm.scripts) == 1
    assert "nothing to submit" in console.export_text()


def test_launch_without_an_answer_of_squeue_submits_nothing(options, slurm, console):
    slurm.is_down = True
    with pytest.raises(SchedulerError, match="nothing was submitted, as jobs may be there: squeue did not answer"):
        launch_on_slurm(options, console)
    assert not slurm.scripts


def test_budget_is_kept_before_anything_is_submitted(options, slurm, console):
    changed = Options(**as_dict(options) | {"budget_gpu_hours": 0.0, "overrides": ("trainer.device=cuda",)})
    with pytest.raises(ValueError, match="--budget-gpu-hours must be at least .*, the estimate of what is left; got 0"):
        launch_on_slurm(changed, console)
    assert not slurm.scripts


@pytest.mark.parametrize(
    ("accounted", "kind", "again"),
    [
        ({"1_0": ("NODE_FAIL", "n7")}, "node failure", True),
        ({"1_0": ("OUT_OF_MEMORY", "n7")}, "out of host memory", False),
        ({"1_0": ("TIMEOUT", "n7")}, "time limit", True),
        ({"1_0": ("CANCELLED", "n7")}, "cancelled", False),
        ({}, "lost", True),
        (None, "lost", True),
    ],
)
def test_step_writes_down_what_a_silent_job_died_of_and_follows_the_policy(
    accounted, kind, again, options, slurm, console
):
    launch_on_slurm(options, console)
    first = json.loads(next((newest_launch(options) / "submissions").iterdir()).read_text())["cells"][0]
    attempt = attempt_of(options, first, "1_0", node="n7")
    attempt.event("started", step=0)
    attempt.path.joinpath("log").write_text("last words\n")
    slurm.queued = {f"1_{number}": ("RUNNING", "n1") for number in (1, 2, 3)}
    slurm.accounted = accounted
    take_step(newest_launch(options), console)
    last = attempt.events()[-1]
    assert last["kind"] == kind
    assert "n7" in last["message"]
    resubmitted = [script for script in slurm.scripts[1:] if "srun" in script]
    assert bool(resubmitted) is again
    excludes = kind in ("node failure", "lost")
    assert ("#SBATCH --exclude=n7" in "".join(resubmitted)) is excludes
    assert last["log_tail"] == "last words"
    if accounted:
        assert (last["slurm_state"], last["exit_code"]) == (accounted["1_0"][0], "1:0")


def cell_names(options: Options) -> list[str]:
    return json.loads(next((newest_launch(options) / "submissions").iterdir()).read_text())["cells"]


def excluded(slurm, first: int) -> dict[str, str]:
    """Return the nodes that each new array of cells keeps away from, by how many cells it has."""
    scripts = [flags(script) for script in slurm.scripts[first:] if "srun" in script]
    return {one.get("array", "one").partition("%")[0]: one.get("exclude", "").strip("'") for one in scripts}


def test_node_is_kept_from_the_cell_that_failed_there_and_from_no_other(options, slurm, console):
    launch_on_slurm(Options(**as_dict(options) | {"cluster_settings": ("cluster.exclude=n[5-6]",)}), console)
    launch, cells = newest_launch(options), cell_names(options)
    attempt_of(options, cells[0], "1_0", node="n7").event("failed", kind="GPU fault", message="ECC")
    for number in (1, 2, 3):
        attempt_of(options, cells[number], f"1_{number}", node="n2").event("stopped", kind="preempted", step=1)
    take_step(launch, console)
    assert excluded(slurm, 1) == {"one": "n[5-6],n7", "0-2": "n[5-6]"}
    assert Campaign.read(newest_launch(options)).config().exclude == "n[5-6]"  # of what follows too


def test_node_where_two_cells_failed_is_kept_from_all_while_another_went_well_elsewhere(options, slurm, console):
    launch_on_slurm(options, console)
    cells = cell_names(options)
    for number in (0, 1):
        attempt_of(options, cells[number], f"1_{number}", node="n7").event("failed", kind="GPU fault", message="ECC")
    for number in (2, 3):
        attempt_of(options, cells[number], f"1_{number}", node="n3").event("stopped", kind="preempted", step=1)
    take_step(newest_launch(options), console)
    assert excluded(slurm, 1) == {"0-3": "n7"}


def test_on_a_partition_of_one_node_the_cell_that_failed_there_is_tried_there_again(options, slurm, console):
    slurm.nodes = {"n7": "mixed", "n8": "down*"}
    launch_on_slurm(options, console)
    for number, name in enumerate(cell_names(options)):
        attempt_of(options, name, f"1_{number}", node="n7").event("failed", kind="lost", message="gone")
    take_step(newest_launch(options), console)
    assert excluded(slurm, 1) == {"0-3": ""}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("constraint=avx512", "n7"),
        ("constraint=gpu-a100", ""),  # no other node has it
        ("constraint=gpu-a100|gpu-h100", ""),
        ("constraint=gpu-a100&avx512", ""),
        ("constraint=[gpu-a100*1&avx512*1]", ""),  # nobody can tell, and one node of one seen is more than half
        ("reservation=ours", ""),
        ("extra={nodelist: n7}", ""),
        ("extra={gres: 'gpu:a100:1'}", ""),
        ("extra={constraint: gpu-a100}", ""),
        ("extra={exclude: 'n[0-6]'}", "n[0-6],n7"),
        ("extra={exclude: 'n[0-6],n8,n9'}", "n[0-6],n8,n9"),
        ("extra={exclude: 'false'}", ""),
    ],
)
def test_never_so_many_nodes_are_avoided_that_none_meets_what_the_site_asks_for(
    setting, expected, options, slurm, console
):
    slurm.features = {"n7": "avx512,gpu-a100"}
    launch_on_slurm(Options(**as_dict(options) | {"cluster_settings": (f"cluster.{setting}",)}), console)
    for number, name in enumerate(cell_names(options)):
        attempt_of(options, name, f"1_{number}", node="n7").event("failed", kind="GPU fault", message="ECC")
    take_step(newest_launch(options), console)
    assert excluded(slurm, 1) == {"0-3": expected}


def test_cell_that_no_other_node_takes_is_submitted_to_where_it_failed_and_the_others_with_it(
    options, slurm, console, capsys
):
    launch_on_slurm(options, console)
    for number, name in enumerate(cell_names(options)):
        attempt_of(options, name, f"1_{number}", node=f"n{number}").event("failed", kind="GPU fault", message="ECC")
    (slurm.folder / "refuses_asking").write_text("--exclude=n[01]$")
    take_step(newest_launch(options), console)
    scripts = [flags(script).get("exclude") for script in slurm.scripts[1:]]
    assert scripts == [None, None, "n2", "n3"]
    assert "submitted again without keeping away from n1: sbatch refused" in capsys.readouterr().err


def test_any_node_of_a_cell_of_several_may_have_been_its_end(options, slurm, console):
    launch_on_slurm(options, console)
    cells = cell_names(options)
    attempt = attempt_of(options, cells[0], "1_0", node="n1")
    owner = attempt.owner() | {"slurm": {"job": "1_0", "restart": 0, "node": "n1", "nodes": "n[1-2],n5"}}
    (attempt.path / "owner.json").write_text(json.dumps(owner))
    attempt.event("failed", kind="GPU fault", message="ECC")
    for number in (1, 2, 3):
        attempt_of(options, cells[number], f"1_{number}", node="n2").event("stopped", kind="preempted", step=1)
    take_step(newest_launch(options), console)
    assert excluded(slurm, 1) == {"one": "n1,n2,n5", "0-2": ""}


def test_outage_ends_no_cell_for_good_and_somebody_is_told(options, slurm, console, tmp_path, monkeypatch):
    command = f"cluster.notify_command=[sh, -c, 'echo $0 >> {tmp_path}/told']"
    launch_on_slurm(Options(**as_dict(options) | {"cluster_settings": (command,)}), console)
    for number, name in enumerate(cell_names(options)):
        kind = "file system" if number else "disk full"
        attempt_of(options, name, f"1_{number}", node=f"n{number}").event("failed", kind=kind, message="[Errno 116]")
    launch = newest_launch(options)
    take_step(launch, console)
    assert excluded(slurm, 1) == {}
    with monkeypatch.context() as changed:
        now = time.time()
        changed.setattr(time, "time", lambda: now + 600)  # they wait before the next try
        take_step(launch, console)
    assert excluded(slurm, 1) == {"0-3": ""}
    assert (tmp_path / "told").read_text().splitlines() == [
        "small: disk full, file system ended 4 cells on 4 nodes within 1 min; that does not count against them, and "
        "they are tried again after a while"
    ]


def test_running_job_is_not_taken_for_lost(options, slurm, console):
    launch_on_slurm(options, console)
    first = json.loads(next((newest_launch(options) / "submissions").iterdir()).read_text())["cells"][0]
    attempt = attempt_of(options, first, "1_0")
    attempt.event("started", step=0)
    slurm.queued = {"1_0": ("RUNNING", "n1")}
    control.reconcile(options.runs / "small", console)
    assert attempt.events()[-1]["event"] == "started"
    slurm.queued = {"1_0": ("PENDING", "")}  # requeued: its process is gone
    tidy(options.runs / "small", console)
    assert attempt.events()[-1]["kind"] == "requeued"


def test_step_with_nothing_left_writes_the_table(options, slurm, console):
    launch_on_slurm(options, console)
    for folder in folders(options.runs / "small").values():
        run_cell(folder.path, train=train_inline, owner={"commit": "abc", "host": "x", "pid": 1, "process_started": 1})
    take_step(newest_launch(options), console)
    assert "rankmatch" in (options.runs / "small/report.md").read_text()
    assert (options.runs / "mlflow.db").exists()
    assert len(slurm.scripts) == 1


def test_cancelled_cells_are_not_submitted_again_by_the_controller_but_by_a_launch(options, slurm, console):
    launch_on_slurm(options, console)
    slurm.queued = {f"1_{number}": ("PENDING", "") for number in range(4)}
    control.cancel(options.runs / "small", [], console)
    assert sorted(slurm.cancelled)[1:] == [f"1_{number}" for number in range(4)]
    assert not slurm.controllers and (options.runs / "small/report.md").exists()
    slurm.queued = {}
    take_step(newest_launch(options), console)
    assert len(slurm.scripts) == 1
    launch_on_slurm(options, console)
    assert len(slurm.scripts) == 2


def test_cells_that_never_begin_wait_longer_each_time_and_are_given_up_after_five_submissions(
    options, slurm, console, monkeypatch
):
    launch_on_slurm(options, console)
    began, submitted = time.time(), []
    for minute in range(20):
        monkeypatch.setattr(time, "time", lambda: began + 61 * minute)  # noqa: B023
        take_step(newest_launch(options), console)
        submitted.append(len([script for script in slurm.scripts if "srun" in script]))
    assert [submitted.index(count) for count in (1, 2, 3, 4, 5)] == [0, 1, 4, 9, 18]
    assert submitted[-1] == 5
    said = console.export_text()
    assert "is not tried again: never began, 5 times" in said and "does not count against them" not in said


def test_retry_submits_what_failed_however_it_failed_and_nothing_else(options, slurm, console):
    launch_on_slurm(options, console)
    attempt = attempt_of(options, "rankmatch-4-s0", "1_0")
    attempt.event("failed", kind="out of GPU memory", message="8 GB")
    grid_dir = options.runs / "small"
    slurm.queued = {"1_1": ("RUNNING", "n1"), "1_2": ("PENDING", "")}
    slurm.accounted = {"1_3": ("CANCELLED", "")}
    with pytest.raises(ValueError, match=r"class code error .*; there are 1 out of GPU memory, 1 cancelled"):
        control.retry(grid_dir, [], ["code error"], [], console)
    control.retry(grid_dir, [], ["out of GPU memory"], ["cluster.partition=big"], console)
    script = slurm.scripts[1]
    assert "--partition=big" in script and "array" not in flags(script)
    assert "not asked for" in console.export_text()


@pytest.mark.usefixtures("no_mlflow")
def test_retry_refuses_a_setting_that_makes_another_grid_before_anything_is_written(options, slurm, console):
    launch_on_slurm(options, console)
    attempt_of(options, "supervised-4-s0", "1_1").event("failed", kind="out of GPU memory", message="8 GB")
    slurm.queued = {f"1_{number}": ("RUNNING", "n1") for number in (0, 2, 3)}
    before = {path: path.read_bytes() for path in options.runs.rglob("*") if path.is_file()}
    for setting in ("trainer.epochs=50", "trainer.labeled_batch_size=4", "seed=0", "method.top_k=3"):
        with pytest.raises(ValueError, match=f"--set must have settings that leave cells .*; got {setting}, which"):
            control.retry(options.runs / "small", [], ["out of GPU memory"], [setting], console)
    assert {path: path.read_bytes() for path in options.runs.rglob("*") if path.is_file()} == before
    control.retry(options.runs / "small", [], ["out of GPU memory"], ["trainer.num_workers=2"], console)
    assert len(slurm.scripts) == 2 and "trainer.num_workers: 2" in (newest_launch(options) / "grid.yaml").read_text()


@pytest.mark.usefixtures("no_mlflow")
def test_retry_takes_the_cells_of_earlier_launches_and_passes_over_those_of_earlier_code(
    options, slurm, console, monkeypatch
):
    launch_on_slurm(options, console)
    grid_dir, names = options.runs / "small", cell_names(options)
    launch_on_slurm(Options(**as_dict(options) | {"overrides": (*CPU, "seed=0")}), console)
    for number, name in enumerate(names):
        attempt_of(options, name, f"1_{number}").event("failed", kind="code error", message="boom")
    earlier = [name[:12] for name in names if name.endswith("s1")]
    control.retry(grid_dir, [earlier[0]], [], [], console)
    assert Campaign.read(newest_launch(options)).retried == [earlier[0]]
    control.retry(grid_dir, [], [], [], console)
    assert {*Campaign.read(newest_launch(options)).retried} == {name[:12] for name in names}
    monkeypatch.setattr("rankmatch.NUMERICS", 99)
    with pytest.raises(ValueError, match=f"all that were chosen are not of the grid small .*: {earlier[0]}"):
        control.retry(grid_dir, [earlier[0]], [], [], console)


def test_jobs_of_a_killed_launch_are_found_by_their_name(options, slurm, console):
    launch_on_slurm(options, console)
    ((launch_dir, submission),) = submissions.read(options.runs / "small")
    submission.job_id = ""
    submission.write(launch_dir)
    slurm.names[submission.name] = "1\n"
    slurm.queued = {f"1_{number}": ("RUNNING", "n1") for number in range(4)}
    launch_on_slurm(options, console)
    assert "found job 1, of which sbatch told no number" in console.export_text()
    assert len(slurm.scripts) == 1


def test_launch_without_an_answer_is_launched_again_and_a_job_that_comes_late_counts_for_nothing(
    options, slurm, console
):
    (slurm.folder / "silent").touch()
    with pytest.raises(SchedulerError, match="timed out .*; Slurm has no job of it, and one that comes after all ends"):
        launch_on_slurm(options, console)
    (late,) = LaunchFolder(newest_launch(options)).withdrawn_names()
    assert not slurm.controllers  # the launch is closed, and the message says what to do
    (slurm.folder / "silent").unlink()
    launch_on_slurm(options, console)
    (slurm.folder / "script.2").write_text(f"#SBATCH --job-name={late}\n")
    slurm.queued = {f"{job}_{number}": ("PENDING", "") for job in (1, 2) for number in range(4)}
    launch_on_slurm(options, console)
    assert (
        slurm.cancelled[-4:] == [f"2_{number}" for number in range(4)] and "nothing to submit" in console.export_text()
    )
    assert {job.array.number for job in submissions.newest_jobs(options.runs / "small").values()} == {"1"}


def test_status_shows_folders_first_and_tells_where_slurm_says_nothing(options, slurm, console):
    launch_on_slurm(options, console)
    attempt_of(options, "rankmatch-4-s0", "1_0").event("started", step=0)
    attempt_of(options, "supervised-4-s0", "1_1").event("failed", kind="code error", message="boom")
    slurm.queued = {"1_2": ("RUNNING", "n3"), "1_3": ("PENDING", "")}
    grid_dir = control.grid_folder(options.runs, "small")
    control.status(grid_dir, console)
    said = console.export_text()
    assert "4 cells: 1 starting, 1 waiting, 1 failed, 1 lost?" in said
    assert "job 1_0 is gone; accounting does not know it" in said and "code error: boom" in said and "n3" in said
    slurm.is_down = True
    control.status(grid_dir, console)
    said = console.export_text()
    assert "the states are those of the run folders alone" in said and "3 unknown" in said


def test_grid_that_was_never_launched_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--grid must be one that was launched into .* \(none\); got 'x'"):
        control.grid_folder(tmp_path, "x")


def test_log_is_that_of_the_newest_attempt_or_else_of_the_job(options, slurm, console, capsys):
    launch_on_slurm(options, console)
    grid_dir = options.runs / "small"
    control.logs(grid_dir, "rankmatch-4-s0")
    number = submissions.newest_jobs(grid_dir)[cell_of(options, "rankmatch-4-s0").path.name]
    assert f"has printed nothing yet: it was submitted as job {number}\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match="CELL must mean one cell; 'rankmatch' means 2"):
        control.logs(grid_dir, "rankmatch")
    with pytest.raises(ValueError, match="CELL must be a signature or a part of a cell's name"):
        control.logs(grid_dir, "nothing")
    job = submissions.newest_jobs(grid_dir)[cell_of(options, "rankmatch-4-s0").path.name].number
    (newest_launch(options) / "jobs" / f"{job}_0_log.out").write_text("of the job\n")
    control.logs(grid_dir, "rankmatch-4-s0")
    attempt_of(options, "rankmatch-4-s0", job).path.joinpath("log").write_text("of the attempt\n")
    control.logs(grid_dir, "rankmatch-4-s0")
    out = capsys.readouterr().out
    assert "of the job\n" in out and out.endswith("of the attempt\n")


def test_second_launch_of_a_grid_waits_its_turn(options, slurm, console):
    (options.runs / "small").mkdir(parents=True)
    with (
        only_launch_of(options.runs / "small"),
        pytest.raises(ValueError, match="another launch is at work"),
    ):
        launch_on_slurm(options, console)


def test_who_writes_mlflow_neither_holds_up_launches_nor_waits_for_them(options, slurm, console, monkeypatch):
    grid_dir = options.runs / "small"
    monkeypatch.setattr(grid_mirror, "TURN_S", 0.1)
    grid_dir.mkdir(parents=True)
    with only_writer(grid_dir):
        launch_on_slurm(options, console)
        all_preempted(options)
        take_step(newest_launch(options), console)
    said = console.export_text()
    assert "another process writes MLflow for small" in said and said.count("submitted: 4 cells") == 2
    with only_launch_of(grid_dir):
        control.sync(grid_dir, console)
        assert "MLflow is up to date" in console.export_text()
        with pytest.raises(ValueError, match="must be done"):
            control.register(grid_dir, [], [], "", console)


def test_reconcile_touches_no_launch_that_is_at_work(options, slurm, console, monkeypatch):
    launch_on_slurm(options, console)
    monkeypatch.setattr(control, "LOOK_S", 0.1)
    with (
        only_launch_of(options.runs / "small"),
        pytest.raises(ValueError, match="another launch is at work"),
    ):
        control.reconcile(options.runs / "small", console)


def test_watched_resume_continues_while_another_process_writes_mlflow(options, slurm, console, monkeypatch):
    launch_on_slurm(options, console)
    slurm.queued = {f"1_{number}": ("PENDING", "") for number in range(4)}
    gone = (slurm.queued, slurm.controllers)  # while a controller is there, the cells may change
    monkeypatch.setattr(control.clock, "sleep", lambda _: [jobs.clear() for jobs in gone])
    with only_writer(options.runs / "small"):
        control.resume(options.runs / "small", console, watch=True)
    said = console.export_text()
    assert "MLflow is not up to date: another process writes MLflow for small" in said and "4 lost?" in said


def test_sync_writes_what_mlflow_lacks(options, slurm, console):
    launch_on_slurm(options, console)
    control.sync(options.runs / "small", console)
    assert (options.runs / "mlflow.db").exists() and "MLflow is up to date" in console.export_text()


def test_status_tells_what_accounting_says_of_jobs_that_never_began(options, slurm, console):
    launch_on_slurm(options, console)
    slurm.queued = {"2": ("PENDING", "")}
    slurm.accounted = {"1_0": ("FAILED", "n1")}
    grid_dir = options.runs / "small"
    control.status(grid_dir, console)
    said = console.export_text()
    assert "job 1_0 is gone and never began; Slurm says FAILED, exit code 1:0" in said
    assert "job 1_1 is gone and never began; accounting does not know it" in said
    slurm.accounted = None
    control.status(grid_dir, console)
    assert "job 1_0 is gone and never began; there is no accounting" in console.export_text()


def test_cells_whose_jobs_were_cancelled_before_they_began_are_not_lost(options, slurm, console):
    launch_on_slurm(options, console)
    slurm.queued = {f"1_{number}": ("PENDING", "") for number in range(4)}
    control.cancel(options.runs / "small", [], console)
    slurm.queued = {}
    console.export_text()
    control.status(options.runs / "small", console)
    said = console.export_text()
    assert "lost" not in said and "4 cells: 4 not submitted" in said


def test_status_says_so_when_the_controller_is_gone(options, slurm, console):
    launch_on_slurm(options, console)
    control.status(options.runs / "small", console)
    assert "controller" not in console.export_text().partition("signature")[2]
    slurm.controllers.clear()
    control.status(options.runs / "small", console)
    mend = f"rankmatch resume --grid small --runs {options.runs}"
    assert f"no controller resumes launch {newest_launch(options).name}; {mend}" in console.export_text()


def everything_below(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def only_looked_at(options: Options, slurm: FakeSlurm, console: Console) -> str:
    """Say what `status` says of a grid, which it leaves as it is, as it does with the queue."""
    console.export_text()
    before = everything_below(options.runs), len(slurm.scripts), [*slurm.cancelled], {**slurm.controllers}
    control.status(options.runs / "small", console)
    assert before == (everything_below(options.runs), len(slurm.scripts), slurm.cancelled, slurm.controllers)
    return console.export_text()


def test_where_nodes_may_not_submit_status_names_the_command_that_takes_the_next_step(options, slurm, console):
    launch_on_slurm(Options(**as_dict(options) | {"cluster_settings": ("cluster.controller=false",)}), console)
    command = f"`rankmatch resume --grid small --runs {options.runs}`"
    nobody = f"no job resumes launch {newest_launch(options).name} by itself (cluster.controller=false)"
    assert f"(cluster.controller=false): once these have ended, {command} does" in console.export_text()
    grid_dir = options.runs / "small"
    slurm.queued = {f"1_{number}": ("RUNNING", "n1") for number in range(4)}
    assert f"{nobody}: once jobs have ended, {command} takes the next step" in only_looked_at(options, slurm, console)
    assert control.resume(grid_dir, console) == 0 and len(slurm.scripts) == 1
    slurm.queued = {}
    all_preempted(options)
    words = f"{nobody}, and 4 cells are to be submitted: {command} does that"
    assert words in only_looked_at(options, slurm, console) and len(slurm.scripts) == 1
    control.resume(grid_dir, console)
    assert "submitted: 4 cells as job 2" in console.export_text() and len(slurm.scripts) == 2
    for folder in folders(grid_dir).values():
        run_cell(folder.path, train=train_inline, owner={"commit": "abc", "host": "x", "pid": 1, "process_started": 1})
    (grid_dir / "report.md").unlink(missing_ok=True)
    words = f"{nobody}, and nothing is left to be submitted: {command} writes the table and the report"
    assert words in only_looked_at(options, slurm, console) and not (grid_dir / "report.md").exists()
    control.resume(grid_dir, console)
    said = only_looked_at(options, slurm, console)
    assert (grid_dir / "report.md").exists() and "4 cells: 4 done" in said and "rankmatch resume" not in said
    control.resume(grid_dir, console)
    retry = f"`rankmatch retry --grid small --runs {options.runs}`"
    assert f"nothing of small is to be resumed: no launch of it is open; {retry}" in console.export_text()


def test_what_would_end_too_late_is_not_submitted_now_or_later_and_status_says_so(options, slurm, console, monkeypatch):
    monkeypatch.setattr(costs, "seconds_per_step", lambda *_: 600.0)  # a cell takes 20 minutes
    moment = datetime.now() + timedelta(minutes=50)
    settings = {"cluster_settings": ("cluster.controller=false",), "overrides": ("trainer.device=cuda",)}
    settings |= {"until": moment.strftime("%Y-%m-%d %H:%M"), "max_concurrent": 1}
    launch_on_slurm(Options(**as_dict(options) | settings), console)
    [submitted] = [one.cells for _, one in submissions.read(options.runs / "small")]
    assert len(submitted) == 2
    for number, name in enumerate(submitted):
        attempt_of(options, name, f"1_{number}").event("stopped", kind="preempted", step=0)
    slurm.queued = {}
    said = only_looked_at(options, slurm, console)
    assert f"2 cells were left out by --until; `rankmatch retry --grid small --runs {options.runs}` trains them" in said
    assert said.count("left out: would end about") == 2
    assert "2 cells are to be submitted" in said
    monkeypatch.setattr(costs, "seconds_per_step", lambda *_: 6000.0)
    assert "cells are to be submitted" not in " ".join(only_looked_at(options, slurm, console).split())
    control.resume(options.runs / "small", console)
    assert len(slurm.scripts) == 1 and (options.runs / "small" / "report.md").exists()


def test_status_says_that_a_budget_keeps_cells_from_being_submitted_where_nodes_may_not_submit(
    options, slurm, console, monkeypatch
):
    settings = {"cluster_settings": ("cluster.controller=false",), "overrides": ("trainer.device=cuda",)}
    launch_on_slurm(Options(**as_dict(options) | settings | {"budget_gpu_hours": 10.0}), console)
    slurm.queued = {}
    all_preempted(options)
    command = f"`rankmatch resume --grid small --runs {options.runs}`"
    assert f"4 cells are to be submitted: {command} does that" in only_looked_at(options, slurm, console)
    monkeypatch.setattr(policy, "gpu_hours_spent", lambda *_: (12.0, {}))
    said = only_looked_at(options, slurm, console)
    assert "and 4 cells are not submitted: --budget-gpu-hours=10 would become about 12" in said
    assert f"; {command} writes the table and the report" in said and "to be submitted" not in said
    control.resume(options.runs / "small", console)
    assert len(slurm.scripts) == 1 and (options.runs / "small" / "report.md").exists()


def test_status_only_looks_where_controllers_go_on_too(options, slurm, console):
    launch_on_slurm(options, console)
    all_preempted(options)
    assert "4 interrupted" in only_looked_at(options, slurm, console)
    slurm.controllers.clear()
    assert "no controller resumes launch" in only_looked_at(options, slurm, console)
    assert control.resume(options.runs / "small", console) == 0
    assert len(slurm.controllers) == 2 and "resume launch" in console.export_text()


def test_cells_that_were_cancelled_are_left_to_retry(options, slurm, console):
    launch_on_slurm(options, console)
    slurm.queued = {f"1_{number}": ("PENDING", "") for number in range(4)}
    control.cancel(options.runs / "small", [], console)
    slurm.queued = {}
    words = f"4 cells are left and no launch is at work on small: `rankmatch retry --grid small --runs {options.runs}`"
    assert words in only_looked_at(options, slurm, console)


def test_watched_resume_takes_the_next_try_of_cells_where_nodes_may_not_submit(options, slurm, console, monkeypatch):
    launch_on_slurm(Options(**as_dict(options) | {"cluster_settings": ("cluster.controller=false",)}), console)
    began, waited = time.time(), []
    monkeypatch.setattr(time, "time", lambda: began + 31 * len(waited))
    monkeypatch.setattr(control, "WATCH_S", 0.0)

    def note(*_: object, **__: object) -> None:
        waited.append(1)
        if len(slurm.scripts) == 2:
            for folder in folders(options.runs / "small").values():
                owner = {"commit": "abc", "host": "x", "pid": 1, "process_started": 1}
                run_cell(folder.path, train=train_inline, owner=owner)

    monkeypatch.setattr(control, "_sync", note)
    control.resume(options.runs / "small", console, watch=True)
    said = console.export_text()
    assert "4 cells wait before the next try, the first for 60 s more: `rankmatch resume" in said
    assert len(slurm.scripts) == 2
    assert "4 cells: 4 done" in said and (options.runs / "small" / "report.md").exists()


def test_watched_resume_outlives_a_launch_at_work_and_a_queue_that_is_not_told(options, slurm, console, monkeypatch):
    launch_on_slurm(Options(**as_dict(options) | {"cluster_settings": ("cluster.controller=false",)}), console)
    began, waited, held = time.time(), [], ExitStack()
    monkeypatch.setattr(time, "time", lambda: began + 31 * len(waited))
    monkeypatch.setattr(control, "WATCH_S", 0.0)

    def note(*_: object, **__: object) -> None:
        waited.append(1)
        slurm.is_down = len(waited) == 2  # so it is at this look's step, and at the next look
        if len(waited) == 3:
            held.enter_context(only_launch_of(options.runs / "small"))
        if len(waited) == 4:
            held.close()
        if len(slurm.scripts) == 2:
            for folder in folders(options.runs / "small").values():
                owner = {"commit": "abc", "host": "x", "pid": 1, "process_started": 1}
                run_cell(folder.path, train=train_inline, owner=owner)

    monkeypatch.setattr(control, "_sync", note)
    control.resume(options.runs / "small", console, watch=True)
    said = console.export_text()
    assert "the next step was not taken: another launch is at work" in said
    assert "squeue did not answer within 30 s" in said and len(slurm.scripts) == 2
    assert "4 cells: 4 done" in said and (options.runs / "small" / "report.md").exists()


def test_watched_launch_outlives_a_queue_that_is_not_told_and_stays_until_its_table_is_written(
    options, slurm, console, monkeypatch
):
    waited: list[int] = []
    monkeypatch.setattr(control, "WATCH_S", 0.0)

    def note(*_: object, **__: object) -> None:
        waited.append(1)
        slurm.is_down = len(waited) == 2
        slurm.queued = {f"1_{number}": ("RUNNING", "n1") for number in range(4)} if len(waited) < 4 else {}
        if len(waited) == 4:
            for folder in folders(options.runs / "small").values():
                owner = {"commit": "abc", "host": "x", "pid": 1, "process_started": 1}
                run_cell(folder.path, train=train_inline, owner=owner)

    monkeypatch.setattr(control, "_sync", note)
    asked = {"cluster_settings": ("cluster.controller=false",), "watch": True}
    assert launch_on_slurm(Options(**as_dict(options) | asked), console) == 0
    assert "4 cells: 4 done" in console.export_text() and (options.runs / "small" / "report.md").exists()


def test_launch_of_a_finished_grid_writes_its_table(options, slurm, console):
    launch_on_slurm(options, console)
    for folder in folders(options.runs / "small").values():
        run_cell(folder.path, train=train_inline, owner={"commit": "abc", "host": "x", "pid": 1, "process_started": 1})
    launch_on_slurm(options, console)
    assert "nothing to submit" in console.export_text()
    assert (options.runs / "small/report.md").exists() and len(slurm.scripts) == 1


def test_job_that_may_not_be_requeued_is_followed_by_a_new_one(options, slurm, console):
    launch_on_slurm(Options(**as_dict(options) | {"cluster_settings": ("cluster.requeue=false",)}), console)
    first = json.loads(next((newest_launch(options) / "submissions").iterdir()).read_text())["cells"][0]
    attempt_of(options, first, "1_0").event("stopped", step=3, kind="preempted")
    slurm.queued = {f"1_{number}": ("RUNNING", "n1") for number in (1, 2, 3)}
    take_step(newest_launch(options), console)
    script = slurm.scripts[1]
    assert "srun" in script and "--no-requeue" in script and "array" not in flags(script)


def test_crash_that_accounting_calls_out_of_memory_is_not_run_again_unchanged(options, slurm, console):
    launch_on_slurm(options, console)
    first = json.loads(next((newest_launch(options) / "submissions").iterdir()).read_text())["cells"][0]
    attempt = attempt_of(options, first, "1_0")
    attempt.event("failed", kind="lost", message="ended by signal 9", exit_code="signal 9")
    slurm.queued = {f"1_{number}": ("RUNNING", "n1") for number in (1, 2, 3)}
    slurm.accounted = {"1_0": ("OUT_OF_MEMORY", "n7")}
    take_step(newest_launch(options), console)
    assert [event["kind"] for event in attempt.events()] == ["lost", "out of host memory"]
    assert "is not tried again: out of host memory" in console.export_text() and len(slurm.scripts) == 1
    launch_on_slurm(options, console)
    assert len(slurm.scripts) == 1
    control.retry(options.runs / "small", [], [], ["cluster.mem_gb_per_worker=64"], console)
    assert "#SBATCH --mem=65536MB" in slurm.scripts[1]


def test_somebody_is_told_of_cells_that_are_lost_for_good_and_of_the_end(options, slurm, console, tmp_path):
    command = f"cluster.notify_command=[sh, -c, 'echo $0 >> {tmp_path}/told']"
    launch_on_slurm(Options(**as_dict(options) | {"cluster_settings": (command,)}), console)
    first, *others = json.loads(next((newest_launch(options) / "submissions").iterdir()).read_text())["cells"]
    attempt_of(options, first, "1_0")
    slurm.accounted = {"1_0": ("OUT_OF_MEMORY", "n7")}
    for name in others:
        run_cell(cell_of(options, name).path, train=train_inline,
                 owner={"commit": "abc", "host": "x", "pid": 1, "process_started": 1})  # fmt: skip
    for _ in range(2):
        take_step(newest_launch(options), console)
    given_up, ended = (tmp_path / "told").read_text().splitlines()
    assert given_up.startswith(
        f"small: {first} is not tried again: out of host memory; give it more memory (`rankmatch"
    )
    assert ended == "small: 3 of 4 cells are done, 1 are given up"


def test_logs_go_on_with_the_next_attempt_and_end_with_the_result(options, slurm, console, capsys, monkeypatch):
    launch_on_slurm(options, console)
    first = attempt_of(options, "rankmatch-4-s0", "1_0")
    first.path.joinpath("log").write_text("one\n")
    steps = iter(["more", "next", "done"])

    def sleep(_):
        step = next(steps)
        if step == "more":
            with first.path.joinpath("log").open("a") as file:
                file.write("two\n")
        elif step == "next":
            attempt_of(options, "rankmatch-4-s0", "1_0").path.joinpath("log").write_text("three\n")
        else:
            cell_of(options, "rankmatch-4-s0").path.joinpath("result.json").write_text("{}")

    monkeypatch.setattr(control.clock, "sleep", sleep)
    capsys.readouterr()
    control.logs(options.runs / "small", "rankmatch-4-s0", follow=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "/" not in line] == ["one", "two", "three"]
    assert [line.split("/")[-2] for line in lines if "/" in line] == ["1", "2"]


def test_reconcile_ends_runs_that_mlflow_takes_for_running(options, slurm, console):
    launch_on_slurm(options, console)
    attempt = attempt_of(options, "rankmatch-4-s0", "1_0", node=socket.gethostname())
    attempt.event("started", step=0)
    slurm.queued = {f"1_{number}": ("RUNNING", "n1") for number in range(4)}
    monitored = {**attempt.owner(), "pid": os.getpid(), "process_started": process_start(os.getpid())}
    (attempt.path / "owner.json").write_text(json.dumps(monitored))
    grid_dir = options.runs / "small"
    client = MlflowClient(f"sqlite:///{options.runs / 'mlflow.db'}")

    def statuses() -> list[str]:
        runs = client.search_runs(
            [client.get_experiment_by_name("small").experiment_id], "tags.`rankmatch.status` != ''"
        )
        return [run.info.status for run in runs]

    control.reconcile(grid_dir, console)
    assert statuses() == ["RUNNING"]
    del slurm.queued["1_0"]
    control.reconcile(grid_dir, console)
    assert statuses() == ["FAILED"]


def test_job_that_was_given_one_of_our_numbers_again_is_not_ours(options, slurm, console):
    launch_on_slurm(options, console)
    attempt = attempt_of(options, "rankmatch-4-s0", "1_0")
    attempt.event("started", step=0)
    slurm.controllers.clear()
    numbers = [f"1_{number}" for number in range(4)]
    slurm.queued = {number: ("RUNNING", "n1") for number in numbers}
    slurm.strangers = dict.fromkeys(numbers, "my-thesis")
    slurm.accounted = {"1_0": ("COMPLETED", "n9")}
    grid_dir = options.runs / "small"
    control.status(grid_dir, console)
    said = console.export_text()
    assert "4 cells: 4 lost?" in said and "accounting does not know it" in said and "running" not in said
    assert "no controller resumes launch" in said
    control.cancel(grid_dir, [], console)
    assert [word for word in slurm.cancelled if "--name=" not in word] == []
    assert "0 cells were told to end" in console.export_text()
    launch_on_slurm(options, console)
    assert "submitted: 4 cells as job 2" in console.export_text()
    assert attempt.events()[-1]["kind"] == "lost"
    assert attempt.events()[-1]["message"] == "job 1_0 on n1 is gone, and Slurm knows nothing of its end"


def test_log_of_a_job_is_looked_for_in_the_folder_of_its_own_launch(options, slurm, console, capsys):
    launch_on_slurm(options, console)
    first, grid_dir = newest_launch(options), options.runs / "small"
    name = cell_of(options, "rankmatch-4-s0").path.name
    number = submissions.newest_jobs(grid_dir)[name].number
    (first / "jobs" / f"{number}_0_log.out").write_text("of a job that was lost\n")
    (slurm.folder / "script.1").unlink()  # slurmctld forgot it, and gives 1 again
    launch_on_slurm(options, console)
    assert submissions.newest_jobs(grid_dir)[name].number == number
    (newest_launch(options) / "jobs" / f"{number}_0_log.out").write_text("of the job\n")
    capsys.readouterr()
    control.logs(grid_dir, "rankmatch-4-s0")
    assert capsys.readouterr().out.endswith("of the job\n")


def test_jobs_of_others_who_launched_the_same_grid_are_seen(options, slurm, console):
    launch_on_slurm(options, console)
    ((launch_dir, submission),) = submissions.read(options.runs / "small")
    assert submission.user == os.getuid()
    submission.user = 4242
    submission.write(launch_dir)
    slurm.queued = {f"1_{number}": ("PENDING", "") for number in range(4)}
    slurm.users = {f"1_{number}": 4242 for number in range(4)}
    launch_on_slurm(options, console)
    assert "job 1_0 is pending" in console.export_text(clear=False) and len(slurm.scripts) == 1


def test_submission_of_an_earlier_version_is_of_the_owner_of_its_file(options, slurm, console):
    launch_on_slurm(options, console)
    (path,) = newest_launch(options).glob("submissions/*.json")
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "user"}))
    assert [one.user for _, one in submissions.read(options.runs / "small")] == [os.getuid()]


def test_node_failure_is_known_though_the_job_was_requeued_and_preempted_since(options, slurm, console):
    launch_on_slurm(options, console)
    attempt = attempt_of(options, "rankmatch-4-s0", "1_0")
    owner = attempt.owner() | {"slurm": {"job": "1_0", "restart": 0}}
    (attempt.path / "owner.json").write_text(json.dumps(owner))
    slurm.queued = {"1_0": ("PENDING", ""), **{f"1_{number}": ("RUNNING", "n1") for number in (1, 2, 3)}}
    slurm.starts = [("1_0", "NODE_FAIL", "n7"), ("1_0", "REQUEUED", "n8"), ("1_0", "PENDING", "")]
    tidy(options.runs / "small", console)
    last = attempt.events()[-1]
    assert (last["kind"], last["slurm_state"]) == ("node failure", "NODE_FAIL")
    assert last["message"] == "job 1_0 on n7: Slurm says NODE_FAIL, exit code 1:0"


def test_step_submits_nothing_with_code_that_is_not_what_was_launched(options, slurm, console):
    launch_on_slurm(options, console)
    code = options.runs / "small" / "snapshots" / "code"
    (code / "rankmatch").mkdir(parents=True)
    (code / "rankmatch" / "a.py").write_text("harmed")
    record = {"commit": "", "root": "/gone", "dirty": True, "files": {"rankmatch/a.py": "0" * 64, "b.py": "0" * 64}}
    (options.runs / "small" / "snapshots" / "code.json").write_text(json.dumps(record))
    attempt_of(options, "rankmatch-4-s0", "1_0").event("stopped", kind="preempted", step=1)
    with pytest.raises(ValueError, match="is not what was launched: b.py, rankmatch/a.py missing or changed; .*launch"):
        take_step(newest_launch(options), console)
    assert len(slurm.scripts) == 1


def test_attempts_hold_the_digest_of_the_image_as_it_is_when_their_job_is_submitted(options, slurm, console, tmp_path):
    image = tmp_path / "rankmatch.sif"
    image.write_bytes(b"first")
    settings = ("cluster.container=apptainer", f"cluster.image={image}")
    launch_on_slurm(Options(**as_dict(options) | {"cluster_settings": settings}), console)

    def told(launch_dir: Path) -> set[tuple[str, str]]:
        tasks = [pickle.loads(path.read_bytes()).function for path in launch_dir.glob("jobs/*_submitted.pkl")]
        return {(one.owner["provenance"]["image"], one.owner["provenance"]["image_sha256"]) for one in tasks}

    assert told(newest_launch(options)) == {(str(image), hashlib.sha256(b"first").hexdigest())}
    image.write_bytes(b"rebuilt")
    all_preempted(options)
    take_step(newest_launch(options), console)
    assert told(newest_launch(options)) == {(str(image), hashlib.sha256(b"rebuilt").hexdigest())}


def test_lost_node_is_avoided_where_slurm_counts_neither_gpus_nor_memory(options, slurm, console):
    slurm.node_has = "1|(null)"
    settings = ("cluster.gpu_flag=none", "cluster.mem_flag=none")
    launch_on_slurm(
        Options(**as_dict(options) | {"cluster_settings": settings, "overrides": ("trainer.device=cuda",)}), console
    )
    first = json.loads(next((newest_launch(options) / "submissions").iterdir()).read_text())["cells"][0]
    attempt_of(options, first, "1_0", node="n7").event("started", step=0)
    slurm.queued = {f"1_{number}": ("RUNNING", "n1") for number in (1, 2, 3)}
    slurm.accounted = {"1_0": ("NODE_FAIL", "n7")}
    take_step(newest_launch(options), console)
    script = next(script for script in slurm.scripts[1:] if "srun" in script)
    assert "#SBATCH --exclude=n7" in script and "--mem" not in script and "--gres" not in script


def aged(folder: Path, hours: float) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 3600 * hours,) * 2)


@pytest.fixture
def no_mlflow(monkeypatch) -> None:
    monkeypatch.setattr(steps, "begin_mirror", lambda *_: (None, {}))  # it takes seconds, and decides nothing here


@pytest.mark.usefixtures("no_mlflow")
@pytest.mark.filterwarnings("ignore::orchestration.machine.damage.DamageWarning")
def test_damaged_file_of_a_silent_attempt_keeps_no_command_and_no_cell_from_going_on(options, slurm, console, capsys):
    launch_on_slurm(Options(**as_dict(options) | {"budget_gpu_hours": 100.0}), console)
    grid_dir, launched, (name, at_work, *_) = options.runs / "small", newest_launch(options), cell_names(options)
    attempt_of(options, at_work, "1_1").event("started", step=0)
    attempt = attempt_of(options, name, "1_0")
    attempt.event("started", step=0, host="n1")
    for file in ("epochs.jsonl", "steps.arrow", "log", "checkpoints/step_1/manifest.json"):
        (attempt.path / file).parent.mkdir(parents=True, exist_ok=True)
        (attempt.path / file).write_text('{"step": 0}\n')
    aged(launched, 2)
    slurm.queued = {f"1_{number}": ("RUNNING", "n1") for number in (1, 3)}
    slurm.accounted = {"1_0": ("NODE_FAIL", "n1"), "1_2": ("FAILED", "n1")}  # that one before it began
    backup = options.runs.with_name("backup")
    shutil.copytree(options.runs, backup, symlinks=True)
    for file in (path.relative_to(attempt.path) for path in attempt.path.rglob("*") if path.is_file()):
        for content in (b"", b"[1]\n"):
            shutil.rmtree(options.runs)
            shutil.copytree(backup, options.runs, symlinks=True)
            (attempt.path / file).write_bytes(content)
            if (running := cell_of(options, at_work).attempts()[0].path / file).exists():
                running.write_bytes(content)
            aged(attempt.path, 1)
            tidy(grid_dir, console)
            control.logs(grid_dir, name)
            control.status(grid_dir, console)
            take_step(launched, console)
            assert cell_names(options) == [name]  # it is tried again, and the next one first waits
            assert len(cell_of(options, name).attempts()) == 1  # its job is not taken for one that never began
            last = attempt.events()[-1].get("kind")
            assert last == (None if file.name == "owner.json" else "node failure")
            new = submissions.newest_jobs(grid_dir)[name].number
            slurm.queued[new] = ("PENDING", "")
            assert take_step(newest_launch(options), console).submitted is None
            del slurm.queued[new]
    capsys.readouterr()


def hours_ago(hours: float) -> str:
    return datetime.fromtimestamp(time.time() - 3600 * hours).isoformat(timespec="seconds")


def silent_since(options: Options, name: str, job: str, node: str, hours: float) -> None:
    """Begin an attempt an hour before so many hours ago, when it wrote for the last time."""
    started = datetime.fromtimestamp(time.time() - 3600 * (hours + 1), UTC).isoformat(timespec="seconds")
    owner = {"commit": "abc", "campaign": Campaign.read(newest_launch(options)).name, "started": started,
             "slurm": {"job": job, "node": node}, "host": node, "pid": 1, "process_started": 1}  # fmt: skip
    attempt = cell_of(options, name).claim(owner)
    attempt.event("started", step=0, host=node, node=node)
    aged(attempt.path, hours)
    os.utime(attempt.owner_file, (time.time() - 3600 * (hours + 1),) * 2)  # which nobody writes after the claim


@pytest.mark.usefixtures("no_mlflow")
def test_what_ended_silently_over_a_weekend_is_dated_when_it_ended_and_not_when_somebody_looked(
    options, slurm, console, tmp_path
):
    told = f"cluster.notify_command=[sh, -c, 'echo $0 >> {tmp_path}/told']"
    launch_on_slurm(Options(**as_dict(options) | {"cluster_settings": (told,)}), console)
    grid_dir, launched, names = options.runs / "small", newest_launch(options), cell_names(options)
    campaign = Campaign.read(launched).name
    for number, hours in enumerate((72, 48, 20)):
        silent_since(options, names[number], f"1_{number}", f"n{number + 1}", hours)
    slurm.accounted = {f"1_{number}": ("NODE_FAIL", f"n{number + 1}") for number in range(3)}
    slurm.ended = {"1_0": hours_ago(71.5), "1_1": hours_ago(47.5)}
    slurm.queued = {"1_3": ("RUNNING", "n1")}
    take_step(launched, console)
    ends = [cell_of(options, name).ends(campaign)[-1] for name in names[:3]]
    assert [(time.time() - end.time) / 3600 for end in ends] == pytest.approx([71.5, 47.5, 20], abs=0.1)
    loaded = replace(grid.load(str(grid_dir / "grid.yaml")), name="small")
    spent_h, unread = policy.gpu_hours_spent(loaded, grid_dir, campaign)
    assert spent_h == pytest.approx(1.5 + 1.5 + 1, abs=0.1) and not unread
    assert sum(folder.busy_s() for folder in folders(grid_dir).values()) == pytest.approx(4 * 3600, abs=360)
    assert outages({name: [end] for name, end in zip(names, ends, strict=False)}) == []
    assert sorted(excluded(slurm, 1).values()) == ["", "n3"]  # a day is enough
    assert not (tmp_path / "told").exists()


@pytest.mark.usefixtures("no_mlflow")
def test_outage_that_is_found_hours_later_is_one_by_the_ends_and_is_told(options, slurm, console, tmp_path):
    told = f"cluster.notify_command=[sh, -c, 'echo $0 >> {tmp_path}/told']"
    launch_on_slurm(Options(**as_dict(options) | {"cluster_settings": (told,)}), console)
    launched, names = newest_launch(options), cell_names(options)
    for number in range(4):
        silent_since(options, names[number], f"1_{number}", f"n{number + 1}", 5 + number)
    slurm.accounted = {f"1_{number}": ("NODE_FAIL", f"n{number + 1}") for number in range(4)}
    slurm.ended = {f"1_{number}": hours_ago(3 + number / 60) for number in range(4)}
    assert take_step(launched, console).submitted is not None
    assert "small: node failure ended 4 cells on 4 nodes within 3 min" in (tmp_path / "told").read_text()
    assert excluded(slurm, 1) == {"0-3": ""}


@pytest.mark.usefixtures("no_mlflow")
@pytest.mark.parametrize("accounting", ["lags", "is down"])
def test_end_that_accounting_does_not_know_yet_is_that_which_slurmctld_knows(accounting, options, slurm, console):
    launch_on_slurm(options, console)
    name = cell_names(options)[0]
    silent_since(options, name, "1_0", "n1", 0)
    slurm.queued = {f"1_{number}": ("RUNNING", "n1") for number in (1, 2, 3)}
    slurm.accounted = {"1_0": ("RUNNING", "n1")} if accounting == "lags" else None
    slurm.lately, slurm.ended = {"1_0": "OUT_OF_MEMORY", "1_1": "FAILED"}, {"1_0": hours_ago(0)}
    tidy(options.runs / "small", console)
    assert cell_of(options, name).state().failure_class == "out of host memory"


@pytest.mark.usefixtures("no_mlflow")
def test_step_reads_each_file_of_an_attempt_once_to_decide_and_none_of_a_cell_that_has_a_job(
    options, slurm, console, monkeypatch
):
    launch_on_slurm(options, console)
    launched, (name, *others) = newest_launch(options), cell_names(options)
    for place, other in enumerate((name, *others)):
        attempt_of(options, other, f"1_{place}").event("failed", kind="code error", message="boom")
    slurm.queued = {f"1_{place}": ("RUNNING", "n1") for place in (1, 2, 3)}
    opened, read_bytes, read_lines = [], files.read_bytes, files.read_lines
    monkeypatch.setattr(files, "read_bytes", lambda path: opened.append(Path(path)) or read_bytes(path))
    monkeypatch.setattr(
        files, "read_lines", lambda path, *more, **named: opened.append(path) or read_lines(path, *more, **named)
    )
    plan_of = steps.plan_of
    monkeypatch.setattr(steps, "plan_of", lambda *some: opened.append(None) or plan_of(*some))
    monkeypatch.setattr(step, "queued_jobs", lambda *some: opened.clear() or queued_jobs(*some))
    take_step(launched, console)
    of_attempts = [path for path in opened[: opened.index(None)] if path.parent.parent.name == "attempts"]
    assert sorted(str(path.relative_to(options.runs / "small" / "cells")) for path in of_attempts) == [
        f"{name}/attempts/1/events.jsonl",
        f"{name}/attempts/1/owner.json",
    ]

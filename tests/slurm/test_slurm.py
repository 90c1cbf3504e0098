"""Cells on a real Slurm: each disturbed in its own way ends with the numbers of an undisturbed run, and once."""

import getpass
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import own_grid
import pytest
import yaml
from slurm.real_cluster import Cluster, Grid, numbers, start, wait_until

from orchestration.machine.processes import process_start
from orchestration.on_slurm import site_limits
from orchestration.on_slurm.site_limits import SubmitLimit
from orchestration.runs.run_folder import folders

pytestmark = pytest.mark.slurm
CONTROLLED = ("cluster.controller=true", "cluster.controller_every_min=1")


def ends_like(grid: Grid, undisturbed: list[dict], num_attempts: int) -> None:
    grid.ended()
    assert numbers(grid.cell.epochs()) == undisturbed
    assert grid.cell.result()["attempt"] == num_attempts
    assert [attempt.first_step() for attempt in grid.cell.attempts()] == sorted(
        attempt.first_step() for attempt in grid.cell.attempts()
    )
    assert grid.cell.attempts()[-1].first_step() > 0
    assert grid.cluster.leftovers() == []


def stops(grid: Grid) -> list[str]:
    return [event["kind"] for attempt in grid.cell.attempts() for event in attempt.events() if "kind" in event]


def test_cells_of_an_array_become_a_table_without_anybody_at_the_terminal(cluster, tmp_path):
    grid = Grid(cluster, tmp_path)
    small = Path(__file__).parents[1] / "orchestration/small.yaml"
    done = grid.command(
        str(Path(__file__).parents[2] / "orchestration/launch_grid.py"), "--grid", str(small), "--cluster", "slurm",
        "--allow-dirty", "--max-concurrent", "2", "cluster.cpus_per_worker=1", "cluster.mem_gb_per_worker=2",
        "trainer.device=cpu", "cluster.notify_command=[sh,-c,'echo $0 >> told']",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "submitted: 4 cells as job" in done.stdout
    report = tmp_path / "runs/small/report.md"
    wait_until(lambda: report.exists() and not cluster.slurm("squeue", "--noheader"), 180)
    assert "rankmatch" in report.read_text()
    assert (tmp_path / "runs/mlflow.db").exists()
    again = grid.command("-c", "from orchestration.commands.main import main; main()", "status", "--grid", "small")
    assert "4 cells: 4 done" in again.stdout
    assert cluster.leftovers() == []


@pytest.mark.long
def test_cell_that_is_preempted_and_requeued_and_loses_its_node_ends_like_an_undisturbed_one(
    make_grid, undisturbed, cluster
):
    grid = make_grid()
    assert grid.launch("cluster.partition=low").returncode == 0
    grid.begun()
    whole = ("-p", "high", "-N4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    grid.stopped(lambda: cluster.slurm("sbatch", *whole))
    grid.begun(2)
    assert stops(grid) == ["preempted"]
    grid.stopped(lambda: cluster.slurm("scontrol", "requeue", grid.job()))
    grid.begun(3)
    grid.loses_its_node()
    ends_like(grid, undisturbed, 4)
    steps = [attempt.first_step() for attempt in grid.cell.attempts()]
    assert len(set(steps)) == 4  # each one went on from a checkpoint of the one before
    known = "node failure" if cluster.settings["ST_ACCT"] == "dbd" else "requeued"
    assert stops(grid) == ["preempted", "preempted", known]  # which the job found out in its next start


def test_job_that_is_suspended_held_requeued_and_released_ends_right_and_leaves_nothing(
    make_grid, undisturbed, cluster
):
    grid = make_grid()
    assert grid.launch(*CONTROLLED).returncode == 0
    grid.begun()
    job = grid.job()

    def goes_on(number: int) -> bool:
        """Release the job, also where Slurm holds it only once its last process is gone."""
        if "held" in cluster.slurm("squeue", "--noheader", "--format=%r", "--jobs", job):
            cluster.slurm("scontrol", "release", job)
        return len(grid.cell.attempts()) > number

    for number in (1, 2):
        with grid.frozen():  # which Slurm thaws to end it: it trains on for up to a second
            cluster.slurm("scontrol", "suspend", job)
            cluster.slurm("scontrol", "requeuehold", job)
        wait_until(partial(goes_on, number))
        assert len(cluster.leftovers()) <= 1  # of this start; that of the one before, killed outright, is swept
        grid.begun(number + 1)
    ends_like(grid, undisturbed, 3)
    assert (grid.grid_dir / "report.md").exists()


@pytest.mark.long
def test_cell_that_meets_its_time_limit_goes_on_where_it_stopped(make_grid, undisturbed, cluster):
    grid = make_grid()
    strict = "cluster.setup=[set -euo pipefail,'trap \"exit 0\" EXIT']"  # must not keep the script from requeueing
    assert grid.launch("cluster.time_min=60", "cluster.signal_before_s=60", strict).returncode == 0
    grid.begun()
    grid.stopped(lambda: cluster.slurm("scontrol", "update", f"JobId={grid.job()}", "EndTime=now+80"))
    cluster.slurm("scontrol", "update", f"JobId={grid.job()}", "TimeLimit=60")
    ends_like(grid, undisturbed, 2)
    assert stops(grid) == ["time limit"]


def test_job_whose_node_was_given_up_stops_without_writing_while_its_follower_goes_on(
    short_folder, tmp_path, undisturbed
):
    for cluster in start(short_folder / "shared", "none", ST_NODE_NS="0"):
        grid = Grid(cluster, tmp_path / "g")
        assert grid.launch().returncode == 0
        grid.begun()
        first = grid.cell.attempts()[0]
        with grid.frozen():
            cluster.give_up(cluster.slurm("squeue", "--noheader", "--format=%N").strip())  # its processes live on
            wait_until(lambda: grid.cell.attempts()[1:] and grid.cell.attempts()[1].epochs())  # noqa: B023
            assert process_start(first.owner()["training_pid"]) is not None
            before = first.epochs(), first.events()
        wait_until(lambda: process_start(first.owner()["pid"]) is None)  # noqa: B023
        ends_like(grid, undisturbed, 2)
        epochs, events = before  # it may have been frozen in the middle of writing a row
        assert first.epochs()[: len(epochs)] == epochs and len(first.epochs()) <= len(epochs) + 1
        assert first.events() == events
        owner = first.owner()["slurm"]
        follower = grid.cell.attempts()[1].owner()["slurm"]
        assert follower == {**owner, "job": grid.job(), "restart": 1, "node": follower["node"]}
        assert follower["node"] != owner["node"]


def test_cell_that_may_not_be_requeued_goes_on_in_a_new_job_on_another_node(make_grid, undisturbed, cluster):
    grid = make_grid()
    assert grid.launch("cluster.requeue=false", *CONTROLLED).returncode == 0
    grid.begun()
    node = grid.loses_its_node()
    ends_like(grid, undisturbed, 2)
    first, second = grid.cell.attempts()
    last, job = first.events()[-1], first.owner()["slurm"]["job"]
    assert (last["kind"], last["slurm_state"]) == ("node failure", "NODE_FAIL")
    assert last["message"] == f"job {job} on {node}: Slurm says NODE_FAIL, exit code {last['exit_code']}"
    assert second.owner()["slurm"]["job"] != job
    assert second.owner()["slurm"]["node"] != node
    assert first.owner()["host"] == f"{node}.host"  # what a node calls itself, sbatch does not know


def test_cell_that_hangs_in_a_read_is_ended_and_goes_on_in_a_job_on_another_node(cluster, tmp_path, tiny_root):
    grid = Grid(cluster, tmp_path / "g")
    shutil.copytree(tiny_root, grid.folder / "images")
    (grid.folder / "scan.yaml").write_text(own_grid.DATASET)
    known = yaml.safe_load(own_grid.GRID)
    settings = known["set"] | {"trainer.epochs": 60, "trainer.device": "cpu", "trainer.hang_min": 0.2}
    described = {"set": settings, "axes": {"method": ["supervised"], "seed": [0]}, "table": known["table"]}
    (grid.folder / "long.yaml").write_text(yaml.safe_dump(described))
    launched = grid.launch(*CONTROLLED)
    assert launched.returncode == 0, launched.stderr
    grid.begun()
    images = sorted((grid.folder / "images").glob("*.png"))
    for path in images:
        path.rename(path.with_suffix(".away"))
        os.mkfifo(path)  # whoever opens it waits for ever, as for a file server that is gone
    [first] = grid.cell.attempts()
    wait_until(lambda: "its stacks follow" in first.log_file.read_text())
    for path in images:
        path.with_suffix(".away").rename(path)
    wait_until(grid.cell.has_result)
    first, second = grid.cell.attempts()
    assert stops(grid) == ["hung"] and second.first_step() > 0
    assert "most recent call first" in first.log_file.read_text()
    assert second.owner()["slurm"]["node"] != first.owner()["slurm"]["node"]
    wait_until(lambda: (grid.grid_dir / "report.md").exists() and not cluster.slurm("squeue", "--noheader"))
    assert cluster.leftovers() == []


def test_cells_are_tried_again_while_another_trains_whatever_befalls_slurm_and_the_controllers(
    cluster, tmp_path, monkeypatch
):
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    fails = f'case "$*" in *--array*) [ -e {tmp_path}/down ] && exit 1 ;; esac'  # when controllers ask for the cells
    squeue.write_text(f'#!/bin/sh\n{fails}\nexec {shutil.which("squeue")} "$@"\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    grid = Grid(cluster, tmp_path / "g")
    apart = "cluster.cpus_per_worker=7"  # of 8: a node for each cell
    launched = grid.launch("seed=[0,1,2]", apart, "cluster.partition=low", "cluster.requeue=false", *CONTROLLED)
    assert launched.returncode == 0, launched.stderr
    wait_until(lambda: len(grid.cells) == 3 and all(len(cell.epochs()) >= 3 for cell in grid.cells))
    crashed, preempted, long = grid.cells
    with grid.frozen(long):
        with grid.frozen(preempted):
            cluster.slurm("scancel", controllers(cluster)[0])  # the one behind it takes over
            (tmp_path / "down").touch()
            os.kill(grid.training(crashed), signal.SIGKILL)
            wait_until(lambda: "tried again: " in logs_of_controllers(grid))
            (tmp_path / "down").unlink()
            wait_until(lambda: len(crashed.attempts()) == 2)
            node = preempted.attempts()[0].end().node
            cluster.slurm("sbatch", "-p", "high", "-w", node, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
            wait_until(grid.told_to_stop)
        wait_until(lambda: len(preempted.attempts()) == 2)
        assert long.result() is None and len(long.attempts()) == 1
    wait_until(lambda: (grid.grid_dir / "report.md").exists() and not cluster.slurm("squeue", "--noheader"))
    assert [cell.result()["attempt"] for cell in (crashed, preempted, long)] == [2, 2, 1]
    assert [cell.attempts()[0].end().kind for cell in (crashed, preempted)] == ["lost", "preempted"]
    assert "3 cells: 3 done" in grid.rankmatch("status").stdout


def controllers(cluster: Cluster) -> list[str]:
    return sorted(cluster.slurm("squeue", "--noheader", "--states=PENDING", "--format=%A %j").split()[::2], key=int)


def logs_of_controllers(grid: Grid) -> str:
    return "".join(path.read_text() for path in grid.grid_dir.glob("launches/*/controllers/*.log"))


def test_jobs_and_controllers_without_a_python_say_so_and_go_on_once_it_is_there(cluster, tmp_path):
    grid = Grid(cluster, tmp_path / "g")
    python = tmp_path / "python"
    notify = f"cluster.notify_command=[sh,-c,'echo $0 >> {tmp_path}/told']"
    assert grid.launch(f"cluster.python={python}", notify, *CONTROLLED).returncode == 0
    told = tmp_path / "told"
    wait_until(told.exists)  # the job that failed has called a controller, which has no Python either
    assert "a controller did not start" in told.read_text() and "rankmatch resume --grid long" in told.read_text()
    wait_until(lambda: len(controllers(cluster)) == 2)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    assert "resume launch" in grid.rankmatch("resume").stdout
    wait_until(lambda: (grid.grid_dir / "report.md").exists() and not cluster.slurm("squeue", "--noheader"))
    first = grid.cell.attempts()[0]
    assert [event["kind"] for event in first.events()] == ["never began"]
    assert f"{python}: No such file or directory" in first.log_tail()
    assert grid.cell.result()["attempt"] == 2


@contextmanager
def sbatch_that(tmp_path: Path, does: str) -> Iterator[None]:
    """Have sbatch do something else; it finds the real one in $REAL."""
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout.strip()
    changed = tmp_path / "bin" / "sbatch"
    changed.parent.mkdir()
    changed.write_text(f"#!/bin/sh\nREAL={real}\n{does}\n")
    changed.chmod(changed.stat().st_mode | stat.S_IEXEC)
    path, os.environ["PATH"] = os.environ["PATH"], f"{changed.parent}:{os.environ['PATH']}"
    try:
        yield
    finally:
        os.environ["PATH"] = path


def test_job_that_comes_after_sbatch_gave_up_ends_at_once_and_the_cell_is_trained_once(
    make_grid, undisturbed_cell, cluster, tmp_path
):
    grid = make_grid()
    late = f'cp "$2" {tmp_path}/late.sh\necho "sbatch: error: Socket timed out on send/recv operation" >&2\nexit 1'
    with sbatch_that(tmp_path, late):
        refused = grid.launch()
    assert refused.returncode == 1 and "Slurm has no job of it, and one that comes after all ends" in refused.stderr
    assert grid.launch().returncode == 0
    number = cluster.slurm("sbatch", "--parsable", str(tmp_path / "late.sh")).strip()
    wait_until(lambda: not cluster.slurm("squeue", "--noheader"))
    log = next(grid.grid_dir.glob(f"launches/*/jobs/{number}_0_log.out"))
    assert "what it was for was submitted again" in log.read_text()
    (attempt,) = grid.cell.attempts()
    assert attempt.owner()["slurm"]["job"] != number
    assert numbers(grid.cell.epochs()) == numbers(undisturbed_cell.epochs())
    assert cluster.leftovers() == []


def test_job_of_a_launch_killed_behind_sbatch_is_found_and_once_cancelled_waits_for_the_next_launch(
    make_grid, undisturbed, cluster, tmp_path
):
    grid = make_grid()
    with sbatch_that(tmp_path, '$REAL "$@"\nkill -9 $PPID'):
        assert grid.launch().returncode == -9
    assert grid.job() == ""
    assert "found job" in grid.rankmatch("reconcile").stdout  # the job waits a minute for its task
    assert grid.job()
    grid.begun()
    with grid.frozen():
        assert "nothing to submit" in grid.launch().stdout
        said = []
        grid.told(lambda: said.append(grid.rankmatch("cancel").stdout))
    assert "1 cell was told to end" in said[0]
    wait_until(lambda: not cluster.slurm("squeue", "--noheader"))
    assert stops(grid) == ["cancelled"]
    assert "1 interrupted" in grid.rankmatch("status").stdout
    assert "resume" in grid.launch().stdout
    ends_like(grid, undisturbed, 2)


def test_cell_of_two_nodes_has_the_numbers_of_one(cluster, tmp_path, undisturbed_cell):
    grid = Grid(cluster, tmp_path, **{"trainer.num_workers": 2})
    assert grid.launch("cluster.gpus_per_node=1").returncode == 0
    wait_until(lambda: folders(grid.grid_dir) and grid.cell.epochs())
    grid.stopped(lambda: grid.rankmatch("cancel"))
    wait_until(lambda: not cluster.slurm("squeue", "--noheader"))
    assert grid.cell.attempts()[0].owner()["slurm"]["job"] == grid.job()
    # After a step, batch norm over two values of a pooled batch makes roundings large; float64 is compared elsewhere.
    loss, expected_loss = (cell.steps()["loss"][0].as_py() for cell in (grid.cell, undisturbed_cell))
    assert loss == pytest.approx(expected_loss, rel=5e-6)
    first, expected = grid.cell.epochs()[0], undisturbed_cell.epochs()[0]
    assert first["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert first["miou"] == pytest.approx(expected["miou"], abs=1e-4)
    assert stops(grid) == ["cancelled"]
    assert cluster.leftovers() == []


def test_cell_whose_node_vanishes_without_accounting_is_launched_again_and_slurmctld_says_why(
    short_folder, tmp_path, undisturbed
):
    for cluster in start(short_folder / "plain", "none"):
        grid = Grid(cluster, tmp_path / "g")
        assert grid.launch("cluster.requeue=false").returncode == 0
        grid.begun()
        grid.loses_its_node()
        wait_until(lambda: not cluster.slurm("squeue", "--noheader"))  # noqa: B023
        assert "rankmatch resume" in grid.rankmatch("status").stdout  # no controller goes on with the grid here
        said = grid.rankmatch("resume").stdout
        assert "node failure: job" in said and "Slurm says NODE_FAIL" in said
        assert "submitted: 1 cell" in said
        ends_like(grid, undisturbed, 2)


def test_site_says_how_many_jobs_an_account_may_have(cluster, monkeypatch):
    if cluster.settings["ST_ACCT"] == "none":
        pytest.skip("the accounting of Slurm is not installed: apt-get install slurmdbd mariadb-server")
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.environment[name])
    user = getpass.getuser()
    cluster.slurm("sacctmgr", "--immediate", "add", "account", "few")
    cluster.slurm("sacctmgr", "--immediate", "add", "user", user, "account=few", "MaxSubmitJobs=7")
    cluster.slurm("sacctmgr", "--immediate", "add", "qos", "fewer", "MaxSubmitJobsPerUser=3", "MaxWall=90")
    cluster.slurm("sacctmgr", "--immediate", "add", "cluster", "elsewhere")
    cluster.slurm("sacctmgr", "--immediate", "add", "account", "few", "cluster=elsewhere")
    cluster.slurm("sacctmgr", "--immediate", "add", "user", user, "account=few", "cluster=elsewhere", "MaxSubmitJobs=1")
    cluster.slurm("sbatch", "--account=few", "--hold", "--array=0-1", "--output=/dev/null", "--wrap=true")
    try:
        assert site_limits.submit_limit("few", "", "") == SubmitLimit(7, 2)
        assert site_limits.submit_limit("few", "fewer", "main,low") == SubmitLimit(3, 0)
        assert site_limits.submit_limit("other", "", "") is None
        assert site_limits.submit_limit("", "", "") is None  # that of the default account, not of the others
        assert site_limits.max_minutes("main,low") is None
        assert site_limits.max_wall_minutes("few", "fewer", "main") == 90
        assert site_limits.max_wall_minutes("few", "", "main") is None
    finally:
        cluster.slurm("scancel", "--account=few")


def test_job_that_was_given_our_number_after_slurmctld_forgot_ours_is_left_alone(make_grid, cluster):
    grid, held = make_grid(), "cluster.extra={hold: true}"
    with cluster.forgotten():
        assert grid.launch(held).returncode == 0
    number, given = grid.job(), ""
    while given != number:
        given = cluster.slurm("sbatch", "--parsable", "--job-name=my-thesis", "--hold", "--output=/dev/null",
                              "--wrap=true").strip()  # fmt: skip
        assert int(given) <= int(number)
    assert "0 cells were told to end" in grid.rankmatch("cancel").stdout
    assert "submitted: 1 cell as job" in grid.launch(held).stdout
    assert "1 cell was told to end" in grid.rankmatch("cancel").stdout
    assert number in cluster.slurm("squeue", "--noheader", "--name=my-thesis", "--format=%i").split()
    cluster.slurm("scancel", f"--user={getpass.getuser()}")  # with what others had cancelled, which is there again
    wait_until(lambda: not cluster.slurm("squeue", "--noheader"))

"""A pilot against a Slurm and a Ray that are not there; tests/slurm has the real ones."""

import errno
import json
import os
import pickle
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from orchestration_fakes import flags
from rich.console import Console
from typed_words import Options, launch

from orchestration.launching import control
from orchestration.launching.step import Step, take_step
from orchestration.machine import damage, files, scratch, snapshot
from orchestration.on_ray.orders import HeadAddress, Lent, Sharing
from orchestration.on_ray.stop import CellStop, own_node
from orchestration.on_slurm import commands, pilot, queue_state, submissions
from orchestration.on_slurm.batch import give_tasks
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import Job
from orchestration.on_slurm.notices import Notifier
from orchestration.on_slurm.pilot import PilotHead, PilotNode, _Head, _Node
from orchestration.on_slurm.pilot_scheduler import PilotScheduler
from orchestration.on_slurm.resources import Resources, pilot_node
from orchestration.on_slurm.signals import REQUEUE
from orchestration.on_slurm.site import Site, SiteLimits
from orchestration.runs.failures import FailureClass
from orchestration.runs.folders import JobFolder
from orchestration.runs.jobs import (
    CellJob,
    JobState,
    SchedulerError,
    SchedulerRefusal,
    StateLog,
    cancel_cells,
    cancelled_cells,
)
from orchestration.runs.run_folder import RunFolder, folders

OWNER = {"launch": "1", "campaign": "1", "commit": "c", "provenance": {}}


@pytest.fixture
def launch_dir(tmp_path: Path) -> Path:
    path = tmp_path / "grid" / "launches" / "1"
    (path / "jobs").mkdir(parents=True)
    return path


def jobs_of(tmp_path: Path, num: int, **settings) -> list[CellJob]:
    cells = tmp_path / "grid" / "cells"
    return [CellJob(cells / f"{number:012x}-c", estimate_s=3600.0, **settings) for number in range(num)]


def scheduler(tmp_path: Path, num_nodes: int = 3, share: float = 1.0, **settings) -> PilotScheduler:
    site = Site(ClusterConfig(**settings), tmp_path / "code")
    return PilotScheduler(site, num_nodes=num_nodes, num_gpus_per_worker=share)


def test_head_and_nodes_are_submitted_and_the_nodes_wait_for_the_head(slurm, launch_dir, tmp_path):
    handle = scheduler(tmp_path, controller_partition="small").submit(jobs_of(tmp_path, 6), launch_dir, OWNER)
    head, nodes = map(flags, slurm.scripts)
    ((_, submission),) = submissions.read(tmp_path / "grid")
    assert (submission.job_id, submission.nodes_id, list(map(str, handle.job_ids))) == ("1", "2", ["1", "2"])
    head_job = Job("1", submission.name)
    assert submissions.newest_jobs(tmp_path / "grid") == {f"{number:012x}-c": head_job for number in range(6)}
    assert {name: head.get(name) for name in ("job-name", "cpus-per-task", "mem", "partition", "array", "requeue")} == {
        "job-name": submission.name, "cpus-per-task": "2", "mem": "8192MB", "partition": "small", "array": None,
        "requeue": None,
    }  # fmt: skip
    assert {"no-requeue", "signal"} <= head.keys() and "gpus-per-node" not in head
    assert {name: nodes[name] for name in ("job-name", "array", "dependency", "cpus-per-task", "gpus-per-node")} == {
        "job-name": submission.nodes_name, "array": "0-2%3", "dependency": "after:1", "cpus-per-task": "4",
        "gpus-per-node": "1",
    }  # fmt: skip
    assert "requeue" in nodes
    assert head["time"] == nodes["time"] == "300"  # two cells each, twice what they are estimated to take, 15 minutes


def test_pilot_whose_nodes_got_no_answer_is_withdrawn_as_a_whole_and_its_head_cancelled(slurm, launch_dir, tmp_path):
    (slurm.folder / "silent_asking").write_text("job-name=.*-nodes")
    with pytest.raises(SchedulerError, match="Socket timed out"):
        scheduler(tmp_path).submit(jobs_of(tmp_path, 2), launch_dir, OWNER)
    slurm.queued = {"1": ("PENDING", "")}
    ((_, one),) = submissions.read(tmp_path / "grid")
    assert submissions.settle(tmp_path / "grid", give_tasks) == []
    assert {*slurm.cancelled} == {"1"} and submissions.newest_jobs(tmp_path / "grid") == {}
    assert submissions.is_withdrawn(launch_dir, one.name) and submissions.is_withdrawn(launch_dir, one.nodes_name)


def test_pilot_whose_nodes_are_refused_leaves_no_head(slurm, launch_dir, tmp_path):
    (slurm.folder / "refuses_asking").write_text("job-name=.*-nodes")
    with pytest.raises(SchedulerRefusal):
        scheduler(tmp_path).submit(jobs_of(tmp_path, 2), launch_dir, OWNER)
    assert submissions.read(tmp_path / "grid") == []
    (name,) = (flags(script)["job-name"] for script in slurm.scripts)
    assert f"--name={name}" in slurm.cancelled


def test_nodes_of_which_sbatch_told_no_number_are_found_and_get_their_tasks(slurm, launch_dir, tmp_path):
    (slurm.folder / "silent_asking").write_text("job-name=.*-nodes")
    with pytest.raises(SchedulerError, match="Socket timed out"):
        scheduler(tmp_path).submit(jobs_of(tmp_path, 2), launch_dir, OWNER)
    ((_, one),) = submissions.read(tmp_path / "grid")
    slurm.names[one.nodes_name] = "2\n"
    ((_, found),) = submissions.settle(tmp_path / "grid", give_tasks)
    assert (found.job_id, found.nodes_id) == ("1", "2")
    assert {path.name for path in (launch_dir / "jobs").glob("*.pkl")} == {
        "1_submitted.pkl", "2_0_submitted.pkl", "2_1_submitted.pkl", "2_2_submitted.pkl"
    }  # fmt: skip


def test_nodes_are_kept_from_where_no_cell_of_the_pilot_is_to_go(slurm, launch_dir, tmp_path):
    jobs = [replace(job, avoided=("n1", f"n{7 + number}")) for number, job in enumerate(jobs_of(tmp_path, 2))]
    scheduler(tmp_path, exclude="n9").submit(jobs, launch_dir, OWNER)
    head, nodes = map(flags, slurm.scripts)
    assert (head["exclude"], nodes["exclude"]) == ("n9", "n9,n1")


def test_head_carries_the_cells_and_each_node_what_it_lends(slurm, launch_dir, tmp_path):
    scheduler(tmp_path, share=0.5).submit(jobs_of(tmp_path, 2), launch_dir, OWNER)
    head = pickle.loads((launch_dir / "jobs" / "1_submitted.pkl").read_bytes()).function
    node = pickle.loads((launch_dir / "jobs" / "2_0_submitted.pkl").read_bytes()).function
    assert (head.num_nodes, head.node, head.sharing.num_gpus_per_worker) == (3, Lent(8, 1), 0.5)
    assert [job.num_cpus_per_worker for job in head.jobs] == [4, 4]
    assert head.owner["campaign"] == "1"
    assert (node.num_cpus, node.num_gpus, node.nodes_name) == (8, 1, head.nodes_name)


def test_node_holds_the_largest_cell_and_on_shared_gpus_as_many_as_fit(tmp_path):
    site = ClusterConfig(gpus_per_node=4, cpus_per_worker=2, mem_gb_per_worker=10, time_min=60)
    jobs = [*jobs_of(tmp_path, 1), *jobs_of(tmp_path, 1, num_workers=2)]
    assert pilot_node(jobs, site, 1.0) == Resources(1, 4, 2, 20.0, 60)
    assert pilot_node(jobs, site, 0.25) == Resources(1, 16, 2, 80.0, 60)
    assert pilot_node(jobs_of(tmp_path, 2, device="cpu"), site, 0.25) == Resources(1, 2, 0, 10.0, 60)


def test_cell_that_needs_more_than_a_node_is_refused(slurm, tmp_path):
    with pytest.raises(ValueError, match=r"trainer.num_workers=16 must fit on one node with --pilot; .* 2 nodes of"):
        scheduler(tmp_path).check(jobs_of(tmp_path, 1, num_workers=16))


def test_site_that_takes_fewer_jobs_than_a_pilot_has_gets_none(slurm, launch_dir, tmp_path):
    with pytest.raises(SchedulerError, match="the site takes 3 more jobs of this user; a head and 3 nodes are 4"):
        scheduler(tmp_path, max_submit=3).submit(jobs_of(tmp_path, 2), launch_dir, OWNER)
    slurm.max_array_size = 2
    with pytest.raises(SchedulerError, match="--nodes must be at most 2 at this site; got 3"):
        scheduler(tmp_path).submit(jobs_of(tmp_path, 2), launch_dir, OWNER)
    assert not slurm.scripts and not submissions.read(tmp_path / "grid")


def test_scripts_are_those_of_the_head_and_of_the_nodes(slurm, launch_dir, tmp_path):
    head, nodes = scheduler(tmp_path, num_nodes=1).scripts(jobs_of(tmp_path, 2), launch_dir, SiteLimits())
    assert "array" not in flags(head) and "array" not in flags(nodes)
    assert flags(nodes)["dependency"] == "after:HEAD"


def test_cell_in_a_pilot_waits_runs_and_is_gone_as_its_head_says(slurm, launch_dir, tmp_path):
    scheduler(tmp_path).submit(jobs_of(tmp_path, 3), launch_dir, OWNER)
    slurm.queued = {"1": ("PENDING", "")}
    grid_dir = tmp_path / "grid"
    assert {job.state for job in queue_state.queued_cells(grid_dir).values()} == {"PENDING"}
    slurm.queued = {"1": ("RUNNING", "n1")}
    log = StateLog(launch_dir)
    log.write("000000000000-c", JobState.RUNNING)
    log.write("000000000001-c", JobState.FAILED)
    found = queue_state.queued_cells(grid_dir)
    assert {cell: (job.job.number, job.state, job.reason) for cell, job in found.items()} == {
        "000000000000-c": ("1", "RUNNING", "None"),
        "000000000002-c": ("1", "PENDING", "waits for a node"),
    }


@pytest.fixture
def in_job(slurm, monkeypatch, tmp_path) -> dict[str, str]:
    """Be element 1 of job 2; what scontrol says can be changed."""
    monkeypatch.setattr(scratch, "PLACES", (tmp_path,))
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    fields = {"JobState": "RUNNING"}
    monkeypatch.setattr(commands, "job_fields", lambda job: dict(fields))
    return fields


@pytest.fixture
def node(in_job, launch_dir) -> _Node:
    task = PilotNode(str(launch_dir), "root", 2, 0, "nodes", signal_before_s=60, requeue=True)
    folder = launch_dir / "jobs" / "2_1.0"
    folder.mkdir()
    return _Node(task, JobFolder(folder))


@pytest.fixture
def lent(monkeypatch) -> list[dict]:
    """What would be lent to Ray; the daemon is a shell line that ends when its node's stop file is there."""
    lent: list[dict] = []

    def lend(address, token, *, environment, **settings):
        folder = environment["RANKMATCH_NODE"]
        lent.append({"address": address, "token": token, "folder": folder, **settings})
        script = f"while [ ! -e {folder}/stop ]; do sleep 0.1; done"
        return subprocess.Popen(["sh", "-c", script], start_new_session=True)

    monkeypatch.setattr(pilot, "lend_node", lend)
    monkeypatch.setattr(pilot, "has_raylet", lambda daemon: True)
    return lent


@pytest.fixture
def address() -> str:
    """Where somebody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def head_at(launch_dir: Path, address: str) -> None:
    (launch_dir / "head.json").write_text(json.dumps({"address": address, "token": "t"}))


@pytest.mark.parametrize(
    ("number", "fields", "kind", "code"),
    [
        (signal.SIGUSR2, {}, "preempted", REQUEUE),
        (signal.SIGUSR2, {"EndTime": "2020-01-01T00:00:00"}, "time limit", REQUEUE),
        (signal.SIGTERM, {"JobState": "COMPLETING", "Restarts": "0"}, "cancelled", 0),
    ],
)
def test_node_that_must_leave_tells_its_cells_and_comes_back_unless_cancelled(
    number, fields, kind, code, node, in_job, lent, address, launch_dir
):
    head_at(launch_dir, address)
    in_job.update(fields)
    node.heard = number
    assert node.run() == code
    assert (node.folder.path / "stop").read_text().startswith(f"{kind}\n")
    (one,) = lent
    assert (one["address"], one["token"], one["num_cpus"], one["name"]) == (address, "t", 2, "2_1.0")
    described = json.loads((node.folder.path / "node.json").read_text())
    assert described["owner"]["slurm"] == {"job": "2_1", "restart": 0}
    assert described["owner"]["pid"] == os.getpid()


def test_node_leaves_with_a_head_that_has_ended_and_takes_those_along_that_wait(node, lent, slurm, launch_dir):
    (launch_dir / "ended").touch()
    assert node.run() == 0
    assert not lent
    assert slurm.cancelled == ["--name=nodes", "--state=PENDING"]


def test_node_whose_head_is_gone_has_its_cells_write_a_checkpoint_and_does_not_come_back(
    node, lent, slurm, address, launch_dir, monkeypatch
):
    monkeypatch.setattr(pilot, "LOOK_FOR_HEAD_S", 0.0)
    head_at(launch_dir, address)
    answers = iter([True, True, False, True, False, False, False])
    monkeypatch.setattr(pilot, "answers", lambda address: next(answers))
    assert node.run() == 0
    assert len(lent) == 1
    assert (node.folder.path / "stop").read_text() == "node failure\nthe head of the pilot is gone"
    assert slurm.cancelled == ["--name=nodes", "--state=PENDING"]


def test_node_does_not_lend_itself_to_a_head_that_died_before_it_came(node, lent, launch_dir, monkeypatch):
    monkeypatch.setattr(pilot, "LOOK_FOR_HEAD_S", 0.0)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    head_at(launch_dir, address)
    assert node.run() == 0
    assert not lent


def test_node_that_finds_no_head_says_so(node, lent, monkeypatch, capsys):
    monkeypatch.setattr(pilot, "JOIN_TIMEOUT_S", 0.2)
    assert node.run() == 1
    assert "no head was found" in capsys.readouterr().err


def test_node_whose_daemon_was_drained_leaves_at_once(node, lent, address, launch_dir, monkeypatch):
    head_at(launch_dir, address)
    raylet = iter([True, False])
    monkeypatch.setattr(pilot, "has_raylet", lambda daemon: next(raylet))
    node.stop_file.write_text("preempted\n")
    node._wait_for_head = lambda: HeadAddress.from_file(launch_dir / "head.json")
    monkeypatch.setattr(pilot, "lend_node", lambda *_, **__: subprocess.Popen(["sleep", "60"], start_new_session=True))
    assert node.run() == REQUEUE


@pytest.fixture
def head(in_job, launch_dir, make_cell, tmp_path, monkeypatch):
    """The head of a pilot whose driver is a shell line."""
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    cell = make_cell()
    folder = launch_dir / "jobs" / "9.0"
    folder.mkdir()

    def make(script: str) -> _Head:
        monkeypatch.setattr(pilot, "DRIVER", f"import os; os.execvp('sh', ['sh', '-c', {script!r}])")
        options, node = Sharing(), Lent(2, 0)
        jobs = (CellJob(cell),)
        notifier = Notifier(str(tmp_path / "grid"), command=("sh", "-c", f"echo $0 >> {tmp_path}/told"))
        return _Head(
            PilotHead(str(launch_dir), "root", OWNER, jobs, options, 3, node, "nodes", 60, notifier), JobFolder(folder)
        )

    make.cell = cell
    return make


def test_head_orders_the_driver_and_ends_with_it(head, launch_dir, slurm, tmp_path):
    (launch_dir / "head.json").write_text("{}")
    task = head(f"cp {launch_dir}/ray.json {launch_dir}/seen; echo $RANKMATCH_NODE > {launch_dir}/node")
    assert task.run() == 0
    order = json.loads((launch_dir / "seen").read_text())
    folder = order["pilot"]["folder"]
    assert folder.startswith(str(tmp_path / "rm-ray-")) and not Path(folder).parent.exists()
    assert order["pilot"] == {"name": "9.0", "folder": folder, "num_nodes": 3, "end_time": None,
                              "node": {"num_cpus": 2, "num_gpus": 0}}  # fmt: skip
    assert order["jobs"][0]["cell_dir"] == str(head.cell)
    assert (launch_dir / "node").read_text().strip() == str(launch_dir / "jobs" / "9.0")
    assert (launch_dir / "ended").exists() and not (launch_dir / "head.json").exists()
    assert slurm.cancelled == ["--name=nodes", "--state=PENDING"]


def test_driver_that_breaks_down_fails_the_head(head):
    assert head("exit 3").run() == 1


def test_head_that_must_end_waits_for_the_cells_that_train_and_not_for_the_others(head, launch_dir, monkeypatch):
    monkeypatch.setattr(pilot, "QUIET_S", 0.6)
    task = head("sleep 100")
    log = StateLog(launch_dir)
    log.write(head.cell.name, JobState.RUNNING)
    task.heard = signal.SIGUSR2
    looked = []

    def look() -> None:
        looked.append((launch_dir / "cancelled").exists())
        if len(looked) == 4:
            log.write(head.cell.name, JobState.STOPPED)

    task._look_for_nodes = look
    assert task.run() == 0
    assert (launch_dir / "cancelled").read_text().startswith("preempted\n")
    assert looked[0] and len(looked) >= 4


def test_pilot_without_a_job_that_lends_a_node_ends(head, slurm, launch_dir, monkeypatch):
    monkeypatch.setattr(pilot, "LOOK_FOR_NODES_S", 0.0)
    monkeypatch.setattr(pilot, "QUIET_S", 0.3)
    slurm.names["nodes"] = "2_0\n"
    task = head("sleep 100")
    for _ in range(5):
        task._look_for_nodes()
    assert task.num_missed == 0
    slurm.is_down = True
    task._look_for_nodes()
    assert task.num_missed == 0
    slurm.is_down, slurm.names = False, {}
    assert task.run() == 0
    assert (launch_dir / "cancelled").read_text() == "node failure\nno job lends a node to the pilot any more"


def test_head_tells_that_cells_began_and_which_are_given_up(head, launch_dir, tmp_path):
    log = StateLog(launch_dir)
    log.write(head.cell.name, JobState.RUNNING)
    task = head("sleep 1")
    RunFolder(head.cell).claim(OWNER).event("failed", kind="code error", message="boom")
    task._tell_of_begin()
    while not (tmp_path / "told").exists():
        time.sleep(0.01)
    log.write(head.cell.name, JobState.FAILED)
    assert task.run() == 0
    assert (tmp_path / "told").read_text().splitlines() == [
        "grid: the first cell has begun, in the pilot of job 9",
        f"grid: {head.cell.name} is not tried again: code error; `rankmatch logs` has the traceback",
    ]


def test_head_tells_of_a_cell_that_is_given_up_while_others_train(head, launch_dir, tmp_path):
    StateLog(launch_dir).write(head.cell.name, JobState.FAILED)
    RunFolder(head.cell).claim(OWNER).event("failed", kind="code error", message="boom")
    told = tmp_path / "told"
    task = head(f"while [ ! -s {told} ]; do sleep 0.05; done; cp {told} {tmp_path}/while; sleep 1")
    assert task.run() == 0
    words = f"grid: {head.cell.name} is not tried again: code error; `rankmatch logs` has the traceback\n"
    assert (tmp_path / "while").read_text() == told.read_text() == words


@pytest.mark.parametrize(("owner", "method"), [(RunFolder, "ends"), (StateLog, "read")])
def test_head_outlives_a_cell_or_a_log_that_cannot_be_read_for_a_while_and_tells_of_the_cell_then(
    owner, method, head, launch_dir, tmp_path, slurm, monkeypatch
):
    monkeypatch.setattr(pilot, "LOOK_FOR_NODES_S", 0.0)
    slurm.names["nodes"] = "2_0\n"
    StateLog(launch_dir).write(head.cell.name, JobState.FAILED)
    RunFolder(head.cell).claim(OWNER).event("failed", kind="code error", message="boom")
    read, hiccups = getattr(owner, method), [OSError(errno.ESTALE, os.strerror(errno.ESTALE))] * 3

    def sometimes(self, *arguments):
        if hiccups:
            raise hiccups.pop()
        return read(self, *arguments)

    monkeypatch.setattr(owner, method, sometimes)
    told = tmp_path / "told"
    assert head(f"while [ ! -s {told} ]; do sleep 0.05; done").run() == 0 and not hiccups
    assert told.read_text() == (
        f"grid: {head.cell.name} is not tried again: code error; `rankmatch logs` has the traceback\n"
    )


def test_head_has_its_cells_trained_where_it_cannot_note_which_were_cancelled(head, launch_dir, monkeypatch):
    def held(*_, **__):
        raise ValueError("held by somebody who died")

    monkeypatch.setattr(pilot, "cancelled_in", lambda *_: {"another"})
    monkeypatch.setattr(pilot, "cancel_cells", held)
    assert head(f"touch {launch_dir}/driven").run() == 0 and (launch_dir / "driven").exists()


def test_head_that_could_not_note_which_cells_were_cancelled_does_so_once_it_can(head, launch_dir, slurm, monkeypatch):
    monkeypatch.setattr(pilot, "LOOK_FOR_NODES_S", 0.0)
    slurm.names["nodes"] = "2_0\n"
    (launch_dir / "campaign.json").write_text("{}")
    cancelled, hiccups = {head.cell.name}, [OSError(errno.ESTALE, os.strerror(errno.ESTALE))] * 2

    def read(*_):
        if hiccups:
            raise hiccups.pop()
        return cancelled

    monkeypatch.setattr(pilot, "cancelled_in", read)
    assert head(f"while [ ! -e {launch_dir}/cancelled.json ]; do sleep 0.05; done").run() == 0
    assert cancelled_cells(launch_dir) == [head.cell.name]


@pytest.fixture
def away(monkeypatch):
    """Have looks at files, and writes of them, fail so often, as on a file server that is away for a while."""

    def go(names: set[str], times: int) -> list[str]:
        seen: list[str] = []

        def failing(act):
            def acting(path, *words, **options):
                if path.name in names and len(seen) < times:
                    seen.append(path.name)
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
                return act(path, *words, **options)

            return acting

        monkeypatch.setattr(Path, "exists", failing(Path.exists))
        monkeypatch.setattr(Path, "read_text", failing(Path.read_text))
        monkeypatch.setattr(files, "replace", failing(files.replace))
        return seen

    return go


def test_head_outlives_a_file_server_that_is_away_and_has_its_cells_end_once_it_is_back(
    head, launch_dir, away, monkeypatch
):
    monkeypatch.setattr(pilot, "QUIET_S", 0.3)
    seen = away({"cancelled"}, 6)
    log = StateLog(launch_dir)
    log.write(head.cell.name, JobState.RUNNING)
    task = head(f"while [ ! -e {launch_dir}/cancelled ]; do sleep 0.05; done; sleep 100")
    looks = iter(range(100))

    def look() -> None:
        if (place := next(looks)) == 1:
            task.heard = signal.SIGUSR2
        if place == 4:
            assert (launch_dir / "cancelled").read_text().startswith("preempted\n")
            log.write(head.cell.name, JobState.STOPPED)

    task._look_for_nodes = look
    assert task.run() == 0 and len(seen) == 6


def test_head_ends_its_driver_and_cancels_what_waits_where_it_cannot_write_that_it_has_ended(
    head, launch_dir, slurm, away, monkeypatch
):
    (launch_dir / "head.json").write_text("{}")
    away({"ended"}, 100)
    task = head("sleep 100")
    drivers, popen = [], subprocess.Popen
    monkeypatch.setattr(pilot.subprocess, "Popen", lambda *a, **k: drivers.append(popen(*a, **k)) or drivers[0])
    monkeypatch.setattr(task, "_is_over", lambda: bool(drivers))
    task.run()
    assert drivers[0].returncode is not None
    assert not {"head.json", "ended"} & {path.name for path in launch_dir.iterdir()}
    assert slurm.cancelled == ["--name=nodes", "--state=PENDING"]


@pytest.mark.parametrize(("name", "times"), [("ended", 2), ("stop", 4)])
def test_node_outlives_a_file_server_that_is_away_and_tells_its_cells_once_it_is_back(
    name, times, node, lent, address, launch_dir, away
):
    head_at(launch_dir, address)
    seen = away({name}, times)
    node.heard = signal.SIGUSR2
    node._wait_for_head = lambda: HeadAddress.from_file(launch_dir / "head.json")
    assert node.run() == REQUEUE and len(seen) == times
    assert (node.folder.path / "stop").read_text().startswith("preempted\n")


def test_node_that_cannot_read_why_it_left_goes_by_what_it_heard(node, lent, in_job, address, launch_dir, monkeypatch):
    head_at(launch_dir, address)
    in_job.update({"JobState": "COMPLETING", "Restarts": "0"})
    read = Path.read_text

    def failing(path, *words, **options):
        if path.name == "stop":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return read(path, *words, **options)

    monkeypatch.setattr(Path, "read_text", failing)
    node.heard = signal.SIGTERM
    node._wait_for_head = lambda: HeadAddress.from_file(launch_dir / "head.json")
    assert node.run() == 0 and len(lent) == 1  # it was cancelled, so it does not come back


def test_node_waits_for_a_head_whose_address_cannot_be_read_for_a_while(node, lent, address, launch_dir, monkeypatch):
    head_at(launch_dir, address)
    read, hiccups = HeadAddress.from_file, [OSError(errno.ESTALE, os.strerror(errno.ESTALE))] * 2

    def sometimes(path):
        if hiccups:
            raise hiccups.pop()
        node.heard = signal.SIGUSR2
        return read(path)

    monkeypatch.setattr(HeadAddress, "from_file", sometimes)
    assert node.run() == REQUEUE and len(lent) == 1


@pytest.fixture
def on_node(launch_dir, monkeypatch) -> Path:
    folder = launch_dir / "jobs" / "2_1.0"
    folder.mkdir()
    (folder / "node.json").write_text(json.dumps({"end_time": None, "owner": {"slurm": {"job": "2_1"}}}))
    monkeypatch.setenv("RANKMATCH_NODE", str(folder))
    return folder


def test_cell_moves_when_its_node_leaves_and_ends_when_its_launch_does(on_node, launch_dir):
    stop = CellStop(launch_dir, "a", None)
    assert (stop(), stop.why(), own_node().owner) == (False, "", {"slurm": {"job": "2_1"}})
    (on_node / "stop").write_text("preempted\nUSR2 came")
    assert (stop(), stop.is_for_good(), stop.why()) == (True, False, "preempted\nUSR2 came")
    (launch_dir / "cancelled").write_text("time limit\n")
    assert (stop(), stop.is_for_good(), stop.why()) == (True, True, "time limit\n")


def test_cell_that_is_cancelled_by_name_ends_and_no_other(on_node, launch_dir):
    cancel_cells(launch_dir, ["a"])
    stop, other = CellStop(launch_dir, "a", None), CellStop(launch_dir, "b", None)
    assert (stop(), stop.is_for_good(), stop.why()) == (True, True, "")
    assert not other()


def test_cell_of_several_workers_looks_at_the_node_of_each(on_node, launch_dir, monkeypatch):
    monkeypatch.delenv("RANKMATCH_NODE")
    here = CellStop(launch_dir, "a", None)
    travelled = pickle.dumps(here)
    (on_node / "stop").write_text("preempted\n")
    assert not here()
    code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read())())"
    environment = {**os.environ, "RANKMATCH_NODE": str(on_node), "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", code], input=travelled, env=environment, capture_output=True, check=True
    )
    assert said.stdout == b"True\n"
    assert here.why() == "preempted\n"  # what ended it is found where its worker was


def test_time_limit_of_a_node_ends_the_cells_on_it(on_node, launch_dir):
    (on_node / "node.json").write_text(json.dumps({"end_time": 1.0, "owner": {}}))
    stop = CellStop(launch_dir, "a", None)
    assert stop() and not stop.is_for_good()
    assert stop.why().startswith(f"{FailureClass.TIME_LIMIT}\n")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"end_time": "soon"}', '{"end_time": 1.0, "owner": 3}'])
def test_cells_train_on_a_node_whose_description_is_damaged_and_name_it(text, on_node, launch_dir, monkeypatch):
    monkeypatch.setattr(damage, "_told", set())
    (on_node / "node.json").write_text(text)
    with pytest.warns(damage.DamageWarning, match=f"{on_node / 'node.json'} is damaged: .*cells here know neither its"):
        assert not CellStop(launch_dir, "a", None)()


def test_where_the_head_is_can_be_read_by_its_user_alone(tmp_path):
    files.replace(tmp_path / "head.json", "{}", mode=0o600)
    assert stat.S_IMODE((tmp_path / "head.json").stat().st_mode) == 0o600


SMALL = Path(__file__).parents[1] / "small.yaml"


@pytest.fixture
def console() -> Console:
    return Console(width=200, record=True)


@pytest.fixture
def options(tmp_path, slurm, monkeypatch) -> Options:
    monkeypatch.setattr(snapshot, "take", lambda grid_dir, **_: snapshot.Snapshot(grid_dir / "code", "abc", ""))
    return Options(grid=str(SMALL), overrides=("trainer.device=cpu",), runs=tmp_path / "runs", cluster="slurm",
                   num_nodes=2)  # fmt: skip


def test_launch_submits_a_pilot_and_a_controller_that_submits_what_is_left_as_another(options, slurm, console):
    assert launch(options, console) == 0
    said = console.export_text()
    assert "submitted: 4 cells as a pilot of 2 nodes, jobs 1, 2\njobs rankmatch-controller-" in said
    (launch_dir,) = (options.runs / "small" / "launches").iterdir()
    slurm.queued = {"1": ("RUNNING", "n1"), "2_0": ("RUNNING", "n2"), "2_1": ("PENDING", "")}
    (launch_dir / "jobs" / "1.0").mkdir()
    (launch_dir / "jobs" / "1.0" / "node.json").write_text("{}")
    StateLog(launch_dir).write(cell := next(iter(submissions.newest_jobs(launch_dir.parents[1]))), JobState.FAILED)
    RunFolder(launch_dir.parents[1] / "cells" / cell).claim(
        OWNER | {"campaign": launch_dir.name, "launch": launch_dir.name}
    ).event("failed", kind="lost", message="gone")
    assert take_step(launch_dir, console) == Step(is_quiet=True)  # the head has what is left, and gives it to its nodes
    del slurm.queued["1"]
    assert take_step(launch_dir, console).submitted is None  # cells of its nodes write checkpoints
    assert slurm.cancelled == [f"--name={slurm.name_of('2')}", "--state=PENDING"]
    slurm.queued.clear()
    take_step(launch_dir, console)
    again = list(map(flags, slurm.scripts[2:]))
    assert [script.get("dependency") for script in again] == [None, "after:3"]
    assert again[1]["array"] == "0-1%2"


def test_pilot_that_keeps_a_limit_is_alone(options, slurm, console):
    limited = replace(options, max_concurrent=1)
    launch(limited, console)
    (launch_dir,) = (options.runs / "small" / "launches").iterdir()
    slurm.queued = {"1": ("RUNNING", "n1"), "2_0": ("RUNNING", "n2")}
    StateLog(launch_dir).write(next(iter(submissions.newest_jobs(launch_dir.parents[1]))), JobState.FAILED)
    with pytest.raises(
        ValueError, match=r"--max-concurrent=1 must be alone, .*; 3 cells have a job on Slurm. Launch once"
    ):
        launch(limited, console)
    del slurm.queued["1"]  # its node was given up, while its processes live
    with pytest.raises(ValueError, match=r"nodes of a pilot whose head has ended may train: job 2\. Launch once"):
        launch(limited, console)
    slurm.queued["1"] = ("RUNNING", "n1")
    assert len(slurm.scripts) == 2
    launch(options, console)  # who asks for no limit may have two
    assert len(slurm.scripts) == 4
    (newer,) = {*launch_dir.parent.iterdir()} - {launch_dir}
    del slurm.queued["1"], slurm.queued["2_0"]
    slurm.queued["3"] = ("RUNNING", "n1")
    for cell in submissions.newest_jobs(launch_dir.parents[1]):
        StateLog(launch_dir).write(cell, JobState.FAILED)
    assert take_step(launch_dir, console).submitted is None and len(slurm.scripts) == 4
    assert newer.is_dir()


def test_pilot_whose_head_never_began_or_got_no_node_has_begun_none_of_its_cells(options, slurm, console):
    launch(options, console)
    (launch_dir,) = (options.runs / "small" / "launches").iterdir()
    slurm.accounted = {"1": ("FAILED", "n1")}
    (launch_dir / "jobs" / "1_0_log.out").write_text("execve(): python: No such file or directory\n")
    take_step(launch_dir, console)
    for folder in folders(launch_dir.parents[1]).values():  # a minute ago
        event = folder.attempts()[0].path / "events.jsonl"
        event.write_text(re.sub(r'"time": [\d.]+', f'"time": {time.time() - 61}', event.read_text()))
    take_step(launch_dir, console)
    ends = [folder.attempts()[0].end().kind for folder in folders(launch_dir.parents[1]).values()]
    assert ends == [FailureClass.NEVER_BEGAN] * 4
    slurm.accounted = {"3": ("TIMEOUT", "n1")}
    again = max((options.runs / "small" / "launches").iterdir())
    (again / "jobs" / "3.0").mkdir()
    (again / "jobs" / "3.0" / "node.json").write_text("{}")
    take_step(launch_dir, console)
    hosts = [
        [one.known_owner()["host"] for one in folder.attempts()] for folder in folders(launch_dir.parents[1]).values()
    ]
    assert hosts == [["n1", ""]] * 4


def test_dry_run_of_a_pilot_prints_its_scripts_and_makes_nothing(options, slurm, console):
    launch(replace(options, dry_run=True), console)
    said = console.export_text()
    assert "#SBATCH --array=0-1%2" in said and "#SBATCH --dependency=after:HEAD" in said and "2 at a time" in said
    assert not options.runs.exists() and not slurm.scripts


def test_status_tells_which_cells_of_a_pilot_wait_and_one_or_all_of_them_can_be_cancelled(options, slurm, console):
    launch(options, console)
    slurm.queued = {"1": ("RUNNING", "n1"), "2_0": ("RUNNING", "n2"), "3": ("PENDING", "")}
    grid_dir = options.runs / "small"
    control.status(grid_dir, console)
    said = console.export_text()
    assert "4 cells: 4 waiting" in said and "waits for a node" in said
    control.cancel(grid_dir, ["rankmatch-4-s0"], console)
    assert "1 cell was told to end" in console.export_text() and not slurm.cancelled and slurm.controllers
    ((launch_dir, submission),) = submissions.read(grid_dir)
    (name,) = cancelled_cells(launch_dir)
    assert name.endswith("rankmatch-4-s0")
    control.cancel(grid_dir, [], console)
    assert slurm.cancelled[1:] == ["1", f"--name={submission.nodes_name}", "--state=PENDING"]
    assert not slurm.controllers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_nodes": 0}, "--nodes must be at least 1; got 0"),
        ({"cluster": "local"}, "--pilot must be given with --cluster slurm or a site; got it with local"),
    ],
)
def test_pilot_that_cannot_be_is_refused(settings, message, options, console):
    with pytest.raises(ValueError, match=message):
        launch(replace(options, **settings), console)


def test_head_of_a_launch_that_was_killed_behind_sbatch_gets_its_task(launch_dir):
    (launch_dir / "jobs" / "x.0.pkl").touch()
    (launch_dir / "jobs" / "y.0.pkl").touch()  # a node's, whose job is another
    give_tasks(launch_dir, submissions.Submission("x", ["a-1", "b-2"], job_id="7", nodes_name="y"))
    assert sorted(path.name for path in (launch_dir / "jobs").iterdir()) == ["7_submitted.pkl", "y.0.pkl"]


def test_head_that_an_earlier_version_submitted_right_before_it_was_killed_gets_its_task(launch_dir):
    (launch_dir / "jobs" / f"{'0' * 32}.pkl").write_text("cells a-1 and b-2")
    (launch_dir / "jobs" / f"{'1' * 32}.pkl").write_text("a node")
    give_tasks(launch_dir, submissions.Submission("x", ["a-1", "b-2"], job_id="7", nodes_name="y"))
    assert (launch_dir / "jobs" / "7_submitted.pkl").read_text() == "cells a-1 and b-2"
    assert (launch_dir / "jobs" / f"{'1' * 32}.pkl").exists()

import errno
import fcntl
import json
import os
import pickle
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import requires
from pathlib import Path

import pytest
from undisturbed import wait_until

from orchestration.machine import provenance
from orchestration.on_ray import protocol
from orchestration.on_ray import scheduler as ray_scheduler
from orchestration.on_ray.scheduler import RayTuneScheduler
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.pilot_scheduler import PilotScheduler
from orchestration.on_slurm.scheduler import SlurmScheduler
from orchestration.on_slurm.site import Site
from orchestration.running.inline import InlineScheduler
from orchestration.running.run_cell import launcher, run_cell, train_inline
from orchestration.runs import jobs as jobs_module
from orchestration.runs.jobs import CellJob, JobState, SchedulerError, StateLog, cancel_cells, cancelled_cells
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState

FOLLOWED = [InlineScheduler, pytest.param(RayTuneScheduler, marks=pytest.mark.ray)]
ALL = [
    *FOLLOWED,
    pytest.param(lambda: SlurmScheduler(Site(ClusterConfig(), Path("/code"))), id="slurm"),
    pytest.param(lambda: PilotScheduler(Site(ClusterConfig(), Path("/code")), num_nodes=2), id="pilot"),
]


@pytest.fixture
def launch_dir(tmp_path: Path) -> Path:
    path = tmp_path / "grid" / "launches" / "1"
    path.mkdir(parents=True)
    return path


def job(cell_dir: Path, **settings) -> CellJob:
    return CellJob(cell_dir, device="cpu", **settings)


def ends_within(jobs, timeout_s: float) -> dict[str, JobState]:
    assert jobs.wait(timeout_s)
    return jobs.poll()


class Queue:
    """Jobs on a Slurm that is not there wait until the test has them done; those elsewhere begin by themselves."""

    def __init__(self, slurm, launch_dir: Path) -> None:
        self.slurm, self.tasks = slurm, sorted(launch_dir.glob("jobs/*_submitted.pkl"))
        slurm.queued = {path.name.removesuffix("_submitted.pkl"): ("PENDING", "") for path in self.tasks}

    def work_through(self) -> None:
        for path in self.tasks:
            task = pickle.loads(path.read_bytes()).function
            jobs = [CellJob(Path(task.cell_dir))] if hasattr(task, "cell_dir") else getattr(task, "jobs", ())
            for one in jobs:
                run_cell(
                    one.cell_dir, train=train_inline, owner={**launcher(), **task.owner}, should_stop=lambda: False
                )
        self.slurm.queued = {}


@pytest.mark.parametrize("make", ALL)
def test_all_schedulers_keep_one_contract(make, slurm, make_cell, launch_dir):
    cells = [make_cell(seed=seed) for seed in range(3)]
    (cells[1] / "config.yaml").write_text("numerics: {seed: -1}")
    scheduler, jobs = make(), [job(cell) for cell in cells]
    scheduler.check(jobs)
    assert not [*launch_dir.iterdir()]  # a check makes nothing
    handle = scheduler.submit(jobs, launch_dir, {**launcher(), "launch": "1", "campaign": "1"})
    queue = Queue(slurm, launch_dir)
    assert list(handle.poll()) == [cell.name for cell in cells] and not handle.wait(0)
    assert not handle.poll()[cells[-1].name].has_ended

    queue.work_through()
    assert list(ends_within(handle, 120).values()) == [JobState.DONE, JobState.FAILED, JobState.DONE]
    assert [RunFolder(cell).state().status for cell in cells] == ["done", "failed", "done"]
    assert [RunFolder(cell).attempts()[0].owner()["launch"] for cell in cells] == ["1"] * 3


@pytest.mark.parametrize("scheduler", FOLLOWED)
def test_jobs_that_are_followed_end_with_a_checkpoint_when_their_launcher_cancels_them(
    scheduler, make_cell, launch_dir
):
    cells = [make_cell(seed=seed) for seed in range(3)]
    (cells[1] / "config.yaml").write_text("numerics: {seed: -1}")
    endless = make_cell(seed=9, epochs=100_000)
    jobs = scheduler().submit([job(cell) for cell in (*cells, endless)], launch_dir, {**launcher(), "launch": "1"})
    # It has not waited for them, or it would for ever.
    assert jobs.poll()[endless.name] is JobState.PENDING
    assert not jobs.wait(0)

    wait_until(lambda: RunFolder(endless).epochs())
    wait_until(lambda: jobs.poll()[cells[2].name].has_ended)
    assert jobs.poll()[endless.name] is JobState.RUNNING
    jobs.cancel()
    states = ends_within(jobs, 1)

    assert list(states) == [cell.name for cell in (*cells, endless)]
    assert list(states.values()) == [JobState.DONE, JobState.FAILED, JobState.DONE, JobState.STOPPED]
    assert [RunFolder(cell).state().status for cell in (*cells, endless)] == ["done", "failed", "done", "interrupted"]
    assert RunFolder(endless).newest_checkpoint() is not None
    assert RunFolder(endless).attempts()[0].owner()["launch"] == "1"


def test_inline_refuses_several_workers(make_cell, launch_dir):
    with pytest.raises(ValueError, match=r"trainer.num_workers must be 1 with --cluster inline; got 2"):
        InlineScheduler().submit([job(make_cell(), num_workers=2)], launch_dir, launcher())


def test_inline_refuses_a_gpu_that_is_not_there(monkeypatch):
    wanted = CellJob(Path("cell"), device="cuda")
    monkeypatch.setattr(provenance, "gpus", lambda: ["H100"])
    InlineScheduler().check([wanted])
    monkeypatch.setattr(provenance, "gpus", list)
    with pytest.raises(ValueError, match=r"trainer.device must be cpu or auto on a machine without a GPU; got .cuda."):
        InlineScheduler().check([wanted])


def test_cancelled_inline_launch_begins_no_other_cell(make_cell, launch_dir):
    first, second = make_cell(seed=0, epochs=100_000), make_cell(seed=1)
    jobs = InlineScheduler().submit([job(first), job(second)], launch_dir, launcher())
    wait_until(lambda: RunFolder(first).epochs())
    jobs.cancel()
    assert jobs.poll() == {first.name: JobState.STOPPED, second.name: JobState.STOPPED}
    assert RunFolder(second).attempts() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_concurrent": 0}, "max_concurrent"), ({"num_gpus_per_worker": 2.0}, "num_gpus_per_worker")],
)
def test_ray_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        RayTuneScheduler(**options)


def test_state_log_keeps_the_last_state_and_drops_a_torn_line(tmp_path):
    log = StateLog(tmp_path)
    assert log.read() == {}
    log.write("a", JobState.RUNNING)
    log.write("b", JobState.RUNNING)
    log.write("a", JobState.DONE)
    with (tmp_path / "jobs.jsonl").open("a") as file:
        file.write('{"cell": "b", "sta')
    assert log.read() == {"a": JobState.DONE, "b": JobState.RUNNING}


LAUNCH = """
import json, sys, time
from pathlib import Path
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.pilot_scheduler import PilotScheduler
from orchestration.on_slurm.scheduler import SlurmScheduler
from orchestration.on_slurm.site import Site
from orchestration.running.run_cell import launcher, run_cell, train_inline
from orchestration.runs.jobs import CellJob
from orchestration.on_ray.scheduler import RayTuneScheduler
jobs = RayTuneScheduler().submit([CellJob(Path(sys.argv[1]), device="cpu")], Path(sys.argv[2]), launcher())
print(jobs._driver.pid, flush=True)
time.sleep(600)
"""


def processes(session: int) -> list[str]:
    found = subprocess.run(["ps", "-eo", "sess=,stat=,args="], capture_output=True, text=True, check=True).stdout
    fields = [line.split(None, 2) for line in found.splitlines()]
    return [args for sess, state, args in fields if sess == str(session) and not state.startswith("Z")]


@pytest.fixture
def launch(make_cell, launch_dir):
    cell = make_cell(epochs=100_000)
    command = [sys.executable, "-c", LAUNCH, str(cell), str(launch_dir)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process, cell
        process.kill()


@pytest.mark.ray
def test_killed_launcher_leaves_nothing_behind(launch, launch_dir):
    process, cell = launch
    driver = int(process.stdout.readline())
    wait_until(lambda: RunFolder(cell).epochs())
    assert any(args.startswith("ray::") for args in processes(driver))
    ray_folder = Path(json.loads((launch_dir / "ray.json").read_text())["ray_folder"])
    assert ray_folder.is_dir()
    assert ray_folder.parent.stat().st_mode & 0o077 == 0
    process.kill()
    process.wait()
    assert RunFolder(cell).state().status is CellState.INTERRUPTED
    wait_until(lambda: not processes(driver))
    assert not ray_folder.parent.exists()


@pytest.mark.ray
def test_broken_order_is_told_with_its_cause(make_cell, launch_dir):
    jobs = RayTuneScheduler().submit([CellJob(make_cell(), device="cuda", num_workers=99)], launch_dir, launcher())
    assert jobs.wait(90)
    with pytest.raises(SchedulerError, match="trainer.num_workers=99 of .* needs more GPUs than"):
        jobs.poll()


def test_order_is_plain_json(make_cell, launch_dir, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **settings: None)
    RayTuneScheduler(max_concurrent=2).submit([job(make_cell())], launch_dir, launcher())
    order = json.loads((launch_dir / "ray.json").read_text())
    assert order["options"] == {"max_concurrent": 2, "num_gpus_per_worker": 1.0}
    assert order["jobs"][0]["device"] == "cpu"
    assert (order["address"], order["owner"]["campaign"]) == ("", launch_dir.name)


@pytest.mark.parametrize("address", ["10.0.0.1", "ray://head:10001", "http://head:8265", "head:port"])
def test_address_that_is_none_is_refused(address):
    with pytest.raises(ValueError, match="--address must be HOST:PORT of a Ray's head, or auto; got"):
        RayTuneScheduler(address=address)


def test_address_where_nothing_listens_is_refused_at_once(make_cell):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"--address must be where a Ray's head listens; got {address}"):
            RayTuneScheduler(address=address).check([job(make_cell())])


@pytest.mark.parametrize(("installed", "shown"), [("2.59.1", "2.59.1"), ("3.0.0", "3.0.0"), (None, "none")])
def test_other_version_of_ray_is_refused_before_anything_is_made(installed, shown, make_cell, monkeypatch):
    def version(name: str) -> str:
        if installed is None:
            raise protocol.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(protocol, "version", version)
    with pytest.raises(ValueError, match=f"ray must be version {protocol.SUPPORTED_RAY}; installed is {shown} "):
        RayTuneScheduler().check([job(make_cell())])


def test_supported_ray_is_the_one_that_the_package_asks_for():
    wanted = [line for line in requires("rankmatch") if line.startswith("ray[")]
    assert f">={protocol.SUPPORTED_RAY}" in wanted[0]


def test_cells_that_may_not_fit_on_a_shared_gpu_are_warned_of(capsys, make_cell, monkeypatch):
    cells = [CellJob(make_cell(seed=seed), gpu_memory_gb=size) for seed, size in enumerate((10.0, 30.0, 20.0))]
    monkeypatch.setattr(ray_scheduler.provenance, "gpus", lambda: ["A100"])
    monkeypatch.setattr(ray_scheduler.provenance, "gpu_memory_gb", lambda: [42.0])
    RayTuneScheduler(num_gpus_per_worker=0.5).check(cells)
    assert capsys.readouterr().err == (
        "warning: --gpus-per-worker 0.5 puts 2 workers on a GPU, which may need about 50 GB together; "
        "the smallest GPU of this machine has 42 GB\n"
    )
    RayTuneScheduler(num_gpus_per_worker=1.0).check(cells)
    RayTuneScheduler(num_gpus_per_worker=0.5).check(cells[::2])
    assert capsys.readouterr().err == ""


def test_all_cells_that_several_cancel_at_once_are_cancelled(launch_dir: Path) -> None:
    names = [f"{place:02}" for place in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: cancel_cells(launch_dir, [name]), names))
    assert cancelled_cells(launch_dir) == names


def test_whoever_may_write_the_launch_may_cancel_after_another_user(launch_dir: Path) -> None:
    launch_dir.chmod(0o770)
    before = os.umask(0o077)
    try:
        cancel_cells(launch_dir, ["a"])
    finally:
        os.umask(before)
    assert (launch_dir / ".cancelled.lock").stat().st_mode & 0o777 == 0o660


def test_cancel_without_locks_names_the_mark_of_somebody_who_died_elsewhere(launch_dir: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(jobs_module, "_LOCK_S", 0.1)
    cancel_cells(launch_dir, ["a"])
    mark = launch_dir / ".cancelled.lock.held"
    mark.write_text("1\nanother-machine\n")
    cancel_cells(launch_dir, ["a"])  # who died had noted it
    with pytest.raises(ValueError, match=f"where the holder is gone, remove {mark}; then cancel again"):
        cancel_cells(launch_dir, ["b"])
    mark.unlink()
    cancel_cells(launch_dir, ["b"])
    assert cancelled_cells(launch_dir) == ["a", "b"]

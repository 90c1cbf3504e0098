import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestration import provenance
from orchestration.run_cell import launcher
from orchestration.run_folder import RunFolder
from orchestration.schedulers import CellJob, JobState, SchedulerError, StateLog
from orchestration.schedulers.inline import InlineScheduler
from orchestration.schedulers.ray_tune import RayTuneScheduler

SCHEDULERS = [InlineScheduler, pytest.param(RayTuneScheduler, marks=pytest.mark.ray)]


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


def wait_until(condition, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_scheduler_keeps_the_contract(scheduler, make_cell, launch_dir):
    cells = [make_cell(seed=seed) for seed in range(3)]
    (cells[1] / "config.yaml").write_text("numerics: {seed: -1}")
    endless = make_cell(seed=9, epochs=100_000)
    started = time.monotonic()
    jobs = scheduler().submit([job(cell) for cell in (*cells, endless)], launch_dir, {**launcher(), "launch": "1"})
    assert time.monotonic() - started < 1
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
from orchestration import provenance
from orchestration.run_cell import launcher
from orchestration.schedulers import CellJob
from orchestration.schedulers.ray_tune import RayTuneScheduler
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
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process, cell
        process.kill()


@pytest.mark.ray
def test_killed_launcher_leaves_nothing_behind(launch):
    process, cell = launch
    driver = int(process.stdout.readline())
    wait_until(lambda: RunFolder(cell).epochs())
    assert any(args.startswith("ray::") for args in processes(driver))
    process.kill()
    process.wait()
    assert RunFolder(cell).state().status == "interrupted"
    wait_until(lambda: not processes(driver), timeout_s=15)
    assert not Path(f"/tmp/rankmatch-{driver}").exists()


@pytest.mark.ray
def test_killed_training_process_is_a_loss_and_the_next_cell_is_trained(make_cell, launch_dir):
    first, second = make_cell(seed=0, epochs=100_000), make_cell(seed=1)
    jobs = RayTuneScheduler(max_concurrent=1).submit([job(first), job(second)], launch_dir, launcher())
    wait_until(lambda: RunFolder(first).epochs())
    os.kill(RunFolder(first).attempts()[0].owner()["training_pid"], signal.SIGKILL)
    assert ends_within(jobs, 90) == {first.name: JobState.FAILED, second.name: JobState.DONE}
    assert RunFolder(first).state().failure_class == "lost"


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

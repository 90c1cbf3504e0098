"""What is killed under a real Ray goes on by the policy, and ends with the metrics of a run that was left alone."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_grid import OwnGrid
from undisturbed import frozen_half_way, metrics, undisturbed_metrics, wait_until

from orchestration.grids.cells import to_yaml
from orchestration.grids.launched import load
from orchestration.machine.processes import process_start
from orchestration.on_ray.scheduler import RayTuneScheduler
from orchestration.running.run_cell import launcher
from orchestration.runs.jobs import CellJob, JobState, SchedulerError
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState

pytestmark = pytest.mark.ray

EPOCHS = 12


def pids(session: int, name: str) -> list[int]:
    """Return the processes of a session whose command line begins, or whose program is named, so."""
    found = subprocess.run(["ps", "-eo", "pid=,sess=,comm=,args="], capture_output=True, text=True, check=True).stdout
    fields = [line.split(None, 3) for line in found.splitlines()]
    return [int(pid) for pid, sess, comm, args in fields if sess == str(session) and name in (comm, args[: len(name)])]


def launch(jobs: list[CellJob], grid: Path, name: str, **options):
    launch_dir = grid / "launches" / name
    launch_dir.mkdir(parents=True)
    return RayTuneScheduler(**options).submit(jobs, launch_dir, launcher())


def job(cell: Path, num_workers: int = 1) -> CellJob:
    return CellJob(cell, num_workers=num_workers, device="cpu")


def failures(cell: Path) -> list[str | None]:
    """Return for each attempt of what class its failure was."""
    return [
        next((event["kind"] for event in attempt.events() if event["event"] == "failed"), None)
        for attempt in RunFolder(cell).attempts()
    ]


def test_killed_training_process_is_tried_again_within_the_launch_and_the_other_cells_go_on(make_cell, tmp_path):
    cells = [make_cell(seed=0, epochs=EPOCHS), make_cell(seed=1)]
    jobs = launch([job(cell) for cell in cells], tmp_path / "grid", "1", max_concurrent=1)
    with frozen_half_way(lambda: [RunFolder(cells[0])]):
        os.kill(RunFolder(cells[0]).attempts()[0].owner()["training_pid"], signal.SIGKILL)
    assert jobs.wait(400)
    assert jobs.poll() == dict.fromkeys([cell.name for cell in cells], JobState.DONE)
    assert failures(cells[0]) == ["lost", None]
    assert RunFolder(cells[0]).attempts()[1].first_step() > 0
    assert metrics(cells[0]) == undisturbed_metrics(cells[0], tmp_path)


def test_killed_worker_of_two_is_tried_again_within_the_launch(make_cell, tmp_path):
    cell = make_cell(epochs=6, num_workers=2)
    undisturbed = cell.with_name(f"{cell.name[:12]}-undisturbed")  # by two workers too: one would round otherwise
    RunFolder(undisturbed).create(RunFolder(cell).config(), {})
    jobs = launch([job(cell, num_workers=2), job(undisturbed, num_workers=2)], tmp_path / "grid", "1", max_concurrent=1)
    with frozen_half_way(lambda: [RunFolder(cell)]):  # what leads both workers, which wait for it after each epoch
        os.kill(pids(jobs._driver.pid, "ray::RayTrainWorker")[-1], signal.SIGKILL)
    assert jobs.wait(400)
    assert jobs.poll() == {cell.name: JobState.DONE, undisturbed.name: JobState.DONE}
    assert (failures(cell), failures(undisturbed)) == (["lost", None], [None])
    assert RunFolder(cell).attempts()[1].first_step() > 0
    steps = [row["step"] for row in RunFolder(cell).epochs()]
    assert steps == sorted(set(steps)) and len(steps) == 6
    assert metrics(cell) == metrics(undisturbed)


def test_training_that_hangs_in_a_read_is_ended_and_tried_again_within_the_launch(tmp_path, tiny_root):
    own = OwnGrid(tmp_path / "own", tiny_root)
    words = [
        "method=supervised",
        "seed=0",
        "trainer.epochs=60",
        "trainer.hang_min=0.2",
        f"data_root={own.folder}/images",
    ]
    [made] = load(str(own.folder / "membranes.yaml"), words, own.runs).cells
    cell = tmp_path / "grid" / "cells" / made.folder_name
    RunFolder(cell).create(to_yaml(made.config), made.axes)
    jobs, images = launch([job(cell)], tmp_path / "grid", "1"), sorted((own.folder / "images").glob("*.png"))
    wait_until(lambda: RunFolder(cell).state().epoch > 0, 200)
    for path in images:
        path.rename(path.with_suffix(".away"))
        os.mkfifo(path)  # whoever opens it waits for ever, as for a file server that is gone
    [first] = RunFolder(cell).attempts()
    wait_until(lambda: "its stacks follow" in first.log_file.read_text(), 200)
    for path in images:
        path.with_suffix(".away").rename(path)
    assert jobs.wait(400)
    assert jobs.poll() == {cell.name: JobState.DONE}
    assert failures(cell) == ["hung", None] and RunFolder(cell).attempts()[1].first_step() > 0
    assert "most recent call first" in first.log_file.read_text()
    assert "no sign of life for 0.2 min after step " in first.events()[-1]["message"]


def test_cell_that_ray_ends_for_memory_is_to_wait_for_room_and_tells_who_took_it(make_cell, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "250")  # whoever else watches here
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")
    cell = make_cell()
    jobs = launch([job(cell)], tmp_path / "grid", "1")
    wait_until(lambda: RunFolder(cell).attempts() and RunFolder(cell).state().status is CellState.FAILED, 120)
    assert "machine out of memory: Ray ended it" in str(RunFolder(cell).state().failure)
    assert "; the most by " in str(RunFolder(cell).state().failure)
    wait_until(lambda: jobs.poll() == {cell.name: JobState.PENDING}, 20)
    jobs.cancel(1.0)
    assert jobs.poll() == {cell.name: JobState.STOPPED}


def test_in_a_slurm_job_ray_ends_nothing_for_memory(make_cell, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")
    cell = make_cell()
    jobs = launch([job(cell)], tmp_path / "grid", "1")
    assert jobs.wait(200)
    assert jobs.poll() == {cell.name: JobState.DONE}


@pytest.fixture
def hung_up() -> Iterator[None]:
    """The kernel wakes what is stopped and loses its parent, and hangs it up; it ends then, even if under a nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hung_up")
@pytest.mark.parametrize("name", ["driver", "raylet"])
def test_killed_driver_or_raylet_ends_the_launch_and_the_next_one_goes_on(name, make_cell, tmp_path):
    cell = make_cell(epochs=EPOCHS)
    jobs = launch([job(cell)], tmp_path / "grid", "1")
    driver = jobs._driver.pid
    with frozen_half_way(lambda: [RunFolder(cell)]):  # until Ray ends it, which takes up to ten seconds
        training = RunFolder(cell).attempts()[0].owner()["training_pid"]
        os.kill(driver if name == "driver" else pids(driver, "raylet")[0], signal.SIGKILL)
        assert jobs.wait(180)
        with pytest.raises(SchedulerError, match="Ray broke down"):
            jobs.poll()
        wait_until(lambda: process_start(training) is None)
    wait_until(lambda: not pids(driver, "raylet") and not pids(driver, "ray::"))

    again = launch([job(cell)], tmp_path / "grid", "2")
    assert again.wait(300)
    assert again.poll() == {cell.name: JobState.DONE}
    assert RunFolder(cell).attempts()[-1].first_step() > 0
    assert metrics(cell) == undisturbed_metrics(cell, tmp_path)

"""A Ray that somebody else runs: two nodes of one CPU each on this machine; the second has a name of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from ports import free_port
from undisturbed import frozen_half_way, metrics, undisturbed_metrics, wait_until

from orchestration.on_ray.scheduler import RayTuneScheduler, probe
from orchestration.running.run_cell import launcher
from orchestration.runs.jobs import CellJob, JobState
from orchestration.runs.run_folder import RunFolder, folders

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("existing_ray")]  # in this order: one takes a node away

AWAY = "away"
TOKEN = "0123456789abcdef" * 4
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@dataclass
class Cluster:
    address: str
    hidden: Path
    """A folder that the second node sees another one in place of."""
    head: subprocess.Popen
    second: subprocess.Popen


def num_cpus(address: str, question: str) -> float:
    """Ask Ray itself: `cluster_resources` or `available_resources`."""
    code = f"import ray, sys; ray.init(address=sys.argv[1]); print(ray.{question}().get('CPU', 0))"
    found = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, check=True)
    return float(found.stdout.split()[-1])


def end(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "-u", "true"], check=False).returncode:
        pytest.skip("a node with another view of the files needs unshare and its rights")
    hidden, folder = tmp_path_factory.mktemp("hidden"), Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp"))
    address = f"127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        common = ["--num-cpus=1", "--disable-usage-stats", "--object-store-memory=100000000", "--block"]
        head = [*RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={address.partition(':')[2]}",
                "--include-dashboard=false", f"--temp-dir={folder}", *common]  # fmt: skip
        second = [*RAY, "start", f"--address={address}", "--node-ip-address=127.0.0.1", *common]
        blind = ["unshare", "-m", "-u", "sh", "-c", f'mount -t tmpfs none {hidden} && hostname {AWAY} && exec "$@"',
                 "sh", *second]  # fmt: skip
        started = []
        try:
            with (folder / "out").open("w") as out:
                for command in (head, blind):
                    started.append(subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True))
                    wait_until(partial(answers, address, len(started)))
            yield Cluster(address, hidden, *started)
        finally:
            for process in started:
                if process.poll() is None:
                    end(process)
            shutil.rmtree(folder, ignore_errors=True)


def answers(address: str, expected_cpus: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(address.partition(":")[2])), 1).close()
        return num_cpus(address, "cluster_resources") == expected_cpus
    except (OSError, subprocess.CalledProcessError):
        return False


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return tmp_path / "grid"


def launch(cluster: Cluster, jobs: list[CellJob], grid: Path, name: str, **options):
    launch_dir = grid / "launches" / name
    launch_dir.mkdir(parents=True)
    scheduler = RayTuneScheduler(address=cluster.address, **options)
    scheduler.check(jobs)
    return scheduler.submit(jobs, launch_dir, launcher())


def test_nodes_are_asked_what_they_have_and_whether_they_see_the_runs(cluster, tmp_path):
    assert probe(cluster.address, tmp_path) == {"num_gpus": 0, "gpu_memory_gb": [], "blind": []}
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=f"--runs must be on a file system .*cannot do so in {cluster.hidden}"):
        probe(cluster.address, cluster.hidden)


def test_wrong_token_is_told_in_one_line_without_the_token(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    with pytest.raises(ValueError, match="--address must be that of a Ray that") as told:
        probe(cluster.address, tmp_path)
    assert "RAY_AUTH_TOKEN" in str(told.value)
    assert "f" * 64 not in str(told.value) and "\n" not in str(told.value)


def test_cell_whose_process_died_goes_on_on_another_node(cluster, make_cell, grid):
    cell = make_cell(epochs=24)
    jobs = launch(cluster, [CellJob(cell, device="cpu")], grid, "1")
    with frozen_half_way(lambda: [RunFolder(cell)]):
        os.kill(RunFolder(cell).attempts()[0].owner()["training_pid"], signal.SIGKILL)
    assert jobs.wait(300)
    assert jobs.poll() == {cell.name: JobState.DONE}
    hosts = [attempt.end().node for attempt in RunFolder(cell).attempts()]
    assert sorted(hosts) == sorted([AWAY, socket.gethostname()])
    assert metrics(cell) == undisturbed_metrics(cell, grid.parent)


def test_cells_of_a_lost_node_move_to_another_and_the_foreign_ray_stays(cluster, make_cell, grid):
    cells = [make_cell(seed=seed, epochs=24) for seed in range(2)]
    jobs = launch(cluster, [CellJob(cell, device="cpu") for cell in cells], grid, "1")
    with frozen_half_way(lambda: map(RunFolder, cells)) as first:
        others = [RunFolder(cell) for cell in cells if cell != first.path]
        with frozen_half_way(lambda: others):
            pass
    end(cluster.second)  # the daemon of the node and the cell that trains there
    assert jobs.wait(300)
    assert jobs.poll() == dict.fromkeys([cell.name for cell in cells], JobState.DONE)
    moved = [cell for cell in cells if len(RunFolder(cell).attempts()) == 2]
    assert len(moved) == 1
    assert RunFolder(moved[0]).attempts()[0].events()[-1]["kind"] == "lost"
    assert RunFolder(moved[0]).attempts()[1].first_step() > 0
    for cell in cells:
        assert metrics(cell) == undisturbed_metrics(cell, grid.parent)
    assert cluster.head.poll() is None
    assert num_cpus(cluster.address, "available_resources") == 1  # what the launch took is given back, the rest runs on
    assert not (grid / "launches" / "1" / "tune").exists()
    assert TOKEN not in "".join(path.read_text(errors="replace") for path in grid.rglob("*") if path.is_file())


def test_command_trains_a_cell_of_two_workers_on_the_one_cpu_that_is_there(cluster, tmp_path):
    script, small = (
        Path(__file__).parents[3] / "orchestration" / "launch_grid.py",
        Path(__file__).parents[1] / "small.yaml",
    )
    command = [sys.executable, str(script), "--cluster", "ray", "--address", cluster.address, "--grid", str(small),
               "--runs", str(tmp_path / "runs"), "method=supervised", "seed=0", "trainer.num_workers=2",
               "trainer.device=cpu"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert [folder.state().status for folder in folders(tmp_path / "runs" / "small").values()] == ["done"]
    assert cluster.head.poll() is None

"""A pilot on a real Slurm: its head gives cells to whatever nodes there are, one of which loses power."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm.real_cluster import Cluster, Grid, wait_until
from undisturbed import has_trained, metrics, undisturbed_metrics

from orchestration.run_folder import RunFolder, folders

pytestmark = pytest.mark.slurm

NODES = 3


def pilot(make_grid: Callable[..., Grid], *words: str) -> tuple[Grid, list[RunFolder]]:
    grid = make_grid()
    apart = "cluster.cpus_per_worker=5"  # of 8: no two of its nodes on one of the cluster's
    done = grid.launch("--pilot", "--nodes", str(NODES), "seed=[0,1]", apart, *words)
    assert done.returncode == 0, done.stderr
    assert f"submitted: 2 cells as a pilot of {NODES} nodes, jobs" in done.stdout
    return grid, list(folders(grid.grid_dir).values())


def node_of(cluster: Cluster, job: str) -> str:
    return cluster.slurm("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()


def ended(grid: Grid) -> None:
    wait_until(lambda: not grid.cluster.slurm("squeue", "--noheader"))


def test_cell_of_a_node_that_lost_power_moves_and_the_node_comes_back(make_grid, cluster, tmp_path):
    grid, cells = pilot(make_grid, "cluster.controller=true", "trainer.epochs=100")
    wait_until(lambda: all(has_trained(cell.path) for cell in cells))
    head = node_of(cluster, grid.job())
    cells.sort(key=lambda cell: cell.attempts()[0].owner()["host"] == head)
    lost = cells[0].attempts()[0].owner()["slurm"]
    cluster.cut_power(node_of(cluster, lost["job"]))
    ended(grid)
    assert [len(cell.attempts()) for cell in cells] == [2, 1]
    first, second = cells[0].attempts()
    assert first.events()[-1]["kind"] == "node failure"
    assert second.first_step() > 0
    assert second.owner()["slurm"] != lost
    for cell in cells:
        assert metrics(cell.path) == undisturbed_metrics(cell.path, tmp_path)
    (launch_dir,) = grid.grid_dir.glob("launches/*")
    returned = launch_dir / "jobs" / f"{lost['job']}.{lost['restart'] + 1}" / "node.json"
    assert json.loads(returned.read_text())["owner"]["slurm"] == {"job": lost["job"], "restart": 1}
    assert (grid.grid_dir / "report.md").exists()
    assert not (launch_dir / "head.json").exists()
    assert not list(Path("/tmp").glob("rankmatch-j*"))

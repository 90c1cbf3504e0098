"""A pilot on a real Slurm: cells go to whatever nodes there are, while these are lost, leave and come back."""

from pathlib import Path

import pytest
from slurm.real_cluster import numbers, wait_until

from orchestration.run_folder import folders

pytestmark = pytest.mark.slurm


def test_cell_moves_from_a_node_that_lost_power_and_from_one_that_leaves_to_the_one_that_came_back(
    make_grid, cluster, undisturbed
):
    grid = make_grid()
    apart = "cluster.cpus_per_worker=7"  # of 8: the head and three nodes have one machine of the cluster each
    done = grid.launch("--pilot", "--nodes", "3", "seed=[0,1]", apart, "cluster.controller=true")
    assert done.returncode == 0, done.stderr
    assert "submitted: 2 cells as a pilot of 3 nodes, jobs" in done.stdout
    moved, other = sorted(folders(grid.grid_dir).values(), key=lambda cell: cell.path.name.rpartition("-")[2])

    wait_until(lambda: moved.epochs() and other.epochs())
    lost = moved.attempts()[0].owner()
    cluster.cut_power(lost["host"])
    wait_until(lambda: moved.attempts()[1:] and moved.attempts()[1].epochs())
    left = moved.attempts()[1].owner()
    cluster.slurm("scontrol", "requeue", left["slurm"]["job"])
    said = grid.rankmatch("status").stdout
    assert "1 running, 1 waiting" in said or "2 running" in said, said
    wait_until(lambda: not cluster.slurm("squeue", "--noheader"))

    ends = [attempt.events()[-1].get("kind") for attempt in moved.attempts()]
    assert ends[:2] == ["node failure", "preempted"] and len(ends) == 3
    back = moved.attempts()[2].owner()
    assert len({owner["slurm"]["job"] for owner in (lost, left, other.attempts()[0].owner())}) == 3
    assert (back["slurm"], back["host"]) == ({**lost["slurm"], "restart": 1}, lost["host"])
    assert 0 < moved.attempts()[1].first_step() <= moved.attempts()[2].first_step()
    assert numbers(moved.epochs()) == undisturbed
    assert (other.result()["attempt"], other.result()["step"]) == (1, moved.result()["step"])
    assert (grid.grid_dir / "report.md").exists()
    assert "2 cells: 2 done" in grid.rankmatch("status").stdout
    assert not list(grid.grid_dir.glob("launches/*/head.json"))
    assert not list(Path("/tmp").glob("rankmatch-j*"))

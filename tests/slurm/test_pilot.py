"""A pilot on a real Slurm: cells go to whatever nodes there are, while these are lost, leave and come back."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest
from slurm.real_cluster import numbers, wait_until

from orchestration.machine.processes import process_start
from orchestration.runs.run_folder import folders

pytestmark = [pytest.mark.slurm, pytest.mark.long]


@contextmanager
def frozen(owner: dict) -> Iterator[None]:
    """Stop what trains on the node of an attempt's owner, and let it go on; its process ids are those of that node."""
    began = [psutil.Process(pid) for pid in psutil.pids() if process_start(pid) == owner["process_started"]]
    (job,) = (process for process in began if process.environ().get("SLURMD_NODENAME") == owner["slurm"]["node"])
    below = job.children(recursive=True)
    (training,) = (process for process in below if " ".join(process.cmdline()).startswith("ray::ImplicitFunc.train"))
    training.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            training.resume()


def test_cell_moves_from_a_node_that_lost_power_and_from_one_that_leaves_to_one_that_came_back(
    make_grid, cluster, undisturbed
):
    grid = make_grid()
    apart = "cluster.cpus_per_worker=7"  # of 8: the head and three nodes have one machine of the cluster each
    done = grid.launch(
        "--pilot", "--nodes", "3", "seed=[0,1]", apart, "cluster.controller=true", "cluster.controller_every_min=1"
    )
    assert done.returncode == 0, done.stderr
    assert "submitted: 2 cells as a pilot of 3 nodes, jobs" in done.stdout
    moved, other = sorted(folders(grid.grid_dir).values(), key=lambda cell: cell.path.name.rpartition("-")[2])

    wait_until(lambda: len(moved.epochs()) >= 3 and other.epochs())
    lost = moved.attempts()[0].owner()
    with frozen(other.attempts()[0].owner()):  # so that its node has no room
        with frozen(lost):
            cluster.cut_power(lost["slurm"]["node"])
        wait_until(lambda: moved.attempts()[1:] and moved.attempts()[1].epochs())
        left = moved.attempts()[1].owner()
        with frozen(left):
            grid.told(lambda: cluster.slurm("scontrol", "requeue", left["slurm"]["job"]))
        wait_until(lambda: moved.attempts()[2:])
        assert "2 running" in grid.rankmatch("status").stdout
    wait_until(lambda: not cluster.slurm("squeue", "--noheader"))

    ends = [attempt.events()[-1].get("kind") for attempt in moved.attempts()]
    assert ends[:2] == ["node failure", "preempted"] and len(ends) == 3
    back = moved.attempts()[2].owner()
    assert back["slurm"] | {"node": ""} in [owner["slurm"] | {"node": "", "restart": 1} for owner in (lost, left)]
    assert 0 < moved.attempts()[1].first_step() < moved.attempts()[2].first_step()
    assert numbers(moved.epochs()) == undisturbed
    assert (other.result()["attempt"], other.result()["step"]) == (1, moved.result()["step"])
    assert (grid.grid_dir / "report.md").exists()
    assert "2 cells: 2 done" in grid.rankmatch("status").stdout
    assert not list(grid.grid_dir.glob("launches/*/head.json"))
    assert cluster.leftovers() == []

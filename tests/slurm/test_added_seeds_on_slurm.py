"""Seeds that controllers add on a real Slurm where a difference is not decided, until it is or there are no more."""

from pathlib import Path

import pytest
from slurm.real_cluster import ROOT, Grid, wait_until

from orchestration.runs.run_folder import folders

pytestmark = pytest.mark.slurm
SMALL = Path(__file__).parents[1] / "orchestration/small.yaml"
SETTINGS = (
    "seed=[0,1,2,3]", "split=4", "cluster.cpus_per_worker=1", "cluster.mem_gb_per_worker=2", "trainer.device=cpu",
    "cluster.controller_every_min=1",
)  # fmt: skip


@pytest.mark.long
def test_controllers_add_the_last_seed_of_a_pair_that_three_leave_open(cluster, tmp_path):
    grid, grid_dir = Grid(cluster, tmp_path), tmp_path / "runs/small"
    done = grid.command(
        str(ROOT / "orchestration/launch_grid.py"), "--grid", str(SMALL), "--cluster", "slurm", "--allow-dirty",
        "--adaptive", "--first-seeds", "3", *SETTINGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "6 cells now, at most 2 cells more" in done.stdout and "submitted: 6 cells as job" in done.stdout
    report = grid_dir / "report.md"
    wait_until(lambda: report.exists() and not cluster.slurm("squeue", "--noheader"), 400)
    assert "seeds were added adaptively: each entry has the first 3" in report.read_text()
    cells = folders(grid_dir).values()
    assert len(cells) == 8 and all(cell.has_result() and len(cell.attempts()) == 1 for cell in cells)
    assert cluster.leftovers() == []

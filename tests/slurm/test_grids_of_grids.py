"""A grid of grids on a real Slurm, and a second grid with the same cells beside it: each ends in its tables."""

import csv
from pathlib import Path

import pytest
from slurm.real_cluster import ROOT, Grid, wait_until
from two_grids import NUM_CELLS, NUM_DISTINCT, TwoGrids

from orchestration.runs.run_folder import folders

pytestmark = pytest.mark.slurm
ON_TWO_CORES = ("cluster.cpus_per_worker=1", "cluster.mem_gb_per_worker=2", "trainer.device=cpu")


def launched(grid: Grid, file: Path, *words: str) -> str:
    command = (str(ROOT / "orchestration/launch_grid.py"), "--grid", str(file), "--cluster", "slurm", "--allow-dirty")
    done = grid.command(*command, *words, *ON_TWO_CORES)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def num_seeds(table: Path) -> dict[tuple[str, str], str]:
    """Of each entry of a table, by its part and its row."""
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "best_miou"]
    return {(row.get("table", ""), row.get("method") or row["method.num_agents"]): row["n"] for row in rows}


@pytest.mark.long
def test_grid_of_grids_and_one_that_shares_its_cells_end_in_all_tables_that_have_their_data(cluster, tmp_path):
    grid, both = Grid(cluster, tmp_path), TwoGrids(tmp_path)
    both.add_scan()
    assert f"submitted: {NUM_DISTINCT} cells as job" in launched(grid, both.file, "--available")
    said = launched(grid, tmp_path / "methods.yaml", "cluster.controller_every_min=1")
    assert "nothing to submit" in said and "4 cells are left to grid both: jobs" in said
    reports = [tmp_path / "runs" / name / "report.md" for name in ("both", "methods")]
    wait_until(lambda: all(map(Path.exists, reports)) and not cluster.slurm("squeue", "--noheader"), 300)
    assert num_seeds(tmp_path / "runs/both/table.csv") == {
        ("methods", "supervised"): "2", ("methods", "rankmatch"): "2", ("agents", "4"): "2", ("agents", "8"): "2",
        ("scan", "supervised"): "0",
    }  # fmt: skip
    assert num_seeds(tmp_path / "runs/methods/table.csv") == {("", "supervised"): "2", ("", "rankmatch"): "2"}
    assert "| supervised | not run |" in reports[0].read_text()
    assert (tmp_path / "runs/both/report.html").exists()
    cells = folders(tmp_path / "runs/both").values()
    assert sum(len(cell.attempts()) for cell in cells) == NUM_DISTINCT < NUM_CELLS
    assert cluster.leftovers() == []

"""A site that was detected is one that its own doctor finds nothing wrong with, from a node too."""

import pytest
from slurm.real_cluster import Grid

pytestmark = pytest.mark.slurm
MAIN = "from orchestration.commands.main import main; main()"


def test_detected_site_is_found_well_by_a_job_on_a_node_that_leaves_nothing(cluster, tmp_path):
    grid = Grid(cluster, tmp_path)
    detected = grid.command("-c", MAIN, "site", "detect")
    assert detected.returncode == 0, detected.stderr
    (tmp_path / "site.yaml").write_text(detected.stdout)
    before = {path.name for path in tmp_path.iterdir()}
    words = ("doctor", "--cluster", str(tmp_path / "site.yaml"), "--runs", str(tmp_path / "runs"), "--job")
    done = grid.command("-c", MAIN, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (ran,) = [line for line in done.stdout.splitlines() if line.startswith("good   job: ")]
    node = ran.rpartition(" ")[2]
    for subject in ("runs folder", "clock", "torch", "Ray", "temporary files"):
        assert f"good   {subject} on {node}: " in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == before
    assert cluster.leftovers() == []


def test_job_that_cannot_begin_python_is_said_with_what_it_printed(cluster, tmp_path):
    grid = Grid(cluster, tmp_path)
    words = ("cluster.python=/no/such/python", "cluster.gpu_flag=none", "cluster.cpus_per_worker=1",
             "cluster.mem_gb_per_worker=1")  # fmt: skip
    done = grid.command("-c", MAIN, "doctor", "--cluster", "slurm", "--runs", str(tmp_path / "runs"), "--job", *words)
    assert done.returncode == 1
    assert "FAULT  job: " in done.stdout and "ended without an answer" in done.stdout
    assert "/no/such/python" in done.stdout

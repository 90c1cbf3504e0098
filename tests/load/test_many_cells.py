"""2,000 cells of a second or less: each has one result, and the launcher, controllers and readers stay small."""

from collections.abc import Callable
from pathlib import Path

import pytest
from load.many_cells import READER_MB, SITE, Place, is_whole, readings
from slurm.real_cluster import Cluster, wait_until

pytestmark = [pytest.mark.load, pytest.mark.long, pytest.mark.timeout(7200), pytest.mark.xdist_group("load")]
Tell = Callable[[str, object], None]
LAUNCH_MB, CONTROLLER_MB = 1000, 500
"""What a launch may take, most of it torch, which looks at the data; and a controller, with MLflow in the end."""


def test_cells_in_arrays_of_a_real_slurm_have_one_result_each(
    cluster: Cluster, tmp_path: Path, num_cells: int, tell: Tell
) -> None:
    place = Place(tmp_path, num_cells, cluster.environment)
    launched = place.give("launch", "--grid", "many.yaml", "--cluster", "slurm", "--allow-dirty", *SITE, place.python)
    assert launched.code == 0, launched.said[-3000:]
    tell(f"launch of {num_cells} cells on Slurm", launched)
    finished = place.grid_dir / "report.md"
    wait_until(lambda: finished.exists() and not cluster.slurm("squeue", "--noheader"), 7000, 2.0)
    is_whole(place)
    controllers = place.noted("orchestration.launching.controller")
    tell("controllers, most memory in MB", max(row["peak_mb"] for row in controllers))
    tell("controllers, CPU seconds", [row["cpu_s"] for row in controllers])
    tell("controllers, seconds", [row["wall_s"] for row in controllers])
    tell("calls of Slurm's commands", dict(place.called()))
    reads(place, tell)
    assert launched.peak_mb < LAUNCH_MB and max(row["peak_mb"] for row in controllers) < CONTROLLER_MB
    assert cluster.leftovers() == []


def test_cells_one_after_another_in_one_process_have_one_result_each(
    tmp_path: Path, num_cells: int, tell: Tell
) -> None:
    place = Place(tmp_path, num_cells)
    launched = place.give("launch", "--grid", "many.yaml", "--cluster", "inline")
    assert launched.code == 0, launched.said[-3000:]
    tell(f"launch of {num_cells} cells inline", launched)
    is_whole(place)
    reads(place, tell)


def reads(place: Place, tell: Tell) -> None:
    """Give the commands that read the whole grid; each is right, and bounded in memory."""
    took = readings(place)
    for name, one in took.items():
        tell(f"{name} of {place.num_cells} cells", one)
    assert {name: one.code for name, one in took.items()} == dict.fromkeys(took, 0)
    assert f"{place.num_cells} done" in took["status"].said.replace(",", "")
    assert {name: one.peak_mb for name, one in took.items() if one.peak_mb > READER_MB} == {}

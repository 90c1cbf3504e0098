"""The stand-in that trains in jobs of load tests, which are seldom run: it carries out an order to its end."""

import os
import subprocess
import sys
from pathlib import Path

from load.many_cells import HOOK, ROOT, grid_of

from orchestration.grids import grid
from orchestration.grids.cells import to_yaml
from orchestration.on_ray.orders import JobOrder
from orchestration.on_ray.protocol import EXIT_CODES
from orchestration.running.run_cell import launcher
from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import RunFolder


def test_order_of_a_job_ends_in_a_result_in_a_process_without_torch(tmp_path: Path) -> None:
    (tmp_path / "many.yaml").write_text(grid_of(8))
    cell = grid.load(str(tmp_path / "many.yaml")).cells[0]
    folder = RunFolder(tmp_path / "runs" / "cells" / cell.folder_name)
    folder.create(to_yaml(cell.config), cell.axes)
    order = JobOrder(folder.path, None, 1, 1, 0, 1.0, tmp_path, {**launcher(), "campaign": "c"})
    order.to_file(tmp_path / "order.json")
    code = "import sys; from orchestration.on_ray.job import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "order.json"), str(os.getpid())],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{HOOK}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == EXIT_CODES[JobState.DONE], ended.stderr
    assert folder.has_result() and len(folder.attempts()) == 1

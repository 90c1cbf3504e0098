"""The launcher at 10,000 cells: `plan`, and `status` of as many run folders; the reference is the bound aimed at."""

import shutil
import tempfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from rich.console import Console

from benchmarks.harness import Row, Settings, plain, seconds
from orchestration.grids.launched import run_folders
from orchestration.launching.launch_folder import make_folders
from orchestration.launching.options import Wanted, Workers
from orchestration.launching.target import Target

PLAN_S, STATUS_S = 5.0, 3.0
"""Seconds that a user waits without wondering."""


GRID = """set:
  dataset: synthetic
  backbone: mobilenet_v2
  backbone.pretrained: false
axes:
  method: [supervised, fixmatch, unimatch, rankmatch]
  seed: [{seeds}]
"""
RESULT = {"step": 100, "num_steps": 100, "epoch": 2, "num_epochs": 2, "best_miou": 0.5, "last_miou": 0.5}


def rows(settings: Settings) -> Iterator[Row]:
    """Measure both on made cells; of the folders one half is done and one half is cut off."""
    from orchestration.launching import control
    from orchestration.launching.launch import dry_run

    seeds = range(5 if settings.tiny else 2500)
    folder = Path(tempfile.mkdtemp(prefix="rankmatch-bench-"))
    try:
        grid = folder / "many.yaml"
        grid.write_text(GRID.format(seeds=", ".join(map(str, seeds))))
        wanted = Wanted(str(grid), runs=folder / "runs")
        note = f"{4 * len(seeds)} cells; reference: the bound"
        yield plain("grid_plan", seconds(lambda: dry_run(wanted, Workers(), _console())), PLAN_S, "s", note)
        grid_dir = _make_folders(wanted)
        yield plain("grid_status", seconds(lambda: control.status(grid_dir, _console())), STATUS_S, "s", note)
    finally:
        shutil.rmtree(folder)


def _console() -> Console:
    return Console(file=StringIO(), width=160)


def _make_folders(wanted: Wanted) -> Path:
    from orchestration.grids.grid import load
    from orchestration.launching.steps import plan_of
    from orchestration.machine import files

    loaded = load(wanted.grid)
    grid_dir = wanted.runs / loaded.name
    grid_dir.mkdir(parents=True)
    target = Target.of(loaded, grid_dir, Workers())
    make_folders(target, plan_of(target))
    for number, folder in enumerate(run_folders(loaded, grid_dir).values()):
        attempt = folder.claim({"pid": 1, "process_started": 0})
        attempt.event("started", step=0)
        files.append(attempt.path / "epochs.jsonl", files.to_line({"step": 49, "num_steps": 100, "epoch": 1}))
        if number % 2:
            attempt.publish(RESULT)
    return grid_dir

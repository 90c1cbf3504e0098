"""The launcher at 10,000 cells: `plan`, and `status` of as many run folders; the reference is the bound aimed at."""

import shutil
import tempfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.harness import Row, Settings, plain, seconds
from orchestration.launch_folder import make_folders, run_folders
from orchestration.launch_plan import make_plan

if TYPE_CHECKING:
    from orchestration.launch_plan import Options

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
    from orchestration import control
    from orchestration.launch import launch
    from orchestration.launch_plan import Options

    seeds = range(5 if settings.tiny else 2500)
    folder = Path(tempfile.mkdtemp(prefix="rankmatch-bench-"))
    try:
        grid = folder / "many.yaml"
        grid.write_text(GRID.format(seeds=", ".join(map(str, seeds))))
        options = Options(grid=str(grid), runs=folder / "runs", dry_run=True)
        note = f"{4 * len(seeds)} cells; reference: the bound"
        yield plain("grid_plan", seconds(lambda: launch(options, _console())), PLAN_S, "s", note)
        grid_dir = _make_folders(options)
        yield plain("grid_status", seconds(lambda: control.status(grid_dir, _console())), STATUS_S, "s", note)
    finally:
        shutil.rmtree(folder)


def _console() -> Console:
    return Console(file=StringIO(), width=160)


def _make_folders(options: "Options") -> Path:
    from orchestration import files
    from orchestration.grid import load

    loaded = load(options.grid)
    grid_dir = options.runs / loaded.name
    grid_dir.mkdir(parents=True)
    make_folders(loaded, grid_dir, make_plan(loaded, grid_dir, options))
    for number, folder in enumerate(run_folders(loaded, grid_dir).values()):
        attempt = folder.claim({"pid": 1, "process_started": 0})
        attempt.event("started", step=0)
        files.append(attempt.path / "epochs.jsonl", files.to_line({"step": 49, "num_steps": 100, "epoch": 1}))
        if number % 2:
            attempt.publish(RESULT)
    return grid_dir

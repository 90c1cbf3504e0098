"""What a cell costs beyond its training: a launch of four cells that train for an instant, divided by four."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import TESTS, Row, Settings, plain, seconds

BOUND_S = 12.0
"""Seconds a cell on two cores, two cells at a time; starting everything anew for each takes 12 to 14."""

RAY_ALONE = """
import sys
from pathlib import Path
from ray import tune
from orchestration.on_ray.cluster import private_ray
num_cells = int(sys.argv[1])
with private_ray() as folder:
    tune.Tuner(
        tune.with_resources(lambda config: None, {"CPU": 1}),
        tune_config=tune.TuneConfig(num_samples=num_cells, max_concurrent_trials=2, reuse_actors=True),
        run_config=tune.RunConfig(name="empty", storage_path=str(folder / "tune"), verbose=0),
    ).fit()
"""


def rows(settings: Settings) -> Iterator[Row]:
    """Launch the cells as a user does; beside them as many trials of Ray Tune that do nothing."""
    words = ["method=supervised", "seed=0"] if settings.tiny else []
    num_cells = 1 if settings.tiny else 4
    inline = seconds(lambda: _launch("inline", words)) / num_cells
    yield plain("cell_inline", inline, BOUND_S, "s", "a launch without Ray; reference: the bound")
    if settings.tiny:  # what starts a Ray is left to its own tests
        return
    alone = seconds(lambda: _python("-c", RAY_ALONE, str(num_cells))) / num_cells
    yield plain("cell_ray_alone", alone, BOUND_S, "s", "Ray and Tune with nothing to do; reference: the bound")
    local = seconds(lambda: _launch("local", ["--max-concurrent", "2"])) / num_cells
    yield plain("cell_local", local, BOUND_S, "s", f"of which Ray alone {alone:.1f} s; reference: the bound")


def _launch(cluster: str, words: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="rankmatch-bench-") as folder:
        _python(
            str(TESTS.parent / "orchestration" / "launch_grid.py"), "--grid", str(TESTS / "orchestration/small.yaml"),
            "--cluster", cluster, "--runs", str(Path(folder) / "runs"), *words,
        )  # fmt: skip


def _python(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=TESTS.parent)

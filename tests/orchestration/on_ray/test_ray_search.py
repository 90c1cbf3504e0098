"""A search under a real Ray: killed, gone on with, and gone on with again when nothing is left to do."""

import io
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from rich.console import Console
from undisturbed import at_work, frozen_half_way, wait_until

from orchestration.launching.options import Wanted, Workers
from orchestration.launching.search import tune
from orchestration.runs.run_folder import RunFolder, folders
from orchestration.search import spaces, study

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of what MLflow imports
]

FILE = Path(__file__).parents[1] / "search.yaml"
SEED = "search.seed=3"  # of its four points the second learns soonest, so that the last two are stopped


def cells(runs: Path) -> list[RunFolder]:
    return list(folders(runs / "search").values())


def go_on(runs: Path) -> tuple[int, str]:
    console = Console(record=True, width=160, file=io.StringIO())
    code = tune(Wanted(str(FILE), (SEED,), runs), Workers(max_concurrent=1), console)
    return code, console.export_text()


def drawn(num: int) -> set[str]:
    """Return the signatures of the first points, which depend on the seed alone."""
    loaded = spaces.load(str(FILE), [SEED])
    sampler, history, found = study.CountedSampler(loaded.settings.seed), [], []
    for number in range(num):
        sampler.begin(number, 0)
        optuna = study.open_study(loaded, history, sampler)
        found.append(loaded.cell(optuna.ask(study.distributions(loaded.spaces)).params).signature)
    return set(found)


def test_killed_search_goes_on_and_trains_no_point_twice(tmp_path):
    command = [sys.executable, "-c", "from orchestration.commands.main import main; main()", "tune", str(FILE),
               "--runs", str(tmp_path), "--max-concurrent", "1", SEED]  # fmt: skip
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=FILE.parents[2])
    with frozen_half_way(lambda: cells(tmp_path), num_epochs=1):
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
        wait_until(lambda: not at_work(tmp_path) and all(cell.state().status != "running" for cell in cells(tmp_path)))
    before = {cell.path.name for cell in cells(tmp_path)}

    code, printed = go_on(tmp_path)
    assert code == 0
    after = {cell.path.name: cell for cell in cells(tmp_path)}
    assert {name.partition("-")[0] for name in after} == drawn(4)
    # The driver may begin another point before it notices; what was half trained goes on from its checkpoint.
    resumed = [after[name].attempts()[1] for name in before if len(after[name].attempts()) == 2]
    assert any(attempt.first_step() > 0 for attempt in resumed)
    assert all(len(cell.attempts()) == 1 for name, cell in after.items() if name not in before)
    for cell in after.values():
        epochs = [row["epoch"] for row in cell.epochs()]
        assert epochs == list(range(1, len(epochs) + 1))
    stopped = [cell for cell in after.values() if cell.state().failure_class == "outperformed"]
    assert stopped and all(cell.newest_checkpoint() and not cell.result() for cell in stopped)
    assert sum(cell.result() is not None for cell in after.values()) == 4 - len(stopped)

    assert f"4 of 4 points: {4 - len(stopped)} done, {len(stopped)} stopped" in printed
    assert "they are not comparable with the tables" in printed and "share of the variance" in printed
    assert "## Importance" in (tmp_path / "search" / "report.md").read_text()

    attempts = {name: len(cell.attempts()) for name, cell in after.items()}
    code, again = go_on(tmp_path)
    assert code == 0 and "4 of 4 points" in again
    assert {cell.path.name: len(cell.attempts()) for cell in cells(tmp_path)} == attempts

    store = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = store.search_runs([store.get_experiment_by_name("search").experiment_id])
    parents = {run.info.run_id: run for run in found if "rankmatch.launch" in run.data.tags}
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 3 and {run.data.tags["mlflow.parentRunId"] for run in children} <= set(parents)
    assert {run.data.tags["rankmatch.signature"] for run in children} == drawn(4)
    assert [run.info.status for run in found if run.info.run_id in parents].count("FINISHED") == 2
    files = itertools.chain.from_iterable(store.list_artifacts(run_id) for run_id in parents)
    assert "report.md" in {file.path for file in files}

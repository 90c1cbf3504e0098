import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from undisturbed import frozen_half_way, wait_until

from orchestration.runs.folders import LaunchFolder
from orchestration.runs.run_folder import RunFolder, folders

ROOT = Path(__file__).resolve().parents[2]
SMALL = Path(__file__).with_name("small.yaml")
METRICS = ("best_miou", "best_epoch", "last_miou", "best_class_iou", "last_class_iou")

OF_OLD_SESSIONS = {
    "RAY_ADDRESS": "127.0.0.1:9",
    "RAY_AUTH_TOKEN": "of-yesterday",
    "RAY_NAMESPACE": "gone",
    "MLFLOW_RUN_ID": "0" * 32,
    "MLFLOW_EXPERIMENT_ID": "77",
    "MLFLOW_EXPERIMENT_NAME": "another",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "all_proxy": "http://127.0.0.1:9",
}
"""What a shell may still hold; none of it is there any more."""

pytestmark = [pytest.mark.ray, pytest.mark.long]


def command(runs, *arguments):
    script = str(ROOT / "orchestration" / "launch_grid.py")
    return [sys.executable, script, "--grid", str(SMALL), "--runs", str(runs), "trainer.epochs=8", *arguments]


def run(*arguments, **options):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, **options)


def cells(runs) -> dict[str, RunFolder]:
    return {folder.path.name: folder for folder in folders(runs / "small").values()}


def metrics(runs):
    return {name: [folder.result()[key] for key in METRICS] for name, folder in cells(runs).items()}


@pytest.fixture
def _interruptible():
    """Let processes that a test starts take SIGINT, which a shell's background jobs, tests among them, ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("end", [pytest.param(signal.SIGKILL, marks=pytest.mark.smoke), signal.SIGINT])
def test_stopped_launch_goes_on_and_ends_as_an_undisturbed_one(end, tmp_path):
    runs = tmp_path / "stopped"
    launched = subprocess.Popen(command(runs), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with frozen_half_way(lambda: cells(runs).values()) as half_way:
        launched.send_signal(end)
        if end == signal.SIGKILL:
            wait_until(lambda: half_way.state().status != "running")
        else:
            wait_until(lambda: list(runs.glob(f"small/launches/*/{LaunchFolder.stop_file.name}")))
            time.sleep(1.1)  # trainings look for it once a second: this one does so at its next step
    printed, _ = launched.communicate(timeout=120)
    done_before = {name for name, folder in cells(runs).items() if folder.result()}
    if end == signal.SIGINT:
        assert launched.returncode == 130 and "The same command resumes" in printed

    again = run(runs, env=os.environ | OF_OLD_SESSIONS)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "4/4 cells" in again.stdout or "done" in again.stdout
    assert "MLflow is not up to date" not in again.stdout
    for name, folder in cells(runs).items():
        steps = [row["step"] for row in folder.epochs()]
        assert steps == sorted(set(steps)) and len(steps) == 8
        assert name not in done_before or len(folder.attempts()) == 1
    assert half_way.attempts()[1].first_step() > 0

    undisturbed = run(tmp_path / "undisturbed", "--cluster", "inline", env=dict(os.environ, OMP_NUM_THREADS="1"))
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert metrics(runs) == metrics(tmp_path / "undisturbed")

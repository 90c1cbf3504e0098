import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import finished_grids
import psutil
import pytest
from mlflow_servers import NO_JOBS, wait_for
from ports import free_port

from orchestration.mirror.mlflow_store import Store

pytestmark = pytest.mark.services


def fetch(url, content=None):
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`mlflow ui` on a store that the mirror made, on loopback."""
    folder = tmp_path_factory.mktemp("ui")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    experiment = Store(uri).experiment("small")
    port = free_port()
    command = [str(Path(sys.executable).parent / "mlflow"), "ui", "--backend-store-uri", uri, "--port", str(port)]
    with (folder / "log").open("w") as log:
        environment = {**os.environ, **NO_JOBS}
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True)
    yield f"http://127.0.0.1:{port}", experiment, folder / "log"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(30)


def test_mlflow_ui_serves_its_page_and_the_mirrored_experiment(server):
    address, experiment, log = server
    assert "<title>MLflow" in wait_for(address, log)
    found = json.loads(fetch(f"{address}/api/2.0/mlflow/experiments/get?experiment_id={experiment}"))
    assert found["experiment"]["name"] == "small"


def shared_memory_of(server: int) -> set[str]:
    """Return the folders in shared memory that MLflow gives to jobs of a server, and does not remove if it is ended."""
    found = psutil.Process(server).children(recursive=True)
    return {value for process in found for name, value in process.environ().items() if "HUEY_STORAGE" in name}


def test_command_opens_the_grids_experiment_and_ends_its_server_which_leaves_nothing_in_shared_memory(tmp_path):
    loaded = finished_grids.written(tmp_path)
    finished_grids.finish(loaded, tmp_path / "made", loaded.cells[:2], with_pictures=False)
    (tmp_path / "made" / "launches" / "20261128T101500.000000-7").mkdir(parents=True, exist_ok=True)
    program, port = str(Path(sys.executable).parent / "rankmatch"), free_port()
    subprocess.run([program, "sync", "--grid", "made", "--runs", str(tmp_path)], check=True, timeout=120)
    words = [program, "ui", "--runs", str(tmp_path), "--port", str(port), "--no-open"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        line = next(line for line in process.stdout if line.startswith("runs"))
        kept = shared_memory_of(process.pid)
        address, _, view = line.split()[1].partition("/#/")
        experiment = view.split("/")[1]
        found = json.loads(fetch(f"{address}/api/2.0/mlflow/runs/search", {"experiment_ids": [experiment]}))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert kept == set()
    assert {run["info"]["run_name"] for run in found["runs"]} == {
        f"{'-'.join([cell.axes['method'], cell.axes['split'], 's' + cell.axes['seed']])} mobilenet_v2"
        for cell in loaded.cells[:2]
    }
    with pytest.raises(OSError, match="refused"):
        fetch(f"{address}/health")

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mlflow_servers import wait_for
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
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    yield f"http://127.0.0.1:{port}", experiment, folder / "log"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(30)


def test_mlflow_ui_serves_its_page_and_the_mirrored_experiment(server):
    address, experiment, log = server
    assert "<title>MLflow" in wait_for(address, log)
    found = json.loads(fetch(f"{address}/api/2.0/mlflow/experiments/get?experiment_id={experiment}"))
    assert found["experiment"]["name"] == "small"

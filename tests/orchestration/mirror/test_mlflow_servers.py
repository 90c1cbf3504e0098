"""Jobs that write their own runs: into a real PostgreSQL, and through a server with a password that dies meanwhile."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import requests
from mlflow_servers import USER, MlflowServer, losing_answers, postgres
from mlflow_writer import STEPS
from sqlalchemy import create_engine, text

from orchestration.grids.cells import to_yaml
from orchestration.mirror.grid_mirror import GridMirror
from orchestration.mirror.mlflow_store import Store
from orchestration.mirror.tracking import MIRROR, SIGNATURE, Launch, MirroredCell
from orchestration.runs.run_folder import RunFolder
from rankmatch.config import TrainConfig
from rankmatch.execution import ExecutionConfig, TrackingExecution

pytestmark = pytest.mark.services
with_database, with_server = (pytest.mark.xdist_group(name) for name in ("postgresql", "mlflow_server"))

ROOT = Path(__file__).resolve().parents[3]
SMALL = Path(__file__).parents[1] / "small.yaml"
NUM_JOBS = 16
MIOU = [(19, 0.1), (39, 0.2), (59, 0.3)]


@pytest.fixture(scope="module")
def database():
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def at(monkeypatch):
    """Point this process, and those that it starts, at a store."""

    def point(uri, password=""):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        if password:
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        return uri

    return point


def make_cells(runs, name, count):
    cells = []
    for number in range(count):
        signature = f"{number:012x}"
        folder = RunFolder(runs / name / "cells" / f"{signature}-rankmatch-s{number}")
        axes = {"seed": str(number)}
        tracking = TrackingExecution(step_points=10_000)
        folder.create(to_yaml(TrainConfig(execution=ExecutionConfig(tracking=tracking))), axes)
        cells.append(MirroredCell(folder, axes, signature))
    return cells


def begin(uri, runs, name, cells):
    """Do what a launch does before its jobs; return the id of the experiment."""
    mirror = GridMirror(uri, runs / name, cells, Launch("l1"))
    (runs / name / "launches" / "l1").mkdir(parents=True, exist_ok=True)
    mark = mirror.begin({cell.signature for cell in cells})
    assert mirror.warning == ""
    return mark[MIRROR]


def start_jobs(cells, experiment_id, first=0, last=STEPS, gate=ROOT):
    """Start them; half way they wait until there is a file or folder at `gate`."""
    words = [experiment_id, first, last, gate, *(cell.folder.path for cell in cells)]
    command = [sys.executable, str(ROOT / "tests" / "mlflow_writer.py"), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def printed_by(jobs):
    printed, _ = jobs.communicate(timeout=400)
    assert jobs.returncode == 0, printed
    return printed


def sync(uri, runs, name, cells):
    GridMirror(uri, runs / name, cells).sync()


def check_all_is_there_once(uri, name, cells):
    store = Store(uri)
    runs = store.runs(store.experiment(name), f"tags.`{SIGNATURE}` LIKE '%'")
    assert Counter(run.tags[SIGNATURE] for run in runs) == Counter(cell.signature for cell in cells)
    for run in runs:
        assert run.status == "FINISHED"
        assert store.history(run, "miou") == MIOU
        assert [step for step, _ in store.history(run, "step/loss")] == list(range(STEPS))
        assert store.history(run, "final/best_miou") == [(STEPS, 0.3)]


def secrets_below(folder, *secrets):
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets):
            found.append(path)
    return found


@with_database
def test_sixteen_processes_write_postgresql_at_once(database, at, tmp_path):
    uri, cells = at(database.uri), make_cells(tmp_path, "sixteen", NUM_JOBS)
    experiment_id = begin(uri, tmp_path, "sixteen", cells)
    assert printed_by(start_jobs(cells, experiment_id)) == ""
    check_all_is_there_once(uri, "sixteen", cells)
    assert secrets_below(tmp_path, database.password) == []


@with_database
def test_three_launches_that_open_an_empty_postgresql_at_once_all_get_it(database):
    engine = create_engine(database.uri, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE fresh"))
    engine.dispose()
    command = [
        sys.executable,
        str(ROOT / "tests" / "mlflow_opener.py"),
        database.uri.removesuffix("postgres") + "fresh",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "a", "b", "c"], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(line.split()[1] for line in done.stdout.splitlines()) == ["1", "2", "3"]


@with_database
def test_postgresql_that_restarts_under_sixteen_processes_loses_nothing(database, at, tmp_path):
    uri, cells = at(database.uri), make_cells(tmp_path, "restart", NUM_JOBS)
    experiment_id = begin(uri, tmp_path, "restart", cells)
    jobs = start_jobs(cells, experiment_id, gate=tmp_path / "gate")
    wait_for_points(uri, "restart", cells)
    database.stop()
    (tmp_path / "gate").touch()
    database.start()
    printed_by(jobs)
    sync(uri, tmp_path, "restart", cells)
    check_all_is_there_once(uri, "restart", cells)


def wait_for_points(uri, name, cells, timeout_s=120):
    """Wait until the first cell has points in the store, so that what follows happens in the middle."""
    store, deadline = Store(uri), time.monotonic() + timeout_s
    experiment = store.experiment(name)
    while True:
        (run,) = store.runs(experiment, f"tags.`{SIGNATURE}` = '{cells[0].signature}'")
        if store.history(run, "step/loss"):
            return
        assert time.monotonic() < deadline
        time.sleep(0.3)


@with_server
def test_server_with_a_password_is_killed_in_the_middle_and_loses_nothing(server, at, tmp_path):
    uri, cells = at(server.uri, server.password), make_cells(tmp_path, "killed", 4)
    experiment_id = begin(uri, tmp_path, "killed", cells)
    jobs = start_jobs(cells, experiment_id, gate=tmp_path / "gate")
    wait_for_points(uri, "killed", cells)
    server.kill()
    (tmp_path / "gate").touch()
    server.start()
    printed_by(jobs)
    for _ in range(2):
        sync(uri, tmp_path, "killed", cells)
    check_all_is_there_once(uri, "killed", cells)
    assert secrets_below(tmp_path, server.password) == []


@with_server
def test_preempted_job_goes_on_in_the_same_run(server, at, tmp_path):
    uri, cells = at(server.uri, server.password), make_cells(tmp_path, "preempted", 1)
    experiment_id = begin(uri, tmp_path, "preempted", cells)
    assert printed_by(start_jobs(cells, experiment_id, 0, 35)) == ""
    assert printed_by(start_jobs(cells, experiment_id, 20, STEPS)) == ""
    check_all_is_there_once(uri, "preempted", cells)


@with_server
def test_wrong_password_stops_no_job_and_is_told_without_it(server, at, tmp_path):
    uri, cells = at(server.uri, "wrong-secret"), make_cells(tmp_path, "wrong", 1)
    mirror = GridMirror(uri, tmp_path / "wrong", cells, Launch("l1"))
    (tmp_path / "wrong" / "launches" / "l1").mkdir(parents=True)
    assert mirror.begin({cells[0].signature}) == {}
    assert "not authenticated" in mirror.warning
    assert "wrong-secret" not in mirror.warning


@with_server
def test_two_users_of_a_server_who_launch_the_same_grid_have_an_experiment_each(server, at, tmp_path, monkeypatch):
    """The second one may read what the first one made, and write nothing there."""
    uri = at(server.uri, server.password)
    first = begin(uri, tmp_path / "a", "shared", make_cells(tmp_path / "a", "shared", 1))
    bob = {"username": "bob", "password": "pass-of-bob-1"}
    requests.post(f"{uri}/api/2.0/mlflow/users/create", json=bob, auth=(USER, server.password)).raise_for_status()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", bob["username"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", bob["password"])
    second = begin(uri, tmp_path / "b", "shared", make_cells(tmp_path / "b", "shared", 1))
    store = Store(uri)
    for experiment in (first, second):
        runs = store.runs(experiment, "")
        assert Counter(run.status for run in runs) == {"RUNNING": 1, "SCHEDULED": 1}
    assert begin(uri, tmp_path / "b", "shared", make_cells(tmp_path / "b", "shared", 1)) == second != first


@with_server
def test_server_that_answers_each_kind_of_call_by_an_error_once_shows_all_of_it_once(server, at, tmp_path):
    at(server.uri, server.password)
    cells = make_cells(tmp_path, "flaky", 2)
    with losing_answers(server) as uri:
        begin(uri, tmp_path, "flaky", cells)
        sync(uri, tmp_path, "flaky", cells)
    store = Store(server.uri)
    runs = store.runs(store.experiment("flaky"), "")
    assert sorted(run.tags.get(SIGNATURE, "launch") for run in runs) == [*(cell.signature for cell in cells), "launch"]


@pytest.mark.parametrize(
    ("where", "cluster"),
    [pytest.param("database", "inline", marks=with_database), pytest.param("server", "local", marks=with_server)],
)
def test_launch_has_its_jobs_write_and_leaves_no_password(request, where, cluster, at, tmp_path):
    """Real trainings, in the launcher's process and under Ray Tune, each writing its own run."""
    store = request.getfixturevalue(where)
    uri = at(store.uri, store.password if where == "server" else "")
    command = [sys.executable, str(ROOT / "orchestration" / "launch_grid.py"), "--grid", str(SMALL), "--runs",
               str(tmp_path), "--cluster", cluster, "trainer.device=cpu", "seed=[0]"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    opened = Store(uri)
    runs = opened.runs(opened.experiment("small"), f"tags.`{SIGNATURE}` LIKE '%'")
    assert [(run.status, [step for step, _ in opened.history(run, "miou")]) for run in runs] == [("FINISHED", [1])] * 2
    owners = [RunFolder(path).attempts()[0].owner() for path in (tmp_path / "small" / "cells").iterdir()]
    assert all(owner[MIRROR] == opened.experiment("small") for owner in owners)
    assert secrets_below(tmp_path, store.password) == []
    assert store.password not in done.stdout + done.stderr

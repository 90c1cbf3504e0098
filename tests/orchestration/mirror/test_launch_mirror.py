import json
import shlex
import threading
from pathlib import Path

import pytest
from rich.console import Console

from orchestration.launching import control
from orchestration.machine import files
from orchestration.mirror import mirror_thread
from orchestration.mirror.grid_mirror import GridMirror, last_tracking_uri, tracking_uri
from orchestration.mirror.mirror_thread import MirrorThread
from orchestration.mirror.mlflow_store import Store, StoreError
from orchestration.mirror.tracking import LAUNCH, MIRROR, SIGNATURE

DEAD = "http://127.0.0.1:9"
SECRET = "s3cret-word"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_store_is_the_given_one_then_that_of_the_environment_then_a_file(tmp_path, environment):
    assert tracking_uri("", tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    environment.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@host")
    assert tracking_uri("", tmp_path) == f"http://me:{SECRET}@host"
    assert tracking_uri(DEAD, tmp_path) == DEAD


def test_password_on_the_command_line_is_refused_and_not_repeated(tmp_path):
    with pytest.raises(ValueError, match="must hold no password") as raised:
        tracking_uri(f"http://me:{SECRET}@host", tmp_path)
    assert SECRET not in str(raised.value)


def remember(grid_dir, launch, uri, had_password):
    folder = grid_dir / "launches" / launch
    folder.mkdir(parents=True)
    files.replace(folder / "mlflow.json", json.dumps({"uri": uri, "had_password": had_password}))


def test_store_of_the_last_launch_is_remembered(tmp_path, environment):
    assert last_tracking_uri("", tmp_path / "grid") == f"sqlite:///{tmp_path}/mlflow.db"
    remember(tmp_path / "grid", "1", "http://first", False)
    remember(tmp_path / "grid", "2", "http://second", False)
    assert last_tracking_uri("", tmp_path / "grid") == "http://second"
    remember(tmp_path / "grid", "3", "http://me@third", True)
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI must be set: the last launch wrote to http://me@third"):
        last_tracking_uri("", tmp_path / "grid")
    environment.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    assert last_tracking_uri("", tmp_path / "grid") == "http://me@third"


def test_dead_server_costs_a_launch_nothing_and_sync_writes_all_later(fresh):
    assert fresh("seed=[0]", "method=[supervised]", tracking_uri=DEAD) == 0
    assert "MLflow is not up to date, `rankmatch sync --grid small --runs " in fresh.printed
    (folder,) = (fresh.runs / "small" / "cells").iterdir()
    owner = json.loads((folder / "attempts" / "1" / "owner.json").read_text())
    assert MIRROR not in owner
    uri = f"sqlite:///{fresh.runs / 'later.db'}"
    for _ in range(2):
        control.sync(fresh.runs / "small", Console(quiet=True), uri)
    store = Store(uri)
    (run,) = store.runs(store.experiment("small"), f"tags.`{SIGNATURE}` LIKE '%'")
    assert (run.status, run.tags["method"]) == ("FINISHED", "supervised")
    assert [step for step, _ in store.history(run, "miou")] == [1]
    assert [step for step, _ in store.history(run, "step/loss")] == [0]
    (parent,) = store.runs(store.experiment("small"), f"tags.`{LAUNCH}` LIKE '%'")
    assert run.tags["mlflow.parentRunId"] == parent.id


def test_thread_goes_on_when_the_store_is_back(monkeypatch):
    monkeypatch.setattr(mirror_thread, "LONGEST_S", 0.02)
    connected, synced, done = [], [], threading.Event()

    def connect():
        connected.append(1)
        if len(connected) < 3:
            raise StoreError("down")
        return "mirror"

    def sync(mirror):
        synced.append(mirror)
        done.set()

    thread = MirrorThread(connect, sync, every_s=0.01)
    thread.start()
    assert done.wait(30)
    assert thread.finish(30.0) == ""
    assert (len(connected), set(synced)) == (3, {"mirror"})


def test_thread_that_never_reached_the_store_tells_why():
    def connect():
        raise StoreError("down")

    thread = MirrorThread(connect, lambda mirror: None, every_s=60.0)
    thread.start()
    assert thread.finish(30.0) == "down"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_error_that_nobody_foresaw_is_told():
    def breaks(mirror):
        raise KeyError("oh")

    thread = MirrorThread(lambda: "mirror", breaks, every_s=60.0)
    thread.start()
    assert thread.finish(30.0) == "the mirror broke down"


def test_store_that_hangs_is_waited_for_only_so_long():
    released = threading.Event()
    thread = MirrorThread(lambda: released.wait(60), lambda mirror: None, every_s=60.0)
    thread.start()
    assert thread.finish(0.1) == "the store did not answer within 0 s"
    released.set()
    thread.join(30)


def test_the_command_that_opens_the_store_can_be_pasted_where_the_path_has_a_space(tmp_path):
    runs = tmp_path / "my runs" / "it's"
    shown = GridMirror(f"sqlite:///{runs}/mlflow.db", runs / "small", []).where()
    assert shlex.split(shown.strip("`")) == ["rankmatch", "ui", "--grid", "small", "--runs", str(runs)]


def test_run_of_a_launch_holds_its_report_its_page_and_its_figures(launched):
    store = Store(f"sqlite:///{launched.runs / 'mlflow.db'}")
    run, *_ = store.runs(store.experiment("small"), f"tags.`{LAUNCH}` LIKE '%'")
    kept = Path(run.artifacts.removeprefix("file://"))
    figures = {"states.svg", "labels.svg", "curves-miou.svg", "curves-loss.svg", "classes.svg", "calibration.svg"}
    tables = {"report.md", "report.html", "table.csv", "curves.png"}
    assert tables | figures <= {path.name for path in kept.iterdir()}
    for name in figures:
        ours = launched.runs / "small" / "figures" / name
        assert "<desc" in ours.read_text() and (kept / name).read_bytes() == ours.read_bytes()
    assert "4 of 4 cells are done." in (kept / "report.html").read_text()

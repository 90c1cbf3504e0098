"""Where MLflow's page of a grid is, and what is said where there is none; test_mlflow_ui.py starts a real one."""

import http.server
import os
import signal
import socket
import threading
import urllib.request
from contextlib import contextmanager, nullcontext

import finished_grids
import pytest
from ports import free_port

from orchestration.mirror import page
from orchestration.mirror.mlflow_store import Store, StoreError
from orchestration.mirror.ownership import GRID, RUNS, owner_of

SERVER = """
import http.server, os, sys
assert os.environ["MLFLOW_BACKEND_STORE_URI"] == "sqlite:////store" and "sqlite" not in " ".join(sys.argv)
print("begins", flush=True)
if os.environ.get("FAILS"): sys.exit("no such store")
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.fixture
def stands_in(tmp_path, monkeypatch):
    """Have `python -m mlflow` start in a moment."""
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "__main__.py").write_text(SERVER)
    (tmp_path / "mlflow" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("stands_in")
def test_interrupted_page_ends_its_server_quietly():
    port = free_port()
    with page._served("sqlite:////store", port) as process:
        assert page._answers(port)
        os.kill(os.getpid(), signal.SIGTERM)
    assert process.poll() is not None
    assert not page._answers(port)


@pytest.mark.usefixtures("stands_in")
@pytest.mark.parametrize("answers", [False, True])
def test_page_is_served_where_a_proxy_is_set(answers, monkeypatch):
    """The proxy of a site reaches no loopback: it refuses, or answers that it cannot."""
    with refusing_proxy() if answers else nullcontext(f"http://127.0.0.1:{free_port()}") as proxy:
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setattr(urllib.request, "_opener", None)  # made once in a process, by the proxies of then
        port = free_port()
        assert not page._answers(port)
        monkeypatch.setattr(page, "BEGIN_S", 20.0)
        with page._served("sqlite:////store", port):
            socket.create_connection(("127.0.0.1", port)).close()


@contextmanager
def refusing_proxy():
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_start_of_the_server_is_said_before_it_is_waited_for(grid_dir, monkeypatch):
    store, owner = Store(f"sqlite:///{grid_dir.parent / 'mlflow.db'}"), owner_of(grid_dir.parent)
    store.make_experiment("made", None, {RUNS: owner.runs_id, GRID: "made"})

    @contextmanager
    def fails(*_):
        raise StoreError("no server")
        yield

    monkeypatch.setattr(page, "_served", fails)
    said = []
    with pytest.raises(StoreError, match="no server"):
        page.show(grid_dir, "", 5000, said.append, opens=False)
    assert said == ["starting MLflow's server, which takes up to a minute"]


@pytest.mark.usefixtures("stands_in")
def test_server_that_does_not_begin_is_quoted(monkeypatch):
    monkeypatch.setenv("FAILS", "1")
    with pytest.raises(StoreError, match="(?s)does not answer on port .*begins\nno such store"):  # noqa: SIM117
        with page._served("sqlite:////store", free_port()):
            pass


@pytest.fixture
def grid_dir(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    finished_grids.written(tmp_path)
    return tmp_path / "made"


def test_grid_without_a_store_is_told_how_it_gets_one(grid_dir):
    with pytest.raises(ValueError, match="there is no MLflow store .*mlflow.db yet; `rankmatch sync --grid made"):
        page.show(grid_dir, "", 5000, print, opens=False)


def test_store_without_the_grid_is_named_and_gets_no_experiment(grid_dir):
    store = Store(f"sqlite:///{grid_dir.parent / 'mlflow.db'}")
    with pytest.raises(ValueError, match="has no experiment of made; `rankmatch sync"):
        page.show(grid_dir, "", 5000, print, opens=False)
    assert store.experiments(RUNS, owner_of(grid_dir.parent).runs_id) == []


def test_server_is_named_without_a_password_and_none_is_started(grid_dir, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@tracking.example/")
    monkeypatch.setattr(page, "_experiment", lambda uri, grid_dir: "7")
    said = []
    page.show(grid_dir, "", 5000, said.append, opens=False)
    assert said == ["https://me@tracking.example/#/experiments/7/runs", page.HOW]


def test_port_that_is_taken_is_named(grid_dir):
    store, owner = Store(f"sqlite:///{grid_dir.parent / 'mlflow.db'}"), owner_of(grid_dir.parent)
    store.make_experiment("made", None, {RUNS: owner.runs_id, GRID: "made"})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port must be one that is free on 127.0.0.1; {port} is not"):
            page.show(grid_dir, "", port, print, opens=False)


def test_last_launched_grid_is_meant_where_none_is_given(tmp_path):
    for name, launch in (("b", "20261128T101500.000000-7"), ("a", "20261128T101600.000000-7")):
        (tmp_path / name / "launches" / launch).mkdir(parents=True)
        (tmp_path / name / "grid.yaml").touch()
    assert page.newest_grid(tmp_path) == tmp_path / "a"
    with pytest.raises(ValueError, match="--grid must be given"):
        page.newest_grid(tmp_path / "a")


def test_page_is_served_on_this_machine_alone_and_no_word_holds_the_store(monkeypatch):
    class SeenError(Exception):
        pass

    def popen(words, **_):
        raise SeenError(words)

    monkeypatch.setattr(page.subprocess, "Popen", popen)
    with pytest.raises(SeenError) as seen, page._served("postgresql://me:secret@host/db", free_port()):
        pass
    [words] = seen.value.args
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert "secret" not in " ".join(words)

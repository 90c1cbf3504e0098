"""MLflow's own page on the store of a grid: started on loopback, or named where a server shows it already."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.error import HTTPError

from orchestration.machine import stops
from orchestration.mirror.grid_mirror import last_tracking_uri
from orchestration.mirror.mlflow_store import Store, StoreError
from orchestration.mirror.ownership import GRID, RUNS, owner_of
from orchestration.mirror.store_uri import SERVERS, sqlite_file_of, without_password
from orchestration.runs import hints
from orchestration.runs.folders import GridFolder, LaunchFolder

HOST, PORT = "127.0.0.1", 5000
BEGIN_S = 120.0
"""MLflow imports for seconds, and for a minute on a busy machine."""
TAIL_LINES = 20
HOW = "Open a launch (+) or group by method and split to see its cells; the curves are side by side in the chart view."
Say = Callable[[str], None]
_WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy that `http_proxy` names does not reach this machine's loopback, or answers in place of the server."""


def show(grid_dir: Path, given_uri: str, port: int, say: Say, *, opens: bool) -> None:
    """Serve the page of a grid's experiment until interrupted; of a store with a server, say where it is.

    Raises:
        ValueError: There is no store, the grid is not in it, or the port is taken.
        StoreError: The store does not answer, or its page ends.
    """
    uri = last_tracking_uri(given_uri, grid_dir)
    file = sqlite_file_of(uri)
    if file is not None and not file.is_file():
        raise ValueError(f"there is no MLflow store {file} yet; {hints.command('sync', grid_dir)} makes it")
    experiment = _experiment(uri, grid_dir)
    if uri.startswith(SERVERS):
        _told(f"{without_password(uri).rstrip('/')}/{_views(experiment)[0]}", say, opens=opens)
        return
    say("starting MLflow's server, which takes up to a minute")
    with _served(uri, port) as process:
        for title, view in zip(("runs", "curves"), _views(experiment), strict=True):
            say(f"{title:<8}http://{HOST}:{port}/{view}")
        _told("", say, opens=False)
        if opens:
            _open(f"http://{HOST}:{port}/{_views(experiment)[0]}")
        raise StoreError(f"MLflow's server ended by itself, with exit code {process.wait()}")


def newest_grid(runs: Path) -> Path:
    """Return the folder of the grid that was launched last.

    Raises:
        ValueError: None was.
    """
    launches = [LaunchFolder(path) for path in runs.resolve().glob(f"*/{GridFolder.launches_dir.name}/*")]
    if not launches:
        raise ValueError(f"--grid must be given where nothing was launched into --runs; {runs} has no launch")
    return max(launches, key=lambda launch: launch.name).grid.path


def _experiment(uri: str, grid_dir: Path) -> str:
    """Find the experiment of a grid, and make none."""
    runs = GridFolder(grid_dir).runs
    if runs.id_file.is_file():
        found = Store(uri).experiments(RUNS, owner_of(runs.path).runs_id)
        if ids := [one.id for one in found if one.tags.get(GRID) == grid_dir.name and not one.is_deleted]:
            return ids[0]
    where = without_password(uri)
    raise ValueError(f"{where} has no experiment of {grid_dir.name}; {hints.command('sync', grid_dir)} writes it")


def _views(experiment: str) -> tuple[str, str]:
    """Return the addresses of the list of runs and of their curves, below that of the server."""
    base = f"#/experiments/{experiment}/runs"
    return base, f"{base}?compareRunsMode=CHART"


def _told(address: str, say: Say, *, opens: bool) -> None:
    if address:
        say(address)
    say(HOW)
    if opens and address:
        _open(address)


def _open(address: str) -> None:
    """Open a browser with a window; one in the terminal would take it over."""
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(address)


@contextmanager
def _served(uri: str, port: int) -> "Iterator[subprocess.Popen[bytes]]":
    """Run MLflow's server; the store stands in its environment, since others see a command line.

    MLflow's own jobs (evaluations by language models) stay off: they take memory, and leave a folder in /dev/shm.
    """
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise ValueError(f"--port must be one that is free on {HOST}; {port} is not: {error}") from None
    words = ["server", "--host", HOST, "--port", str(port), "--workers", "1"]
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ, "MLFLOW_BACKEND_STORE_URI": uri}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, "-m", "mlflow", *words], env=environment, stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log, start_new_session=True)  # fmt: skip
        with stops.like_ctrl_c():
            try:
                _wait_for(process, port, log)
                yield process
            except KeyboardInterrupt:
                pass
            finally:
                _end(process)


def _wait_for(process: "subprocess.Popen[bytes]", port: int, log: IO[bytes]) -> None:
    limit = time.monotonic() + BEGIN_S
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > limit:
            log.seek(0)
            tail = _tail(log.read().decode(errors="replace").splitlines())
            raise StoreError(f"MLflow's server does not answer on port {port}; it said:\n{tail}")
        time.sleep(0.2)


def _tail(lines: Sequence[str]) -> str:
    return "\n".join(lines[-TAIL_LINES:])


def _answers(port: int) -> bool:
    try:
        with _WITHOUT_PROXY.open(f"http://{HOST}:{port}/health", timeout=5):
            return True
    except HTTPError:
        return True
    except OSError:
        return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return

"""The dashboard answering in a thread of this process, and a client that says exactly what it is told."""

import http.client
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import finished_grids
import uvicorn

from dashboards.live.server import guarded_app, socket_at
from orchestration.grids.cells import to_yaml
from orchestration.grids.index import IndexedCell, write
from orchestration.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict
    text: str


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    port: int
    at: str = "127.0.0.1"

    @property
    def address(self) -> str:
        return f"http://{self.at}:{self.port}"

    def ask(self, path, method="GET", body=None, **headers) -> Answer:
        connection = http.client.HTTPConnection(self.at, self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        found = Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()},
                       answer.read().decode(errors="replace"))  # fmt: skip
        connection.close()
        return found


@contextmanager
def served(runs: Path, host="127.0.0.1", prefix="", token="", hosts=(), at="127.0.0.1"):
    with socket_at(at, 0) as opened:
        port = opened.getsockname()[1]
        app = guarded_app(runs, host=host, prefix=prefix, token=token, hosts=hosts)
        config = uvicorn.Config(app, http="h11", loop="asyncio", ws="none", lifespan="off", access_log=False,
                                log_level="warning", timeout_graceful_shutdown=1)  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield Served(port, at)
        finally:
            server.should_exit = True
            thread.join()


def mixed_grid(runs: Path, name: str = "made"):
    """Write a grid with finished cells and one that failed, is damaged, runs and has not begun; with odd names."""
    loaded = finished_grids.written(runs, name)
    grid_dir = runs / name
    finished_grids.finish(loaded, grid_dir, loaded.cells[:9])
    finished_grids.fail(loaded, grid_dir, 9, "no <b>memory</b> \"'&", "<script>document.title = 'run'</script>")
    (grid_dir / "cells" / loaded.cells[0].folder_name / "result.json").write_text("{")
    run_epochs(loaded, grid_dir, 10, 3)
    write(grid_dir, [IndexedCell(cell.signature, cell.slug, cell.axes["method"], 70, 0.5, 0) for cell in loaded.cells])
    return loaded, grid_dir


def run_epochs(loaded, grid_dir: Path, number: int, epochs: int) -> Path:
    """Let this process train a cell up to an epoch; return the folder of its attempt."""
    cell = loaded.cells[number]
    folder = RunFolder(grid_dir / "cells" / cell.folder_name)
    folder.create(to_yaml(cell.config), cell.axes)
    attempts = folder.attempts()
    attempt = attempts[-1] if attempts else folder.claim({"commit": "c0ffee" * 7})
    if not attempts:
        attempt.event("started", step=0, host="node1")
        attempt.say("begins <script>document.title = 'log'</script> \x1b[31mred\x1b[0m \u65e5\u672c")
    lines = [json.dumps(finished_grids.epoch_row(cell, number, epoch, 7)) + "\n" for epoch in range(1, epochs + 1)]
    (attempt.path / "epochs.jsonl").write_text("".join(lines))
    return attempt.path

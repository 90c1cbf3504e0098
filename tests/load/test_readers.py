"""200 run folders that are written at once, while commands and the dashboard read them: every answer is whole."""

import csv
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import finished_grids
import pytest
from live_server import Served
from load import writers
from load.many_cells import READER_MB, Place, Took
from load.memory import memory_mb
from ports import free_port

from orchestration.grids.cells import to_yaml
from orchestration.grids.index import IndexedCell, write
from orchestration.runs.run_folder import RunFolder, folders

pytestmark = [pytest.mark.load, pytest.mark.long, pytest.mark.timeout(3600), pytest.mark.xdist_group("load")]
PROCESSES, PER_SEED = 4, 6
DASHBOARD_MB = 200
STATES = ("missing", "not submitted", "running", "failed", "interrupted", "done")
Tell = Callable[[str, object], None]


class Grid(Place):
    """A grid whose cells are written by several processes for some seconds."""

    def __init__(self, folder: Path, num_seeds: int) -> None:
        super().__init__(folder, 8)
        self.loaded = finished_grids.written(folder / "runs", "many", seeds=str([*range(num_seeds)]))
        cells = self.loaded.cells
        self.num_cells = len(cells)
        for cell in cells:
            RunFolder(self.grid_dir / "cells" / cell.folder_name).create(to_yaml(cell.config), cell.axes)
        write(self.grid_dir, [IndexedCell(cell.signature, cell.slug, cell.axes["method"], writers.ROWS, 0.1, 0)
                              for cell in cells])  # fmt: skip

    @contextmanager
    def written(self, seconds: float) -> Iterator[Callable[[], bool]]:
        """Write all cells while a block runs, which gets whether that goes on."""
        paths = [str(folder.path) for folder in folders(self.grid_dir).values()]
        gate = self.folder / "gate"
        begun = [
            subprocess.Popen(
                [sys.executable, writers.__file__, str(gate), str(seconds), *paths[number::PROCESSES]],
                env=self.environment,
            )
            for number in range(PROCESSES)
        ]
        gate.touch()
        try:
            yield lambda: _work(begun)
            assert [process.wait() for process in begun] == [0] * PROCESSES
        finally:
            for process in begun:
                process.kill()
                process.wait()


def _work(writers: list[subprocess.Popen[bytes]]) -> bool:
    """Return whether any is at work; none may have ended before it wrote all."""
    codes = [process.poll() for process in writers]
    assert {*codes} <= {None, 0}, codes
    return None in codes


@contextmanager
def dashboard(place: Place) -> Iterator[tuple[Served, int]]:
    """Serve the pages from a process of their own, as a user does; yields the server and its process."""
    port = free_port()
    words = ["-c", "from orchestration.commands.main import main; main()", "dashboard", "--runs", "runs"]
    command = [sys.executable, *words, "--port", str(port)]
    process = subprocess.Popen(command, env=place.environment, cwd=place.folder, stdout=subprocess.DEVNULL)
    served = Served(port)
    try:
        while not _answers(served):
            assert process.poll() is None
            time.sleep(0.1)
        yield served, process.pid
    finally:
        process.terminate()
        process.wait(30)


def _answers(served: Served) -> bool:
    try:
        return served.ask("/").status == 200
    except OSError:
        return False


class Readers:
    """Give the commands in turn and check each answer against what can have been written."""

    def __init__(self, grid: Grid, served: Served) -> None:
        self.grid, self.served = grid, served
        self.counts: Counter[str] = Counter()
        self.peaks: dict[str, float] = {}
        self.slowest: dict[str, float] = {}
        self._seen: dict[str, tuple[int, int]] = {}

    def give(self, *words: str) -> Took:
        took = self.grid.give(*words)
        assert took.code == 0, took.said
        self._note(words[0], took.wall_s)
        self.peaks[words[0]] = max(self.peaks.get(words[0], 0.0), took.peak_mb)
        return took

    def _note(self, name: str, seconds: float) -> None:
        self.counts[name] += 1
        self.slowest[name] = max(self.slowest.get(name, 0.0), seconds)

    def status(self) -> None:
        answer = json.loads(self.give("status", "--grid", "many", "--json").said)
        assert len(answer["cells"]) == self.grid.num_cells
        for cell in answer["cells"]:
            self._is_written(cell["signature"], cell["state"], cell["num_attempts"], cell["epoch"], cell["miou"])

    def _is_written(self, key: str, state: str, attempts: int, epoch: int, miou: float | None) -> None:
        assert state in STATES and 0 <= epoch <= writers.EPOCHS and 0 <= attempts <= writers.ATTEMPTS
        assert miou == (writers.miou(epoch) if epoch else None)
        assert (attempts, epoch) >= self._seen.get(key, (0, 0)), key
        assert state != "done" or (attempts, epoch) == (writers.ATTEMPTS, writers.EPOCHS)
        self._seen[key] = (attempts, epoch)

    def results(self) -> None:
        said = self.give("results", "grid=many", "--format", "json").said
        rows = [json.loads(line) for line in said.splitlines()]
        assert len(rows) == self.grid.num_cells
        for row in rows:
            best = row["best_miou"]
            assert best is None or best in [writers.miou(epoch) for epoch in range(1, writers.EPOCHS + 1)]
            assert row["status"] != "done" or best == writers.miou(writers.EPOCHS)

    def report(self) -> None:
        self.give("report", "many")
        assert (self.grid.grid_dir / "report.html").read_text().rstrip().endswith("</html>")

    def table(self) -> None:
        """Read the table once all is written."""
        said = self.give("table", "--grid", "many", "--format", "csv").said
        rows = [row for row in csv.DictReader(said.splitlines()) if row["metric"] == "best_miou"]
        assert sum(int(row["n"]) for row in rows) == self.grid.num_cells
        for row in rows:
            assert float(row["mean_percent"]) == pytest.approx(100 * writers.miou(writers.EPOCHS), abs=1e-3)

    def pages(self) -> None:
        newest = sorted(self._seen)[:3]
        for path in ("/", "/g/many/", *(f"/g/many/cells/{signature}/" for signature in newest)):
            began = time.monotonic()
            answer = self.served.ask(path)
            self._note("dashboard", time.monotonic() - began)
            assert answer.status == 200 and answer.text.rstrip().endswith("</html>"), answer.text[-500:]


def test_readers_of_folders_that_are_written_at_once_see_only_what_was_written(
    tmp_path: Path, is_all: bool, num_seeds: int, tell: Tell
) -> None:
    grid = Grid(tmp_path, num_seeds)
    with dashboard(grid) as (served, pid), grid.written(180 if is_all else 10) as goes_on:
        readers = Readers(grid, served)
        while goes_on():
            for read in (readers.status, readers.pages, readers.results, readers.pages, readers.report):
                read()
        for read in (readers.status, readers.pages, readers.results, readers.table):
            read()
        peak_mb = memory_mb(pid, "VmHWM")
    tell(f"answers about {grid.num_cells} folders", dict(readers.counts))
    tell("slowest answer in s", {name: round(seconds, 1) for name, seconds in readers.slowest.items()})
    tell("most memory in MB", {name: round(mb) for name, mb in readers.peaks.items()} | {"dashboard": round(peak_mb)})
    for folder in folders(grid.grid_dir).values():
        is_complete(folder)
    assert set(readers._seen.values()) == {(writers.ATTEMPTS, writers.EPOCHS)}
    assert peak_mb < DASHBOARD_MB and max(readers.peaks.values()) < READER_MB


def is_complete(folder: RunFolder) -> None:
    """Check that each event and row of a cell is there once."""
    first, second = folder.attempts()
    assert [event["event"] for event in first.events()] == ["started", "failed"]
    assert [event["event"] for event in second.events()] == ["started"]
    assert [row["epoch"] for row in folder.epochs()] == [*range(1, writers.EPOCHS + 1)]
    assert folder.steps()["step"].to_pylist() == [*range(writers.ROWS)]
    result = folder.result()
    assert result is not None and (result["attempt"], result["best_miou"]) == (2, writers.miou(writers.EPOCHS))

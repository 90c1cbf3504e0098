"""`rankmatch dashboard` on a grid of 2,000 and of 10,000 cells; the reference is the bound aimed at."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench_results import make_runs
from benchmarks.harness import Row, Settings, plain

FIRST_S, FIRST_10000_S, UPDATE_S, MEMORY_MB = 1.0, 3.0, 0.2, 150.0
SHARE_RUNNING, SHARE_FAILED = 0.05, 0.05
_OWNER = {"schema": 1, "host": "elsewhere", "pid": 1, "process_started": 1, "started": "2026-11-28T00:00:00+00:00",
          "commit": "c0ffee"}  # fmt: skip


def rows(settings: Settings) -> Iterator[Row]:
    """Time the first view of a grid, another one after a cell has written, and that of a cell; then the memory."""
    sizes = (30, 60) if settings.tiny else (2_000, 10_000)
    for num_cells, bound in zip(sizes, (FIRST_S, FIRST_10000_S), strict=True):
        root = Path(tempfile.mkdtemp(prefix="rankmatch-bench-"))
        try:
            yield from _of_grid(root, num_cells, bound, 4 if settings.tiny else 80)
        finally:
            shutil.rmtree(root)


def _of_grid(root: Path, num_cells: int, bound: float, num_epochs: int) -> Iterator[Row]:
    running = make_grid(root, num_cells, num_epochs)
    note = f"{num_cells} cells, 5 % of them running, 5 % failed; reference: the bound"
    with served(root) as (address, process):
        yield plain("dashboard_first_view", _taken(f"{address}g/grid0/"), bound, "s", note)
        updates = []
        for number in range(5):
            _write_epoch(running, num_epochs + number)
            time.sleep(3)
            updates.append(_taken(f"{address}g/grid0/"))
        yield plain(
            "dashboard_update", sorted(updates)[2], UPDATE_S if bound == FIRST_S else bound, "s", f"{note}; median of 5"
        )
        yield plain("dashboard_cell", _taken(f"{address}g/grid0/cells/{running.name[:12]}/"), UPDATE_S, "s", note)
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
        yield plain("dashboard_memory", peak, MEMORY_MB, "MB", note)


def make_grid(root: Path, num_cells: int, num_epochs: int) -> Path:
    """Write one grid of finished, running and failed cells; return the folder of one that runs."""
    make_runs(root, num_cells, num_epochs)
    for other in ("grid1", "grid2"):
        for folder in (root / other / "cells").iterdir():
            folder.rename(root / "grid0" / "cells" / folder.name)
        shutil.rmtree(root / other)
    folders = sorted((root / "grid0" / "cells").iterdir())
    num_running, num_failed = int(SHARE_RUNNING * num_cells), int(SHARE_FAILED * num_cells)
    failed = json.dumps({"event": "failed", "time": 1795561715.5, "kind": "code error", "message": "x" * 100})
    for place, folder in enumerate(folders[: num_running + num_failed]):
        (folder / "result.json").unlink()
        (folder / "attempts" / "1" / "owner.json").write_text(json.dumps(_OWNER))
        if place >= num_running:
            with (folder / "attempts" / "1" / "events.jsonl").open("a") as file:
                file.write(failed + "\n")
    index = [{"signature": folder.name[:12], "slug": folder.name[13:], "method": "rankmatch", "num_steps": 80_000,
              "seconds_per_step": 0.5, "num_gpus": 1} for folder in folders]  # fmt: skip
    (root / "grid0" / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in index))
    return folders[0]


@contextmanager
def served(root: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve a runs folder in a process of its own, as the command does."""
    code = "import sys; from orchestration.commands.main import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "dashboard", "--runs", str(root), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[0], process
        process.terminate()


def _write_epoch(folder: Path, epoch: int) -> None:
    row = {"step": 1000 * (epoch + 1) - 1, "time": time.time(), "epoch": epoch + 1, "miou": 0.5, "best_miou": 0.5}
    with (folder / "attempts" / "1" / "epochs.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def _taken(address: str) -> float:
    begun = time.perf_counter()
    with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310 (its own server)
        assert answer.status == 200
        answer.read()
    return time.perf_counter() - begun

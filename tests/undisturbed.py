"""What tests of killed runs share: waiting for the moment, and the metrics that come out when nothing happens."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from orchestration.running.run_cell import launcher, run_cell, train_inline
from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import RunFolder

CLOCKS = ("time", "duration_s", "evaluation_s", "gpu_duration_s")
METRICS = ("step", "best_miou", "best_epoch", "last_miou", "best_class_iou", "last_class_iou")


def wait_until(condition: Callable[[], object], timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def at_work(runs: Path) -> bool:
    """Tell whether a process lives whose words name a runs folder: a driver outlives its launcher for a while."""
    found = False
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found |= f"{runs}/".encode() in path.read_bytes()
    return found


def metrics(cell: Path) -> list:
    return [RunFolder(cell).result()[key] for key in METRICS]


@contextmanager
def frozen_half_way(cells: Callable[[], Iterable[RunFolder]], num_epochs: int = 2) -> Iterator[RunFolder]:
    """Stop what trains one of the cells once it has trained so many epochs and saved one, so that it cannot end first.

    After the block it continues, if it still lives.
    """
    caught: list[tuple[RunFolder, psutil.Process]] = []
    wait_until(lambda: any(_freeze(cell, num_epochs, caught) for cell in cells()))
    [(cell, process)] = caught
    try:
        yield cell
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def _freeze(cell: RunFolder, num_epochs: int, caught: list[tuple[RunFolder, psutil.Process]]) -> bool:
    attempt = next(reversed(cell.attempts()), None)
    if attempt is None or len(attempt.epochs()) < num_epochs or attempt.saved_step() is None:
        return False  # an epoch's row is written before its checkpoint, from which the next attempt resumes
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(attempt.owner()["training_pid"])
        process.suspend()
        if cell.result() is None and attempt.events()[-1]["event"] not in ("stopped", "failed"):
            caught.append((cell, process))
            return True
        process.resume()
    return False


def undisturbed_metrics(cell: Path, folder: Path) -> list:
    """Train the same in this process, from the beginning to the end."""
    copy = folder / "undisturbed" / cell.name
    RunFolder(copy).create(RunFolder(cell).config(), {})
    assert run_cell(copy, train=train_inline, owner=launcher()) is JobState.DONE
    return metrics(copy)


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in CLOCKS}


def content(folder: RunFolder) -> dict[str, Any]:
    """Return what every file of a run folder holds, less clocks and numbers of attempts."""
    result = folder.result()
    assert result is not None
    last = folder.path / "attempts" / str(result["attempt"])
    model = {**result["model"], "path": result["model"]["path"].replace(f"/{result['attempt']}/", "/<n>/")}
    told = {name: value for name, value in result.items() if name not in (*CLOCKS, "attempt", "model", "provenance")}
    steps, samples = folder.steps(), last / "samples.png"
    return {
        "config.yaml": folder.config(),
        "axes.json": folder.axes(),
        "result.json": told | {"model": model},
        "epochs.jsonl": [untimed(row) for row in folder.epochs()],
        "steps.arrow": steps.drop_columns("time").to_pylist() if steps.num_rows else [],
        "best.pt": (last / "best.pt").read_bytes(),
        "samples.png": samples.read_bytes() if samples.exists() else None,
        "evaluation.json": (last / "evaluation.json").read_bytes(),
        "pictures": {path.name: path.read_bytes() for path in last.glob("pictures/*")},
        "files": {path.name for path in last.rglob("[!.]*")} - {"epochs.jsonl", "steps.arrow"},
        "other weights": sorted(path.name for path in folder.path.rglob("*.pt") if path.parent != last),
    }

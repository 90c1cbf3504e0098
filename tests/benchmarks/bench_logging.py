"""What logging costs a training, beside a step of 0.3 s; part of `rankmatch bench grid`."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Row, Settings, plain
from orchestration.grids.cells import to_yaml
from orchestration.mirror import mirror_thread
from orchestration.mirror.mirror_thread import mirrored
from orchestration.mirror.mlflow_store import Store
from orchestration.mirror.store_uri import URI_VARIABLE
from orchestration.mirror.tracking import MIRROR
from orchestration.runs.run_folder import RunFolder
from rankmatch.config import TrainConfig

STEP_S = 0.3
DEAD = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class LoggingCost:
    """Seconds a step, at one row of so many metrics each step."""

    recorder_s: float
    """Wall time in which the training waits for its own rows."""
    mirror_s: float
    """Processor time of the thread beside it; on a machine with a free core the training does not feel it."""


def measure_logging(
    uri: str = "", *, num_metrics: int = 50, num_steps: int = 100, step_s: float = STEP_S
) -> LoggingCost:
    """Log a row after every step of a job, idle for `step_s`, with its run mirrored to `uri`; empty: nowhere."""
    with tempfile.TemporaryDirectory() as folder:
        return _measure(RunFolder(Path(folder) / "grid" / "cells" / "0123456789ab-bench"), uri, num_metrics, num_steps,
                        step_s)  # fmt: skip


def _measure(folder: RunFolder, uri: str, num_metrics: int, num_steps: int, step_s: float) -> LoggingCost:
    folder.create(to_yaml(TrainConfig()), {})
    row = {f"metric_{number}": float(number) for number in range(num_metrics)} | {"loss": 1.0}
    attempt = folder.claim({MIRROR: "1"} if uri else {})
    attempt.event("started", step=0)
    _import_mlflow()  # once a job, not once a step
    waited_s = 0.0
    process_s, mine_s = time.process_time(), time.thread_time()
    with _store_at(uri), mirrored(folder, attempt), attempt.recorder() as report:
        for step in range(num_steps):
            time.sleep(step_s)
            began = time.perf_counter()
            report(step, row)
            waited_s += time.perf_counter() - began
        others_s = (time.process_time() - process_s) - (time.thread_time() - mine_s)
    return LoggingCost(waited_s / num_steps, others_s / num_steps)


@contextmanager
def _store_at(uri: str) -> Iterator[None]:
    before = os.environ.pop(URI_VARIABLE, None)
    os.environ[URI_VARIABLE] = uri
    try:
        yield
    finally:
        del os.environ[URI_VARIABLE]
        if before is not None:
            os.environ[URI_VARIABLE] = before


def _import_mlflow() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Store(f"sqlite:///{folder}/mlflow.db")


def rows(settings: Settings) -> Iterator[Row]:
    """Measure a row of 50 metrics after every step, with no mirror and with a server that is down."""
    finish_s, mirror_thread.JOB_FINISH_S = mirror_thread.JOB_FINISH_S, 1.0
    try:
        for name, uri in (("logging", ""), ("logging_server_down", DEAD)):
            cost = measure_logging(uri, num_steps=5 if settings.tiny else 100, step_s=0.01 if settings.tiny else STEP_S)
            note = f"50 metrics a step; reference: 1 % of a step of {STEP_S} s"
            yield plain(name, 1000 * (cost.recorder_s + cost.mirror_s), 10 * STEP_S, "ms", note)
    finally:
        mirror_thread.JOB_FINISH_S = finish_s

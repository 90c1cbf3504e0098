"""What logging costs a training: `python tests/benchmarks/bench_logging.py`."""

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from orchestration import mirror_thread
from orchestration.cells import to_yaml
from orchestration.mirror_thread import mirrored
from orchestration.mlflow_store import Store
from orchestration.run_folder import RunFolder
from orchestration.tracking import MIRROR
from rankmatch.config import TrainConfig

DEAD = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class LoggingCost:
    """Seconds a step, at one row of so many metrics each step."""

    recorder_s: float
    """Wall time in which the training waits for its own rows."""
    mirror_s: float
    """Processor time of the thread beside it; on a machine with a free core the training does not feel it."""

    def share(self, step_s: float) -> float:
        """Return the part of a step that both take together, as if there were one core."""
        return (self.recorder_s + self.mirror_s) / step_s


def measure_logging(uri: str = "", *, num_metrics: int = 50, num_steps: int = 100, step_s: float = 0.3) -> LoggingCost:
    """Log a row after every step of a job, idle for `step_s`, with its run mirrored to `uri`; empty: nowhere."""
    with tempfile.TemporaryDirectory() as folder:
        return _measure(RunFolder(Path(folder) / "grid" / "cells" / "0123456789ab-bench"), uri, num_metrics, num_steps,
                        step_s)  # fmt: skip


def _measure(folder: RunFolder, uri: str, num_metrics: int, num_steps: int, step_s: float) -> LoggingCost:
    folder.create(to_yaml(TrainConfig()), {})
    os.environ["MLFLOW_TRACKING_URI"] = uri
    row = {f"metric_{number}": float(number) for number in range(num_metrics)} | {"loss": 1.0}
    attempt = folder.claim({MIRROR: "1"} if uri else {})
    attempt.event("started", step=0)
    _import_mlflow()  # once a job, not once a step
    waited_s = 0.0
    process_s, mine_s = time.process_time(), time.thread_time()
    with mirrored(folder, attempt), attempt.recorder() as report:
        for step in range(num_steps):
            time.sleep(step_s)
            began = time.perf_counter()
            report(step, row)
            waited_s += time.perf_counter() - began
        others_s = (time.process_time() - process_s) - (time.thread_time() - mine_s)
    return LoggingCost(waited_s / num_steps, others_s / num_steps)


def _import_mlflow() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Store(f"sqlite:///{folder}/mlflow.db")


def main() -> None:
    """Print the cost with no mirror, and with a server that is down."""
    mirror_thread.JOB_FINISH_S = 1.0
    for name, uri in (("no mirror", ""), ("server down", DEAD)):
        cost = measure_logging(uri)
        sys.stdout.write(
            f"{name}: rows {1000 * cost.recorder_s:.2f} ms, mirror {1000 * cost.mirror_s:.2f} ms of processor time, "
            f"{100 * cost.share(0.3):.2f} % of a step of 0.3 s\n"
        )


if __name__ == "__main__":
    main()

"""The process of a Slurm job that trains: a Ray of the job's own, on one node or several, and one cell in it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray

from orchestration import files
from orchestration.on_ray.cluster import private_ray
from orchestration.on_ray.protocol import (
    ADDRESS,
    ENDED,
    EXIT_CODES,
    STOP_FILE,
    TOKEN_VARIABLE,
    end_session,
    kill_session,
)
from orchestration.run_cell import run_cell

JOIN_TIMEOUT_S = 180.0
RESERVE_S = 20.0
"""Kept free before the time limit beside twice the longest way between two step edges."""


@dataclass(slots=True)
class StopAsked:
    """Tells a training to end: somebody wrote the stop file, or the job's time is nearly over.

    The time limit is watched by the longest way between two calls, which holds a step, and at the end of an epoch the
    evaluation and the checkpoint too.
    """

    stop_file: Path
    end_time: float | None
    _last: float | None = None
    _longest_s: float = 0.0

    def __call__(self) -> bool:
        """Tell whether to stop with a checkpoint."""
        now = time.time()
        if self._last is not None:
            self._longest_s = max(self._longest_s, now - self._last)
        self._last = now
        if self.stop_file.exists():
            return True
        if self.end_time is not None and now + 2 * self._longest_s + RESERVE_S > self.end_time:
            evidence = f"{self.end_time - now:.0f} s before the limit; the longest way took {self._longest_s:.0f} s"
            files.replace(self.stop_file, f"time limit\n{evidence}")
            return True
        return False

    def why(self) -> str:
        """Return what was written."""
        return self.stop_file.read_text() if self.stop_file.exists() else ""


def main() -> None:
    """Carry out the order in the file named first, as long as the process named second lives."""
    path, parent_pid = Path(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_end_with, args=(parent_pid,), daemon=True).start()
    order = json.loads(path.read_text())
    asked = StopAsked(path.parent / STOP_FILE, order["end_time"])
    with _ray_of_job(order, path.parent):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Ray has made it deadly again
        from orchestration.on_ray.train import Grant, train_with_ray  # torch takes seconds; Ray is up by now

        grant = Grant(order["num_cpus_per_worker"], 1.0 if order["num_gpus_per_node"] else 0.0)
        state = run_cell(
            Path(order["cell_dir"]),
            train=partial(train_with_ray, grant=grant),
            owner=order["owner"],
            should_stop=asked,
            why=asked.why,
        )
    sys.exit(EXIT_CODES[state])


@contextmanager
def _ray_of_job(order: dict[str, Any], folder: Path) -> Iterator[None]:
    num_nodes = order["num_nodes"]
    with private_ray(
        num_cpus=order["num_cpus_per_node"],
        num_gpus=order["num_gpus_per_node"],
        folder=Path(order["temp_dir"]),
    ):
        if num_nodes == 1:
            yield
            return
        files.replace(folder / ADDRESS, ray.get_runtime_context().gcs_address)
        try:
            _wait_for_nodes(num_nodes)
            yield
        finally:
            files.replace(folder / ENDED, "")


def _wait_for_nodes(num_nodes: int) -> None:
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while (found := sum(node["Alive"] for node in ray.nodes())) < num_nodes:  # type: ignore[no-untyped-call]
        if time.monotonic() > deadline:
            raise TimeoutError(f"{found} of {num_nodes} nodes joined Ray within {JOIN_TIMEOUT_S:.0f} s")
        time.sleep(0.2)


def join(folder: Path, *, num_cpus: int, num_gpus: int) -> int:
    """Lend this node to the Ray of the job's first node until that has ended; return the exit code of Ray's daemon."""
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while not (folder / ADDRESS).exists():
        if (folder / ENDED).exists() or time.monotonic() > deadline:
            return 1
        time.sleep(0.2)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={(folder / ADDRESS).read_text()}",
               "--block", f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}", "--disable-usage-stats"]  # fmt: skip
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.environ[TOKEN_VARIABLE]}
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, env=environment)
    try:
        while daemon.poll() is None and not (folder / ENDED).exists():
            time.sleep(0.5)
        return daemon.poll() or 0
    finally:
        end_session(daemon)


def _end_with(parent_pid: int) -> None:
    """End this process and Ray's daemons, all of one group, once the job's own process is gone."""
    while os.getppid() == parent_pid:
        time.sleep(0.5)
    kill_session(os.getpid())

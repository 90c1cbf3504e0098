"""The process of a Slurm job that trains: a Ray of the job's own, on one node or several, and one cell in it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import ray

from orchestration.machine import files
from orchestration.on_ray.cluster import private_ray
from orchestration.on_ray.lend import lend_node
from orchestration.on_ray.orders import JobOrder
from orchestration.on_ray.protocol import (
    EXIT_CODES,
    TOKEN_VARIABLE,
    end_session,
    kill_session,
)
from orchestration.on_ray.stop import StopAsked
from orchestration.running.run_cell import run_cell
from orchestration.runs.folders import JobFolder
from orchestration.runs.patience import Mark, patiently, say_once

JOIN_TIMEOUT_S = 180.0


def main() -> None:
    """Carry out the order in the file given first, while the process given second lives."""
    path, parent_pid = Path(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_end_with, args=(parent_pid,), daemon=True).start()
    order = JobOrder.from_file(path)
    folder = JobFolder(path.parent)
    asked = StopAsked(folder.stop_file, order.end_time)
    with _ray_of_job(order, folder):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Ray has made it deadly again
        from orchestration.on_ray.train import Grant, train_with_ray  # torch takes seconds; Ray is up by now

        grant = Grant(order.num_cpus_per_worker, 1.0 if order.num_gpus_per_node else 0.0)
        state = run_cell(
            order.cell_dir,
            train=partial(train_with_ray, grant=grant),
            owner=order.owner,
            should_stop=asked,
            why=asked.why,
        )
    sys.exit(EXIT_CODES[state])


@contextmanager
def _ray_of_job(order: JobOrder, folder: JobFolder) -> Iterator[None]:
    with private_ray(
        num_cpus=order.num_cpus_per_node,
        num_gpus=order.num_gpus_per_node,
        folder=order.temp_dir,
    ):
        if order.num_nodes == 1:
            yield
            return
        files.replace(folder.address_file, ray.get_runtime_context().gcs_address)
        try:
            _wait_for_nodes(order.num_nodes)
            yield
        finally:
            try:
                files.replace(folder.over_file, "")
            except OSError as error:  # the other nodes find this Ray gone
                say_once("that the Ray of this job has ended cannot be written", error)


def _wait_for_nodes(num_nodes: int) -> None:
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while (found := sum(node["Alive"] for node in ray.nodes())) < num_nodes:  # type: ignore[no-untyped-call]
        if time.monotonic() > deadline:
            raise TimeoutError(f"{found} of {num_nodes} nodes joined Ray within {JOIN_TIMEOUT_S:.0f} s")
        time.sleep(0.2)


def join(folder: JobFolder, temp_dir: Path, *, num_cpus: int, num_gpus: int) -> int:
    """Lend this node to the Ray of the job's first node until that has ended; return the exit code of Ray's daemon."""
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    begun, over = Mark(folder.address_file), Mark(folder.over_file)
    while not begun.is_there():
        if over.is_there() or time.monotonic() > deadline:
            return 1
        time.sleep(0.2)
    address, token = patiently(folder.address_file.read_text), os.environ[TOKEN_VARIABLE]
    daemon = lend_node(address, token, num_cpus=num_cpus, num_gpus=num_gpus, folder=temp_dir)
    try:
        while daemon.poll() is None and not over.is_there():
            time.sleep(0.5)
        return daemon.poll() or 0
    finally:
        end_session(daemon)


def _end_with(parent_pid: int) -> None:
    """End this process and Ray's daemons, all of one group, once the job's own process is gone."""
    while os.getppid() == parent_pid:
        time.sleep(0.5)
    kill_session(os.getpid())

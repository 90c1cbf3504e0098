"""A look at a Ray that somebody else runs, before anything is made: does it answer, and do its nodes see the folder?"""

import json
import os
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestration.machine import provenance
from orchestration.on_ray.cluster import existing_ray, nodes

WAIT_S = 5.0
"""A network file system may take so long to show a new file."""


def main() -> None:
    """Print what the Ray at the address given first has; all its nodes must see the folder given second."""
    address, folder = sys.argv[1], Path(sys.argv[2])
    with existing_ray(address):
        found = nodes()
        answers = _ask_all(folder)
    facts = {
        "num_gpus": sum(node.num_gpus for node in found),
        "gpu_memory_gb": [size for answer in answers for size in answer["gpu_memory_gb"]],
        "blind": sorted(answer["host"] for answer in answers if not answer["sees"]),
    }
    sys.stdout.write(json.dumps(facts) + "\n")


def _ask_all(folder: Path) -> list[dict[str, Any]]:
    path, word = folder / f".probe-{os.getpid()}", secrets.token_hex(8)
    path.write_text(word)
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    try:
        tasks = [
            _look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(str(path), word)
            for node in alive
        ]
        answers: list[dict[str, Any]] = ray.get(tasks)
        return answers
    finally:
        path.unlink()


@ray.remote(num_cpus=0, max_retries=0)
def _look(path: str, word: str) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_S
    while not (sees := _reads_and_writes(Path(path), word)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return {"host": socket.gethostname(), "sees": sees, "gpu_memory_gb": provenance.gpu_memory_gb()}


def _reads_and_writes(path: Path, word: str) -> bool:
    own = path.with_name(f"{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        own.write_text(word)
        own.unlink()
        return path.read_text() == word
    except OSError:
        return False

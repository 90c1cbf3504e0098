"""A Ray that Slurm jobs make: one is its head, others lend it their nodes, which come, leave and come back."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from orchestration.on_ray.cluster import TOKEN, private_ray
from orchestration.on_ray.lend import answers
from orchestration.on_ray.orders import HeadAddress
from orchestration.on_ray.shares import Machine, Node, Share, max_at_once
from orchestration.on_ray.time_left import NodeTimes
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.patience import Mark

LOOK_S = 1.0


@contextmanager
def pilot_ray(launch_dir: Path, *, name: str, folder: Path) -> Iterator[None]:
    """Run the head of a Ray without CPUs of its own, and publish its address to nodes in a file for this user alone."""
    with private_ray(num_cpus=0, num_gpus=0, folder=folder, name=name):
        path = LaunchFolder(launch_dir).pilot_head_file
        HeadAddress(ray.get_runtime_context().gcs_address, TOKEN).to_file(path, mode=0o600)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


class Nodes:
    """The nodes of the Ray in use; each is named after its job's folder, whose stop file marks that it leaves."""

    def __init__(self, launch_dir: Path) -> None:
        self._launch, self._drained, self._stops = LaunchFolder(launch_dir), set[str](), dict[str, Mark]()
        self._seen: tuple[float, dict[str, dict[str, Any]]] = (0.0, {})
        self.ending = NodeTimes(launch_dir, self._ids).ending
        """Ray's ids of the nodes that have less time left than a cell needs."""

    def room(self, shares: Sequence[Share], max_concurrent: int | None) -> int:
        """Count how many cells may run at once on the nodes that are there and stay."""
        found = [node["Resources"] for name, node in self._alive().items() if not self._leaves(name)]
        machine = Machine(tuple(Node(lent["CPU"], int(lent.get("GPU", 0))) for lent in found if lent.get("CPU")))
        return max_at_once(shares, machine, max_concurrent) if machine.nodes else 0

    def leaving(self) -> tuple[str, ...]:
        """Return Ray's ids of the nodes that leave: Ray learns it later than their cells."""
        return tuple(node["NodeID"] for name, node in self._alive().items() if self._leaves(name))

    def _ids(self) -> dict[str, str]:
        return {name: node["NodeID"] for name, node in self._alive().items()}

    def has_lost(self, owner: Mapping[str, Any]) -> bool:
        """Return whether the node of an attempt's owner is gone; Ray itself takes up to half a minute to say so."""
        job = owner.get("slurm", {})
        node = self._look().get(self._launch.job(str(job.get("job")), job.get("restart")).name)
        return node is None or not answers(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}")

    def drain(self, ended: threading.Event) -> None:
        """Have Ray assign nothing more to nodes that leave, and end their daemons when nothing runs there any more."""
        while not ended.wait(LOOK_S):
            for name, node in self._alive().items():
                if self._leaves(name) and name not in self._drained:
                    self._drained.add(name)
                    _drain(node["NodeID"])

    def _leaves(self, name: str) -> bool:
        return self._stops.setdefault(name, Mark(self._launch.job_named(name).stop_file)).is_there()

    def _alive(self) -> dict[str, dict[str, Any]]:
        """Return what Ray says of its nodes, looked up once a second."""
        when, found = self._seen
        return self._look() if time.monotonic() - when > LOOK_S else found

    def _look(self) -> dict[str, dict[str, Any]]:
        found = {node["NodeName"]: node for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
        self._seen = time.monotonic(), found
        return found


def _drain(node_id: str) -> None:
    """Drain by Ray's own command; if it fails, a cell that is assigned to the node again moves on from there."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--node-id", node_id,
               "--address", ray.get_runtime_context().gcs_address, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
               "--reason-message", "its job ends"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(f"a node was not drained: {done.stderr.strip()}\n")

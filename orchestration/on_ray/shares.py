"""How the cells of a launch share the machines of a Ray: what each worker gets, and how many run at once; pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestration.on_ray.orders import Sharing
from orchestration.runs.jobs import CellJob

_SLACK = 1e-3  # a third of a CPU, three times


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine lends to Ray."""

    num_cpus: float
    num_gpus: int = 0
    host: str = ""
    ray_id: str = ""

    def fits(self, num_cpus: float, num_gpus: float) -> int:
        """Count how many workers it holds at once; a worker's share lies on one GPU."""
        by_cpu = int(self.num_cpus / num_cpus + _SLACK)
        return min(by_cpu, self.num_gpus * int(1 / num_gpus + _SLACK)) if num_gpus else by_cpu


@dataclass(frozen=True, slots=True)
class Machine:
    """All nodes of a Ray."""

    nodes: tuple[Node, ...]

    @property
    def num_gpus(self) -> int:
        """The GPUs of all nodes."""
        return sum(node.num_gpus for node in self.nodes)

    def fits(self, num_cpus: float, num_gpus: float) -> int:
        """Count how many workers it holds at once."""
        return sum(node.fits(num_cpus, num_gpus) for node in self.nodes)

    def largest_cpu_share(self, asked: float, num_gpus: float, num_workers: int) -> float:
        """Return the CPUs that each worker can get so that all of them run at once, at most what is asked."""
        sizes = {node.num_cpus for node in self.nodes if node.num_gpus or not num_gpus}
        parts = {size / count for size in sizes for count in range(1, num_workers + 1)}
        shares = sorted((part for part in {asked, *parts} if 0 < part <= asked), reverse=True)
        return next((part for part in shares if self.fits(part, num_gpus) >= num_workers), shares[-1])


@dataclass(frozen=True, slots=True)
class Share:
    """A job and what each of its workers gets."""

    job: CellJob
    num_cpus: float
    num_gpus: float


def share(job: CellJob, machine: Machine, sharing: Sharing) -> Share:
    """Divide the machine: what the job asks for, or less if the machine or the wanted number of cells is small.

    CPUs can be shared, so that no job waits forever for more than there are; GPUs cannot.

    Raises:
        ValueError: The job asks for more GPUs than there are.
    """
    workers = job.num_workers
    uses_gpus = job.device == "cuda" or (job.device == "auto" and machine.num_gpus)
    num_gpus = sharing.num_gpus_per_worker if uses_gpus else 0.0
    room = sum(node.num_gpus for node in machine.nodes) * int(1 / num_gpus + _SLACK) if num_gpus else math.inf
    if workers > room:
        raise ValueError(
            f"trainer.num_workers={workers} of {job.name} needs more GPUs than the {machine.num_gpus} there are"
        )
    wanted = int(min(workers * (sharing.max_concurrent or 1), room))
    num_cpus = machine.largest_cpu_share(float(job.num_cpus_per_worker), num_gpus, wanted)
    return Share(job, math.floor(num_cpus * 10_000) / 10_000, num_gpus)  # Ray counts in ten thousandths


def shunned(share: Share, nodes: Sequence[Node], hosts: Sequence[str]) -> tuple[str, ...]:
    """Return Ray's ids of the nodes on the hosts that a cell avoids; none if the other nodes cannot hold it."""
    rest = Machine(tuple(node for node in nodes if node.host not in hosts))
    if rest.fits(share.num_cpus, share.num_gpus) < share.job.num_workers:
        return ()
    return tuple(node.ray_id for node in nodes if node.host in hosts)


def elsewhere(ray_ids: Sequence[str]) -> dict[str, str]:
    """Return Ray's label selector for any node but these."""
    return {"ray.io/node-id": f"!in({','.join(ray_ids)})"} if ray_ids else {}


def max_at_once(shares: Sequence[Share], machine: Machine, max_concurrent: int | None) -> int:
    """Count how many cells may run at once, the largest included: then no cell ever waits for half of its workers."""
    fitting = [machine.fits(entry.num_cpus, entry.num_gpus) // entry.job.num_workers for entry in shares]
    return max(1, min([*fitting, *([max_concurrent] if max_concurrent else [])]))

"""What a cell asks of a cluster: nodes, GPUs, CPUs, memory and time; pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestration.on_slurm.cluster import ClusterConfig

if TYPE_CHECKING:
    from orchestration.runs.jobs import CellJob

START_MIN = 15
"""For Ray, the imports and the first batch, whatever the estimate."""
UNKNOWN_MIN = 1440
"""For a cell that nobody can estimate."""


@dataclass(frozen=True, slots=True, order=True)
class Resources:
    """What one Slurm job asks for; jobs that ask for the same share an array."""

    nodes: int
    cpus_per_node: int
    gpus_per_node: int
    mem_gb_per_node: float
    time_min: int


def resources(job: "CellJob", cluster: ClusterConfig, partition_max_min: int | None = None) -> Resources:
    """Return what a job asks for.

    Raises:
        ValueError: Its workers cannot be spread evenly over nodes.
    """
    nodes = math.ceil(job.num_workers / cluster.gpus_per_node)
    if job.num_workers % nodes:
        raise ValueError(
            f"trainer.num_workers={job.num_workers} must be a multiple of the {nodes} nodes that "
            f"cluster.gpus_per_node={cluster.gpus_per_node} makes it need; cell {job.name}"
        )
    per_node = job.num_workers // nodes
    by_estimate = time_min(job.estimate_s, cluster, partition_max_min, job.limit_s)
    return Resources(
        nodes=nodes,
        cpus_per_node=per_node * cluster.cpus_per_worker,
        gpus_per_node=0 if job.device == "cpu" else per_node,
        mem_gb_per_node=per_node * (job.mem_gb_per_worker or cluster.mem_gb_per_worker),
        time_min=max(by_estimate, min([job.time_min, *_limits(cluster, partition_max_min)])),
    )


def _limits(cluster: ClusterConfig, partition_max_min: int | None) -> list[int]:
    return [limit for limit in (cluster.max_time_min, partition_max_min) if limit]


def pilot_node(jobs: "Sequence[CellJob]", cluster: ClusterConfig, num_gpus_per_worker: float) -> Resources:
    """Return what each node of a pilot asks for: enough for the largest cell or, on shared GPUs, for as many as fit."""
    asked = [resources(job, cluster) for job in jobs]
    gpus = max(one.gpus_per_node for one in asked)
    workers = gpus * int(1 / num_gpus_per_worker + 1e-3)
    return Resources(
        nodes=1,
        cpus_per_node=max(workers * cluster.cpus_per_worker, *(one.cpus_per_node for one in asked)),
        gpus_per_node=gpus,
        mem_gb_per_node=max(workers * cluster.mem_gb_per_worker, *(one.mem_gb_per_node for one in asked)),
        time_min=max(one.time_min for one in asked),
    )


def time_min(
    estimate_s: float | None,
    cluster: ClusterConfig,
    partition_max_min: int | None = None,
    limit_s: float | None = None,
) -> int:
    """Return the time limit in minutes, rounded up so that similar cells ask for the same, at most what is allowed."""
    limits = _limits(cluster, partition_max_min)
    if cluster.time_min:
        return min([cluster.time_min, *limits])
    if limit_s is None and estimate_s is not None:
        limit_s = estimate_s * cluster.time_factor
    needed = UNKNOWN_MIN if limit_s is None else math.ceil(START_MIN + limit_s / 60)
    grid = 15 if needed <= 120 else 60
    return min([math.ceil(needed / grid) * grid, *limits])


def shares(lengths: list[int], most: int | None) -> list[int]:
    """Divide the jobs that may run at a time among arrays, at least one each; only the first `most` arrays get any.

    Args:
        lengths: Elements of each array.
        most: Jobs at a time over all arrays; None: no limit.
    """
    if most is None:
        return list(lengths)
    lanes = lengths[:most]
    given = [max(1, most * length // sum(lanes)) for length in lanes]
    while sum(given) > most:
        given[given.index(max(given))] -= 1
    for place in range(len(given)):
        given[place] = min(lanes[place], given[place] + most - sum(given))
    return given

"""Trains the cells in a pilot: a head job, and an array of jobs that lend their nodes to its Ray."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestration.on_ray.shares import Machine, Node, max_at_once, share
from orchestration.on_slurm import sbatch_flags
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.pilot import PilotHead, PilotNode
from orchestration.on_slurm.resources import Resources, pilot_node, resources, time_min
from orchestration.on_slurm.submissions import Submission
from orchestration.plan import makespan
from orchestration.schedulers import CellJob, SchedulerError
from orchestration.schedulers.batch import Batch
from orchestration.schedulers.slurm import Array, SiteLimits, SlurmScheduler, new_name
from orchestration.schedulers.slurm_jobs import SlurmJobs

HEAD_CPUS, HEAD_MEM_GB = 2, 8.0


class PilotScheduler(SlurmScheduler):
    """Submits a head and its nodes; cells are no jobs of their own."""

    def __init__(
        self,
        config: ClusterConfig,
        snapshot: Path,
        *,
        num_nodes: int,
        num_gpus_per_worker: float = 1.0,
        max_concurrent: int | None = None,
        wake: Sequence[str] = (),
    ) -> None:
        """Take a site, the sources of jobs, how many nodes to ask for, and how cells share them."""
        super().__init__(config, snapshot, max_concurrent=max_concurrent, wake=wake)
        self._num_nodes, self._gpu_share = num_nodes, num_gpus_per_worker

    def check(self, jobs: Sequence[CellJob]) -> None:
        """Refuse cells that do not fit on a node, and a machine without Slurm."""
        super().check(jobs)
        for job in jobs:
            if (nodes := resources(job, self._config).nodes) > 1:
                raise ValueError(
                    f"trainer.num_workers={job.num_workers} must fit on one node with --pilot; cell {job.name} needs "
                    f"{nodes} nodes of cluster.gpus_per_node={self._config.gpus_per_node}"
                )

    def submit(self, jobs: Sequence[CellJob], launch_dir: Path, owner: Mapping[str, Any]) -> SlurmJobs:
        """Submit the head, then the nodes, which wait until it has begun.

        Raises:
            SchedulerError: sbatch refused, or the site takes too few jobs.
        """
        self.check(jobs)
        launch_dir = launch_dir.resolve()
        limits = self.site_limits()
        self._check_room(limits)
        name, cells = new_name(launch_dir), [job.cell_dir.name for job in jobs]
        submission = Submission(name, cells, nodes_name=f"{name}-nodes", user=os.getuid())
        submission.write(launch_dir)
        head, nodes = self._arrays_of(jobs, limits)
        head_task = self._head_task(jobs, nodes.resources, launch_dir, owner, submission)
        self._begin(submission, [head_task], launch_dir, self._head_batch(head, name))
        node_tasks = [self._node_task(nodes.resources, launch_dir, submission)] * self._num_nodes
        batch = self._node_batch(nodes, submission.nodes_name, submission.job_id)
        submission.nodes_id = self._hand_over(node_tasks, launch_dir, batch).number
        submission.write(launch_dir)
        return SlurmJobs(jobs, [submission])

    def scripts(self, jobs: Sequence[CellJob], launch_dir: Path, limits: SiteLimits) -> list[str]:
        """Return the batch scripts that `submit` would hand to sbatch: the head's, and that of the nodes."""
        if not jobs:
            return []
        head, nodes = self._arrays_of(jobs, limits)
        return [
            self._head_batch(head, "rankmatch").script(launch_dir, 1),
            self._node_batch(nodes, "rankmatch-nodes", "HEAD").script(launch_dir, self._num_nodes),
        ]

    def _check_room(self, limits: SiteLimits) -> None:
        if self._num_nodes > limits.max_array_size:
            raise SchedulerError(f"--nodes must be at most {limits.max_array_size} at this site; got {self._num_nodes}")
        if (room := self._room()) is not None and room < self._num_nodes + 1:
            raise SchedulerError(
                f"the site takes {room} more jobs of this user; a head and {self._num_nodes} nodes are "
                f"{self._num_nodes + 1}: launch later, or with fewer --nodes"
            )

    def _arrays_of(self, jobs: Sequence[CellJob], limits: SiteLimits) -> tuple[Array, Array]:
        """Return what the head and what the nodes ask for: time for the whole grid, at most what is allowed."""
        node = pilot_node(jobs, self._config, self._gpu_share)
        lent = Machine((_lent(node),) * self._num_nodes)
        entries = [share(job, lent, **self._options()) for job in self._sized(jobs)]
        known = [job.estimate_s for job in jobs if job.estimate_s is not None]
        at_once = max_at_once(entries, lent, self._max_concurrent)
        estimate_s = makespan(known, at_once) if len(known) == len(jobs) else None
        minutes = time_min(estimate_s, self._config, limits.max_minutes)
        head = Resources(1, HEAD_CPUS, 0, HEAD_MEM_GB, minutes)
        avoided = set(jobs[0].avoided).intersection(*(job.avoided for job in jobs))  # a cell's own are Ray's matter
        lending = Array((), replace(node, time_min=minutes), self._num_nodes, avoided=tuple(sorted(avoided)))
        return Array((), head, 1), lending

    def _sized(self, jobs: Sequence[CellJob]) -> list[CellJob]:
        """Return the jobs with the CPUs that the site gives to each worker."""
        return [replace(job, num_cpus_per_worker=self._config.cpus_per_worker) for job in jobs]

    def _options(self) -> dict[str, Any]:
        return {"max_concurrent": self._max_concurrent, "num_gpus_per_worker": self._gpu_share}

    def _head_batch(self, head: Array, name: str) -> Batch:
        """Return what the head is: it is not begun again, since its nodes would wait for it."""
        return self._batch(sbatch_flags.head_flags(self._config, head.resources), name, "")

    def _node_batch(self, nodes: Array, name: str, head_id: str) -> Batch:
        flags = sbatch_flags.training_flags(self._config, nodes.resources, nodes.avoided)
        return self._batch(flags, name, f"after:{head_id}", nodes.max_concurrent)

    def _head_task(
        self,
        jobs: Sequence[CellJob],
        node: Resources,
        launch_dir: Path,
        owner: Mapping[str, Any],
        submission: Submission,
    ) -> PilotHead:
        return PilotHead(
            launch_dir=str(launch_dir),
            root=str(self._snapshot),
            owner=owner,
            jobs=tuple(self._sized(jobs)),
            options=self._options(),
            num_nodes=self._num_nodes,
            node={"num_cpus": node.cpus_per_node, "num_gpus": node.gpus_per_node},
            nodes_name=submission.nodes_name,
            signal_before_s=self._config.signal_before_s,
            notifier=self._notifier(launch_dir),
        )

    def _node_task(self, node: Resources, launch_dir: Path, submission: Submission) -> PilotNode:
        return PilotNode(
            launch_dir=str(launch_dir),
            root=str(self._snapshot),
            num_cpus=node.cpus_per_node,
            num_gpus=node.gpus_per_node,
            nodes_name=submission.nodes_name,
            signal_before_s=self._config.signal_before_s,
            requeue=self._config.requeue,
        )


def _lent(node: Resources) -> Node:
    return Node(node.cpus_per_node, node.gpus_per_node)

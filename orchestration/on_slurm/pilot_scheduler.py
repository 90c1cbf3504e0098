"""Trains the cells in a pilot: a head job, and an array of jobs that lend their nodes to its Ray."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestration.on_ray.orders import Lent, Sharing
from orchestration.on_ray.shares import Machine, Node, max_at_once, share
from orchestration.on_slurm import commands, sbatch_flags
from orchestration.on_slurm.batch import Batch
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.pilot import PilotHead, PilotNode
from orchestration.on_slurm.resources import Resources, pilot_node, resources, time_min
from orchestration.on_slurm.site import Site, SiteLimits, new_name
from orchestration.on_slurm.submissions import Submission
from orchestration.on_slurm.submitted import SlurmJobs
from orchestration.planning.order import makespan
from orchestration.runs.jobs import CellJob, SchedulerError, SchedulerRefusal

HEAD_CPUS, HEAD_MEM_GB = 2, 8.0


@dataclass(frozen=True, slots=True)
class _Asked:
    head: Resources
    node: Resources
    avoided: tuple[str, ...]
    """Nodes that none of its cells is to go to."""


class PilotScheduler:
    """Submits a head and its nodes; cells are no jobs of their own."""

    def __init__(
        self, site: Site, *, num_nodes: int, num_gpus_per_worker: float = 1.0, max_concurrent: int | None = None
    ) -> None:
        """Take a site, how many nodes to ask for, how cells share them, and how many run at a time."""
        self._site, self._max_concurrent = site, max_concurrent
        self._num_nodes, self._gpu_share = num_nodes, num_gpus_per_worker

    def check(self, jobs: Sequence[CellJob]) -> None:
        """Refuse cells that do not fit on a node, and a machine without Slurm."""
        self._site.check(jobs)
        for job in jobs:
            if (nodes := resources(job, self._site.config).nodes) > 1:
                raise ValueError(
                    f"trainer.num_workers={job.num_workers} must fit on one node with --pilot; cell {job.name} needs "
                    f"{nodes} nodes of cluster.gpus_per_node={self._site.config.gpus_per_node}"
                )

    def submit(self, jobs: Sequence[CellJob], launch_dir: Path, owner: Mapping[str, Any]) -> SlurmJobs:
        """Submit the head, then the nodes, which wait until it has begun.

        Raises:
            SchedulerError: sbatch refused, or the site takes too few jobs.
        """
        self.check(jobs)
        launch_dir = launch_dir.resolve()
        limits = self._site.limits()
        self._check_room(limits)
        name, cells = new_name(launch_dir), [job.cell_dir.name for job in jobs]
        submission = Submission(name, cells, nodes_name=f"{name}-nodes", num_nodes=self._num_nodes, user=os.getuid())
        submission.write(launch_dir)
        asked = self._asked(jobs, limits)
        head_task = self._head_task(jobs, asked.node, launch_dir, owner, submission)
        self._site.submit(submission, [head_task], launch_dir, self._head_batch(asked, name))
        node_tasks = [self._node_task(asked.node, launch_dir, submission)] * self._num_nodes
        batch = self._node_batch(asked, submission.nodes_name, submission.job_id)
        try:
            submission.nodes_id = self._site.sbatch(node_tasks, launch_dir, batch).number
        except SchedulerRefusal:  # its head would wait for nodes that never come
            with suppress(SlurmError):  # the next step withdraws it
                commands.cancel_all(submission.name)
                submission.remove(launch_dir)
            raise
        submission.write(launch_dir)
        return SlurmJobs(jobs, [submission])

    def scripts(self, jobs: Sequence[CellJob], launch_dir: Path, limits: SiteLimits) -> list[str]:
        """Return the batch scripts that `submit` would hand to sbatch: the head's, and that of the nodes."""
        if not jobs:
            return []
        asked = self._asked(jobs, limits)
        return [
            self._head_batch(asked, "rankmatch").script(launch_dir, 1),
            self._node_batch(asked, "rankmatch-nodes", "HEAD").script(launch_dir, self._num_nodes),
        ]

    def room(self) -> int | None:
        """Return how many more jobs the site takes now; None: any number.

        Raises:
            SchedulerError: Slurm does not answer.
        """
        return self._site.room()

    def _check_room(self, limits: SiteLimits) -> None:
        if self._num_nodes > limits.max_array_size:
            raise SchedulerError(f"--nodes must be at most {limits.max_array_size} at this site; got {self._num_nodes}")
        if (room := self._site.refuse_full()) is not None and room < self._num_nodes + 1:
            raise SchedulerError(
                f"the site takes {room} more jobs of this user; a head and {self._num_nodes} nodes are "
                f"{self._num_nodes + 1}: launch later, or with fewer --nodes"
            )

    def _asked(self, jobs: Sequence[CellJob], limits: SiteLimits) -> _Asked:
        """Return what the head and each node ask for: time for the whole grid, up to what the site allows."""
        node = pilot_node(jobs, self._site.config, self._gpu_share)
        lent = Machine((_lent(node),) * self._num_nodes)
        entries = [share(job, lent, self._sharing) for job in self._sized(jobs)]
        known = [job.estimate_s for job in jobs if job.estimate_s is not None]
        at_once = max_at_once(entries, lent, self._max_concurrent)
        estimate_s = makespan(known, at_once) if len(known) == len(jobs) else None
        minutes = time_min(estimate_s, self._site.config, limits.max_minutes)
        head = Resources(1, HEAD_CPUS, 0, HEAD_MEM_GB, minutes)
        avoided = set(jobs[0].avoided).intersection(*(job.avoided for job in jobs))  # Ray sees to what one cell avoids
        return _Asked(head, replace(node, time_min=minutes), tuple(sorted(avoided)))

    def _sized(self, jobs: Sequence[CellJob]) -> list[CellJob]:
        """Return the jobs with the CPUs that the site gives to each worker."""
        return [replace(job, num_cpus_per_worker=self._site.config.cpus_per_worker) for job in jobs]

    @property
    def _sharing(self) -> Sharing:
        return Sharing(self._max_concurrent, self._gpu_share)

    def _head_batch(self, asked: _Asked, name: str) -> Batch:
        """Return the head's batch: it is not restarted, since its nodes would wait for it."""
        return self._site.batch(sbatch_flags.head_flags(self._site.config, asked.head), name, "")

    def _node_batch(self, asked: _Asked, name: str, head_id: str) -> Batch:
        flags = sbatch_flags.training_flags(self._site.config, asked.node, asked.avoided)
        return self._site.batch(flags, name, f"after:{head_id}", self._num_nodes)

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
            root=str(self._site.snapshot),
            owner=owner,
            jobs=tuple(self._sized(jobs)),
            sharing=self._sharing,
            num_nodes=self._num_nodes,
            node=Lent(node.cpus_per_node, node.gpus_per_node),
            nodes_name=submission.nodes_name,
            signal_before_s=self._site.config.signal_before_s,
            notifier=self._site.notifier(launch_dir),
        )

    def _node_task(self, node: Resources, launch_dir: Path, submission: Submission) -> PilotNode:
        return PilotNode(
            launch_dir=str(launch_dir),
            root=str(self._site.snapshot),
            num_cpus=node.cpus_per_node,
            num_gpus=node.gpus_per_node,
            nodes_name=submission.nodes_name,
            signal_before_s=self._site.config.signal_before_s,
            requeue=self._site.config.requeue,
        )


def _lent(node: Resources) -> Node:
    return Node(node.cpus_per_node, node.gpus_per_node)

"""How much more memory, time and GPUs than a cell asks for its site could give; a job's owner holds it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from orchestration.on_slurm import site_limits, site_nodes
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.resources import Resources, resources
from orchestration.on_slurm.sbatch_flags import SIZES, training_flags
from orchestration.on_slurm.site_nodes import Node
from orchestration.runs.jobs import CellJob
from orchestration.runs.requests import Request


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The nodes and limits of a site."""

    site: ClusterConfig
    nodes: Sequence[Node] = ()
    """Empty where Slurm does not say them: then nobody knows what they could give."""
    excluded: Sequence[str] = ()
    max_minutes: int | None = None
    """Of the partition, and of account and qos as far as accounting says it; None: no limit."""

    @classmethod
    def of(cls, site: ClusterConfig, max_minutes: int | None) -> "Ceilings":
        """Ask for the nodes of a site."""
        flags = training_flags(site, Resources(1, 1, 0, 1.0, 1))
        account, qos, partition = (flags.get(name, "") for name in ("account", "qos", "partition"))
        with suppress(SlurmError):
            walls = [max_minutes, site_limits.max_wall_minutes(account, qos, partition)]
            max_minutes = min((limit for limit in walls if limit), default=None)
            nodes, excluded = site_nodes.of_partition(partition), site_nodes.names_of(flags.get("exclude", ""))
            return cls(site, nodes, excluded, max_minutes)
        return cls(site, max_minutes=max_minutes)

    def request(self, job: CellJob, asked: Resources) -> Request:
        """Return what a job asks for, and how much more it could."""
        memory = job.mem_gb_per_worker or self.site.mem_gb_per_worker
        limits = [limit for limit in (self.site.max_time_min, self.max_minutes) if limit]
        return Request(
            job.num_workers,
            memory,
            asked.time_min,
            more_workers=job.more_workers if self._has_room_for(job) else 0,
            most_mem_gb_per_worker=max(memory, self._most_memory(asked) * asked.nodes / job.num_workers),
            most_time_min=asked.time_min if "time" in self.site.extra else min(limits, default=None),
        )

    def _most_memory(self, asked: Resources) -> float:
        """Return the memory of the largest node that could hold a job's share otherwise; 0 where nobody knows it."""
        if self.site.mem_flag == "none" or self._sizes_are_set:
            return 0.0
        found = [node.memory_mb / 1024 for node in self._holding(replace(asked, mem_gb_per_node=0.0))]
        return max(found, default=0.0)

    def _has_room_for(self, job: CellJob) -> bool:
        """Return whether there are nodes for a job with more workers."""
        if not job.more_workers or job.device == "cpu" or self._sizes_are_set:
            return False
        try:
            asked = resources(replace(job, num_workers=job.more_workers), self.site)
        except ValueError:  # they cannot be spread evenly
            return False
        uncounted = self.site.mem_flag == "none"
        return len(self._holding(replace(asked, mem_gb_per_node=0.0) if uncounted else asked)) >= asked.nodes

    def _holding(self, asked: Resources) -> list[Node]:
        counted = replace(asked, gpus_per_node=0) if self.site.gpu_flag == "none" else asked
        names = site_nodes.usable(
            self.nodes, counted, gpu_type=self.site.gpu_type, constraint=self.site.constraint, excluded=self.excluded
        )
        return [node for node in self.nodes if node.name in names]

    @property
    def _sizes_are_set(self) -> bool:
        """Whether the site's file itself says what a job gets: then nothing of this is asked for."""
        return bool({*self.site.extra} & {*SIZES} - {"time"})

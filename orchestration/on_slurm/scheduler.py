"""Trains the cells as Slurm jobs: arrays of equal resources, submitted at once, with nobody watching."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestration.on_slurm import commands, sbatch_flags
from orchestration.on_slurm.batch import Batch
from orchestration.on_slurm.ceilings import Ceilings
from orchestration.on_slurm.commands import QueuedJob, SlurmError
from orchestration.on_slurm.job import CellTask
from orchestration.on_slurm.lanes import NEW, lanes
from orchestration.on_slurm.resources import Resources, resources, shares
from orchestration.on_slurm.site import Site, SiteLimits, new_name
from orchestration.on_slurm.submissions import Submission
from orchestration.on_slurm.submitted import SlurmJobs
from orchestration.runs.folders import CellFolder, LaunchFolder
from orchestration.runs.jobs import CellJob, SchedulerRefusal


@dataclass(frozen=True, slots=True)
class Array:
    """Jobs that are submitted together."""

    jobs: tuple[CellJob, ...]
    resources: Resources
    max_concurrent: int
    after: int | None = None
    """The array, by its place, that must have ended before: so arrays stay within one limit together."""
    avoided: tuple[str, ...] = ()
    """Nodes that none of them is to go to."""


class SlurmScheduler:
    """Submits through submitit; the jobs import a snapshot of the sources."""

    def __init__(self, site: Site, *, max_concurrent: int | None = None, busy: Sequence[QueuedJob] = ()) -> None:
        """Take a site, how many cells may run at a time, and the jobs of the same grid that may still run."""
        self._site, self._max_concurrent, self._busy = site, max_concurrent, list(busy)
        self._ceilings = Ceilings(site.config)

    def check(self, jobs: Sequence[CellJob]) -> None:
        """Refuse what no job can carry out, and a machine without Slurm."""
        self._site.check(jobs)

    def submit(self, jobs: Sequence[CellJob], launch_dir: Path, owner: Mapping[str, Any]) -> SlurmJobs:
        """Submit arrays of jobs, each in the order of the jobs, up to what the site accepts.

        Raises:
            SchedulerError: sbatch refused one of them, or did not answer; what was submitted stays and is recorded.
        """
        self.check(jobs)
        taken = list(jobs)[: self._site.refuse_full(len(self._busy))]
        first, free = self._make_room(len(taken))
        limits = self._site.limits()
        arrays = self._arrays(taken, limits, free)
        self._ceilings = Ceilings.of(self._site.config, limits.max_minutes)
        behind: list[str] = []
        done: list[Submission] = []
        refusals: list[SchedulerRefusal] = []
        for array in arrays:
            after = first if array.after is None else behind[array.after]
            try:
                done.append(self._submit_somewhere(array, launch_dir.resolve(), owner, after))
                behind.append(f"afterany:{done[-1].job}")
            except SchedulerRefusal as error:  # a refused array keeps no other from being submitted
                refusals.append(error)
                behind.append(after)
        if refusals:
            raise refusals[0]
        return SlurmJobs(taken, done)

    def scripts(self, jobs: Sequence[CellJob], launch_dir: Path, limits: SiteLimits) -> list[str]:
        """Return the batch scripts that `submit` would hand to sbatch."""
        return [
            self._array_batch(array, "rankmatch", "").script(launch_dir, len(array.jobs))
            for array in self._arrays(jobs, limits, self._max_concurrent)
        ]

    def room(self) -> int | None:
        """Return how many more jobs the site accepts now; None: any number.

        Raises:
            SchedulerError: Slurm does not answer.
        """
        return self._site.room(len(self._busy))

    def _make_room(self, count: int) -> tuple[str, int | None]:
        """Return what new jobs must wait for, and how many may run at a time, besides the grid's existing jobs.

        An existing array gives up one of its places, so that new jobs need not wait until all of it has ended.
        """
        most = self._max_concurrent
        if most is None or len(self._busy) < most:
            return "", None if most is None else most - len(self._busy)
        given = lanes(self._busy, most, count)
        try:
            for array in () if given.is_full else given.throttled:
                commands.throttle(array, given.of[array])
        except SlurmError as error:
            given = replace(given, is_full=True)
            sys.stderr.write(f"new jobs begin when those that are there have ended: {error}\n")
        if given.is_full:
            return f"afterany:{':'.join(dict.fromkeys(job.job.array.number for job in self._busy))}", most
        return "?".join(f"afterany:{job}" for job in given.ends), given.of[NEW]

    def _arrays(self, jobs: Sequence[CellJob], limits: SiteLimits, free: int | None) -> list[Array]:
        """Divide jobs by what they ask for; Slurm starts the elements of an array in order, and arrays side by side."""
        most = limits.max_array_size
        groups: dict[tuple[Resources, tuple[str, ...]], list[CellJob]] = {}
        for job in jobs:
            key = resources(job, self._site.config, limits.max_minutes), tuple(job.avoided)
            groups.setdefault(key, []).append(job)
        chunks = [
            (key, members[first : first + most])
            for key, members in groups.items()
            for first in range(0, len(members), most)
        ]
        given = shares([len(members) for _, members in chunks], free)
        return [
            Array(
                tuple(members),
                asked,
                given[place % len(given)],
                place - len(given) if place >= len(given) else None,
                avoided,
            )
            for place, ((asked, avoided), members) in enumerate(chunks)
        ]

    def _submit_somewhere(self, array: Array, launch_dir: Path, owner: Mapping[str, Any], after: str) -> Submission:
        """Submit one array; if sbatch finds no node for it outside those that it avoids, allow these too."""
        try:
            return self._submit(array, launch_dir, owner, after)
        except SchedulerRefusal as error:
            if not array.avoided:
                raise
            sys.stderr.write(f"submitted again without keeping away from {', '.join(array.avoided)}: {error}\n")
        return self._submit(replace(array, avoided=()), launch_dir, owner, after)

    def _submit(self, array: Array, launch_dir: Path, owner: Mapping[str, Any], after: str) -> Submission:
        """Submit one array; recorded before sbatch, so that a launch killed right after it finds its jobs by name."""
        cells = [job.cell_dir.name for job in array.jobs]
        larger = {job.name: job.larger for job in array.jobs if job.larger}
        submission = Submission(new_name(launch_dir), cells, user=os.getuid(), larger=larger)
        submission.write(launch_dir)
        tasks = [self._task(job, array, launch_dir, owner) for job in array.jobs]
        self._site.submit(submission, tasks, launch_dir, self._array_batch(array, submission.name, after))
        return submission

    def _task(self, job: CellJob, array: Array, launch_dir: Path, owner: Mapping[str, Any]) -> CellTask:
        return CellTask(
            cell_dir=str(CellFolder(job.cell_dir).whole_path),
            jobs_dir=str(LaunchFolder(launch_dir).jobs_dir),
            root=str(self._site.snapshot),
            owner=job.owner(owner) | self._ceilings.request(job, array.resources).to_owner(),
            num_nodes=array.resources.nodes,
            num_workers=job.num_workers,
            num_cpus_per_node=array.resources.cpus_per_node,
            num_gpus_per_node=array.resources.gpus_per_node,
            signal_before_s=self._site.config.signal_before_s,
            requeue=self._site.config.requeue,
            is_followed=self._site.config.controller,
            notifier=self._site.notifier(launch_dir),
        )

    def _array_batch(self, array: Array, name: str, after: str) -> Batch:
        flags = sbatch_flags.training_flags(self._site.config, array.resources, array.avoided)
        return self._site.batch(flags, name, after, array.max_concurrent)

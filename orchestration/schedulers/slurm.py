"""Trains the cells as Slurm jobs: arrays of equal resources, submitted at once and left alone."""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.on_ray.protocol import TOKEN_VARIABLE
from orchestration.on_slurm import cluster, commands, sbatch_flags, site_limits
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import Job, SlurmError, SlurmRefusal
from orchestration.on_slurm.job import CellTask, batch_epilogue
from orchestration.on_slurm.notices import Notifier
from orchestration.on_slurm.resources import Resources, resources, shares
from orchestration.on_slurm.sbatch_flags import Flags
from orchestration.on_slurm.signals import NAME_VARIABLE
from orchestration.on_slurm.submissions import Submission
from orchestration.run_folder import RunFolder
from orchestration.schedulers import CellJob, JobState, SchedulerError, SchedulerRefusal
from orchestration.schedulers.batch import JOBS, Batch


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


@dataclass(frozen=True, slots=True)
class SiteLimits:
    """What a site allows; the defaults are Slurm's own."""

    max_minutes: int | None = None
    """Of a job; None: any number."""
    max_array_size: int = 1001


class SlurmScheduler:
    """Submits through submitit; the jobs import a snapshot of the sources."""

    def __init__(
        self, config: ClusterConfig, snapshot: Path, *, max_concurrent: int | None = None, busy: Sequence[Job] = ()
    ) -> None:
        """Take a site, the sources of jobs, how many may run at a time, and those of the same grid that may run yet."""
        self._config, self._snapshot, self._max_concurrent, self._busy = config, snapshot, max_concurrent, list(busy)

    def check(self, jobs: Sequence[CellJob]) -> None:
        """Refuse what no job can carry out, and a machine without Slurm."""
        if not commands.is_here():
            raise ValueError("--cluster slurm must be launched where Slurm's commands are; there is no sbatch here")
        with _answers():
            site_limits.refuse_other_clusters()
        for job in jobs:
            resources(job, self._config)
            _refuse_path(job.cell_dir.resolve().parents[1])

    def submit(self, jobs: Sequence[CellJob], launch_dir: Path, owner: Mapping[str, Any]) -> "SlurmJobs":
        """Submit arrays of jobs, longest first; at most as many as the site takes.

        Raises:
            SchedulerError: sbatch refused; what was submitted before stays and is written down.
        """
        self.check(jobs)
        taken = list(jobs)[: self._room()]
        arrays = self._arrays(taken, self.site_limits())
        done: list[Submission] = []
        for array in arrays:
            after = self._after() if array.after is None else f"{done[array.after].job}"
            done.append(self._submit(array, launch_dir.resolve(), owner, after))
        return SlurmJobs(taken, done)

    def submit_controller(self, task: Any, launch_dir: Path, after: Sequence[Job]) -> Job:  # noqa: ANN401 (a callable)
        """Submit a small job that runs `task` when others have ended.

        Raises:
            SchedulerError: sbatch refused.
        """
        # without srun: within a step, sbatch and srun of its own would see the step's settings
        batch = Batch(
            name=f"{new_name(launch_dir)}-controller",
            python=self._python,
            flags=sbatch_flags.controller_flags(self._config),
            setup=self._setup(),
            after=f"afterany:{':'.join(map(str, after))}" if after else "",
        )
        with _refusals():
            return batch.submit([task], launch_dir)

    def site_limits(self) -> SiteLimits:
        """Ask the site.

        Raises:
            SchedulerError: Slurm does not answer.
        """
        with _answers():
            return SiteLimits(site_limits.max_minutes(self._config.partition), site_limits.max_array_size())

    def scripts(self, jobs: Sequence[CellJob], launch_dir: Path, limits: SiteLimits) -> list[str]:
        """Return the batch scripts that `submit` would hand to sbatch."""
        return [
            self._array_batch(array, "rankmatch", "").script(launch_dir, len(array.jobs))
            for array in self._arrays(jobs, limits)
        ]

    def _room(self) -> int | None:
        """Return how many jobs the site takes now; None: any number."""
        config = self._config
        limits = [config.max_submit] if config.max_submit else []
        with _answers():
            known = site_limits.submit_limit(config.account, config.qos, config.partition)
        if known is not None:
            room = known.most - config.controller - known.taken
            if room < 1:
                raise SchedulerError(
                    f"the site takes {known.most} jobs of this user at a time, and has them; launch later"
                )
            limits.append(room)
        return min(limits, default=None)

    def _free(self) -> int | None:
        """Return how many jobs may begin at once, beside those of the grid that are there."""
        if self._max_concurrent is None:
            return None
        return self._max_concurrent if self._after() else self._max_concurrent - len(self._busy)

    def _after(self) -> str:
        """Return the jobs that must have ended first; empty where there is room beside them."""
        if self._max_concurrent is None or len(self._busy) < self._max_concurrent:
            return ""
        return ":".join(dict.fromkeys(job.array.number for job in self._busy))

    def _arrays(self, jobs: Sequence[CellJob], limits: SiteLimits) -> list[Array]:
        most = limits.max_array_size
        groups: dict[tuple[Resources, tuple[str, ...]], list[CellJob]] = {}
        for job in jobs:
            key = resources(job, self._config, limits.max_minutes), tuple(job.avoided)
            groups.setdefault(key, []).append(job)
        chunks = [
            (key, members[first : first + most])
            for key, members in groups.items()
            for first in range(0, len(members), most)
        ]
        given = shares([len(members) for _, members in chunks], self._free())
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

    def _submit(self, array: Array, launch_dir: Path, owner: Mapping[str, Any], after: str) -> Submission:
        """Submit one array; written down before sbatch, so that a launch killed behind it can find its jobs by name."""
        cells = [job.cell_dir.name for job in array.jobs]
        submission = Submission(new_name(launch_dir), cells, user=os.getuid())
        submission.write(launch_dir)
        tasks = [self._task(job, array, launch_dir, owner) for job in array.jobs]
        submission.job_id = self._hand_over(tasks, launch_dir, self._array_batch(array, submission.name, after)).number
        submission.write(launch_dir)
        return submission

    def _hand_over(self, tasks: Sequence[Callable[[], None]], launch_dir: Path, batch: Batch) -> Job:
        with _refusals():
            return batch.submit(tasks, launch_dir)

    def _task(self, job: CellJob, array: Array, launch_dir: Path, owner: Mapping[str, Any]) -> CellTask:
        return CellTask(
            cell_dir=str(job.cell_dir.resolve()),
            jobs_dir=str(launch_dir / JOBS),
            root=str(self._snapshot),
            owner=job.owner(owner),
            num_nodes=array.resources.nodes,
            num_workers=job.num_workers,
            num_cpus_per_node=array.resources.cpus_per_node,
            num_gpus_per_node=array.resources.gpus_per_node,
            signal_before_s=self._config.signal_before_s,
            requeue=self._config.requeue,
            notifier=self._notifier(launch_dir),
        )

    def _notifier(self, launch_dir: Path) -> Notifier:
        return Notifier.of(self._config, launch_dir.parents[1])

    @property
    def _python(self) -> str:
        return cluster.python_command(self._config, sys.executable)

    def _array_batch(self, array: Array, name: str, after: str) -> Batch:
        flags = sbatch_flags.training_flags(self._config, array.resources, array.avoided)
        return self._batch(flags, name, f"afterany:{after}" if after else "", array.max_concurrent)

    def _batch(self, flags: Flags, name: str, after: str, max_concurrent: int = 1) -> Batch:
        token = f'export {TOKEN_VARIABLE}="$(od -An -N32 -tx1 /dev/urandom | tr -d " \\n")"'
        # srun does not inherit the CPUs from sbatch on Slurm 22.05 to 23.02
        cpus = [f"--cpus-per-task={flags['cpus-per-task']}"] if "cpus-per-task" in flags else []
        return Batch(
            name=name,
            python=self._python,
            flags=flags,
            setup=[*self._setup(), token],
            teardown=batch_epilogue(),
            srun=[*cpus, *cluster.srun_words(self._config)],
            max_concurrent=max_concurrent,
            after=after,
        )

    def _setup(self) -> list[str]:
        own = [f"export {NAME_VARIABLE}=$SLURM_JOB_NAME", "export SLURM_EXPORT_ENV=ALL"]  # else srun hides the exports
        # PYTHONSAFEPATH: else the folder in which somebody typed the command comes before the snapshot
        exports = {"PYTHONPATH": str(self._snapshot), "PYTHONSAFEPATH": "1"}
        return [*own, *cluster.shell_setup(self._config, exports)]


def _refuse_path(grid_dir: Path) -> None:
    """Refuse what Slurm expands in the names of files, or what parts the entries of PYTHONPATH."""
    if any(character in "%\\:" or not character.isprintable() for character in str(grid_dir)):
        raise ValueError(
            f"--runs must be a folder without % \\ : and control characters in its path, since Slurm or Python take "
            f"them for something else; got {str(grid_dir.parent)!r}"
        )


def new_name(launch_dir: Path) -> str:
    """Return a name that no other job has, within the 255 characters that accounting keeps."""
    return f"rm-{launch_dir.parents[1].name[:200]}-{secrets.token_hex(4)}"


class SlurmJobs:
    """What was submitted by one launch."""

    def __init__(self, jobs: Sequence[CellJob], submissions: Sequence[Submission]) -> None:
        self.submissions = list(submissions)
        self._folders = {job.name: RunFolder(job.cell_dir) for job in jobs}
        self._jobs = {name: job for submission in submissions for name, job in submission.jobs().items()}

    @property
    def job_ids(self) -> list[Job]:
        """All that was submitted, a pilot's nodes too."""
        return [job for one in self.submissions for job in (one.job, one.nodes) if job]

    @property
    def names(self) -> list[str]:
        """The names of the cells' folders."""
        return list(self._folders)

    def poll(self) -> dict[str, JobState]:
        """Tell the state of every job: first by its run folder, then by squeue.

        Raises:
            SchedulerError: squeue says nothing.
        """
        with _answers():
            queued = commands.queue()
        return {name: _state(folder, queued.get(self._jobs[name])) for name, folder in self._folders.items()}

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all jobs have ended; false if the time ran out before."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not all(state.has_ended for state in self.poll().values()):
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(2.0 if deadline is None else min(2.0, max(0.0, deadline - time.monotonic())))
        return True

    def cancel(self, grace_s: float = 60.0) -> None:
        """Have Slurm end the jobs: it sends SIGTERM, and they write a checkpoint within the site's KillWait."""
        commands.cancel([submission.job for submission in self.submissions if submission.job])
        self.wait(grace_s)


def _state(folder: RunFolder, queued: commands.QueuedJob | None) -> JobState:
    if folder.has_result():
        return JobState.DONE
    if queued is not None:
        return JobState.PENDING if queued.is_waiting else JobState.RUNNING
    return {"failed": JobState.FAILED, "running": JobState.FAILED}.get(folder.state().status, JobState.STOPPED)


@contextmanager
def _answers() -> Iterator[None]:
    try:
        yield
    except SlurmError as error:
        raise SchedulerError(str(error)) from None


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except SlurmRefusal as error:
        raise SchedulerRefusal(f"sbatch refused: {error}") from None
    except (SlurmError, OSError) as error:
        raise SchedulerError(f"nothing is known of what was submitted: {error}") from None

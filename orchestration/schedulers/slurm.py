"""Trains the cells as Slurm jobs: arrays of equal resources, submitted at once and left alone."""

import os
import secrets
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestration.on_ray.protocol import TOKEN_VARIABLE
from orchestration.on_slurm import cluster, commands, controller_script, guarded_shell, sbatch_flags, site_limits
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import Job, QueuedJob, SlurmError, SlurmRefusal
from orchestration.on_slurm.job import CellTask, batch_epilogue
from orchestration.on_slurm.lanes import NEW, lanes
from orchestration.on_slurm.notices import Notifier
from orchestration.on_slurm.resources import Resources, resources, shares
from orchestration.on_slurm.sbatch_flags import Flags
from orchestration.on_slurm.signals import NAME_VARIABLE
from orchestration.on_slurm.submissions import Submission
from orchestration.schedulers import CellJob, SchedulerError, SchedulerRefusal
from orchestration.schedulers.batch import JOBS, Batch
from orchestration.schedulers.slurm_jobs import SlurmJobs


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
        self,
        config: ClusterConfig,
        snapshot: Path,
        *,
        max_concurrent: int | None = None,
        busy: Sequence[QueuedJob] = (),
        wake: Sequence[str] = (),
    ) -> None:
        """Take a site.

        Args:
            config: The site.
            snapshot: The sources of jobs.
            max_concurrent: How many may run at a time.
            busy: The jobs of the same grid that may run yet.
            wake: The shell lines by which a job calls a controller.
        """
        self._config, self._snapshot, self._max_concurrent = config, snapshot, max_concurrent
        self._busy, self._wake = list(busy), list(wake)

    def check(self, jobs: Sequence[CellJob]) -> None:
        """Refuse what no job can carry out, and a machine without Slurm."""
        if not commands.is_here():
            raise ValueError("--cluster slurm must be launched where Slurm's commands are; there is no sbatch here")
        with commands.answers():
            site_limits.refuse_other_clusters()
        guarded_shell.refuse(self._config.setup)
        for job in jobs:
            resources(job, self._config)
            _refuse_path(job.cell_dir.resolve().parents[1])

    def submit(self, jobs: Sequence[CellJob], launch_dir: Path, owner: Mapping[str, Any]) -> SlurmJobs:
        """Submit arrays of jobs, longest first; at most as many as the site takes.

        Raises:
            SchedulerError: sbatch refused one of them, or did not answer; what was submitted stays and is written down.
        """
        self.check(jobs)
        taken = list(jobs)[: self._room()]
        first, free = self._make_room(len(taken))
        arrays = self._arrays(taken, self.site_limits(), free)
        behind: list[str] = []
        done: list[Submission] = []
        refusals: list[SchedulerRefusal] = []
        for array in arrays:
            after = first if array.after is None else behind[array.after]
            try:
                done.append(self._submit_somewhere(array, launch_dir.resolve(), owner, after))
                behind.append(f"afterany:{done[-1].job}")
            except SchedulerRefusal as error:  # it keeps no other from being submitted
                refusals.append(error)
                behind.append(after)
        if refusals:
            raise refusals[0]
        return SlurmJobs(taken, done)

    def controller_script(self, name: str, folder: Path, over: Path, words: Sequence[str], said: str) -> str:
        """Return the batch script of a campaign's controllers.

        Args:
            name: Of these jobs.
            folder: Gets what they print.
            over: The file that says that nothing is left to be done.
            words: The command of a controller, behind `python`.
            said: What their shell tells where Python does not start, or is ended from outside.
        """
        config = self._config
        lines = [f"#SBATCH --{flag}{f'={shlex.quote(value)}' if value else ''}" for flag, value in {
            **sbatch_flags.controller_flags(config), "job-name": name, "open-mode": "append",
            "output": str(folder / "%j.log"),
        }.items()]  # fmt: skip
        # without srun: within a step, sbatch and srun of its own would see the step's settings
        command = f"{self._python} -u {shlex.join(words)}"
        every_s, tell = 60 * config.controller_every_min, config.notify_command
        before = controller_script.before(name, folder, over, every_s, tell, said)
        after = controller_script.after(name, folder, over, tell, said)
        guarded = [*guarded_shell.before(self._setup()), command, *guarded_shell.after()]
        return "\n".join(["#!/bin/bash", *lines, *before, *guarded, *after, ""])

    def site_limits(self) -> SiteLimits:
        """Ask the site.

        Raises:
            SchedulerError: Slurm does not answer.
        """
        with commands.answers():
            return SiteLimits(site_limits.max_minutes(self._config.partition), site_limits.max_array_size())

    def scripts(self, jobs: Sequence[CellJob], launch_dir: Path, limits: SiteLimits) -> list[str]:
        """Return the batch scripts that `submit` would hand to sbatch."""
        return [
            self._array_batch(array, "rankmatch", "").script(launch_dir, len(array.jobs))
            for array in self._arrays(jobs, limits, self._max_concurrent)
        ]

    def room(self) -> int | None:
        """Return how many more jobs the site takes now; None: any number.

        Raises:
            SchedulerError: Slurm does not answer.
        """
        return min(self._rooms().values(), default=None)

    def _room(self) -> int | None:
        rooms = self._rooms()
        for limit, room in rooms.items():
            if room == 0:
                raise SchedulerError(f"the site takes {limit} at a time, and has them; launch later")
        return min(rooms.values(), default=None)

    def _rooms(self) -> dict[str, int]:
        """Return by limit how many more jobs it leaves room for."""
        config, rooms = self._config, {}
        if config.max_submit:
            rooms[f"cluster.max_submit={config.max_submit} jobs of this grid"] = config.max_submit - len(self._busy)
        with commands.answers():
            known = site_limits.submit_limit(config.account, config.qos, config.partition)
        if known is not None:
            rooms[f"{known.most} jobs of this user"] = known.most - config.controller - known.taken
        return {limit: max(0, room) for limit, room in rooms.items()}

    def _make_room(self, count: int) -> tuple[str, int | None]:
        """Return what new jobs must wait for, and how many may run at a time, beside those of the grid that are there.

        An array that is there gives up one of its places, so that what is new need not wait for the end of it all.
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
        """Submit one array, where sbatch finds no node for it beside those that it keeps away from, to these too."""
        try:
            return self._submit(array, launch_dir, owner, after)
        except SchedulerRefusal as error:
            if not array.avoided:
                raise
            sys.stderr.write(f"submitted again without keeping away from {', '.join(array.avoided)}: {error}\n")
        return self._submit(replace(array, avoided=()), launch_dir, owner, after)

    def _submit(self, array: Array, launch_dir: Path, owner: Mapping[str, Any], after: str) -> Submission:
        """Submit one array; written down before sbatch, so that a launch killed behind it can find its jobs by name."""
        cells = [job.cell_dir.name for job in array.jobs]
        submission = Submission(new_name(launch_dir), cells, user=os.getuid())
        submission.write(launch_dir)
        tasks = [self._task(job, array, launch_dir, owner) for job in array.jobs]
        self._begin(submission, tasks, launch_dir, self._array_batch(array, submission.name, after))
        return submission

    def _begin(
        self, submission: Submission, tasks: Sequence[Callable[[], None]], launch_dir: Path, batch: Batch
    ) -> None:
        """Submit the jobs of a submission and write down their number; one that sbatch refuses leaves nothing."""
        try:
            submission.job_id = self._hand_over(tasks, launch_dir, batch).number
        except SchedulerRefusal:
            submission.remove(launch_dir)
            raise
        submission.write(launch_dir)

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
        return self._batch(flags, name, after, array.max_concurrent)

    def _batch(self, flags: Flags, name: str, after: str, max_concurrent: int = 1) -> Batch:
        token = f'export {TOKEN_VARIABLE}="$(od -An -N32 -tx1 /dev/urandom | tr -d " \\n")"'
        # srun does not inherit the CPUs from sbatch on Slurm 22.05 to 23.02
        cpus = [f"--cpus-per-task={flags['cpus-per-task']}"] if "cpus-per-task" in flags else []
        return Batch(
            name=name,
            python=self._python,
            flags=flags,
            setup=guarded_shell.before([*self._setup(), token]),
            teardown=[*guarded_shell.after(), *batch_epilogue(self._wake)],
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


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except SlurmRefusal as error:
        raise SchedulerRefusal(f"sbatch refused: {error}") from None
    except (SlurmError, OSError) as error:
        raise SchedulerError(f"nothing is known of what was submitted: {error}") from None

"""A site as schedulers see it: what it allows, how many jobs it accepts, and the scripts that it is given."""

import secrets
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestration.on_ray.protocol import TOKEN_VARIABLE
from orchestration.on_slurm import cluster, commands, controller_script, guarded_shell, sbatch_flags, site_limits
from orchestration.on_slurm.batch import Batch
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import Job, SlurmError, SlurmRefusal
from orchestration.on_slurm.job import batch_epilogue
from orchestration.on_slurm.notices import Notifier
from orchestration.on_slurm.resources import resources
from orchestration.on_slurm.sbatch_flags import Flags
from orchestration.on_slurm.signals import NAME_VARIABLE
from orchestration.on_slurm.submissions import Submission
from orchestration.runs.folders import CellFolder, ControllersFolder, GridFolder, LaunchFolder
from orchestration.runs.jobs import CellJob, SchedulerError, SchedulerRefusal


@dataclass(frozen=True, slots=True)
class SiteLimits:
    """What a site allows; the defaults are Slurm's own."""

    max_minutes: int | None = None
    """Of a job; None: any number."""
    max_array_size: int = 1001


@dataclass(frozen=True, slots=True)
class Site:
    """A site, the sources that its jobs import, and the shell lines by which a job calls a controller."""

    config: ClusterConfig
    snapshot: Path
    wake: Sequence[str] = ()

    def check(self, jobs: Sequence[CellJob]) -> None:
        """Refuse what no job can carry out, and a machine without Slurm.

        Raises:
            ValueError: With what is wrong.
        """
        if not commands.is_here():
            raise ValueError("--cluster slurm must be launched where Slurm's commands are; there is no sbatch here")
        with commands.answers():
            site_limits.refuse_other_clusters()
        guarded_shell.refuse(self.config.setup)
        for job in jobs:
            resources(job, self.config)
            _refuse_path(CellFolder(CellFolder(job.cell_dir).whole_path).grid)

    def limits(self) -> SiteLimits:
        """Ask the site for its limits.

        Raises:
            SchedulerError: Slurm does not answer.
        """
        with commands.answers():
            return SiteLimits(site_limits.max_minutes(self.config.partition), site_limits.max_array_size())

    def room(self, num_busy: int = 0) -> int | None:
        """Return how many more jobs the site accepts now, besides the grid's existing ones; None: any number.

        Raises:
            SchedulerError: Slurm does not answer.
        """
        return min(self._rooms(num_busy).values(), default=None)

    def refuse_full(self, num_busy: int = 0) -> int | None:
        """Return what `room` does, unless that is 0.

        Raises:
            SchedulerError: The site is full, or Slurm does not answer.
        """
        rooms = self._rooms(num_busy)
        for limit, room in rooms.items():
            if room == 0:
                raise SchedulerError(f"the site takes {limit} at a time, and has them; launch later")
        return min(rooms.values(), default=None)

    def _rooms(self, num_busy: int) -> dict[str, int]:
        """Return for each limit how many more jobs it leaves room for."""
        config, rooms = self.config, {}
        if config.max_submit:
            rooms[f"cluster.max_submit={config.max_submit} jobs of this grid"] = config.max_submit - num_busy
        with commands.answers():
            known = site_limits.submit_limit(config.account, config.qos, config.partition)
        if known is not None:
            rooms[f"{known.most} jobs of this user"] = known.most - config.controller - known.taken
        return {limit: max(0, room) for limit, room in rooms.items()}

    def submit(
        self, submission: Submission, tasks: Sequence[Callable[[], None]], launch_dir: Path, batch: Batch
    ) -> None:
        """Submit the jobs of a submission and record their number; one that sbatch refuses leaves nothing."""
        try:
            submission.job_id = self.sbatch(tasks, launch_dir, batch).number
        except SchedulerRefusal:
            submission.remove(launch_dir)
            raise
        submission.write(launch_dir)

    def sbatch(self, tasks: Sequence[Callable[[], None]], launch_dir: Path, batch: Batch) -> Job:
        """Submit jobs and give them their tasks.

        Raises:
            SchedulerRefusal: sbatch refuses them.
            SchedulerError: It did not answer.
        """
        with _refusals():
            return batch.submit(tasks, launch_dir)

    def notifier(self, launch_dir: Path) -> Notifier:
        """Return what notifies people from the jobs of a launch."""
        return Notifier.of(self.config, LaunchFolder(launch_dir).grid.path)

    def batch(self, flags: Flags, name: str, after: str, max_concurrent: int = 1) -> Batch:
        """Return a batch of jobs that train, or have others train."""
        token = f'export {TOKEN_VARIABLE}="$(od -An -N32 -tx1 /dev/urandom | tr -d " \\n")"'
        # on Slurm 22.05 to 23.02, srun does not inherit the CPUs from sbatch
        cpus = [f"--cpus-per-task={flags['cpus-per-task']}"] if "cpus-per-task" in flags else []
        return Batch(
            name=name,
            python=self._python,
            flags=flags,
            setup=guarded_shell.before([*self._setup(), token]),
            teardown=[*guarded_shell.after(), *batch_epilogue(self.wake)],
            srun=[*cpus, *cluster.srun_words(self.config)],
            max_concurrent=max_concurrent,
            after=after,
        )

    def controller_script(
        self, name: str, folder: ControllersFolder, over: Path, words: Sequence[str], said: str
    ) -> str:
        """Return the batch script of a campaign's controllers.

        Args:
            name: The name of these jobs.
            folder: Their folder, where their output goes.
            over: The file that marks the campaign as over.
            words: The command of a controller, after `python`.
            said: What their shell reports if Python does not start, or is ended from outside.
        """
        config = self.config
        lines = [f"#SBATCH --{flag}{f'={shlex.quote(value)}' if value else ''}" for flag, value in {
            **sbatch_flags.controller_flags(config), "job-name": name, "open-mode": "append",
            "output": str(folder.log_pattern),
        }.items()]  # fmt: skip
        # without srun: within a step, its own sbatch and srun would see the step's settings
        command = f"{self._python} -u {shlex.join(words)}"
        every_s, tell = 60 * config.controller_every_min, config.notify_command
        before = controller_script.before(name, folder, over, every_s, tell, said)
        after = controller_script.after(name, folder, over, tell, said)
        guarded = [*guarded_shell.before(self._setup()), command, *guarded_shell.after()]
        return "\n".join(["#!/bin/bash", *lines, *before, *guarded, *after, ""])

    @property
    def _python(self) -> str:
        return cluster.python_command(self.config, sys.executable)

    def _setup(self) -> list[str]:
        own = [f"export {NAME_VARIABLE}=$SLURM_JOB_NAME", "export SLURM_EXPORT_ENV=ALL"]  # else srun hides the exports
        # PYTHONSAFEPATH: else the folder in which somebody typed the command comes before the snapshot
        exports = {"PYTHONPATH": str(self.snapshot), "PYTHONSAFEPATH": "1"}
        return [*own, *cluster.shell_setup(self.config, exports)]


def _refuse_path(grid: GridFolder) -> None:
    """Refuse what Slurm expands in file names, and what separates the entries of PYTHONPATH."""
    if any(character in "%\\:" or not character.isprintable() for character in str(grid.path)):
        raise ValueError(
            f"--runs must be a folder without % \\ : and control characters in its path, since Slurm or Python take "
            f"them for something else; got {str(grid.runs.path)!r}"
        )


def new_name(launch_dir: Path) -> str:
    """Return a name that no other job has, within the 255 characters that accounting keeps."""
    return f"rm-{LaunchFolder(launch_dir).grid.name[:200]}-{secrets.token_hex(4)}"


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except SlurmRefusal as error:
        raise SchedulerRefusal(f"sbatch refused: {error}") from None
    except (SlurmError, OSError) as error:
        raise SchedulerError(f"nothing is known of what was submitted: {error}") from None

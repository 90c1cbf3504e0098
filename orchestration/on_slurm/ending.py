"""Jobs that have nothing more to do and do not end: a process that cannot be killed, or an epilog that hangs."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from orchestration.machine import clock
from orchestration.machine.damage import DamagedFileError
from orchestration.on_slurm import commands, submissions
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import QueuedJob
from orchestration.on_slurm.evidence import last_event
from orchestration.on_slurm.notices import Notifier
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.run_folder import RunFolder, run_folder

ENDS_WITHIN_S = 900.0
"""So long after its last sign of life a job may still be on the point of ending."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A job with nothing more to do, which still has its cell."""

    cell: str
    job: QueuedJob
    since: float
    """When its attempt ended, or it wrote its last line."""
    is_done: bool
    """The cell has a result, so nobody waits for the job."""

    @property
    def is_near(self) -> bool:
        """Whether it may end at any moment."""
        return abs(clock.now() - self.since) < ENDS_WITHIN_S

    @property
    def is_stuck(self) -> bool:
        """Whether somebody has to see to it; one that runs may have been requeued, and begin its cell again."""
        return self.job.state == "COMPLETING" and not self.is_done and clock.now() - self.since >= ENDS_WITHIN_S

    def __str__(self) -> str:
        """Say which job it is, and what helps."""
        where = f" on {self.job.node}" if self.job.node else ""
        since = datetime.fromtimestamp(self.since).strftime("%Y-%m-%d %H:%M")
        return (
            f"job {self.job.job}{where} has nothing to do since {since} and does not end ({self.job.state}): nobody "
            f"can train {self.cell} until it is gone; tell your site, as a process cannot be killed or an epilog hangs"
        )


def of_jobs(grid_dir: Path, jobs: Mapping[str, QueuedJob]) -> list[Ending]:
    """Return the jobs with nothing more to do among those of cells, by the names of these cells' folders."""
    launches = submissions.newest_launches(grid_dir) if jobs else {}
    found = []
    for cell, job in jobs.items():
        with suppress(OSError, DamagedFileError):  # it is shown as what it is
            folder = run_folder(grid_dir, cell)
            since = None if job.is_waiting else _since(folder, job, launches.get(cell))
            if since is not None:
                found.append(Ending(cell, job, since, folder.has_result()))
    return found


def stuck(endings: Iterable[Ending]) -> list[Ending]:
    """Return the jobs that somebody has to see to; one for each, though a pilot's head may have many cells."""
    return [*{one.job.job: one for one in reversed([*endings]) if one.is_stuck}.values()][::-1]


def tell_of_stuck(site: ClusterConfig, grid_dir: Path, endings: Iterable[Ending]) -> None:
    """Report each of these jobs once."""
    for one in stuck(endings):
        Notifier.of(site, grid_dir).tell(f"does not end: job {one.job.job}", f"{grid_dir.name}: {one}", once=True)


def _since(folder: RunFolder, job: QueuedJob, launch_dir: Path | None) -> float | None:
    """Return since when a job has nothing more to do: Slurm says so, or its attempt has recorded its end."""
    attempts = folder.attempts()
    is_mine = bool(attempts) and attempts[-1].known_owner().get("slurm", {}).get("job") == job.job.number
    if job.state != "COMPLETING":
        return attempts[-1].ended() if is_mine and last_event(attempts[-1]) else None
    log = LaunchFolder(launch_dir).job_log(job.job.number) if launch_dir else None
    times = [attempts[-1].ended()] if is_mine else []  # it may be of an earlier start
    times += [log.stat().st_mtime] if log and log.exists() else []
    return max(times) if times else _ended_or_submitted(job, launch_dir)


def _ended_or_submitted(job: QueuedJob, launch_dir: Path | None) -> float | None:
    """Return when a job ended that has left nothing: as Slurm says, or else after it was submitted."""
    if ended := commands.end_time(commands.job_fields(job.job)):
        return ended
    return LaunchFolder(launch_dir).submission_file(job.job.name).stat().st_mtime if launch_dir else None

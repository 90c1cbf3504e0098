"""Jobs that have nothing more to do and do not end: a process that cannot be killed, or an epilog that hangs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from orchestration.machine import clock
from orchestration.machine.damage import DamagedFileError
from orchestration.on_slurm import commands, submissions
from orchestration.on_slurm.campaign_file import Campaign, launches_of, open_campaigns
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import Job, QueuedJob, SlurmError
from orchestration.on_slurm.evidence import last_event
from orchestration.on_slurm.notices import Notifier
from orchestration.runs import readable
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.run_folder import RunFolder, run_folder

ENDS_WITHIN_S = 900.0
"""So long after its last sign of life a job may still be on the point of ending."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A job with nothing more to do, which still keeps its cell or the next pilot from beginning."""

    keeps: str
    """What nobody can do until it is gone, in words."""
    job: QueuedJob
    since: float
    """When its attempt ended, or it wrote its last line."""
    is_done: bool
    """The cells have results, so nobody waits for the job."""

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
            f"job {self.job.job}{where} has nothing to do since {since} and does not end ({self.job.state}): "
            f"{self.keeps} until it is gone; tell your site, as a process cannot be killed or an epilog hangs"
        )


@dataclass(slots=True)
class _Ends:
    """When jobs ended by what Slurm says; each is asked for once, and none once Slurm was silent."""

    known: dict[Job, float | None] = field(default_factory=dict)
    silence: SlurmError | None = None

    def of(self, job: Job) -> float | None:
        """Return when a job ended, if it has.

        Raises:
            SlurmError: Slurm says nothing.
        """
        if self.silence:
            raise self.silence
        if job not in self.known:
            try:
                self.known[job] = commands.end_time(commands.job_fields(job, is_silence_an_error=True))
            except SlurmError as error:
                self.silence = error
                raise
        return self.known[job]


def of_jobs(grid_dir: Path, jobs: Mapping[str, QueuedJob]) -> list[Ending]:
    """Return the jobs with nothing more to do among those of cells, by the names of these cells' folders.

    Beside these, return the jobs of pilots that have ended, for which the next pilots wait.
    """
    launches = submissions.newest_launches(grid_dir) if jobs else {}
    found, ends = list[Ending](), _Ends()
    for cell, job in jobs.items():
        with suppress(OSError, DamagedFileError, SlurmError):  # it is shown as what it is
            folder = run_folder(grid_dir, cell)
            since = None if job.is_waiting else _since(folder, job, launches.get(cell), ends)
            if since is not None:
                found.append(Ending(f"nobody can train {cell}", job, since, folder.has_result()))
    with suppress(OSError, SlurmError):  # a colleague's launches are closed, or what Slurm has is not known
        found += _of_ended_pilots(grid_dir, ends)
    return found


def _of_ended_pilots(grid_dir: Path, ends: _Ends) -> Iterator[Ending]:
    """Yield the heads and nodes that are ending and for which a campaign's next pilot waits.

    No cell may have them: one of a pilot whose head is gone has no job, nor has one that has ended in it.
    """
    waiting = [one for one in open_campaigns(grid_dir).values() if one.num_nodes]
    queued = submissions.queue(grid_dir) if waiting else {}
    known = [one for one in submissions.read(grid_dir) if one[1].is_pilot] if queued else []
    for campaign in waiting:
        launches = launches_of(grid_dir, campaign.name if campaign.max_concurrent is None else "")
        for folder, pilot in known:
            mine = [job for job in queued.values() if job.job.array in (pilot.job, pilot.nodes)]
            ending = [job for job in mine if job.state == "COMPLETING"]
            has_head = any(job.job == pilot.job and job not in ending for job in mine)
            for job in ending if folder in launches and not has_head else ():
                since = _last_sign(job.job, folder, pilot.name, [], ends)
                if since is not None:
                    yield Ending("the next pilot cannot begin", job, since, _is_done(campaign, grid_dir, known))


def _is_done(campaign: Campaign, grid_dir: Path, known: Iterable[tuple[Path, submissions.Submission]]) -> bool:
    """Return whether all cells that a campaign has submitted have results; false if that cannot be read now."""
    launches = launches_of(grid_dir, campaign.name)
    cells = {cell for folder, one in known if folder in launches for cell in one.cells}
    return all(readable.of(run_folder(grid_dir, cell), RunFolder.has_result, False) for cell in cells)


def stuck(endings: Iterable[Ending]) -> list[Ending]:
    """Return the jobs that somebody has to see to; one for each, though a pilot's head may have many cells."""
    return [*{one.job.job: one for one in reversed([*endings]) if one.is_stuck}.values()][::-1]


def tell_of_stuck(site: ClusterConfig, grid_dir: Path, endings: Iterable[Ending]) -> None:
    """Report each of these jobs once."""
    for one in stuck(endings):
        Notifier.of(site, grid_dir).tell(f"does not end: job {one.job.job}", f"{grid_dir.name}: {one}", once=True)


def _since(folder: RunFolder, job: QueuedJob, launch_dir: Path | None, ends: _Ends) -> float | None:
    """Return since when a job has nothing more to do: Slurm says so, or its attempt has recorded its end."""
    attempts = folder.attempts()
    is_mine = bool(attempts) and attempts[-1].known_owner().get("slurm", {}).get("job") == job.job.number
    if job.state != "COMPLETING":
        return attempts[-1].ended() if is_mine and last_event(attempts[-1]) else None
    times = [attempts[-1].ended()] if is_mine else []  # it may be of an earlier start
    return _last_sign(job.job, launch_dir, job.job.name, times, ends)


def _last_sign(
    job: Job, launch_dir: Path | None, submitted_as: str, times: Sequence[float], ends: _Ends
) -> float | None:
    """Return when a job wrote last; of one that has left nothing, when it ended, or else when it was submitted.

    Raises:
        SlurmError: It has left nothing, and Slurm says nothing of its end.
    """
    launch = LaunchFolder(launch_dir) if launch_dir else None
    log = launch.job_log(job.number) if launch else None
    times = [*times, *([log.stat().st_mtime] if log and log.exists() else [])]
    if times:
        return max(times)
    return ends.of(job) or (launch.submission_file(submitted_as).stat().st_mtime if launch else None)

"""Submission of cells to Slurm by a launch or by a controller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestration.launching import closed_launches
from orchestration.launching.options import Workers
from orchestration.machine import announce, image, provenance
from orchestration.machine.counts import counted
from orchestration.on_slurm import commands, controller_script, queue_state
from orchestration.on_slurm.campaign_file import Campaign, open_campaigns
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import Job, QueuedJob, SlurmError
from orchestration.planning.plan import Plan
from orchestration.runs import hints
from orchestration.runs.folders import LaunchFolder, RunsFolder, signature_in
from orchestration.runs.jobs import CellJob, SchedulerError

if TYPE_CHECKING:
    from orchestration.on_slurm.pilot_scheduler import PilotScheduler
    from orchestration.on_slurm.scheduler import SlurmScheduler
    from orchestration.on_slurm.site import Site
    from orchestration.on_slurm.submitted import SlurmJobs


@dataclass(frozen=True, slots=True)
class Submitted:
    """What one step submitted to Slurm."""

    planned: Plan
    launch_dir: Path
    jobs: "SlurmJobs | None" = None
    job_ids: list[Job] = field(default_factory=list)

    @property
    def num_cells(self) -> int:
        """How many cells got a job."""
        return len(self.jobs.names) if self.jobs else 0


def workers_of(campaign: Campaign) -> Workers:
    """Return where the cells of a campaign are trained; its site says how many CPUs of a node each worker gets."""
    return Workers("slurm", campaign.max_concurrent, num_gpus_per_worker=campaign.num_gpus_per_worker,
                   num_nodes=campaign.num_nodes)  # fmt: skip


def scheduler_of(site: "Site", workers: Workers, busy: Sequence[QueuedJob] = ()) -> "SlurmScheduler | PilotScheduler":
    """Return the scheduler that submits to a site."""
    if workers.num_nodes:
        from orchestration.on_slurm.pilot_scheduler import PilotScheduler

        return PilotScheduler(site, num_nodes=workers.num_nodes, max_concurrent=workers.max_concurrent,
                              num_gpus_per_worker=workers.num_gpus_per_worker)  # fmt: skip
    from orchestration.on_slurm.scheduler import SlurmScheduler

    return SlurmScheduler(site, max_concurrent=workers.max_concurrent, busy=busy)


def site_at(config: ClusterConfig, sources: Path, wake: Sequence[str] = ()) -> "Site":
    """Return a site whose jobs import the given sources; imported lazily, since most commands submit nothing."""
    from orchestration.on_slurm.site import Site

    return Site(config, sources, wake)


def site_of(campaign: Campaign, wake: Sequence[str] = ()) -> "Site":
    """Return the site of a campaign, with the sources that it was launched with."""
    return site_at(campaign.config(), Path(campaign.snapshot), wake)


def submit(campaign: Campaign, planned: Plan, jobs: Sequence[CellJob], launch_dir: Path) -> Submitted:
    """Submit cells as a launch of a campaign.

    Raises:
        SchedulerError: sbatch refused, or Slurm does not answer; what was submitted before stays.
    """
    if not jobs:
        return Submitted(planned, launch_dir)
    software = provenance.collect()
    if campaign.commit or not software["commit"]:  # else the code is installed, and its build names the commit
        software |= campaign.code()
    of_site = image.of_site(campaign.config().image, RunsFolder(Path(campaign.runs)).checked_dir)
    software = image.recorded(software, of_site)
    grid_dir = LaunchFolder(launch_dir).grid.path
    owner = {"launch": launch_dir.name, "campaign": campaign.name, "grid": grid_dir.name, "commit": software["commit"],
             "provenance": software, **campaign.mark}  # fmt: skip
    busy = [*queued_jobs(grid_dir).values()]
    site = site_of(campaign, wake_lines(campaign, grid_dir))
    handle = scheduler_of(site, workers_of(campaign), busy).submit(jobs, launch_dir, owner)
    return Submitted(planned, launch_dir, handle, handle.job_ids)


def wake_lines(campaign: Campaign, grid_dir: Path) -> list[str]:
    """Return the shell lines by which a job calls a controller; none where nodes may not submit."""
    if not campaign.config().controller:
        return []
    return controller_script.wake(campaign.controllers_name, campaign.controllers(grid_dir), campaign.over(grid_dir))


def queued_jobs(grid_dir: Path) -> dict[str, QueuedJob]:
    """Return the jobs that have not ended on Slurm, by the names of the cells' folders.

    Raises:
        SchedulerError: squeue says nothing.
    """
    try:
        return queue_state.queued_cells(grid_dir)
    except SlurmError as error:
        raise SchedulerError(f"nothing was submitted, as jobs may be there: {error}") from None


def in_words(jobs: Mapping[str, QueuedJob]) -> dict[str, str]:
    """Return what Slurm says of the cells that have a job, by signature."""
    return {
        signature_in(name): f"job {job.job} is {job.state.lower()}{f' on {job.node}' if job.node else ''}"
        for name, job in jobs.items()
    }


def cells_on_slurm(grid_dir: Path) -> dict[str, str]:
    """Return what Slurm says of cells for which an open launch has jobs, by signature: a launch here leaves them to it.

    Raises:
        SchedulerError: squeue says nothing.
    """
    return in_words(queued_jobs(grid_dir)) if commands.is_here() and open_campaigns(grid_dir) else {}


def seen_on_slurm(grid_dir: Path) -> tuple[dict[str, str], str]:
    """Return what `cells_on_slurm` does for a plan, which is useful without, and else why it is not known."""
    if commands.is_here() and (closed := closed_launches.note(grid_dir)):
        return {}, closed
    try:
        return cells_on_slurm(grid_dir), ""
    except SchedulerError as error:
        return {}, f"cells that have a job are planned, too: {error}"


def say_what(submitted: Submitted, campaign: Campaign, console: Console) -> None:
    """Print what was submitted, and the commands to look after it."""
    if not submitted.job_ids:
        console.print("nothing to submit")
        return
    count, due = submitted.num_cells, len(submitted.planned.jobs)
    how_many = counted(count, "cell") if count == due else f"{count} of {due} cells, as many as the site takes,"
    jobs = "jobs" if len(submitted.job_ids) > 1 else "job"
    jobs = f"a pilot of {counted(campaign.num_nodes, 'node')}, {jobs}" if campaign.num_nodes else jobs
    grid_dir, cell = Path(campaign.runs) / campaign.grid_name, submitted.planned.jobs[0].cell.signature
    lines = [f"submitted: {how_many} as {jobs} {', '.join(map(str, submitted.job_ids))}"]
    if campaign.config().controller:
        lines.append(
            f"jobs {campaign.controllers_name} submit what is to be tried again, and write the table in the end"
        )
    else:
        command = hints.command("resume", grid_dir)
        lines.append(f"no job takes the next step (cluster.controller=false): once these have ended, {command} does")
    for words in (("status",), ("logs", cell), ("cancel",), ("table",)):
        lines.append("  " + hints.command(words[0], grid_dir, *words[1:]).strip("`"))
    announce.say(console, "\n".join(lines))

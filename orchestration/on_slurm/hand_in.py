"""Cells handed in to Slurm by a launch or by a controller."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestration import hints, provenance
from orchestration.launch_plan import Options
from orchestration.on_slurm import controller_script, queue_state
from orchestration.on_slurm.campaign_file import Campaign
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import Job, QueuedJob, SlurmError
from orchestration.plan import Plan
from orchestration.schedulers import CellJob, SchedulerError

if TYPE_CHECKING:
    from orchestration.schedulers.slurm import SlurmScheduler
    from orchestration.schedulers.slurm_jobs import SlurmJobs


@dataclass(frozen=True, slots=True)
class Submitted:
    """What one step handed to Slurm."""

    planned: Plan
    launch_dir: Path
    jobs: "SlurmJobs | None" = None
    job_ids: list[Job] = field(default_factory=list)

    @property
    def num_cells(self) -> int:
        """How many cells got a job."""
        return len(self.jobs.names) if self.jobs else 0


def options_of(campaign: Campaign) -> Options:
    """Return what the command line of a campaign's launch said, as far as its steps need it."""
    return Options(runs=Path(campaign.runs), cluster="slurm", max_concurrent=campaign.max_concurrent,
                   num_nodes=campaign.num_nodes, num_gpus_per_worker=campaign.num_gpus_per_worker)  # fmt: skip


def scheduler_of(
    site: ClusterConfig,
    sources: Path,
    limits: Options | Campaign,
    busy: Sequence[QueuedJob] = (),
    wake: Sequence[str] = (),
) -> "SlurmScheduler":
    """Return what submits; see there."""
    from orchestration.schedulers.slurm import SlurmScheduler

    if limits.num_nodes:
        from orchestration.schedulers.slurm_pilot import PilotScheduler

        return PilotScheduler(site, sources, num_nodes=limits.num_nodes, max_concurrent=limits.max_concurrent,
                              num_gpus_per_worker=limits.num_gpus_per_worker, wake=wake)  # fmt: skip
    return SlurmScheduler(site, sources, max_concurrent=limits.max_concurrent, busy=busy, wake=wake)


def submit(campaign: Campaign, planned: Plan, jobs: Sequence[CellJob], launch_dir: Path) -> Submitted:
    """Submit cells as a launch of a campaign.

    Raises:
        SchedulerError: sbatch refused, or Slurm does not answer; what was submitted before stays.
    """
    if not jobs:
        return Submitted(planned, launch_dir)
    software = provenance.collect()
    if campaign.commit or not software["commit"]:  # else the code is installed, and its build tells the commit
        software |= campaign.code()
    owner = {"launch": launch_dir.name, "campaign": campaign.name, "commit": software["commit"], "provenance": software,
             **campaign.mark}  # fmt: skip
    grid_dir = launch_dir.parents[1]
    busy = [*queued_jobs(grid_dir).values()]
    handle = scheduler_of(
        campaign.config(), Path(campaign.snapshot), campaign, busy, wake_lines(campaign, grid_dir)
    ).submit(jobs, launch_dir, owner)
    return Submitted(planned, launch_dir, handle, handle.job_ids)


def wake_lines(campaign: Campaign, grid_dir: Path) -> list[str]:
    """Return the shell lines by which a job calls a controller; none where nodes may not do so."""
    if not campaign.config().controller:
        return []
    return controller_script.wake(campaign.controllers_name, campaign.controllers(grid_dir), campaign.over(grid_dir))


def queued_jobs(grid_dir: Path) -> dict[str, QueuedJob]:
    """Return the jobs that Slurm has not ended, by the names of the cells' folders.

    Raises:
        SchedulerError: squeue says nothing.
    """
    try:
        return queue_state.queued_cells(grid_dir)
    except SlurmError as error:
        raise SchedulerError(f"nothing was submitted, as jobs may be there: {error}") from None


def say_what(submitted: Submitted, campaign: Campaign, console: Console) -> None:
    """Print what was submitted, and the commands that look after it."""
    if not submitted.job_ids:
        console.print("nothing to submit")
        return
    count, due = submitted.num_cells, len(submitted.planned.jobs)
    how_many = f"{count} cells" if count == due else f"{count} of {due} cells, as many as the site takes,"
    jobs = "jobs" if len(submitted.job_ids) > 1 else "job"
    jobs = f"a pilot of {campaign.num_nodes} nodes, {jobs}" if campaign.num_nodes else jobs
    lines = [f"submitted: {how_many} as {jobs} {', '.join(map(str, submitted.job_ids))}"]
    if campaign.config().controller:
        lines.append(
            f"jobs {campaign.controllers_name} submit what is to be tried again, and write the table in the end"
        )
    grid_dir, cell = Path(campaign.runs) / campaign.grid_name, submitted.planned.jobs[0].cell.signature
    for words in (("status",), ("logs", cell), ("cancel",), ("table",)):
        lines.append("  " + hints.command(words[0], grid_dir, *words[1:]).strip("`"))
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)

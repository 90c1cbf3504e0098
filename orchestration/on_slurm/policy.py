"""What a campaign does about cells that have no result, by how their jobs have ended."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from orchestration.failures import MAX_WITHOUT_PROGRESS, POLICY, Fault
from orchestration.grid import Grid
from orchestration.launch_folder import run_folders
from orchestration.on_slurm import avoided_nodes, site_nodes, submissions
from orchestration.on_slurm.avoided_nodes import Try
from orchestration.on_slurm.campaign_file import cancelled_in, launches_of, name_of
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.notices import SILENCE_S, Notifier
from orchestration.on_slurm.resources import Resources, resources
from orchestration.on_slurm.site_nodes import Node, usable
from orchestration.outages import excused
from orchestration.retries import decisions, lately
from orchestration.run_folder import folders
from orchestration.schedulers import CellJob


def given_up(loaded: Grid, grid_dir: Path, campaign: str) -> dict[str, str]:
    """Return why cells are not tried again, by signature."""
    launches = launches_of(grid_dir, campaign)
    mine = [submission for folder, submission in submissions.read(grid_dir) if folder in launches]
    num_submitted = Counter(name for submission in mine if submission.job_id for name in submission.cells)
    cancelled = cancelled_in(grid_dir, campaign)
    refused: dict[str, str] = {}
    left = {key: folder for key, folder in run_folders(loaded, grid_dir).items() if not folder.has_result()}
    for signature, decision in decisions(left, campaign).items():
        folder = left[signature]
        name = folder.path.name
        if name in cancelled:
            refused[signature] = "cancelled"
        elif num_submitted[name] >= MAX_WITHOUT_PROGRESS and not folder.ends(campaign):
            refused[signature] = f"submitted {num_submitted[name]} times and never begun"
        elif not decision.again:
            refused[signature] = decision.why
    return refused


def not_due(loaded: Grid, grid_dir: Path, campaign: str) -> dict[str, float]:
    """Return the seconds until cells are tried again whose last failure is one to wait after, by signature."""
    left = {key: folder for key, folder in run_folders(loaded, grid_dir).items() if not folder.has_result()}
    waits = {key: 60 * decision.wait_min for key, decision in decisions(left, campaign).items() if decision.wait_min}
    rest = {key: left[key].ends(campaign)[-1].time + wait_s - time.time() for key, wait_s in waits.items()}
    return {key: seconds for key, seconds in rest.items() if seconds > 0}


def passed_on(loaded: Grid, grid_dir: Path, campaign: str) -> dict[str, str]:
    """Return the newer campaigns that have jobs of cells without a result, by signature: the cells are theirs now.

    What sbatch refused has no job, and leaves the cells to the campaign that had them.
    """
    named = {folder: name_of(folder) for folder in launches_of(grid_dir)}
    newer = {
        name.partition("-")[0]: named[folder]
        for folder, submission in submissions.read(grid_dir)
        if submission.job_id and named.get(folder, "") > campaign
        for name in submission.cells
    }
    left = {key for key, folder in run_folders(loaded, grid_dir).items() if not folder.has_result()}
    return {key: name for key, name in newer.items() if key in left}


def gpu_hours_spent(loaded: Grid, grid_dir: Path, campaign: str) -> float:
    """Return what the attempts of a campaign have taken, a GPU for each worker."""
    found = run_folders(loaded, grid_dir)
    workers = {cell.signature: cell.config.execution.trainer.num_workers for cell in loaded.cells}
    return sum(
        workers[key] * attempt.busy_s() / 3600
        for key, folder in found.items()
        for attempt in folder.attempts()
        if attempt.known_owner().get("campaign") == campaign
    )


def tell_of_outages(site: ClusterConfig, grid_dir: Path, campaign: str, console: Console) -> None:
    """Tell of what came over many cells of a campaign within the last hour."""
    for outage in lately(grid_dir, campaign, SILENCE_S):
        text = f"{grid_dir.name}: {outage}; that does not count against them, and they are tried again after a while"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
        Notifier.of(site, grid_dir).tell(f"outage: {outage.kinds}", text)


def placed(jobs: Sequence[CellJob], site: ClusterConfig, grid_dir: Path, campaign: str) -> list[CellJob]:
    """Return jobs with the nodes that each keeps away from."""
    known = avoided_nodes.record(_tries(grid_dir, campaign), time.time())
    if not known.failed:
        return list(jobs)
    nodes, excluded = _nodes_of(site)
    found = []
    for job in jobs:
        asked = _counted(resources(job, site), site)
        could = None if nodes is None else usable(
            nodes, asked, gpu_type=site.gpu_type, constraint=site.constraint, excluded=excluded
        )  # fmt: skip
        found.append(replace(job, avoided=known.avoided(job.name, could, asked.nodes)))
    return found


def _counted(asked: Resources, site: ClusterConfig) -> Resources:
    """Return what Slurm counts of a job's share: where nobody asks for GPUs or memory, its nodes may have none."""
    gpus = 0 if site.gpu_flag == "none" else asked.gpus_per_node
    return replace(asked, gpus_per_node=gpus, mem_gb_per_node=0.0 if site.mem_flag == "none" else asked.mem_gb_per_node)


def _nodes_of(site: ClusterConfig) -> tuple[list[Node] | None, list[str]]:
    """Return the nodes that there are, None where Slurm does not say it, and those that the site's file excludes."""
    try:
        return site_nodes.of_partition(site.partition), site_nodes.names_of(site.exclude)
    except SlurmError:
        return None, []


def _tries(grid_dir: Path, campaign: str) -> list[Try]:
    """Return the attempts of a campaign, those that hit the site as a whole not as failures of their nodes."""
    ends = excused({folder.path.name: folder.ends(campaign) for folder in folders(grid_dir).values()})
    return [
        Try(cell, end.node, end.time, end.is_told and POLICY[end.kind].excludes_node and end.fault is not Fault.SITE)
        for cell, some in ends.items()
        for end in some
        if end.node  # of a job that never began it may not be known
    ]

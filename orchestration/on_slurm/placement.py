"""Which nodes cells avoid: chosen when they are submitted, and reconsidered while they wait."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from orchestration.grids.grid import Grid
from orchestration.grids.launched import run_folders
from orchestration.machine import announce, clock
from orchestration.on_slurm import commands, site_nodes, submissions
from orchestration.on_slurm.avoided_nodes import MANY_CELLS, Record, Try, record
from orchestration.on_slurm.campaign_file import Campaign, launches_of
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import Job, QueuedJob, SlurmError
from orchestration.on_slurm.resources import Resources, resources
from orchestration.on_slurm.sbatch_flags import SIZES, Flags, training_flags
from orchestration.on_slurm.site_nodes import Node
from orchestration.runs import readable
from orchestration.runs.failures import POLICY, AttemptEnd, Fault
from orchestration.runs.jobs import CellJob
from orchestration.runs.outages import excused
from orchestration.runs.run_folder import RunFolder, folders

_NAMED = ("nodelist", "nodefile")
_UNSEEN = ("reservation", "licenses", "tmp", "mincpus", "extra-node-info", "sockets-per-node", "cores-per-socket",
           "threads-per-core", "cluster-constraint", "switches")  # fmt: skip
"""Flags of a site that some nodes do not meet, which sinfo does not say here."""


def placed(jobs: Sequence[CellJob], site: ClusterConfig, grid_dir: Path, campaign: str) -> list[CellJob]:
    """Return jobs with the nodes that each of them avoids."""
    known = record(_tries(grid_dir, campaign), clock.now())
    if not known.failed:
        return list(jobs)
    choice = _Choice.of(site, known)
    return [replace(job, avoided=choice.avoided(job)) for job in jobs]


def evidence(grid_dir: Path, campaign: str, failed: Collection[str]) -> list[str]:
    """Say which nodes all cells of a campaign avoid, and why.

    Args:
        grid_dir: Folder of the grid.
        campaign: Its name.
        failed: Names of the folders of cells that failed; the others are read only if two of these had one node.
    """
    cells: dict[str, set[str]] = defaultdict(set)
    for one in _tries(grid_dir, campaign, failed):
        if one.failed:
            cells[one.node].add(one.cell)
    if all(len(some) < MANY_CELLS for some in cells.values()):
        return []
    return record(_tries(grid_dir, campaign), clock.now()).evidence()


def free_waiting(
    campaign: Campaign, loaded: Grid, grid_dir: Path, jobs: Mapping[str, QueuedJob], console: Console
) -> None:
    """Let waiting jobs use nodes that they need no longer avoid, or must use since no other is left.

    Args:
        campaign: The campaign of the jobs.
        loaded: Its grid.
        grid_dir: Folder of the grid.
        jobs: The jobs of its cells on Slurm.
        console: Prints what is changed.

    Raises:
        SlurmError: squeue does not answer.
    """
    queued = submissions.queue(grid_dir) if campaign.num_nodes else {job.job: job for job in jobs.values()}
    every = [job for job, one in queued.items() if one.is_waiting]
    before = _with_learned_nodes(campaign.config(), {job: queued[job].excluded for job in every})
    cells = dict(_cells_of(campaign, grid_dir, before)) if before else {}
    if not cells:
        return
    tries = _tries(grid_dir, campaign.name)
    learned = {one.node for one in tries if one.failed}
    choice, asked = _Choice.of(campaign.config(), record(tries, clock.now())), _cell_jobs(loaded, grid_dir)
    groups: dict[tuple[str, ...], list[Job]] = defaultdict(list)
    for job, names in cells.items():
        if not (left := [asked[name] for name in names if name in asked]):
            continue
        avoided = set.intersection(*({*choice.avoided(one)} for one in left))
        after = tuple(node for node in before[job] if node not in learned or node in {*choice.excluded, *avoided})
        if len(after) < len(before[job]):
            groups[after].append(job)
    for after, some in groups.items():
        _change(_numbers(some, every), after, console)


def _with_learned_nodes(site: ClusterConfig, excluded: Mapping[Job, str]) -> dict[Job, list[str]]:
    """Return the nodes that jobs avoid, of jobs that avoid more than their site excludes."""
    by_site = {*_excluded_by(site)}
    spelt_out = {text: _spelt_out(text) for text in {*excluded.values()} if text}
    return {job: spelt_out[text] for job, text in excluded.items() if text and {*spelt_out[text]} - by_site}


def _numbers(some: Collection[Job], waiting: Collection[Job]) -> list[str]:
    """Return the numbers of jobs: an array's own if all its waiting elements are meant, as Slurm would split it."""
    parted = {job.array for job in waiting if job not in some}
    return list(dict.fromkeys(job.number if job.array in parted else job.array.number for job in some))


def _change(numbers: Sequence[str], after: Sequence[str], console: Console) -> None:
    jobs, left = f"what waits of {', '.join(numbers)}", ", ".join(after) or "no node"
    try:
        commands.keep_from(numbers, after)
        text = f"{jobs} keeps away from {left} now: nothing else is left to it, or a day has passed"
    except SlurmError as error:
        text = f"{jobs} keeps away from more nodes than it needs: {error}"
    announce.say(console, text)


def _cells_of(campaign: Campaign, grid_dir: Path, waiting: Collection[Job]) -> Iterator[tuple[Job, Sequence[str]]]:
    """Return the names of the cells that a campaign's waiting jobs are for: in a pilot, all are for all."""
    launches = launches_of(grid_dir, campaign.name)
    for launch_dir, one in submissions.read(grid_dir):
        if launch_dir not in launches:
            continue
        if one.is_pilot:
            yield from ((job, one.cells) for job in waiting if job.array == one.nodes)
        else:
            yield from ((job, [cell]) for cell, job in one.jobs().items() if job in waiting)


def _cell_jobs(loaded: Grid, grid_dir: Path) -> dict[str, CellJob]:
    """Return what cells without a result ask for, by the names of their folders."""
    found, made = run_folders(loaded, grid_dir), {}
    is_done = readable.each(found, RunFolder.has_result)
    for cell in loaded.cells:
        trainer, folder = cell.config.execution.trainer, found[cell.signature]
        if is_done.get(cell.signature) is False:
            made[folder.path.name] = CellJob(folder.path, num_workers=trainer.num_workers, device=trainer.device)
    return made


@dataclass(frozen=True, slots=True)
class _Choice:
    """The nodes from which cells can choose."""

    site: ClusterConfig
    known: Record
    nodes: list[Node] | None
    """None where Slurm does not say it."""
    excluded: Sequence[str]
    """By the site's file."""

    @classmethod
    def of(cls, site: ClusterConfig, known: Record) -> "_Choice":
        """Ask for the nodes of a site."""
        excluded = _excluded_by(site)
        try:
            return cls(site, known, site_nodes.of_partition(_flags_of(site).get("partition", "")), excluded)
        except SlurmError:
            return cls(site, known, None, excluded)

    def avoided(self, job: CellJob) -> tuple[str, ...]:
        """Return the nodes that a job avoids: none if the site's file names the nodes to use."""
        asked = resources(job, self.site)
        flags, by_hand = training_flags(self.site, asked), {*self.site.extra}
        if by_hand & {*_NAMED}:
            return ()
        if self.nodes is None:
            return self.known.avoided(job.name, None, asked.nodes)
        counted = Resources(asked.nodes, 0, 0, 0.0, 0) if by_hand & {*SIZES} else _counted(asked, self.site)
        constraint = flags.get("constraint", "")
        could = site_nodes.usable(
            self.nodes, counted, gpu_type=self.site.gpu_type, constraint=constraint, excluded=self.excluded
        )
        is_sure = site_nodes.is_understood(constraint) and not ({*flags} & {*_UNSEEN} or by_hand & {*SIZES})
        if is_sure:
            return self.known.avoided(job.name, could, asked.nodes)
        return self.known.avoided(job.name, None, asked.nodes, up=could)


def _flags_of(site: ClusterConfig) -> Flags:
    """Return the flags of a site that do not depend on what a job asks for, among others."""
    return training_flags(site, Resources(1, 1, 0, 1.0, 1))


def _excluded_by(site: ClusterConfig) -> list[str]:
    return _spelt_out(_flags_of(site).get("exclude", ""))


def _counted(asked: Resources, site: ClusterConfig) -> Resources:
    """Return the part of a job's share that Slurm counts: where nobody asks for GPUs or memory, nodes may list none."""
    gpus = 0 if site.gpu_flag == "none" else asked.gpus_per_node
    return replace(asked, gpus_per_node=gpus, mem_gb_per_node=0.0 if site.mem_flag == "none" else asked.mem_gb_per_node)


def _tries(grid_dir: Path, campaign: str, cells: Collection[str] | None = None) -> list[Try]:
    """Return the attempts of a campaign, or of some of its cells.

    Failures that hit the site as a whole do not count against their nodes.
    """
    found = {one.name: one for one in folders(grid_dir).values() if cells is None or one.name in cells}
    ends = excused(readable.each(found, lambda folder: folder.ends(campaign)))
    return [
        Try(
            cell,
            node,
            end.time,
            failed=end.is_told and POLICY[end.kind].excludes_node and end.fault is not Fault.SITE,
            kind=str(end.kind),
        )
        for cell, some in ends.items()
        for end in some
        for node in _nodes_of(end)
    ]


def _nodes_of(end: AttemptEnd) -> list[str]:
    """Return the nodes of an attempt, any of which may have ended it; possibly none for a job that never started."""
    return _spelt_out(end.nodes) or [node for node in (end.node,) if node]


def _spelt_out(expression: str) -> list[str]:
    with suppress(SlurmError):
        return site_nodes.names_of(expression)
    return []

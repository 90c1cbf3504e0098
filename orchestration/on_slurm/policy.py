"""What a campaign does about cells that have no result, by how their jobs have ended."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from orchestration.grids.grid import Grid
from orchestration.grids.launched import run_folders
from orchestration.machine import announce, clock
from orchestration.on_slurm import commands, submissions
from orchestration.on_slurm.campaign_file import cancelled_in, launches_of, name_of, open_campaigns
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import Job
from orchestration.on_slurm.notices import SILENCE_S, Notifier
from orchestration.runs import gpu_idle, readable, trained_for
from orchestration.runs.failures import MAX_WITHOUT_PROGRESS, Decision
from orchestration.runs.folders import LaunchFolder, signature_in
from orchestration.runs.patience import passes
from orchestration.runs.retries import decided_or_error, decisions, lately
from orchestration.runs.run_folder import RunFolder, run_folder

SKEW_S = 600.0
"""So far the clocks of a site may differ from each other, and still be believed."""


@dataclass(frozen=True, slots=True)
class Left:
    """A cell of a campaign that has neither a result nor a job."""

    folder: RunFolder
    decision: Decision


def left(
    loaded: Grid, grid_dir: Path, campaign: str, queued: Collection[str] = (), *, waits_s: Sequence[float] = ()
) -> tuple[dict[str, Left], dict[str, readable.Error]]:
    """Decide about the cells left to a campaign, by signature; attempts of cells that have a job are not read.

    Return also why nothing is decided about others: they, or those that may have ended with them, cannot be read.

    Args:
        loaded: Its grid.
        grid_dir: Folder of the grid.
        campaign: Its name.
        queued: Names of the folders of cells that have a job.
        waits_s: After how many seconds to look again, and again, where cells cannot be read.
    """
    idle = {key: one for key, one in run_folders(loaded, grid_dir).items() if one.path.name not in queued}
    found, unread = _look(idle, campaign)
    for wait_s in waits_s:
        if not unread:
            break
        clock.sleep(wait_s)
        more, unread = _look({key: idle[key] for key in unread}, campaign)
        found |= more
    return found, unread


def _look(idle: Mapping[str, RunFolder], campaign: str) -> tuple[dict[str, Left], dict[str, readable.Error]]:
    is_done, errors = readable.each_or_error(idle, RunFolder.has_result)
    described, away = readable.each_or_error({key: idle[key] for key in is_done if not is_done[key]}, _described)
    decided, more = decided_or_error(described, campaign)
    return {key: Left(described[key], one) for key, one in decided.items()}, {**errors, **away, **more}


def _described(folder: RunFolder) -> RunFolder:
    """Return a cell's folder; a description that cannot be read for now would end the step that submits the cell."""
    for path in (folder.config_file, folder.axes_file):
        try:
            path.read_bytes()
        except OSError as error:  # one that is missing or damaged is written again
            if passes(error):
                raise
    return folder


def given_up(cells: Mapping[str, Left], grid_dir: Path, campaign: str) -> dict[str, str]:
    """Return why cells are not tried again, by signature."""
    launches = launches_of(grid_dir, campaign)
    tries: dict[str, list[float]] = defaultdict(list)
    for folder, submission in submissions.read(grid_dir):
        # That a pilot has a cell on its list is no try; one that began none is an attempt of each (`never_began.py`).
        for name in submission.jobs() if folder in launches and not submission.is_pilot else ():
            moment = LaunchFolder(folder).moment
            tries[name].append(moment.timestamp() if moment else math.inf)
    cancelled = cancelled_in(grid_dir, campaign)
    refused: dict[str, str] = {}
    for signature, one in cells.items():
        name = one.folder.path.name
        if name in cancelled:
            refused[signature] = "cancelled"
        elif (num := _num_in_vain(one, tries[name])) >= MAX_WITHOUT_PROGRESS:
            refused[signature] = f"submitted {num} times and never begun"
        elif not one.decision.again:
            refused[signature] = one.decision.told
    return refused


def _num_in_vain(cell: Left, tries: Sequence[float]) -> int:
    """Return how often a cell was submitted since a launch of another grid last began it: until then jobs leave it."""
    if len(tries) < MAX_WITHOUT_PROGRESS or cell.decision.ended is not None:
        return 0

    def count(folder: RunFolder) -> int:
        others = [one for one in folder.attempts() if not trained_for.is_own(one.known_owner(), folder.grid)]
        taken = others[-1].begun() if others else None
        return sum(taken is None or moment > taken for moment in tries)

    return readable.of(cell.folder, count, 0)  # one that cannot be read now is not given up


def not_due(cells: Mapping[str, Left]) -> dict[str, float]:
    """Return the seconds until cells are retried whose last failure requires a wait, by signature.

    None waits for longer than that: an end that is far ahead is one by a wrong clock.
    """
    waits = {key: 60 * one.decision.wait_min for key, one in cells.items() if one.decision.wait_min}
    now = clock.now()
    rest = {key: (cells[key].decision.ended or now) + wait_s - now for key, wait_s in waits.items()}
    return {key: min(left_s, waits[key]) for key, left_s in rest.items() if 0 < left_s <= waits[key] + SKEW_S}


def waiting_cells(grid_dir: Path, cells: Mapping[str, RunFolder]) -> dict[str, float]:
    """Return the seconds until controllers retry cells whose last failure requires a wait, by the caller's keys."""
    campaigns = [one.name for one in open_campaigns(grid_dir).values() if one.config().controller]
    cancelled = {name: cancelled_in(grid_dir, name) for name in campaigns}
    newest = readable.each(cells, _campaign_of) if campaigns else {}
    found: dict[str, float] = {}
    for campaign in campaigns:
        mine = {key: cells[key] for key, name in newest.items() if name == campaign}
        mine = {key: one for key, one in mine.items() if one.name not in cancelled[campaign]}
        decided = {key: Left(mine[key], decision) for key, decision in decisions(mine, campaign).items()}
        found |= not_due(decided)
    return found


def _campaign_of(folder: RunFolder) -> str | None:
    attempts = folder.attempts()
    return attempts[-1].known_owner().get("campaign") if attempts else None


def passed_on(loaded: Grid, grid_dir: Path, campaign: str) -> dict[str, str]:
    """Return the newer campaigns that have jobs of cells without a result, by signature: these cells are now theirs.

    Where sbatch refused, there is no job, and the cells stay with the campaign that had them.
    """
    named = {folder: name_of(folder) for folder in launches_of(grid_dir)}
    newer = {
        signature_in(name): named[folder]
        for folder, submission in submissions.read(grid_dir)
        if named.get(folder, "") > campaign
        for name in submission.jobs()
    }
    of_newer = {key: folder for key, folder in run_folders(loaded, grid_dir).items() if key in newer}
    is_done = readable.each(of_newer, RunFolder.has_result)
    return {key: newer[key] for key in of_newer if not is_done.get(key)}


def gpu_hours_spent(loaded: Grid, grid_dir: Path, campaign: str) -> tuple[float, Mapping[str, float]]:
    """Return the GPU-hours that the attempts of a campaign have used, a GPU for each worker.

    Return also why more may have been used, as cells cannot be read now, each with how much that is at most.
    """
    workers = {cell.signature: cell.config.execution.trainer.num_workers for cell in loaded.cells}

    def used(folder: RunFolder) -> float:
        return sum(
            int(owner.get("asked", {}).get("workers", workers[folder.signature])) * attempt.busy_s() / 3600
            for attempt in folder.attempts()
            if (owner := attempt.known_owner()).get("campaign") == campaign
        )

    cells = run_folders(loaded, grid_dir)
    hours, errors = readable.each_or_error(cells, used)
    away = {key: readable.in_words(error) for key, error in errors.items() if readable.passing([error])}
    at_most = _hours_at_most({key: cells[key] for key in away}, workers, grid_dir, campaign)
    return sum(hours.values()), {away[key]: num for key, num in at_most.items() if num}


def _hours_at_most(
    away: Mapping[str, RunFolder], workers: Mapping[str, int], grid_dir: Path, campaign: str
) -> dict[str, float]:
    """Return how many GPU-hours of a campaign are hidden at most in cells whose attempts cannot be read now.

    A result says it; else it is the time from when the first job was submitted to when Slurm says that the last ended.
    """
    launches = launches_of(grid_dir, campaign) if away else []
    mine = [(folder, one) for folder, one in submissions.read(grid_dir) if folder in launches]
    results = readable.each(away, RunFolder.result)
    found: dict[str, float] = {}
    for key, folder in away.items():
        jobs = {one.jobs()[folder.name]: launch for launch, one in mine if folder.name in one.jobs()}
        result = results.get(key) or {}
        if not jobs:
            found[key] = 0.0  # another campaign has trained it
        elif "gpu_duration_s" in result:
            seconds = max(result["gpu_duration_s"], workers[key] * result.get("duration_s", 0.0))
            found[key] = seconds / 3600
        else:
            grown = 2 if any(one.larger.get(folder.name) for _, one in mine) else 1  # it may have got more GPUs
            found[key] = grown * workers[key] * _lasted_s(jobs) / 3600
    return found


def _lasted_s(jobs: Mapping[Job, Path]) -> float:
    """Return the seconds from when the first of some jobs was submitted, by its launch, to when the last one ended."""
    begun = min((moment.timestamp() if (moment := LaunchFolder(one).moment) else 0.0) for one in jobs.values())
    known = commands.ended(jobs) or {}
    ends = [known[job][-1] for job in jobs if job in known]
    times = [end.time for end in ends if end.is_over and end.time]
    return max(0.0, (max(times) if len(times) == len(jobs) else clock.now()) - begun) + SKEW_S


def tell_of_outages(site: ClusterConfig, grid_dir: Path, campaign: str, console: Console) -> None:
    """Report failures that hit many cells of a campaign within the last hour."""
    for outage in lately(grid_dir, campaign, SILENCE_S):
        text = f"{grid_dir.name}: {outage}; that does not count against them, and they are tried again after a while"
        announce.say(console, text)
        Notifier.of(site, grid_dir).tell(f"outage: {outage.kinds}", text)


def tell_of_idle_gpus(site: ClusterConfig, grid_dir: Path, running: Iterable[str]) -> None:
    """Report, once a day, cells whose GPUs have done nothing for long.

    Args:
        site: Says who is notified.
        grid_dir: Folder of the grid.
        running: Names of the folders of cells whose jobs run.
    """
    idle = readable.each({name: run_folder(grid_dir, name) for name in running}, gpu_idle.of_cell)
    found = sorted((name for name in idle if idle[name]), key=lambda name: -idle[name])
    if not found:
        return
    cells = f"{len(found)} cells leave" if len(found) > 1 else "a cell leaves"
    what = f"{cells} GPUs idle, {found[0]} for {idle[found[0]] / 60:.0f} min; {gpu_idle.ADVICE}"
    day = f"{clock.local():%Y-%m-%d}"
    Notifier.of(site, grid_dir).tell(f"GPU idle {day}", f"{grid_dir.name}: {what}", once=True)

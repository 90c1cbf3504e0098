"""The steps of a grid that no job and no launch takes by itself, and the commands that take them; nothing is done here.

While cells are open, either something acts by itself or the user has to: these are the words for the latter.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestration.grids import grid, launched
from orchestration.launching import earlier_code, step, waiting
from orchestration.launching.over_budget import OverBudget, over_budget
from orchestration.launching.status import CellStatus
from orchestration.machine.counts import counted
from orchestration.on_slurm import policy, queue_state
from orchestration.on_slurm.campaign_file import Campaign, open_campaigns
from orchestration.on_slurm.commands import QueuedJob
from orchestration.planning import left_out
from orchestration.runs import hints, readable
from orchestration.runs.failures import is_tried_again
from orchestration.runs.folders import GridFolder, LaunchFolder
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState


def of_campaign(campaign: Campaign, launch_dir: Path, rows: Sequence[CellStatus]) -> str:
    """Return the next step of a campaign without controllers, and the command that takes it.

    Raises:
        SlurmError: squeue says nothing.
        SchedulerError: Slurm does not say what room there is.
        ValueError: Its grid cannot be read.
    """
    grid_dir = LaunchFolder(launch_dir).grid.path
    command = hints.command("resume", grid_dir)
    nobody = f"no job resumes launch {campaign.name} by itself (cluster.controller=false)"
    if words := earlier_code.advice(campaign, grid_dir):
        return f"{nobody}; {words}"
    active = {row.cell.signature for row in rows if row.standing.is_open}
    if step.pilots_at_work(campaign, grid_dir):
        return f"{nobody}: once the pilot has ended, {command} takes the next step"
    jobs = queue_state.queued_cells(grid_dir)
    left, unread, budget = _left(campaign, grid_dir, active, jobs)
    later = policy.not_due(left)
    due = [one for key, one in left.items() if key not in later]
    if due and not step.has_room(campaign, len(due), jobs, is_tried=_are_tried(due)):
        return f"{nobody}: once jobs of the grid have ended, {command} takes the next step"
    if not budget.is_known:
        unread.append(budget.why)
    if due and not budget.cells:
        return f"{nobody}, and {counted(len(due), 'cell', 'is')} to be submitted: {command} does that"
    if later:
        cells, first_s = counted(len(later), "cell", "waits"), min(later.values())
        return (
            f"{nobody}; {cells} before the next try, the first for {first_s:.0f} s more: {command} takes that step then"
        )
    if active & _asked_for(campaign, rows):
        return f"{nobody}: once jobs have ended, {command} takes the next step"
    if unread:
        return f"{nobody}: {unread[0]}; {command} takes the next step after that"
    if budget.cells:
        num = counted(len(left), "cell", "is")
        return f"{nobody}, and {num} not submitted: {budget.why}; {command} writes the table and the report"
    return f"{nobody}, and nothing is left to be submitted: {command} writes the table and the report"


def _left(
    campaign: Campaign, grid_dir: Path, active: Collection[str], jobs: Mapping[str, QueuedJob]
) -> tuple[dict[str, policy.Left], list[str], OverBudget]:
    """Return the cells that a campaign submits again, now or later, why others are left, and what its budget stops."""
    loaded = replace(launched.load_stored(campaign.folder(grid_dir).grid_file), name=campaign.grid_name)
    elsewhere = {*policy.passed_on(loaded, grid_dir, campaign.name), *active}
    decided, errors = policy.left(loaded, grid_dir, campaign.name, jobs)
    wanted = {*campaign.retried} or {cell.signature for cell in loaded.cells}
    left = {key: one for key, one in decided.items() if key in wanted - elsewhere}
    refused = policy.given_up(left, grid_dir, campaign.name)
    refused |= dict.fromkeys(step.left_out(campaign, loaded, grid_dir, jobs), "left out")
    left = {key: one for key, one in left.items() if key not in refused}
    others = {cell.signature for cell in loaded.cells} - left.keys()
    budget = over_budget(campaign, loaded, grid_dir, jobs, dict.fromkeys(others, "not submitted"))
    return left, [readable.in_words(error) for key, error in errors.items() if key in wanted - elsewhere], budget


def _are_tried(due: Sequence[policy.Left]) -> bool:
    """Return whether a cell has attempts; one that cannot be read now may have some."""
    tried = readable.each({one.folder.name: one.folder for one in due}, RunFolder.attempts)
    return len(tried) < len(due) or any(tried.values())


def _asked_for(campaign: Campaign, rows: Sequence[CellStatus]) -> set[str]:
    return {*campaign.retried} or {row.cell.signature for row in rows}


def of_ended_launch(grid_dir: Path, rows: Sequence[CellStatus]) -> list[str]:
    """Return the next step of a grid that no launch is at work on, or perhaps none, if it has cells to train."""
    left = [row for row in rows if _is_left(row)]
    if open_campaigns(grid_dir):
        return []
    if launcher := waiting.out_of_sight(grid_dir):
        return _of_silent_launch(launcher, grid_dir, rows, left)
    if waiting.is_at_work(grid_dir):
        return []
    if not left:
        return _of_others(grid_dir, rows)
    count = f"{counted(len(left), 'cell', 'is')} left"
    return [f"{count} and no launch is at work on {grid_dir.name}: {_command(grid_dir)} trains what is left"]


def _of_others(grid_dir: Path, rows: Sequence[CellStatus]) -> list[str]:
    """Return what to do once cells have ended that launches of other grids train."""
    num = sum(row.standing.is_open for row in rows)
    if not num:
        return []
    count = f"{counted(num, 'cell', 'is')} trained for another grid"
    return [f"{count}, and no launch is at work on {grid_dir.name}: {_command(grid_dir)} takes the step after that"]


def _of_silent_launch(
    launcher: waiting.Launcher, grid_dir: Path, rows: Sequence[CellStatus], left: Sequence[CellStatus]
) -> list[str]:
    """Return what to do if a launch on another machine was killed: it seems to be so where none of its cells trains."""
    waits = any(row.standing is CellState.WAITING for row in rows)
    if not (left or waits) or any(row.standing is CellState.RUNNING for row in rows):
        return []
    return [
        f"no cell trains, and whether the launch of process {launcher.pid} on {launcher.host} still lives cannot be "
        f"seen from here: where it has ended, {_command(grid_dir)} trains what is left"
    ]


def _command(grid_dir: Path) -> str:
    folder = GridFolder(grid_dir)
    if grid.is_search(folder.grid_file):
        return hints.shell("rankmatch", "tune", folder.name, "--runs", str(folder.runs.path))
    if is_on_slurm(grid_dir):
        return hints.command("retry", grid_dir)
    return hints.command("resume", grid_dir)


def of_left_out(grid_dir: Path, rows: Sequence[CellStatus]) -> list[str]:
    """Return how many cells a launch left out, those without inputs and those too long for it, and what trains them."""
    return left_out.in_words([row.cell.left_out for row in rows if row.is_left_out], grid_dir)


def _is_left(row: CellStatus) -> bool:
    if row.is_left_out:
        return False
    if row.standing in (CellState.FAILED, CellState.INTERRUPTED):
        return is_tried_again(row.state.failure_class)
    return row.standing in (CellState.NEW, CellState.LOST)


def is_on_slurm(grid_dir: Path) -> bool:
    """Return whether a launch of a grid is open on Slurm, or else the newest one that says what it is was on Slurm.

    One that was cut short as it began says nothing.
    """
    for launch in reversed(GridFolder(grid_dir).launches()):
        if launch.campaign_file.exists() or launch.submissions_dir.exists():
            return True
        if launch.command_file.exists():
            break
    return bool(open_campaigns(grid_dir))

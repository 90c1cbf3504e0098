"""Whether a budget of GPU-hours has room for what a campaign would submit next."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from orchestration.grids.grid import Grid
from orchestration.launching import steps
from orchestration.launching.hand_in import in_words, workers_of
from orchestration.launching.target import Target
from orchestration.machine.counts import counted
from orchestration.on_slurm import policy
from orchestration.on_slurm.campaign_file import Campaign
from orchestration.on_slurm.commands import QueuedJob
from orchestration.planning.plan import Action, format_amount
from orchestration.runs.requests import Larger


class OverBudget(NamedTuple):
    """The cells that a budget of GPU-hours stops, and why."""

    why: str = ""
    cells: frozenset[str] = frozenset()
    is_known: bool = True
    """It is spent; else what was used so far cannot be read now."""
    unread: Mapping[str, str] = {}
    """Why cells could not be read when the budget was asked for, by signature: they are not in its count."""
    estimated: str = ""
    """What could not be read of what was used, and with how much it is counted."""


def over_budget(
    campaign: Campaign,
    loaded: Grid,
    grid_dir: Path,
    jobs: Mapping[str, QueuedJob],
    refused: Mapping[str, str],
    larger: Mapping[str, Larger] | None = None,
) -> OverBudget:
    """Return why the budget of GPU-hours allows no more jobs, and the cells that it stops; none if there is room."""
    budget = campaign.budget_gpu_hours
    if budget is None:
        return OverBudget()
    target = Target.of(loaded, grid_dir, workers_of(campaign), retried=campaign.retried, queued=in_words(jobs),
                       refused=refused, until=campaign.until, larger=larger,
                       left_out=campaign.left_out)  # fmt: skip
    planned = steps.plan_of(target)
    away = [item for item in planned.items if item.action is Action.UNREADABLE]
    unread = {item.cell.signature: item.reason for item in away if item.cell.signature not in refused}
    if not (planned.uses_gpus and planned.jobs):
        return OverBudget(unread=unread)
    spent, hidden = policy.gpu_hours_spent(loaded, grid_dir, campaign.name)
    hours, cells = spent + planned.gpu_hours, frozenset(item.cell.signature for item in planned.jobs)
    if hours > budget:
        why = f"--budget-gpu-hours={budget:g} would become about {format_amount(hours)}"
        return OverBudget(why, cells, unread=unread)
    if not hidden:
        return OverBudget(unread=unread)
    at_most = sum(hidden.values())
    more = f" and so with {counted(len(hidden) - 1, 'other cell')}" if len(hidden) > 1 else ""
    what = f"{next(iter(hidden))}{more}; up to {format_amount(at_most)} GPU-hours may have been used there"
    if hours + at_most > budget:
        return OverBudget(f"{what}, so --budget-gpu-hours may be spent", cells, is_known=False, unread=unread)
    return OverBudget(unread=unread, estimated=f"{what}, and so many count for --budget-gpu-hours")

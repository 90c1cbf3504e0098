"""Check that the disk can hold a launch's cells."""

import shutil
from pathlib import Path

from orchestration.planning import costs
from orchestration.planning.plan import Action, Plan, disk_bytes, format_amount


def lacking(planned: Plan, runs: Path) -> list[str]:
    """Return what a launch needs, and what there is, if its finished cells do not fit on the disk."""
    needed = sum(costs.finished_bytes(item.cell.config) for item in planned.items if item.action is Action.SUBMIT)
    free = free_bytes(runs)
    if needed <= free:
        return []
    return [
        f"--runs must be on a disk with {_gb(needed)} GB of room, which the new cells take when they are done; "
        f"{runs.resolve()} has {_gb(free)} GB left"
    ]


def warnings(planned: Plan, runs: Path) -> list[str]:
    """Return a warning if the checkpoints of all cells together may fill the disk."""
    _, at_most = disk_bytes(planned)
    kept = sum(costs.finished_bytes(item.cell.config) for item in planned.items if item.action is Action.KEEP)
    free = free_bytes(runs)
    if at_most - kept <= free:
        return []
    return [
        f"warning: the cells may take up to {_gb(at_most - kept)} GB while they train, if all of them are interrupted; "
        f"the disk of {runs.resolve()} has {_gb(free)} GB left"
    ]


def free_bytes(runs: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    folder = runs.resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _gb(num_bytes: float) -> str:
    return format_amount(num_bytes / 1e9)

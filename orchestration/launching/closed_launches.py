"""Launches whose folders their owner has closed to this user, who can still read the run folders."""

from pathlib import Path

from orchestration.machine import own_files
from orchestration.runs.folders import GridFolder


def note(grid_dir: Path) -> str:
    """Return what the states of cells come from if launches are closed to this user; empty if none is."""
    closed = said(grid_dir)
    return f"the states are those of the run folders alone: {closed}" if closed else ""


def said(grid_dir: Path) -> str:
    """Return which folder of a launch is closed to this user, and what its owner can do; empty if none is."""
    closed = [launch.path for launch in GridFolder(grid_dir).launches() if own_files.is_closed(launch.path)]
    if not closed:
        return ""
    others = f" ({len(closed) - 1} earlier ones are closed too)" if len(closed) > 1 else ""
    return f"{own_files.said_of_closed(closed[-1])}{others}"

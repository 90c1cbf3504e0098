"""From the words of a command line to a launch: each part of it gets the values that it needs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestration.commands.launch_options import ALL_CELLS, DEFAULT_GRID, GRID_ON_SLURM, Selection
from orchestration.runs.folders import LaunchFolder

if TYPE_CHECKING:
    from orchestration.launching.options import Wanted


def begin(
    console: Console,
    overrides: Sequence[str] | None,
    *,
    grid: str,
    cluster: str,
    runs: Path,
    address: str = "",
    dry_run: bool = False,
    as_json: bool = False,
    with_scripts: bool = True,
    watch: bool = False,
    allow_dirty: bool = False,
    size_from_history: bool = False,
    selection: Selection = ALL_CELLS,
    max_concurrent: int | None = None,
    num_cpus_per_worker: int = 1,
    num_gpus_per_worker: float = 1.0,
    num_nodes: int | None = None,
    tracking_uri: str = "",
) -> int:
    """Launch a grid, or say what a launch would do; return the exit code.

    Raises:
        ValueError: Something that the user can fix.
        SchedulerError: The scheduler itself broke down.
    """
    from orchestration.launching import campaign, control, launch, where
    from orchestration.launching.options import FOLLOWED_CLUSTERS, OnSlurm, Workers, refuse_address
    from orchestration.machine import announce

    if as_json and not dry_run:
        raise ValueError("--dry-run must be given with --json: a launch has no answer but its report")
    of_site = [word for word in overrides or () if word.startswith("cluster.")]
    of_grid = [word for word in overrides or () if word not in of_site]
    there = where.find(cluster, of_site, address, tracking_uri)
    refuse_address(there.address, there.cluster, is_needed=not dry_run)
    for line in () if as_json else there.lines:
        announce.say(console, line)
    grid = grid or (DEFAULT_GRID if there.cluster in FOLLOWED_CLUSTERS else GRID_ON_SLURM)
    wanted = replace(_wanted(selection, runs), grid=grid, overrides=of_grid, places=there.places)
    workers = Workers(there.cluster, max_concurrent, num_cpus_per_worker, num_gpus_per_worker, num_nodes)
    if size_from_history and (num_nodes or there.cluster in FOLLOWED_CLUSTERS):
        what = "--pilot" if num_nodes else f"--cluster {there.cluster}"
        raise ValueError(f"--size-from-history must be given where each cell is a job of Slurm; got it with {what}")
    if there.cluster in FOLLOWED_CLUSTERS:
        if dry_run:
            return launch.dry_run(wanted, workers, console, as_json=as_json)
        return launch.launch(wanted, workers, console, address=there.address, uri=there.uri)
    asked = OnSlurm(cluster, of_site, allow_dirty, size_from_history)
    if dry_run:
        return campaign.dry_run(wanted, workers, asked, console, with_scripts=with_scripts, as_json=as_json)
    submitted = campaign.launch_on_slurm(wanted, workers, asked, console, uri=there.uri)
    grid_dir, items = LaunchFolder(submitted.launch_dir).grid.path, submitted.planned.items
    return control.stay(grid_dir, console, {item.cell.signature for item in items}) if watch else 0


def _wanted(selection: Selection, runs: Path) -> "Wanted":
    from orchestration.launching.options import Wanted
    from orchestration.machine import clock
    from orchestration.planning.until import parse

    return Wanted(
        runs=runs,
        budget_gpu_hours=selection.budget_gpu_hours,
        until=parse(selection.until, clock.now()) if selection.until else None,
        available=selection.available,
        within_budget=selection.within_budget,
        only=selection.only or (),
        adaptive=_first(selection.adaptive, selection.first_seeds),
    )


def _first(adaptive: bool | None, first_seeds: int | None) -> int | None:
    """Return with how many seeds entries begin; 0: with all; None: as the grid's file says."""
    from orchestration.grids.adaptively import FIRST_SEEDS
    from orchestration.tables.comparisons import MIN_T

    if first_seeds is not None and not adaptive:
        raise ValueError(f"--adaptive must be given with --first-seeds; got --first-seeds {first_seeds} alone")
    if first_seeds is not None and first_seeds < MIN_T:
        raise ValueError(f"--first-seeds must be at least {MIN_T}, as fewer cannot be tested; got {first_seeds}")
    if adaptive is None:
        return None
    return (first_seeds or FIRST_SEEDS) if adaptive else 0

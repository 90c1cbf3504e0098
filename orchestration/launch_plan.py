"""What the command line asks of a launch, and the plan that follows from it and the run folders; touches nothing."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from orchestration import (
    announce,
    cells,
    costs,
    disk_space,
    folder_states,
    hints,
    launched,
    paces,
    plan,
    preflight,
    provenance,
    simulate,
)
from orchestration.grid import Grid
from orchestration.plan import Plan
from orchestration.run_folder import folders

LOCAL_CLUSTERS = ("local", "inline")
FOLLOWED_CLUSTERS = (*LOCAL_CLUSTERS, "ray")
"""Those whose launcher stays until the last cell ends."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    grid: str = "demo"
    overrides: Sequence[str] = ()
    cluster: str = "local"
    address: str = ""
    """Of the Ray of `--cluster ray`."""
    runs: Path = field(default_factory=lambda: Path("runs"))
    dry_run: bool = False
    scripts: bool = True
    """A dry run on Slurm prints the scripts too."""
    max_concurrent: int | None = None
    num_cpus_per_worker: int = 1
    num_gpus_per_worker: float = 1.0
    num_nodes: int | None = None
    """Of a pilot on Slurm; None: each cell is a job of its own."""
    tracking_uri: str = ""
    """Empty: that of MLFLOW_TRACKING_URI, else SQLite in the runs folder."""
    watch: bool = False
    allow_dirty: bool = False
    budget_gpu_hours: float | None = None
    cluster_settings: Sequence[str] = ()
    """Changes to a Slurm site, `cluster.partition=gpu`."""
    retried: Collection[str] = ()
    """Signatures of cells that are tried again however they failed."""

    def __post_init__(self) -> None:
        if self.cluster == "inline" and (self.max_concurrent or 1) > 1:
            raise ValueError(f"--max-concurrent must be 1 with --cluster inline; got {self.max_concurrent}")
        if self.address and self.cluster != "ray":
            raise ValueError(f"--address must be given with --cluster ray only; got it with --cluster {self.cluster}")
        if self.num_nodes is not None and self.num_nodes < 1:
            raise ValueError(f"--nodes must be at least 1; got {self.num_nodes}")
        if self.num_nodes is not None and self.cluster in FOLLOWED_CLUSTERS:
            raise ValueError(f"--pilot must be given with --cluster slurm or a site; got it with {self.cluster}")
        if self.cluster == "ray" and not self.address and not self.dry_run:
            raise ValueError(
                "--address must be given with --cluster ray: HOST:PORT of the Ray's head, or auto; got none"
            )


def make_plan(
    loaded: Grid,
    grid_dir: Path,
    options: Options,
    identities: Mapping[str, preflight.DataIdentity] | None = None,
    *,
    queued: Mapping[str, str] | None = None,
    refused: Mapping[str, str] | None = None,
) -> Plan:
    """Compare a grid with its run folders; touches nothing."""
    found = folders(grid_dir)
    states = folder_states.states(found)
    device = _device(loaded, options)
    measured = paces.measured(loaded.cells, states, found, device)
    return plan.make_plan(
        loaded.cells,
        states,
        num_steps={cell.signature: costs.num_steps(cell.config) for cell in loaded.cells},
        seconds_per_step={
            cell.signature: costs.seconds_per_step(cell.config, device, measured) for cell in loaded.cells
        },
        provenance={signature: identity.as_dict() for signature, identity in (identities or {}).items()},
        commit=provenance.commit(),
        max_concurrent=options.max_concurrent or _num_concurrent(loaded, options),
        queued=queued,
        refused=refused,
        retried=options.retried,
        uses_gpus=device == "cuda",
    )


def show_plan(planned: Plan, console: Console) -> None:
    """Print a plan."""
    console.print("\n".join(plan.summary(planned)), highlight=False, markup=False, soft_wrap=True)


def refuse_full_disk(planned: Plan, options: Options, console: Console) -> None:
    """Refuse cells that cannot all be kept, and warn where their checkpoints may not find room.

    Raises:
        ValueError: With what is needed and what there is.
    """
    if refusal := disk_space.refusal(planned, options.runs):
        raise ValueError(refusal)
    if warning := disk_space.warning(planned, options.runs):
        announce.say(console, warning)


def say_part(loaded: Grid, grid_dir: Path, planned: Plan, console: Console) -> None:
    """Print which part of a grid a launch is of, where it is not of the whole, and how failed cells are retried."""
    num_failed = sum(item.reason.startswith("failed") and not item.to_do for item in planned.items)
    known = [
        launched.part_in_words(loaded, launched.whole(loaded, grid_dir)),
        f"failed cells are retried by {hints.command('retry', grid_dir)}" if num_failed else "",
    ]
    for words in filter(None, known):
        console.print(words, highlight=False, markup=False, soft_wrap=True)


def not_asked_for(loaded: Grid, options: Options) -> dict[str, str]:
    """Return the cells that a retry of some cells is not of, with that as the reason; none of another launch."""
    others = {cell.signature for cell in loaded.cells} - {*options.retried} if options.retried else set()
    return dict.fromkeys(others, "not asked for")


def say_missing_inputs(loaded: Grid, console: Console) -> None:
    """Print what a launch would refuse to begin without, and what the split lists have in common."""
    for line in cells.missing_inputs_of(loaded.cells):
        console.print(f"needed before launching: {line}", highlight=False, markup=False, soft_wrap=True)
    for line in preflight.notes_of_lists(loaded.cells):
        console.print(f"data: {line}", highlight=False, markup=False, soft_wrap=True)


def refuse_conflicts(planned: Plan) -> None:
    """Refuse to go on with cells whose data have changed.

    Raises:
        ValueError: A line each.
    """
    if planned.conflicts:
        raise ValueError("\n".join(planned.conflicts))


def refuse_budget(planned: Plan, options: Options) -> None:
    """Refuse a plan that is estimated to take more than the user allows.

    Raises:
        ValueError: With both figures.
    """
    hours = planned.gpu_hours
    if options.budget_gpu_hours is not None and planned.num_unknown and planned.uses_gpus:
        raise ValueError(
            f"--budget-gpu-hours={options.budget_gpu_hours:g} cannot be held: {planned.num_unknown} cells cannot be "
            "estimated, as their split lists are not here"
        )
    if options.budget_gpu_hours is not None and hours > options.budget_gpu_hours:
        raise ValueError(
            f"--budget-gpu-hours must be at least {plan.format_amount(hours)}, the estimate of what is left; "
            f"got {options.budget_gpu_hours:g}"
        )


def simulate_launch(options: Options, pool: simulate.Pool, checkpoint_min: float | None, console: Console) -> None:
    """Print what would come of a grid's launch on a pool of GPUs.

    Raises:
        ValueError: Something the user can mend.
    """
    loaded = launched.load(options.grid, options.overrides, options.runs)
    planned = make_plan(loaded, options.runs.resolve() / loaded.name, options)
    text = simulate.lines(simulate.tasks(planned, checkpoint_min), pool)
    console.print("\n".join(text), highlight=False, markup=False, soft_wrap=True)


def _num_concurrent(loaded: Grid, options: Options) -> int:
    if options.cluster == "inline":
        return 1
    if options.num_nodes:
        return options.num_nodes * int(1 / options.num_gpus_per_worker)
    if options.cluster not in LOCAL_CLUSTERS:
        return len(loaded.cells)
    workers = max(cell.config.execution.trainer.num_workers for cell in loaded.cells)
    at_once = len(os.sched_getaffinity(0)) // (workers * options.num_cpus_per_worker)
    if _device(loaded, options) == "cuda":
        at_once = min(at_once, int(len(provenance.gpus()) / (workers * options.num_gpus_per_worker)))
    return max(1, at_once)


def _device(loaded: Grid, options: Options) -> str:
    asked = loaded.cells[0].config.execution.trainer.device
    if asked != "auto":
        return asked
    if options.cluster not in LOCAL_CLUSTERS:
        return "cuda"
    return "cuda" if provenance.gpus() else "cpu"

"""The command that says what a launch would do: plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.commands.begin import begin
from orchestration.commands.launch_options import (
    ALL_CELLS,
    DEFAULT_GRID,
    ClusterOption,
    ConcurrencyOption,
    GridOption,
    JsonOption,
    Overrides,
    RunsOption,
    Selection,
    takes_selection,
)
from orchestration.machine import terminal

if TYPE_CHECKING:
    from orchestration.launching.options import Wanted

MtbfOption = Annotated[
    float | None, typer.Option(help="Mean time between failures of one GPU in use; default: none fails.")
]
PreemptOption = Annotated[
    float | None, typer.Option(help="Mean time that a job runs before it is preempted; default: none is.")
]


@takes_selection
def plan(
    overrides: Overrides = None,
    grid: GridOption = "",
    cluster: ClusterOption = "local",
    runs: RunsOption = Path("runs"),
    as_json: JsonOption = False,
    selection: Selection = ALL_CELLS,
    max_concurrent: ConcurrencyOption = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Simulate the launch on a pool of GPUs; the options below are for that.")
    ] = False,
    gpus: Annotated[int | None, typer.Option(help="GPUs in the pool.")] = None,
    mtbf_hours: MtbfOption = None,
    preempt_hours: PreemptOption = None,
    queue_min: Annotated[float | None, typer.Option(help="Minutes that each attempt waits; default: none.")] = None,
    checkpoint_min: Annotated[
        float | None, typer.Option(help="Minutes between checkpoints; default: as each cell is configured.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the simulated events; default: 0.")] = None,
) -> None:
    """Print what a launch would run, resume and keep, and about how long it would take; needs no data."""
    settings = {
        "num_gpus": gpus, "mtbf_hours": mtbf_hours, "preempt_hours": preempt_hours,
        "queue_min": queue_min, "checkpoint_min": checkpoint_min, "seed": seed,
    }  # fmt: skip
    given = {name: value for name, value in settings.items() if value is not None}
    if simulate:
        from orchestration.launching.options import Wanted

        if as_json:
            raise ValueError("--simulate must be left out with --json: its result is text")
        if selection.adaptive:
            raise ValueError("--simulate must be left out with --adaptive: it plays the whole grid")
        if selection.until:
            raise ValueError("--simulate must be left out with --until: it plays the whole grid")
        _simulate(Wanted(grid or DEFAULT_GRID, overrides or (), runs, only=selection.only or (), adaptive=0), given)
        return
    if given:
        name = next(iter(given)).removeprefix("num_").replace("_", "-")
        raise ValueError(f"--simulate must be given with --{name}; got --{name} alone")
    code = begin(
        terminal.console(stderr=as_json),
        overrides,
        grid=grid,
        cluster=cluster,
        runs=runs,
        dry_run=True,
        as_json=as_json,
        with_scripts=False,
        selection=selection,
        max_concurrent=max_concurrent,
    )
    raise typer.Exit(code)


def _simulate(wanted: "Wanted", settings: dict[str, Any]) -> None:
    if "num_gpus" not in settings:
        raise ValueError("--gpus must be given with --simulate; got none")
    from rich.console import Console

    from orchestration.launching.launch import simulate_launch
    from orchestration.planning.simulate import Pool

    checkpoint_min = settings.pop("checkpoint_min", None)
    simulate_launch(wanted, Pool(**settings), checkpoint_min, Console())


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(plan)

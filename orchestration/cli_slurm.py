"""The commands that look after a grid that was launched: status, logs, cancel, retry, drop and more."""

from pathlib import Path
from typing import Annotated

import typer

GridName = Annotated[str, typer.Option("--grid", help="A grid that was launched, by name, file or folder.")]
RunsFolder = Annotated[Path, typer.Option("--runs", help="Where run folders are.")]
Cells = Annotated[
    list[str] | None, typer.Argument(metavar="[CELL]...", help="Signatures or parts of names; default: all.")
]

DEFAULT_RUNS = Path("runs")


def status(
    grid: GridName,
    runs: RunsFolder = DEFAULT_RUNS,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew every 30 s, and keep MLflow up to date.")
    ] = False,
) -> None:
    """Tell how every cell stands: by its run folder first, by squeue second."""
    from orchestration import control, terminal

    control.status(control.grid_folder(runs, grid), terminal.console(), watch=watch)


def logs(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A signature or a part of a name.")],
    grid: GridName,
    runs: RunsFolder = DEFAULT_RUNS,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is added.")] = False,
) -> None:
    """Print what the newest attempt of a cell printed, or its job where there is no attempt."""
    from orchestration import control

    control.logs(control.grid_folder(runs, grid), cell, follow=follow)


def cancel(grid: GridName, cells: Cells = None, runs: RunsFolder = DEFAULT_RUNS) -> None:
    """End the jobs of a grid and its controllers, or of some cells; what trains writes a checkpoint first."""
    from orchestration import control, terminal

    control.cancel(control.grid_folder(runs, grid), cells or (), terminal.console())


def retry(
    grid: GridName,
    cells: Cells = None,
    runs: RunsFolder = DEFAULT_RUNS,
    kind: Annotated[
        list[str] | None,
        typer.Option("--class", help="Only what ended so: 'out of GPU memory', 'never began', 'cancelled'."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="cluster.partition=big trainer.num_workers=2")
    ] = None,
) -> None:
    """Launch cells again that are neither done nor active, however they ended, with their launch's settings."""
    from orchestration import control, terminal

    code = control.retry(control.grid_folder(runs, grid), cells or (), kind or (), settings or (), terminal.console())
    raise typer.Exit(code)


def drop(
    cells: Annotated[list[str], typer.Argument(metavar="CELL...", help="Signatures or parts of names.")],
    grid: GridName,
    runs: RunsFolder = DEFAULT_RUNS,
) -> None:
    """Move the folders of cells to a trash below the runs folder, so that the next launch trains them anew."""
    from orchestration import control, terminal

    control.drop(control.grid_folder(runs, grid), cells, terminal.console())


def reconcile(grid: GridName, runs: RunsFolder = DEFAULT_RUNS) -> None:
    """Find jobs of killed launches, write down silent ends, have somebody go on, and bring MLflow up to date."""
    from orchestration import control, terminal

    control.reconcile(control.grid_folder(runs, grid), terminal.console())


TrackingUri = Annotated[
    str, typer.Option("--tracking-uri", help="MLflow store; default: MLFLOW_TRACKING_URI, else the last launch's.")
]


def sync(grid: GridName, runs: RunsFolder = DEFAULT_RUNS, tracking_uri: TrackingUri = "") -> None:
    """Write what MLflow lacks, from the run folders."""
    from orchestration import control, terminal

    control.sync(control.grid_folder(runs, grid), terminal.console(), tracking_uri)


def register(
    grid: GridName,
    runs: RunsFolder = DEFAULT_RUNS,
    method: Annotated[list[str] | None, typer.Option("--method", help="Only these; several times.")] = None,
    backbone: Annotated[list[str] | None, typer.Option("--backbone", help="Only these; several times.")] = None,
    tracking_uri: TrackingUri = "",
) -> None:
    """Make the best model of each method and backbone a version of MLflow's registered model GRID.METHOD.BACKBONE."""
    from orchestration import control, terminal

    control.register(control.grid_folder(runs, grid), method or (), backbone or (), tracking_uri, terminal.console())


def add_to(app: typer.Typer) -> None:
    """Make these commands of the program."""
    for command in (status, logs, cancel, retry, drop, reconcile, sync, register):
        app.command()(command)

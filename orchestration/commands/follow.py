"""The commands for a launched grid: status, resume, logs, cancel, retry, drop and more."""

from pathlib import Path
from typing import Annotated

import typer

GridName = Annotated[str, typer.Option("--grid", help="A launched grid, by name, file or folder.")]
RunsFolder = Annotated[Path, typer.Option("--runs", help="Where run folders are.")]
Cells = Annotated[
    list[str] | None, typer.Argument(metavar="[CELL]...", help="Signatures or parts of names; default: all.")
]

DEFAULT_RUNS = Path("runs")


def status(
    grid: GridName,
    runs: RunsFolder = DEFAULT_RUNS,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every 30 s until no cell is open.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document (`rankmatch schema status`) and nothing else.")
    ] = False,
) -> None:
    """Show the state of every cell, and who has to act next; submits and writes nothing."""
    from orchestration.launching import control
    from orchestration.machine import terminal

    if as_json:
        if watch:
            raise ValueError("--watch must be left out with --json: ask again instead")
        control.status_as_json(control.grid_folder(runs, grid))
        return
    control.status(control.grid_folder(runs, grid), terminal.console(), watch=watch)


def resume(
    grid: GridName,
    runs: RunsFolder = DEFAULT_RUNS,
    watch: Annotated[
        bool, typer.Option("--watch", help="On Slurm: stay, take each step that is due, and keep MLflow up to date.")
    ] = False,
) -> None:
    """Take the next step of a grid: submit what is due, have controllers begin at once, or launch here again."""
    from orchestration.launching import control
    from orchestration.machine import terminal

    raise typer.Exit(control.resume(control.grid_folder(runs, grid), terminal.console(), watch=watch))


def logs(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A signature or a part of a name.")],
    grid: GridName,
    runs: RunsFolder = DEFAULT_RUNS,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Keep printing what is added.")] = False,
) -> None:
    """Print the output of a cell's newest attempt, or of its job if there is no attempt."""
    from orchestration.launching import control

    control.logs(control.grid_folder(runs, grid), cell, follow=follow)


def cancel(grid: GridName, cells: Cells = None, runs: RunsFolder = DEFAULT_RUNS) -> None:
    """Cancel the jobs of a grid and its controllers, or of some cells; running cells write a checkpoint first."""
    from orchestration.launching import control
    from orchestration.machine import terminal

    control.cancel(control.grid_folder(runs, grid), cells or (), terminal.console())


def retry(
    grid: GridName,
    cells: Cells = None,
    runs: RunsFolder = DEFAULT_RUNS,
    kind: Annotated[
        list[str] | None,
        typer.Option("--class", help="Only cells that ended so: 'out of GPU memory', 'never began', 'cancelled'."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="cluster.partition=big trainer.num_workers=2")
    ] = None,
) -> None:
    """Launch all cells again that are neither done nor active, with the settings of their launch."""
    from orchestration.launching import control
    from orchestration.machine import terminal

    code = control.retry(control.grid_folder(runs, grid), cells or (), kind or (), settings or (), terminal.console())
    raise typer.Exit(code)


def drop(
    cells: Annotated[list[str], typer.Argument(metavar="CELL...", help="Signatures or parts of names.")],
    grid: GridName,
    runs: RunsFolder = DEFAULT_RUNS,
) -> None:
    """Move the folders of cells to a trash below the runs folder, so that the next launch trains them again."""
    from orchestration.launching import control
    from orchestration.machine import terminal

    control.drop(control.grid_folder(runs, grid), cells, terminal.console())


def reconcile(grid: GridName, runs: RunsFolder = DEFAULT_RUNS) -> None:
    """Find jobs of killed launches, record how jobs ended, resume open cells, and bring MLflow up to date."""
    from orchestration.launching import control
    from orchestration.machine import terminal

    control.reconcile(control.grid_folder(runs, grid), terminal.console())


TrackingUri = Annotated[
    str, typer.Option("--tracking-uri", help="MLflow store; default: MLFLOW_TRACKING_URI, else the last launch's.")
]


def sync(grid: GridName, runs: RunsFolder = DEFAULT_RUNS, tracking_uri: TrackingUri = "") -> None:
    """Write what is missing in MLflow, from the run folders."""
    from orchestration.launching import control
    from orchestration.machine import terminal

    control.sync(control.grid_folder(runs, grid), terminal.console(), tracking_uri)


def register(
    grid: GridName,
    runs: RunsFolder = DEFAULT_RUNS,
    method: Annotated[list[str] | None, typer.Option("--method", help="Only these; several times.")] = None,
    backbone: Annotated[list[str] | None, typer.Option("--backbone", help="Only these; several times.")] = None,
    tracking_uri: TrackingUri = "",
) -> None:
    """Register the best model of each method and backbone as a version of MLflow's model GRID.METHOD.BACKBONE."""
    from orchestration.launching import control
    from orchestration.machine import terminal

    control.register(control.grid_folder(runs, grid), method or (), backbone or (), tracking_uri, terminal.console())


def ui(
    grid: Annotated[
        str, typer.Option("--grid", help="A grid that was launched, by name, file or folder; default: the last one.")
    ] = "",
    runs: RunsFolder = DEFAULT_RUNS,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of 127.0.0.1.")] = 5000,
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser, where there is a screen.")] = True,
    tracking_uri: TrackingUri = "",
) -> None:
    """Start MLflow's page on the store of a grid, or say where a server shows it; it opens on the grid's runs."""
    from orchestration.launching import control
    from orchestration.machine import announce, terminal
    from orchestration.mirror import page
    from orchestration.mirror.mlflow_store import StoreError

    grid_dir = control.grid_folder(runs, grid) if grid else page.newest_grid(runs)
    console = terminal.console()
    announce.begin(console, f"opening the MLflow store of {grid_dir.name}")
    try:
        page.show(grid_dir, tracking_uri, port, lambda text: announce.say(console, text), opens=opens)
    except StoreError as error:
        raise ValueError(f"the page of MLflow cannot be shown: {error}") from None


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (status, resume, logs, cancel, retry, drop, reconcile, sync, register, ui):
        app.command()(command)

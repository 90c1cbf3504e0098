"""The command line: `rankmatch launch|plan|table`, and `launch` alone as `orchestration/launch_grid.py`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from orchestration.schedulers import SchedulerError

DEFAULT_GRID = "demo"

GridOption = Annotated[str, typer.Option("--grid", help="A grid of experiments/grids by name, or a YAML file.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Where run folders go.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Changes to the grid: dataset=camvid split=[11,23] trainer.epochs=5. A list makes an axis.",
    ),
]
ClusterOption = Annotated[str, typer.Option("--cluster", help="Where cells run: local (a private Ray) or inline.")]
ConcurrencyOption = Annotated[
    int | None, typer.Option("--max-concurrent", min=1, help="Cells at a time; default: as many as the machine holds.")
]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def launch(
    overrides: Overrides = None,
    grid: GridOption = DEFAULT_GRID,
    cluster: ClusterOption = "local",
    runs: RunsOption = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run, and about how long.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow until the last cell ends; local and inline always do.")
    ] = False,
    max_concurrent: ConcurrencyOption = None,
    cpus_per_worker: Annotated[int, typer.Option(min=1, help="CPU cores for each training process.")] = 1,
    gpus_per_worker: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of a GPU for each training process, where there is one.")
    ] = 1.0,
    tracking_uri: Annotated[
        str, typer.Option(help="MLflow store; default: SQLite in the runs folder.", envvar="MLFLOW_TRACKING_URI")
    ] = "",
) -> None:
    """Train the cells of a grid that are not trained yet, and end with its table."""
    del watch  # both clusters of today live as long as the launcher
    from rich.console import Console

    from orchestration.launch import Options
    from orchestration.launch import launch as launch_grid

    options = Options(
        grid=grid,
        overrides=overrides or (),
        cluster=cluster,
        runs=runs,
        dry_run=dry_run,
        max_concurrent=max_concurrent,
        num_cpus_per_worker=cpus_per_worker,
        num_gpus_per_worker=gpus_per_worker,
        tracking_uri=tracking_uri,
    )
    raise typer.Exit(launch_grid(options, Console()))


@app.command()
def plan(
    overrides: Overrides = None,
    grid: GridOption = DEFAULT_GRID,
    cluster: ClusterOption = "local",
    runs: RunsOption = Path("runs"),
    max_concurrent: ConcurrencyOption = None,
) -> None:
    """Say what a launch would run, resume and keep, and about how long it would take; needs no data."""
    launch(overrides, grid, cluster, runs, dry_run=True, max_concurrent=max_concurrent)


@app.command()
def table(overrides: Overrides = None, grid: GridOption = DEFAULT_GRID, runs: RunsOption = Path("runs")) -> None:
    """Print the table of a grid from its run folders, and write its report anew."""
    from rich.console import Console

    from orchestration.grid import load
    from orchestration.launch import finish

    loaded = load(grid, overrides or ())
    grid_dir = runs.resolve() / loaded.name
    if not grid_dir.is_dir():
        raise ValueError(f"--runs must hold the folder of grid {loaded.name}; there is no {grid_dir}")
    for path in finish(loaded, grid_dir, Console()):
        typer.echo(path)


def guarded(command: Callable[[], object]) -> None:
    """Run a command; what the user can mend ends in one message and exit code 2, without a traceback."""
    try:
        command()
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except SchedulerError as error:
        sys.stderr.write(f"error: {error}\nWhat was finished is kept; the same command goes on.\n")
        sys.exit(1)


def main() -> None:
    """Run the command `rankmatch`."""
    guarded(app)


def launch_main() -> None:
    """Run `launch` as a program of its own."""
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    single.command()(launch)
    guarded(single)

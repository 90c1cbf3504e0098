"""The commands that read what was trained: results, table, describe, compare, verify."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestration import terminal

if TYPE_CHECKING:
    from orchestration.grid import Grid

RunsFolder = Annotated[Path, typer.Option("--runs", help="Where run folders are.")]
Filters = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Only such runs: split=1_16 method=[unimatch,rankmatch]."),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="The file to write.")]

DEFAULT_RUNS, DEFAULT_GRID = Path("runs"), "demo"


def results(
    filters: Filters = None,
    runs: RunsFolder = DEFAULT_RUNS,
    kind: Annotated[str, typer.Option("--format", help="csv, parquet or json (a row a line); default: print.")] = "",
    output: Output = None,
    epochs: Annotated[bool, typer.Option("--epochs", help="Write a row for each epoch of the runs.")] = False,
) -> None:
    """List every run below a folder, of all grids, or write them as one table."""
    from orchestration.results import browse

    browse.show_results(runs, filters or (), terminal.console(), kind, output, epochs)


def table(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the grid, as it was launched.")
    ] = None,
    grid: Annotated[
        str, typer.Option("--grid", help="A grid by name, as it was launched, or a YAML file.")
    ] = DEFAULT_GRID,
    runs: RunsFolder = DEFAULT_RUNS,
    metric: Annotated[str, typer.Option(help="best or last epoch.")] = "best",
    layout: Annotated[Path | None, typer.Option(help="A YAML file with keys as the section table of a grid.")] = None,
    kind: Annotated[str, typer.Option("--format", help="markdown, latex, html or csv; default: print.")] = "",
    output: Output = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Print intervals, paired tests and ranks too.")
    ] = False,
) -> None:
    """Print the table of a grid from its run folders and write its report anew, or write the table alone."""
    from orchestration.launched import load, whole
    from orchestration.results import browse
    from orchestration.results.report import write

    if metric not in ("best", "last"):
        raise ValueError(f"--metric must be best or last; got {metric!r}")
    loaded = load(grid, overrides or (), runs, launched_first=True)
    grid_dir = _folder_of(loaded, runs)
    every = whole(load(grid, (), runs, launched_first=True) if overrides else loaded, grid_dir)
    browse.show_table(
        loaded if overrides else every,
        grid_dir,
        terminal.console(),
        metric=f"{metric}_miou",
        layout=layout,
        kind=kind,
        output=output,
        statistics=statistics,
    )
    if not kind:
        for path in write(every, grid_dir):
            typer.echo(path)


def describe(
    grid: Annotated[str, typer.Argument(metavar="GRID", help="A grid by name, as it was launched, or a YAML file.")],
    runs: RunsFolder = DEFAULT_RUNS,
) -> None:
    """Print the methods paragraph of a paper from a grid's finished runs, with what they took."""
    from orchestration.launched import load, whole
    from orchestration.results import browse

    loaded = load(grid, (), runs, launched_first=True)
    grid_dir = _folder_of(loaded, runs)
    browse.show_description(whole(loaded, grid_dir), grid_dir)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A grid, a signature, a part of a run's name, or a path.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    runs: RunsFolder = DEFAULT_RUNS,
    metric: Annotated[
        list[str] | None, typer.Option(help="Curves to draw; several times. Default: miou, loss.")
    ] = None,
    kind: Annotated[str, typer.Option("--format", help="csv, parquet or json, for the epoch rows of both.")] = "",
    output: Output = None,
) -> None:
    """Tell how two runs, or two grids, differ: settings, curves, classes, and what they were made with."""
    from orchestration.results import compare as comparing

    sides = [comparing.resolve(word, runs) for word in (a, b)]
    comparing.compare(sides[0], sides[1], terminal.console(), metric or ("miou", "loss"), kind, output)


def verify(
    filters: Filters = None,
    runs: RunsFolder = DEFAULT_RUNS,
    count: Annotated[int, typer.Option("--count", min=1, help="How many finished runs are recomputed.")] = 3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the choice.")] = 0,
    tolerance: Annotated[float, typer.Option(min=0, help="Points of mIoU or IoU that may differ.")] = 0.05,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")] = "auto",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Where data have moved: data_root=FOLDER.")
    ] = None,
) -> None:
    """Recompute figures of some finished runs, and find runs not made as the rest of their table's row."""
    from orchestration.results.verify import verify as verify_here

    code = verify_here(
        runs.resolve(),
        filters or (),
        terminal.console(),
        count=count,
        seed=seed,
        tolerance=tolerance,
        device=device,
        settings=settings or (),
    )
    raise typer.Exit(code)


def add_to(app: typer.Typer) -> None:
    """Make these commands of the program."""
    for command in (results, table, describe, compare, verify):
        app.command()(command)


def _folder_of(loaded: "Grid", runs: Path) -> Path:
    grid_dir = runs.resolve() / loaded.name
    if not grid_dir.is_dir():
        raise ValueError(f"--runs must hold the folder of grid {loaded.name}; there is no {grid_dir}")
    return grid_dir

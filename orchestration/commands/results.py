"""The commands that read trained runs: results, table, describe, compare, verify."""

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestration.commands.launch_options import OnlyOption
from orchestration.machine import own_files, terminal

if TYPE_CHECKING:
    from orchestration.grids.grid import Grid

RunsFolder = Annotated[Path, typer.Option("--runs", help="Where run folders are.")]
Filters = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Only these runs: split=1_16 method=[unimatch,rankmatch]."),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="The file to write.")]
EnergyOption = Annotated[
    bool, typer.Option("--energy", help="Print the energy of the GPUs in kWh too, where their power was logged.")
]

DEFAULT_RUNS, DEFAULT_GRID = Path("runs"), "demo"
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What writing into a colleague's folder, or on a disk that is only for reading, ends with."""


def results(
    filters: Filters = None,
    runs: RunsFolder = DEFAULT_RUNS,
    kind: Annotated[
        str,
        typer.Option(
            "--format", help="csv, parquet or json (a row per line; without --output to stdout); default: print."
        ),
    ] = "",
    output: Output = None,
    epochs: Annotated[bool, typer.Option("--epochs", help="Write a row for each epoch of the runs.")] = False,
    energy: EnergyOption = False,
) -> None:
    """List every run below a folder, of all grids, or write them as one table."""
    from orchestration.results import show

    console = terminal.console(stderr=kind == "json" and output is None)
    show.show_results(runs, filters or (), console, kind, output, with_epochs=epochs, with_energy=energy)


def table(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the grid, as at the launch.")
    ] = None,
    grid: Annotated[
        str, typer.Option("--grid", help="A grid by name, as it was launched, or a YAML file.")
    ] = DEFAULT_GRID,
    runs: RunsFolder = DEFAULT_RUNS,
    metric: Annotated[str, typer.Option(help="Value of the best or the last epoch.")] = "best",
    layout: Annotated[Path | None, typer.Option(help="A YAML file with the keys of a grid's section table.")] = None,
    kind: Annotated[str, typer.Option("--format", help="markdown, latex, html or csv; default: print.")] = "",
    output: Output = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Print intervals, paired tests and ranks too.")
    ] = False,
    energy: EnergyOption = False,
    only: OnlyOption = None,
    cite: Annotated[
        bool, typer.Option("--cite", help="Print a methods paragraph and BibTeX entries instead of the table.")
    ] = False,
) -> None:
    """Print the tables of a grid from its run folders and rewrite its report, or only write the tables."""
    from orchestration.grids.launched import load, whole
    from orchestration.results import show
    from orchestration.results.report import write

    if metric not in ("best", "last"):
        raise ValueError(f"--metric must be best or last; got {metric!r}")
    others = {"--layout": layout, "--format": kind, "--output": output, "--statistics": statistics, "--energy": energy}
    if cite and (given := [name for name, value in others.items() if value]):
        raise ValueError(f"--cite must be given without {given[0]}: it prints no table")
    loaded, is_part = load(grid, overrides or (), runs, launched_first=True, only=only or ()), bool(overrides or only)
    grid_dir = _folder_of(loaded, runs)
    every = whole(load(grid, (), runs, launched_first=True) if is_part else loaded, grid_dir)
    asked = loaded if is_part else every
    if cite:
        show.show_citation(asked, grid_dir, last=metric == "last")
        return
    show.show_table(
        asked,
        grid_dir,
        terminal.console(),
        metric=f"{metric}_miou",
        layout=layout,
        kind=kind,
        output=output,
        statistics=statistics,
        with_energy=energy,
    )
    if not kind:
        try:
            written = write(every, grid_dir)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
            typer.echo(f"the report and its table are left as they were: {own_files.said(error)}", err=True)
            return
        for path in written:
            typer.echo(path)


def describe(
    grid: Annotated[str, typer.Argument(metavar="GRID", help="A grid by name, as it was launched, or a YAML file.")],
    runs: RunsFolder = DEFAULT_RUNS,
) -> None:
    """Print the methods paragraph of a paper from a grid's finished runs, with the resources they used."""
    from orchestration.grids.launched import load, whole
    from orchestration.results import show

    loaded = load(grid, (), runs, launched_first=True)
    grid_dir = _folder_of(loaded, runs)
    show.show_description(whole(loaded, grid_dir), grid_dir)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A grid, a signature, a part of a run's name, or a path.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    runs: RunsFolder = DEFAULT_RUNS,
    metric: Annotated[
        list[str] | None, typer.Option(help="Curves to draw; can be repeated. Default: miou, loss.")
    ] = None,
    kind: Annotated[str, typer.Option("--format", help="csv, parquet or json, for the epoch rows of both sides.")] = "",
    output: Output = None,
) -> None:
    """Show how two runs, or two grids, differ: settings, curves, classes, and provenance."""
    from orchestration.results import compare as comparing

    sides = [comparing.resolve(word, runs) for word in (a, b)]
    comparing.compare(sides[0], sides[1], terminal.console(), metric or ("miou", "loss"), kind, output)


def verify(
    filters: Filters = None,
    runs: RunsFolder = DEFAULT_RUNS,
    count: Annotated[int, typer.Option("--count", min=1, help="How many finished runs to recompute.")] = 3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the choice.")] = 0,
    tolerance: Annotated[float, typer.Option(min=0, help="Allowed difference, in points of mIoU or IoU.")] = 0.05,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="For moved data: data_root=FOLDER."),
    ] = None,
) -> None:
    """Recompute figures of some finished runs, and find runs made differently from the rest of their table row."""
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
    """Add these commands to the program."""
    for command in (results, table, describe, compare, verify):
        app.command()(command)


def _folder_of(loaded: "Grid", runs: Path) -> Path:
    grid_dir = runs.resolve() / loaded.name
    if not grid_dir.is_dir():
        raise ValueError(f"--runs must hold the folder of grid {loaded.name}; there is no {grid_dir}")
    return grid_dir

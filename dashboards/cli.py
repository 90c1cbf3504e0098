"""The commands that make something to look at: report, figure."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dashboards.gathered import Gathered
    from dashboards.panels import Panel
    from orchestration.grid import Grid

RunsFolder = Annotated[Path, typer.Option("--runs", help="Where run folders are.")]
FIGURES = ("labels", "curves", "classes", "states")


def report(
    grid: Annotated[str, typer.Argument(metavar="GRID", help="A grid by name, as it was launched, or a YAML file.")],
    runs: RunsFolder = Path("runs"),
) -> None:
    """Write a grid's page: one HTML file with figures, tables, failures and runs, which opens without a network."""
    from dashboards.report import write

    typer.echo(write(*_launched(grid, runs)))


def figure(
    kind: Annotated[str, typer.Argument(metavar="FIGURE", help=f"{', '.join(FIGURES)}.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write: .svg, .pdf or .png.")],
    grid: Annotated[str, typer.Option("--grid", help="A grid by name, as it was launched, or a YAML file.")] = "demo",
    runs: RunsFolder = Path("runs"),
    metric: Annotated[str, typer.Option(help="Of the figure curves: a number of the epochs.")] = "miou",
) -> None:
    """Draw a figure of a grid: mIoU against labels, curves over epochs, IoU of classes, or the state of the cells."""
    from dashboards import drawing
    from dashboards.gathered import gather

    if kind not in FIGURES:
        raise ValueError(f"the figure must be one of {', '.join(FIGURES)}; got {kind!r}")
    drawing.check_kind(output)
    panels = _panels(kind, gather(*_launched(grid, runs)), metric)
    drawing.save(panels, output)
    typer.echo(output)


def add_to(app: typer.Typer) -> None:
    """Make these commands of the program."""
    for command in (report, figure):
        app.command()(command)


def _launched(grid: str, runs: Path) -> "tuple[Grid, Path]":
    from orchestration.launched import load, whole

    loaded = load(grid, (), runs, launched_first=True)
    grid_dir = runs.resolve() / loaded.name
    if not grid_dir.is_dir():
        raise ValueError(f"--runs must hold the folder of grid {loaded.name}; there is no {grid_dir}")
    return whole(loaded, grid_dir), grid_dir


def _panels(kind: str, gathered: "Gathered", metric: str) -> "list[Panel]":
    from dashboards import figures
    from dashboards.gathered import num_labeled

    layout = gathered.loaded.table
    if kind == "labels":
        return [*figures.labels(gathered.table("best_miou"), num_labeled(gathered.runs.to_pylist()))]
    if kind == "classes":
        return [*figures.classes(gathered.points, layout, gathered.class_names)]
    if kind == "states":
        return [*figures.states(gathered.points, layout, list(gathered.loaded.axes))]
    known = figures.metrics_of(gathered.epochs)
    if known and metric not in known:
        raise ValueError(f"--metric must be one of {', '.join(known)}; got {metric!r}")
    return [*figures.curves(gathered.points, gathered.epochs, layout, metric)]

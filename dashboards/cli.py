"""The commands that make something to look at: report, figure, dashboard."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dashboards.gathered import Gathered
    from dashboards.panels import Panel
    from orchestration.grids.grid import Grid

RunsFolder = Annotated[Path, typer.Option("--runs", help="Where run folders are.")]
FIGURES = ("labels", "curves", "classes", "states", "calibration", "confusion")
PICTURES = ("pictures", "ranks")
"""Made of what runs have drawn, so of pixels."""


def report(
    grid: Annotated[str, typer.Argument(metavar="GRID", help="A grid by name, as it was launched, or a YAML file.")],
    runs: RunsFolder = Path("runs"),
) -> None:
    """Write a grid's page: one HTML file with figures, tables, failures and runs, which opens without a network."""
    from rich.console import Console

    from dashboards.report import write

    loaded, grid_dir = _launched(grid, runs)
    with Console(stderr=True).status(f"reading the runs of {loaded.name} and drawing its page"):
        written = write(loaded, grid_dir)
    typer.echo(written)


def figure(
    kind: Annotated[str, typer.Argument(metavar="FIGURE", help=f"{', '.join((*FIGURES, *PICTURES))}.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write: .svg, .pdf or .png; .png of pictures and ranks.")
    ],
    grid: Annotated[str, typer.Option("--grid", help="A grid by name, as it was launched, or a YAML file.")] = "demo",
    runs: RunsFolder = Path("runs"),
    metric: Annotated[str, typer.Option(help="Of the figure curves: a number of the epochs.")] = "miou",
    only: Annotated[
        str, typer.Option(metavar="TABLE", help="Of a grid of grids: table=1, or the name of a part.")
    ] = "",
) -> None:
    """Draw a figure of a grid: mIoU against labels, curves, classes, states, and what runs have drawn and counted."""
    from dashboards import drawing

    if kind not in (*FIGURES, *PICTURES):
        raise ValueError(f"the figure must be one of {', '.join((*FIGURES, *PICTURES))}; got {kind!r}")
    drawing.check_kind(output)
    if kind in PICTURES:
        if output.suffix.lower() != ".png":
            raise ValueError(f"--output must end with .png for {kind}; got {output.name!r}")
        from dashboards import sheets

        drawing.save_picture(sheets.draw(kind, _table(grid, runs, only)), output)
        typer.echo(output)
        return
    panels = _panels(kind, _table(grid, runs, only), metric)
    drawing.save(panels, output)
    typer.echo(output)


def dashboard(
    runs: RunsFolder = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to answer; 0: any that is free.")] = 8770,
    host: Annotated[
        str, typer.Option(help="The address to answer at; any that others can reach asks for a token.")
    ] = "127.0.0.1",
    root_path: Annotated[
        str,
        typer.Option(help="What a proxy puts before the addresses of pages: /rnode/HOST/PORT, /user/ME/proxy/8770."),
    ] = "",
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name by which browsers call this server, as a proxy's; several times.")
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Ask for a token on 127.0.0.1, too, which all users of a machine can reach.")
    ] = False,
) -> None:
    """Serve pages of all grids of a folder, up to date while cells train; reads run folders and changes nothing."""
    from dashboards.live.server import serve

    serve(runs, host=host, port=port, root_path=root_path, hosts=allow_host or (), with_token=token, say=_say_now)


def _say_now(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (report, figure, dashboard):
        app.command()(command)


def _launched(grid: str, runs: Path) -> "tuple[Grid, Path]":
    from orchestration.grids.launched import load, whole

    loaded = load(grid, (), runs, launched_first=True)
    grid_dir = runs.resolve() / loaded.name
    if not grid_dir.is_dir():
        raise ValueError(f"--runs must hold the folder of grid {loaded.name}; there is no {grid_dir}")
    return whole(loaded, grid_dir), grid_dir


def _table(grid: str, runs: Path, only: str) -> "Gathered":
    """Read a grid with one table, or one of several."""
    from dashboards.gathered import gather
    from orchestration.grids.launched import load

    if only:
        (part,) = load(grid, (), runs, launched_first=True, only=[only]).parts
        return gather(part, _launched(grid, runs)[1])
    loaded, grid_dir = _launched(grid, runs)
    if loaded.parts:
        names = ", ".join(part.name for part in loaded.parts)
        raise ValueError(f"--only must name one of the tables of {loaded.name}: {names}; got none")
    return gather(loaded, grid_dir)


def _panels(kind: str, gathered: "Gathered", metric: str) -> "list[Panel]":
    from dashboards import counts, figures
    from dashboards.gathered import num_labeled

    layout = gathered.loaded.table
    if kind == "labels":
        return [*figures.labels(gathered.table("best_miou"), num_labeled(gathered.runs.to_pylist()))]
    if kind == "classes":
        return [*figures.classes(gathered.places, layout, gathered.class_names)]
    if kind == "states":
        return [*figures.states(gathered.points, layout, list(gathered.loaded.axes))]
    if kind in ("calibration", "confusion"):
        counted = counts.entries(gathered)
        return (
            [*counts.calibration(counted)]
            if kind == "calibration"
            else [*counts.confusion(counted, gathered.class_names)]
        )
    known = figures.metrics_of(gathered.epochs)
    if known and metric not in known:
        raise ValueError(f"--metric must be one of {', '.join(known)}; got {metric!r}")
    return [*figures.curves(gathered.places, gathered.epochs, layout, metric)]

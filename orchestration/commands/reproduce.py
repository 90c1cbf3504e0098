"""The command `rankmatch reproduce`."""

from pathlib import Path
from typing import Annotated

import typer

from orchestration.machine import announce, stops, terminal


def reproduce(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A run folder, a signature, or a part of a run's name.")],
    grid: Annotated[str, typer.Option("--grid", help="Only look among the runs of this grid.")] = "",
    runs: Annotated[Path, typer.Option("--runs", help="Where run folders are.")] = Path("runs"),
    steps: Annotated[int, typer.Option("--steps", min=1, help="Compare the losses of this many steps.")] = 20,
    result: Annotated[bool, typer.Option("--result", help="Train to the end, and compare the result too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what it takes.")] = False,
    tolerance: Annotated[float, typer.Option(min=0, help="Relative difference of a number that counts as none.")] = 0.0,
    code: Annotated[
        Path | None, typer.Option("--code", help="A repository with the commit; default: that of this program.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="For moved data: data_root=FOLDER.")
    ] = None,
) -> None:
    """Repeat a recorded training with its own code and compare: 0 equal, 1 something differs, 2 it cannot be tried."""
    from orchestration.machine import provenance
    from orchestration.reproducing import record
    from orchestration.reproducing import reproduce as reproducing

    console = terminal.console()
    found = record.read(record.find(cell, runs, grid))
    announce.say(console, f"run          {found.folder.path}")
    for line in found.lines():
        announce.say(console, line)
    if dry_run:
        return
    wanted = reproducing.Wanted(steps, result, tolerance, settings or (), (code or provenance.ROOT).resolve())
    with stops.like_ctrl_c():  # so that the worktree is removed
        code_of_exit = reproducing.reproduce(found, wanted, console)
    raise typer.Exit(code_of_exit)


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(reproduce)

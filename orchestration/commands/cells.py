"""Commands for the store of cells that the grids of a runs folder share."""

from pathlib import Path
from typing import Annotated

import typer

Words = Annotated[
    list[str] | None, typer.Argument(metavar="[CELL]...", help="Signatures or parts of names; default: all.")
]
RunsFolder = Annotated[Path, typer.Argument(metavar="[RUNS]", help="Where run folders are.")]


def cells(
    words: Words = None,
    drop_unlinked: Annotated[
        bool, typer.Option("--drop-unlinked", help="Move those that no grid has any more to a trash below --runs.")
    ] = False,
    runs: Annotated[Path, typer.Option("--runs", help="Where run folders are.")] = Path("runs"),
) -> None:
    """List the cells that grids share: what each is, its state and size, and the grids that have it."""
    from orchestration.launching import stored_cells
    from orchestration.machine import terminal

    if drop_unlinked:
        raise typer.Exit(stored_cells.drop_unlinked(runs, words or (), terminal.console()))
    stored_cells.show(runs, words or (), terminal.console())


def migrate(runs: RunsFolder = Path("runs")) -> None:
    """Move the cells of grids of an earlier version into the store, where all grids of the runs folder share them."""
    from orchestration.launching import migrate as migrating
    from orchestration.machine import terminal

    migrating.migrate(runs, terminal.console())


def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The other runs folder; it stays as it is.")],
    runs: Annotated[Path, typer.Option("--runs", help="The runs folder that gets the cells.")] = Path("runs"),
) -> None:
    """Take the finished cells of another runs folder: 0 all are here now, 1 some could not be taken, 2 refused."""
    from orchestration.launching import import_cells
    from orchestration.machine import terminal

    raise typer.Exit(import_cells.import_cells(folder, runs, terminal.console()))


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(cells)
    app.command()(migrate)
    app.command("import")(import_)

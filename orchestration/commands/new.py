"""The commands that write starting files: grid new, data new."""

from pathlib import Path
from typing import Annotated

import typer

grids = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write a grid file.")


def new_grid(
    name: Annotated[Path, typer.Argument(metavar="NAME", help="The file, or its name without .yaml.")],
    dataset: Annotated[
        str, typer.Option("--dataset", help="From experiments/conf/dataset, or a file; default: drawn scenes.")
    ] = "synthetic",
) -> None:
    """Write a commented grid file that can be launched as it is, with the splits of the data set."""
    from orchestration.commands import new_files

    typer.echo(f"{new_files.new_grid(name, dataset)}: edit it, then run the commands of its first lines")


def new_data(
    name: Annotated[Path, typer.Argument(metavar="NAME", help="The file, or its name without .yaml.")],
) -> None:
    """Write a commented file for your own data set: what its labels mean, where its files are."""
    from orchestration.commands import new_files

    typer.echo(f"{new_files.new_dataset(name)}: edit it, then run the commands of its first lines")


def add_to(app: typer.Typer, data: typer.Typer) -> None:
    """Add these commands to the program."""
    grids.command("new")(new_grid)
    data.command("new")(new_data)
    app.add_typer(grids, name="grid")

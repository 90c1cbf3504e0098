"""The commands `rankmatch doctor` and `rankmatch site detect`."""

from pathlib import Path
from typing import Annotated

import typer

from orchestration.machine import terminal


def doctor(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the grid or the site: data_root=/data"),
    ] = None,
    cluster: Annotated[
        str, typer.Option("--cluster", help="Where cells will run: local, slurm, or a site's YAML file.")
    ] = "local",
    runs: Annotated[Path, typer.Option("--runs", help="Folder for run folders.")] = Path("runs"),
    grid: Annotated[str, typer.Option("--grid", help="Also check the data and weights of this grid.")] = "",
    job: Annotated[
        bool, typer.Option("--job", help="On Slurm: look from a node too, by a job of two minutes.")
    ] = False,
) -> None:
    """Check whether this machine and the cluster can do what a launch needs; exit with 1 if they cannot."""
    from orchestration.checkup import doctor as doctors

    due = doctors.looks(cluster, runs, grid, overrides or [], with_job=job)
    raise typer.Exit(doctors.examine(due, terminal.console()))


def detect() -> None:
    """Print a file for --cluster from what Slurm says of itself: rankmatch site detect > my_site.yaml."""
    from orchestration.checkup import detected_site
    from orchestration.on_slurm import commands
    from orchestration.on_slurm.commands import SlurmError

    if not commands.is_here():
        raise ValueError("rankmatch site detect must run where Slurm's commands are installed; there is no sbatch here")
    try:
        typer.echo(detected_site.detect(), nl=False)
    except SlurmError as error:
        raise ValueError(f"Slurm must answer, or no site can be described: {error}") from None


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(doctor)
    site = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Describe a Slurm site.")
    site.command()(detect)
    site.callback()(lambda: None)
    app.add_typer(site, name="site")

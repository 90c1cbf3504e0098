"""The command that searches settings: tune."""

from pathlib import Path
from typing import Annotated

import typer


def tune(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A search file, or a name from experiments/grids or --runs.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Changes to it: dataset=camvid search.num_samples=40 method.top_k=[2,4] "
            "'method.weight_rank={low: 0.1, high: 1}'. One value fixes a setting.",
        ),
    ] = None,
    cluster: Annotated[
        str,
        typer.Option(
            "--cluster",
            help="Where points are trained: local (a private Ray), ray, or a site's YAML file with one of them.",
        ),
    ] = "local",
    address: Annotated[str, typer.Option(help="HOST:PORT of the Ray for --cluster ray; auto: on this node.")] = "",
    runs: Annotated[Path, typer.Option("--runs", help="Folder for run folders.")] = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be searched.")] = False,
    max_concurrent: Annotated[
        int | None, typer.Option(min=1, help="Points at a time; default: as many as the machine holds.")
    ] = None,
    cpus_per_worker: Annotated[int, typer.Option(min=1, help="CPU cores for each training process.")] = 1,
    gpus_per_worker: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of a GPU for each training process, if there is a GPU.")
    ] = 1.0,
    tracking_uri: Annotated[
        str, typer.Option(help="MLflow store; default: MLFLOW_TRACKING_URI, else SQLite in the runs folder.")
    ] = "",
) -> None:
    """Search settings, scored on a held-out part of the training images, and report which ones matter."""
    from orchestration.launching import search, where
    from orchestration.launching.options import Wanted, Workers, refuse_address
    from orchestration.machine import announce, terminal

    of_site = [word for word in overrides or () if word.startswith("cluster.")]
    there = where.find(cluster, of_site, address, tracking_uri)
    refuse_address(there.address, there.cluster, is_needed=not dry_run)
    of_search = [word for word in overrides or () if word not in of_site]
    wanted = Wanted(file, of_search, runs, places=there.places)
    workers = Workers(there.cluster, max_concurrent, cpus_per_worker, gpus_per_worker)
    console = terminal.console()
    for line in there.lines:
        announce.say(console, line)
    if dry_run:
        raise typer.Exit(search.dry_run(wanted, workers, console))
    raise typer.Exit(search.tune(wanted, workers, console, address=there.address, uri=there.uri))


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(tune)

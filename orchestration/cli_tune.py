"""The command that searches settings: tune."""

from pathlib import Path
from typing import Annotated

import typer


def tune(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A search file, or a name: of experiments/grids, or in --runs.")
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
        str, typer.Option("--cluster", help="Where points are trained: local (a private Ray) or ray.")
    ] = "local",
    address: Annotated[str, typer.Option(help="HOST:PORT of the Ray of --cluster ray; auto: that of this node.")] = "",
    runs: Annotated[Path, typer.Option("--runs", help="Where run folders go.")] = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be searched.")] = False,
    max_concurrent: Annotated[
        int | None, typer.Option(min=1, help="Points at a time; default: as many as the machine holds.")
    ] = None,
    cpus_per_worker: Annotated[int, typer.Option(min=1, help="CPU cores for each training process.")] = 1,
    gpus_per_worker: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of a GPU for each training process, where there is one.")
    ] = 1.0,
    tracking_uri: Annotated[
        str, typer.Option(help="MLflow store; default: MLFLOW_TRACKING_URI, else SQLite in the runs folder.")
    ] = "",
) -> None:
    """Search settings on a part of the training images that is held out, and tell which matter."""
    from orchestration import terminal
    from orchestration.launch_plan import Options
    from orchestration.tune import tune as tune_here

    options = Options(
        grid=file,
        overrides=overrides or (),
        cluster=cluster,
        address=address,
        runs=runs,
        dry_run=dry_run,
        max_concurrent=max_concurrent,
        num_cpus_per_worker=cpus_per_worker,
        num_gpus_per_worker=gpus_per_worker,
        tracking_uri=tracking_uri,
    )
    raise typer.Exit(tune_here(options, terminal.console()))


def add_to(app: typer.Typer) -> None:
    """Make it a command of the program."""
    app.command()(tune)

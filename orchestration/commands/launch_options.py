"""The options that a launch and its plan share."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_GRID = "demo"

GridOption = Annotated[
    str,
    typer.Option("--grid", help="A grid by name (in experiments/grids, or launched into --runs), or a YAML file."),
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder for run folders.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Changes to the grid: dataset=camvid split=[11,23] trainer.epochs=5. A list makes an axis.",
    ),
]
ClusterOption = Annotated[
    str,
    typer.Option(
        "--cluster", help="Where cells run: local (a private Ray), inline, ray, slurm, or a site's YAML file."
    ),
]
ConcurrencyOption = Annotated[
    int | None, typer.Option("--max-concurrent", min=1, help="Cells at a time; default: as many as the machine holds.")
]
BudgetOption = Annotated[float | None, typer.Option(min=0, help="Refuse a plan with a higher estimate.")]
UntilOption = Annotated[
    str,
    typer.Option(
        "--until",
        metavar="TIME",
        help="Leave out the cells that would end after '2026-12-18 18:00', by estimate and this machine's clock.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the plan as one JSON document (`rankmatch schema plan`), nothing else.")
]

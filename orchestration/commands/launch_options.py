"""The options that a launch and its plan share."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_GRID, GRID_ON_SLURM = "demo", "paper"
"""What is meant where no grid is named."""

GridOption = Annotated[
    str,
    typer.Option(
        "--grid",
        help="A grid by name (in experiments/grids, or launched into --runs), or a YAML file; default: demo, on Slurm "
        "paper.",
    ),
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
WithinBudgetOption = Annotated[
    bool,
    typer.Option("--within-budget", help="Leave out what exceeds --budget-gpu-hours, instead of refusing the plan."),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="TABLE", help="Of a grid of grids: table=1, or the name of a part; several times."),
]
AvailableOption = Annotated[
    bool, typer.Option("--available", help="Leave out the cells whose data, lists or weights are not here.")
]
UntilOption = Annotated[
    str,
    typer.Option(
        "--until",
        metavar="TIME",
        help="Leave out the cells that would end after '2026-12-18 18:00', by estimate and this machine's clock.",
    ),
]
AdaptiveOption = Annotated[
    bool | None,
    typer.Option(
        "--adaptive/--no-adaptive",
        help="Begin with the first seeds, and add seeds only to pairs that are not decided; default: as the grid says.",
        show_default=False,
    ),
]
FirstSeedsOption = Annotated[
    int | None, typer.Option("--first-seeds", metavar="N", help="With --adaptive: the seeds to begin with; default: 5.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the plan as one JSON document (`rankmatch schema plan`), nothing else.")
]
PilotOption = Annotated[
    bool, typer.Option("--pilot", help="On Slurm: jobs lend their nodes to one Ray, which runs the cells on them.")
]
UriOption = Annotated[
    str, typer.Option(help="MLflow store; default: MLFLOW_TRACKING_URI, else SQLite in the runs folder.")
]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which cells of a grid a launch takes: options of every command that `takes_selection`."""

    budget_gpu_hours: BudgetOption = None
    until: UntilOption = ""
    available: AvailableOption = False
    within_budget: WithinBudgetOption = False
    only: OnlyOption = None
    adaptive: AdaptiveOption = None
    first_seeds: FirstSeedsOption = None


ALL_CELLS = Selection()


def takes_selection(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, in place of its parameter `selection`, an option for each field, which Typer finds."""
    fields = inspect.signature(Selection).parameters
    own = inspect.signature(command)
    parameters: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        parameters += fields.values() if parameter.name == "selection" else [parameter]

    @functools.wraps(command)
    def with_options(**words: Any) -> None:  # noqa: ANN401 (what Typer makes of the words of a command line)
        selection = Selection(**{name: words.pop(name) for name in fields})
        command(**words, selection=selection)

    with_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options

"""A launch as somebody types it: what the command line takes, in one value that tests change."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console

from orchestration.commands.begin import begin
from orchestration.commands.launch_options import Selection


@dataclass(frozen=True, slots=True)
class Options:
    """The words of `launch_grid.py`, by the names that `begin` has for them."""

    grid: str = "demo"
    overrides: Sequence[str] = ()
    cluster: str = "local"
    address: str = ""
    runs: Path = Path("runs")
    dry_run: bool = False
    max_concurrent: int | None = None
    num_gpus_per_worker: float = 1.0
    num_nodes: int | None = None
    tracking_uri: str = ""
    watch: bool = False
    allow_dirty: bool = False
    size_from_history: bool = False
    budget_gpu_hours: float | None = None
    until: str = ""
    within_budget: bool = False
    available: bool = False
    only: Sequence[str] = ()
    adaptive: bool | None = None
    first_seeds: int | None = None
    cluster_settings: Sequence[str] = ()


def launch(options: Options, console: Console) -> int:
    """Begin what was typed."""
    words = {part.name: getattr(options, part.name) for part in fields(options)}
    overrides = [*words.pop("overrides"), *words.pop("cluster_settings")]
    selection = Selection(**{part.name: words.pop(part.name) for part in fields(Selection) if part.name in words})
    return begin(console, overrides, selection=selection, **words)

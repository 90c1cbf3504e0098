"""A grid's page, written by `dashboards`, which imports this package: so it is imported by name, only here.

The command line does not pass the function down, since a launch may also end in a controller, a job that no command
line starts. A fault of the page, or a missing `dashboards`, must not keep a launch from ending well.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.machine import announce
from orchestration.runs import hints
from orchestration.runs.folders import GridFolder
from orchestration.runs.patience import patiently

if TYPE_CHECKING:  # every command imports this file, and most need neither
    import typer
    from rich.console import Console

    from orchestration.grids.grid import Grid

COMMANDS, WRITER = ("dashboards.cli", "add_to"), ("dashboards.report", "write_all")


def write(loaded: "Grid", grid_dir: Path, console: "Console") -> list[Path]:
    """Write a grid's page and figures; if that fails, print why and return nothing: everything else is unharmed."""
    try:
        writer: Callable[[Grid, Path], list[Path]] = _named(*WRITER)
        return patiently(lambda: writer(loaded, grid_dir))
    except Exception as error:  # whatever it is, it must not keep the launch from ending well
        again = hints.shell("rankmatch", "report", loaded.name, "--runs", str(GridFolder(grid_dir).runs.path))
        text = f"no page for a browser: {type(error).__name__}: {error}; {again} tries again"
        announce.say(console, text)
        return []


def add_commands(app: "typer.Typer") -> None:
    """Add the commands that make something to look at; where `dashboards` is missing, print that and add none."""
    try:
        _named(*COMMANDS)(app)
    except ModuleNotFoundError as error:  # an environment from before there was such a package
        if error.name != COMMANDS[0].partition(".")[0]:
            raise
        sys.stderr.write(f"report and figure are not there, as {error.name} is not installed: pip install -e . again\n")


def _named(module: str, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found

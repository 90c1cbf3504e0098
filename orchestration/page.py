"""A grid's page, made by what stands above this package and imports it: found by name, and missed by nobody."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration import hints
from orchestration.patience import patiently

if TYPE_CHECKING:  # every command imports this file, and most need neither
    import typer
    from rich.console import Console

    from orchestration.grid import Grid

COMMANDS, WRITER = ("dashboards.cli", "add_to"), ("dashboards.report", "write")


def write(loaded: "Grid", grid_dir: Path, console: "Console") -> list[Path]:
    """Write the page of a grid; where that fails, say why and return nothing: cells, table and report are unharmed."""
    try:
        writer: Callable[[Grid, Path], Path] = _named(*WRITER)
        return [patiently(lambda: writer(loaded, grid_dir))]
    except Exception as error:  # whatever it is, it must not cost a launch its end
        again = hints.shell("rankmatch", "report", loaded.name, "--runs", str(grid_dir.parent))
        text = f"no page for a browser: {type(error).__name__}: {error}; {again} tries again"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
        return []


def add_commands(app: "typer.Typer") -> None:
    """Give the program the commands that make something to look at; without them, say so, and have all others."""
    try:
        _named(*COMMANDS)(app)
    except ModuleNotFoundError as error:  # an environment that was made before there was such a package
        if error.name != COMMANDS[0].partition(".")[0]:
            raise
        sys.stderr.write(f"report and figure are not there, as {error.name} is not installed: pip install -e . again\n")


def _named(module: str, name: str) -> Callable[..., Path]:
    found: Callable[..., Path] = getattr(importlib.import_module(module), name)
    return found

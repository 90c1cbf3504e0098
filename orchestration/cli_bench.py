"""The command `rankmatch bench`: speed and memory beside the textbook way, from a checkout."""

import os
import platform
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"


def bench(
    parts: Annotated[
        list[str] | None, typer.Argument(metavar="[step|data|loss|eval|grid|cells]...", help="What; default: all.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here too.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved runs behind each ratio.")] = 3,
    tiny: Annotated[bool, typer.Option("--tiny", help="Small inputs: only a check that all runs.")] = False,
) -> None:
    """Measure ours and the reference in turns: step, samples, loss, evaluation, launcher, cells."""
    from orchestration.files import replace

    if not (TESTS / "benchmarks").is_dir():
        raise ValueError(f"rankmatch bench must be run from a checkout of the sources; there is no {TESTS}/benchmarks")
    sys.path[:0] = [str(ROOT), str(TESTS)]  # in this order, or tests/rankmatch would hide the library
    harness = import_module("benchmarks.harness")
    typer.echo(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores; ratio = reference / ours")
    rows = []
    for row in harness.measure(parts or [], harness.Settings(repeats=repeats, tiny=tiny)):
        typer.echo(row)
        rows.append(row)
        if json_file is not None:  # after each, so that a part that breaks takes no finished row along
            replace(json_file, harness.to_json(rows))


def add_to(app: typer.Typer) -> None:
    """Make it a command of the program."""
    app.command()(bench)

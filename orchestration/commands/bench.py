"""The command `rankmatch bench`: speed and memory against a textbook implementation, from a checkout."""

import os
import platform
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"


def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[step|data|loss|eval|grid|dashboard|report|cells]...", help="Parts; default: all."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the rows to this file.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved runs for each ratio.")] = 3,
    tiny: Annotated[bool, typer.Option("--tiny", help="Small inputs, only to check that everything runs.")] = False,
) -> None:
    """Measure ours and the reference alternately: step, samples, loss, evaluation, launcher, cells."""
    from orchestration.machine.files import replace

    if not (TESTS / "benchmarks").is_dir():
        raise ValueError(f"rankmatch bench must be run from a checkout of the sources; there is no {TESTS}/benchmarks")
    sys.path[:0] = [str(ROOT), str(TESTS)]  # in this order, or tests/rankmatch would hide the library
    harness = import_module("benchmarks.harness")
    typer.echo(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores; ratio = reference / ours")
    rows = []
    for row in harness.measure(parts or [], harness.Settings(repeats=repeats, tiny=tiny)):
        typer.echo(row)
        rows.append(row)
        if json_file is not None:  # after each part, so that a failing part loses no finished row
            replace(json_file, harness.to_json(rows))


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(bench)

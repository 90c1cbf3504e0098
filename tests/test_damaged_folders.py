"""With one file of a runs folder damaged in any way, commands answer, or refuse by one line."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from orchestration.commands.main import app

MADE = Path(__file__).parent / "orchestration" / "runs" / "made_by_an_earlier_version" / "runs"
FILES = {
    grid: sorted(path for path in (MADE / grid).rglob("*") if path.is_file() and path.suffix not in (".md", ".csv", ""))
    for grid in ("small", "on_slurm")
}
DAMAGES = {
    "nothing": b"",
    "half a file": b'{"step": 3, "event": "star',
    "list": b"[]\n",
    "word": b'"done"\n',
    "without fields": b"{}\n",
    "other kinds of values": b'{"step": "x", "event": 3, "cells": 7, "name": [], "axes": 0, "time": {}}\n',
    "nested without end": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe\xff\n",
    "zero bytes": bytes(4096),
    "a number without end": b'{"step": 1e9999, "time": NaN, "epoch": ' + b"9" * 5000 + b"}\n",
}
COMMANDS = {"small": ("status", "table"), "on_slurm": ("status",)}
CASES = [(grid, path) for grid, paths in FILES.items() for path in paths]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return Path(shutil.copytree(MADE, tmp_path_factory.mktemp("damaged") / "runs"))


def fault_of(runs: Path, grid: str, path: Path, content: bytes) -> str:
    """Return what is wrong with how the commands took a file of this content; nothing if they answered or refused."""
    place = runs / path.relative_to(MADE)
    before = place.read_bytes()
    place.write_bytes(content)
    try:
        for command in COMMANDS[grid]:
            done = CliRunner().invoke(app, [command, "--grid", grid, "--runs", str(runs)])
            error = done.exception
            if isinstance(error, ValueError):
                if "\n" in str(error).strip() or len(str(error)) < 15:
                    return f"{command}: unclear: {error}"
            elif error is not None and not isinstance(error, SystemExit):
                return f"{command}: {type(error).__name__}: {error}"[:300]
    finally:
        place.write_bytes(before)
    return ""


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::orchestration.machine.damage.DamageWarning")
def test_every_file_with_every_kind_of_damage_is_answered_or_refused_by_one_line(runs, tell_points, is_all):
    kinds = list(DAMAGES.items())
    some = [(*case, *kinds[(place + turn) % len(kinds)])
            for place, case in enumerate(CASES) for turn in range(len(kinds) if is_all else 1)]  # fmt: skip
    faults = {
        f"{path.relative_to(MADE)}: {kind}": fault
        for grid, path, kind, content in some
        if (fault := fault_of(runs, grid, path, content))
    }
    tell_points("files of a runs folder, damaged in turn", len(some), list(faults))
    assert faults == {}


@pytest.mark.filterwarnings("ignore::orchestration.machine.damage.DamageWarning")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(CASES), st.binary(max_size=200))
def test_any_bytes_in_any_file_are_answered_or_refused_by_one_line(runs, case, content):
    assert fault_of(runs, *case, content) == ""

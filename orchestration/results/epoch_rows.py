"""The epoch rows of many runs at once: lines of JSON -> columns."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration.files import read_bytes
from orchestration.recorder import EPOCHS
from orchestration.run_folder import ATTEMPTS, RunFolder

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

INTEGERS = ("step", "epoch", "num_epochs", "num_steps")
RUNS_AT_ONCE = 200
NUM_THREADS = 2

Piece = tuple[bytes, float]
"""Whole lines, and the step from which on a later attempt repeats them."""


def read(root: str, runs: Sequence[tuple[str, bool]]) -> "Iterator[pa.Table]":
    """Read the rows of runs: for some hundreds of runs at a time a table, with the column `run` first.

    Args:
        root: What the runs' names are relative to.
        runs: The name of each, and whether it is finished.

    Raises:
        ValueError: A line is no row.
    """
    chunks = [runs[first : first + RUNS_AT_ONCE] for first in range(0, len(runs), RUNS_AT_ONCE)]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        yield from pool.map(lambda chunk: _read_chunk(root, chunk), chunks)


def _read_chunk(root: str, runs: Sequence[tuple[str, bool]]) -> "pa.Table":
    import numpy as np
    import polars as pl
    import pyarrow as pa

    found = [(run, piece) for run, is_done in runs for piece in _pieces(f"{root}/{run}", is_done) if piece[0]]
    contents = [lines for _, (lines, _) in found]
    counts = [lines.count(b"\n") for lines in contents]
    try:
        frame = pl.read_ndjson(b"".join(contents), schema=_columns(contents)) if contents else pl.DataFrame()
    except (pl.exceptions.PolarsError, ValueError):
        raise ValueError(_fault(root, runs)) from None
    if frame.height != sum(counts):
        raise ValueError(_fault(root, runs))
    owners = pa.array(np.repeat(np.arange(len(found), dtype=np.int32), counts))
    names = pa.DictionaryArray.from_arrays(owners, pa.array([run for run, _ in found], pa.string()))
    table: pa.Table = frame.to_arrow().add_column(0, "run", names)
    limits = [limit for _, (_, limit) in found]
    if all(limit == math.inf for limit in limits):
        return table
    return table.filter(pa.array(frame["step"].to_numpy() < np.repeat(limits, counts)))


def _pieces(path: str, is_done: bool) -> list[Piece]:
    """Return the rows of each attempt as they stand in the files."""
    if is_done and len(names := os.listdir(f"{path}/{ATTEMPTS}")) == 1:  # noqa: PTH208 (fast)
        return [(_whole_lines(f"{path}/{ATTEMPTS}/{names[0]}/{EPOCHS}"), math.inf)]
    attempts = RunFolder(Path(path)).attempts_with_limits(of_epochs=True)
    return [(_whole_lines(f"{attempt.path}/{EPOCHS}"), limit) for attempt, limit in attempts]


def _whole_lines(path: str) -> bytes:
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return b""
    return content[: content.rfind(b"\n") + 1]  # a torn last line is dropped


def _columns(contents: Sequence[bytes]) -> dict[str, "pl.DataType"]:
    """Name every column, by the first row of each file: one process wrote it, and all of its rows alike."""
    import polars as pl

    names: dict[str, None] = {}
    for content in contents:
        names.update(json.loads(content[: content.find(b"\n")]))
    return {name: pl.Int64() if name in INTEGERS else pl.Float64() for name in names}


def _fault(root: str, runs: Sequence[tuple[str, bool]]) -> str:
    for run, is_done in runs:
        for lines, _ in _pieces(f"{root}/{run}", is_done):
            for number, line in enumerate(lines.splitlines(), 1):
                if not _is_row(line):
                    return f"{root}/{run}: line {number} of {EPOCHS} must be a row of numbers; got {line[:60]!r}"
    return f"the {EPOCHS} of {root}/{runs[0][0]} or of one after it cannot be read"


def _is_row(line: bytes) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and all(value is None or isinstance(value, int | float) for value in row.values())

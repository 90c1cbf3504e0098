"""The epoch rows of many runs at once: lines of JSON -> columns."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration.damage import tell_of_lines
from orchestration.files import read_bytes
from orchestration.recorder import EPOCH_FIELDS, EPOCHS
from orchestration.run_folder import ATTEMPTS, RunFolder

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

INTEGERS = ("step", "epoch", "num_epochs", "num_steps")
RUNS_AT_ONCE = 200
NUM_THREADS = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of an attempt."""

    path: str
    lines: bytes
    """Whole lines."""
    limit: float
    """The step from which on a later attempt repeats them."""


def read(root: str, runs: Sequence[tuple[str, bool]], damaged: set[str]) -> "Iterator[pa.Table]":
    """Read the rows of runs: for some hundreds of runs at a time a table, with the column `run` first.

    Args:
        root: What the runs' names are relative to.
        runs: The name of each, and whether it is finished.
        damaged: Gets the names of runs of which lines are left out, as they are no rows; a warning names them too.

    Raises:
        ValueError: Rows do not go together.
    """
    chunks = [runs[first : first + RUNS_AT_ONCE] for first in range(0, len(runs), RUNS_AT_ONCE)]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        yield from pool.map(lambda chunk: _read_chunk(root, chunk, damaged), chunks)


def _read_chunk(root: str, runs: Sequence[tuple[str, bool]], damaged: set[str]) -> "pa.Table":
    import numpy as np
    import pyarrow as pa

    pieces = [(run, piece) for run, is_done in runs for piece in _pieces(f"{root}/{run}", is_done)]
    found = [(run, piece) for run, piece in pieces if piece.lines]
    frame = _frame(found)
    if frame is None:  # rare: line by line
        whole = [(run, _without_damage(run, piece, damaged)) for run, piece in found]
        found = [(run, piece) for run, piece in whole if piece.lines]
        frame = _frame(found)
        if frame is None:
            raise ValueError(f"the {EPOCHS} of {root}/{runs[0][0]} or of one after it cannot be read")
    counts = [piece.lines.count(b"\n") for _, piece in found]
    owners = pa.array(np.repeat(np.arange(len(found), dtype=np.int32), counts))
    names = pa.DictionaryArray.from_arrays(owners, pa.array([run for run, _ in found], pa.string()))
    table: pa.Table = frame.to_arrow().add_column(0, "run", names)
    limits = [piece.limit for _, piece in found]
    if all(limit == math.inf for limit in limits):
        return table
    return table.filter(pa.array(frame["step"].to_numpy() < np.repeat(limits, counts)))


def _frame(found: "Sequence[tuple[str, Piece]]") -> "pl.DataFrame | None":
    """Read lines at once; None where one of them is no row."""
    import polars as pl

    contents = [piece.lines for _, piece in found]
    try:
        frame = pl.read_ndjson(b"".join(contents), schema=_columns(contents)) if contents else pl.DataFrame()
    except (pl.exceptions.PolarsError, ValueError, TypeError):
        return None
    num_rows = sum(lines.count(b"\n") for lines in contents)
    has_all = all(name in frame and not frame[name].null_count() for name in EPOCH_FIELDS.needed)
    is_whole = frame.height == num_rows and (has_all or not num_rows)
    return frame if is_whole else None


def _without_damage(run: str, piece: "Piece", damaged: set[str]) -> "Piece":
    lines = piece.lines.split(b"\n")[:-1]
    bad = [number for number, line in enumerate(lines, 1) if line and not _is_row(line)]
    if bad:
        tell_of_lines(piece.path, bad)
        damaged.add(run)
    return replace(piece, lines=b"".join(line + b"\n" for line in lines if _is_row(line)))


def _pieces(path: str, is_done: bool) -> "list[Piece]":
    """Return the rows of each attempt as they stand in the files."""
    try:
        names = os.listdir(f"{path}/{ATTEMPTS}") if is_done else []  # noqa: PTH208 (fast)
    except FileNotFoundError:
        return []
    if len(names) == 1:
        return [_piece(f"{path}/{ATTEMPTS}/{names[0]}/{EPOCHS}", math.inf)]
    attempts = RunFolder(Path(path)).attempts_with_limits(of_epochs=True)
    return [_piece(f"{attempt.path}/{EPOCHS}", limit) for attempt, limit in attempts]


def _piece(path: str, limit: float) -> "Piece":
    return Piece(path, _whole_lines(path), limit)


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


def _is_row(line: bytes) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return not EPOCH_FIELDS.fault(row)

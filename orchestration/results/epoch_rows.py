"""Read the epoch rows of many runs at once: lines of JSON -> columns."""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.machine.damage import tell, tell_of_lines
from orchestration.machine.files import read_bytes, to_line
from orchestration.machine.json_values import parse
from orchestration.runs.folders import AttemptFolder, CellFolder
from orchestration.runs.recorder import EPOCH_FIELDS
from orchestration.runs.run_folder import RunFolder

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

_ATTEMPTS, _EPOCHS = CellFolder.attempts_dir.name, AttemptFolder.epochs_file.name
INTEGERS = ("step", "epoch", "num_epochs", "num_steps")
RUNS_AT_ONCE = 200
NUM_THREADS = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of an attempt."""

    path: str
    lines: bytes
    """Complete lines."""
    limit: float
    """The step from which a later attempt repeats the rows."""


def read(root: str, runs: Sequence[tuple[str, bool]], damaged: set[str]) -> "Iterator[pa.Table]":
    """Read the rows of runs; yield a table for some hundreds of runs at a time, with `run` as its first column.

    Args:
        root: The folder to which the runs' names are relative.
        runs: The name of each run, and whether it is finished.
        damaged: Receives the names of runs with invalid lines, or whose rows cannot be read now, which are skipped with
            a warning.

    Raises:
        ValueError: The rows do not fit together.
    """
    chunks = [runs[first : first + RUNS_AT_ONCE] for first in range(0, len(runs), RUNS_AT_ONCE)]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        yield from pool.map(lambda chunk: _read_chunk(root, chunk, damaged), chunks)


def _read_chunk(root: str, runs: Sequence[tuple[str, bool]], damaged: set[str]) -> "pa.Table":
    import numpy as np
    import pyarrow as pa

    pieces = [(run, piece) for run, is_done in runs for piece in _read_pieces(root, run, is_done, damaged)]
    found = [(run, piece) for run, piece in pieces if piece.lines]
    frame = _frame(found)
    if frame is None:  # rare, so slow is fine: line by line
        whole = [(run, _without_damage(run, piece, damaged)) for run, piece in found]
        found = [(run, piece) for run, piece in whole if piece.lines]
        frame = _frame(found)
        if frame is None:
            raise ValueError(f"the {_EPOCHS} of {root}/{runs[0][0]} or of one after it cannot be read")
    counts = [piece.lines.count(b"\n") for _, piece in found]
    owners = pa.array(np.repeat(np.arange(len(found), dtype=np.int32), counts))
    names = pa.DictionaryArray.from_arrays(owners, pa.array([run for run, _ in found], pa.string()))
    table: pa.Table = frame.to_arrow().add_column(0, "run", names)
    limits = [piece.limit for _, piece in found]
    if all(limit == math.inf for limit in limits):
        return table
    return table.filter(pa.array(frame["step"].to_numpy() < np.repeat(limits, counts)))


def _frame(found: "Sequence[tuple[str, Piece]]") -> "pl.DataFrame | None":
    """Read lines at once; None if one of them is not a row."""
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
    rows = [_row(line) for line in lines]
    bad = [number for number, (line, row) in enumerate(zip(lines, rows, strict=True), 1) if line and row is None]
    if bad:
        tell_of_lines(piece.path, bad)
        damaged.add(run)
    return replace(piece, lines=b"".join(to_line(row) for row in rows if row is not None))


def _read_pieces(root: str, run: str, is_done: bool, damaged: set[str]) -> "list[Piece]":
    try:
        return _pieces(f"{root}/{run}", is_done)
    except OSError as error:
        tell(f"{root}/{run}: its epochs are left out: {error}")
        damaged.add(run)
        return []


def _pieces(path: str, is_done: bool) -> "list[Piece]":
    """Return the rows of each attempt as in the files."""
    try:
        names = os.listdir(f"{path}/{_ATTEMPTS}") if is_done else []  # noqa: PTH208 (fast)
    except OSError:  # there are none, or it is raised below and told
        names = []
    if len(names) == 1:
        return [_piece(f"{path}/{_ATTEMPTS}/{names[0]}/{_EPOCHS}", math.inf)]
    attempts = RunFolder(Path(path)).attempts_with_limits(of_epochs=True)
    return [_piece(str(attempt.epochs_file), limit) for attempt, limit in attempts]


def _piece(path: str, limit: float) -> "Piece":
    return Piece(path, _whole_lines(path), limit)


def _whole_lines(path: str) -> bytes:
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return b""
    return content[: content.rfind(b"\n") + 1]  # a torn last line is dropped


def _columns(contents: Sequence[bytes]) -> dict[str, "pl.DataType"]:
    """Return all columns, from the first row of each file: one process wrote it, so its rows have the same fields."""
    import polars as pl

    names: dict[str, None] = {}
    for content in contents:
        names.update(parse(content[: content.find(b"\n")]))
    return {name: pl.Int64() if name in INTEGERS else pl.Float64() for name in names}


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = parse(line)
    except ValueError:
        return None
    return None if EPOCH_FIELDS.fault(row) else row

"""Read run folders into one Arrow table with a row for each run, and one with a row for each epoch."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import filelock
import pyarrow as pa
import pyarrow.compute as pc

from orchestration.grids import index
from orchestration.grids.cells import NAMES, Cell, names_in, settings_in, settings_of
from orchestration.grids.values import near_matches, parse
from orchestration.machine import files
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.results import epoch_rows
from orchestration.results.below import find as find
from orchestration.results.cache import RUN, ResultCache
from orchestration.runs import made_with
from orchestration.runs.folders import CellFolder, RunsFolder, signature_in
from orchestration.runs.run_folder import FolderState, RunFolder, folders, run_folder, state_of_result
from orchestration.runs.states import CellState
from orchestration.tables.consistency import BETWEEN
from rankmatch import locks
from rankmatch.durable import replacing

PARTS = "parts"
FIELDS = {
    "status": pa.string(),
    "best_miou": pa.float64(),
    "best_epoch": pa.int64(),
    "last_miou": pa.float64(),
    "epoch": pa.int64(),
    "num_epochs": pa.int64(),
    "step": pa.int64(),
    "num_steps": pa.int64(),
    "steps_left_out": pa.list_(pa.int64()),
    "best_class_iou": pa.list_(pa.float64()),
    "last_class_iou": pa.list_(pa.float64()),
    "num_present_classes": pa.int64(),
    "num_attempts": pa.int64(),
    "duration_s": pa.float64(),
    "gpu_duration_s": pa.float64(),
    "commit": pa.string(),
    "code": pa.string(),
    "image": pa.string(),
    "numerics": pa.string(),
    "device": pa.string(),
    "split_sha256": pa.string(),
    "data_fingerprint": pa.string(),
    "host": pa.string(),
    "failure": pa.string(),
    "folder": pa.string(),
    "crop_size": pa.int64(),
    "batch_size": pa.int64(),
    "unlabeled_batch_size": pa.int64(),
    "learning_rate": pa.float64(),
    "transductive": pa.int64(),
    PARTS: pa.list_(pa.string()),
}
"""Columns after the names and the axes; what only a finished training has is null before. Where attempts differ in
commit, code, image, numerics, device or host, their values stand side by side."""
CACHE_LOCK_S = 60.0
FILTERS = ("grid", "status", PARTS)

_OF_RESULT = (
    "best_miou",
    "best_epoch",
    "last_miou",
    "best_class_iou",
    "last_class_iou",
    "num_present_classes",
    "steps_left_out",
    "duration_s",
    "gpu_duration_s",
)
_OF_STATE = ("status", "epoch", "num_epochs", "step", "num_steps", "num_attempts", "failure")
_OF_ATTEMPTS = ("commit", "numerics", "device", "host")
_RESULT = CellFolder.result_file.name


@dataclass(frozen=True, slots=True)
class Results:
    """The results in the run folders below a root."""

    runs: pa.Table
    """A row for each run: `run` (its folder, relative to the root), `grid`, `signature`, the names, the axes as text,
    `FIELDS`. Fractions for mIoU and IoU."""
    epochs: pa.Table | None
    """A row for each epoch of each run, with `run` before the fields of epochs.jsonl; None if not asked for."""


def collect(grid_dir: Path, cells: Sequence[Cell]) -> pa.Table:
    """Read the run folders of a grid's cells: a row for each cell, in grid order, even if nothing is trained yet."""
    found = folders(grid_dir)
    rows = []
    for cell in cells:
        folder = found.get(cell.signature, run_folder(grid_dir, cell.folder_name))
        named = {"grid": grid_dir.name, "signature": cell.signature, **_names(cell)}
        rows.append(named | _fields(folder) | settings_of(cell.config) | cell.axes)
    return _table(rows)


def load(root: Path, *, with_epochs: bool = False, say: Callable[[str], None] = lambda text: None) -> Results:
    """Read every run folder below a root. Finished runs are read once, then taken from the cache `.results`.

    Args:
        root: A folder of grids, at any depth, or the folder of one.
        with_epochs: Also read the epoch rows.
        say: Called with a line if the cache cannot be written.

    Raises:
        ValueError: There is no run below the root, or a file is damaged.
    """
    found = find(root)
    varied = Varied(root)
    keys = {run: key for run in found if (key := _key(f"{root}/{run}", varied.of(run)))}
    try:
        RunsFolder(root).cache_dir.mkdir(exist_ok=True)
        with locks.held(RunsFolder(root).cache_lock, CACHE_LOCK_S):
            return _load(root, found, keys, with_epochs, varied, is_kept=True)
    except (OSError, filelock.Timeout) as error:
        say(f"without a cache, which takes longer: {error}")
        return _load(root, found, keys, with_epochs, varied, is_kept=False)


def select(runs: pa.Table, filters: Sequence[str]) -> pa.Table:
    """Keep the runs that have the given values: `split=1_16 method=[unimatch,rankmatch]`.

    Raises:
        ValueError: A key or a value that no run has.
    """
    for word in filters:
        key, mark, text = word.partition("=")
        allowed = [name for name in runs.column_names if name not in FIELDS or name in FILTERS]
        if not mark or key not in allowed:
            near = near_matches(key, allowed)
            hint = f"did you mean {' or '.join(near)}?" if near else f"keys are {', '.join(allowed)}"
            raise ValueError(f"a filter must be key=value of an axis of the runs; got {word!r}; {hint}")
        node = parse(key, text)
        wanted = [node] if isinstance(node, str) else list(node)
        held = [_values(value) for value in runs[key].to_pylist()]
        known = sorted({value for values in held for value in values})
        for value in wanted:
            if value not in known:
                shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
                raise ValueError(f"{key} must be one of {shown}; got {value!r}")
        runs = runs.filter(pa.array([any(value in wanted for value in values) for values in held], pa.bool_()))
    return runs


def _values(value: Any) -> list[str]:  # noqa: ANN401 (text, a list of texts, or null)
    return [] if value is None else value if isinstance(value, list) else [value]


def epochs_of(found: Results, runs: pa.Table) -> pa.Table:
    """Return the epoch rows of some runs, with the columns that identify the run in place of `run`."""
    assert found.epochs is not None
    named = runs.select([name for name in runs.column_names if name not in FIELDS])
    wanted = named[RUN].combine_chunks()
    places = pc.index_in(found.epochs[RUN].cast(pa.string()), wanted)
    rows, places = found.epochs.filter(pc.is_valid(places)), places.drop_null()
    columns = {name: named[name].take(places) for name in named.column_names}
    return pa.table(columns | {name: rows[name] for name in rows.column_names if name not in columns})


def _load(
    root: Path, found: Sequence[str], keys: Mapping[str, str], with_epochs: bool, varied: "Varied", *, is_kept: bool
) -> Results:
    def read_epochs(runs: Sequence[str], damaged: set[str]) -> Iterator[pa.Table]:
        return epoch_rows.read(str(root), [(run, run in keys) for run in runs], damaged)

    def read_runs(runs: Sequence[str], damaged: set[str]) -> Iterator[pa.Table]:
        rows = [_row_of(root, run, varied) for run in runs]
        damaged.update(row[RUN] for row in rows if row["status"] in ("damaged", "unreadable"))
        yield _table(rows)

    with ThreadPoolExecutor(1) as pool:
        epochs = pool.submit(_from_cache, root, "epochs", found, keys, read_epochs, is_kept) if with_epochs else None
        runs = _from_cache(root, "runs", found, keys, read_runs, is_kept)
        ordered = varied.with_parts(_ordered(runs.take(pc.sort_indices(runs[RUN]))))
        return Results(ordered, epochs.result() if epochs else None)


def _from_cache(
    root: Path,
    kind: str,
    found: Sequence[str],
    keys: Mapping[str, str],
    read: Callable[[Sequence[str], set[str]], Iterator[pa.Table]],
    is_kept: bool,
) -> pa.Table:
    """Take the rows of finished runs from a cache, read the others, and add newly finished ones to the cache.

    Runs with unreadable files are read every time, because a repair need not be visible from outside.
    """
    cache = ResultCache(RunsFolder(root).cache_dir / kind)
    known, held = cache.read(keys) if is_kept else (None, set())
    fresh, damaged = [run for run in keys if run not in held], set[str]()
    added = list(read(fresh, damaged)) if fresh else []
    if kept := {run: keys[run] for run in fresh if run not in damaged} if is_kept else {}:
        table = pa.concat_tables(added, promote_options="permissive")
        whole = pc.invert(pc.is_in(table[RUN].cast(pa.string()), pa.array(sorted(damaged), pa.string())))
        cache.add(table.filter(whole) if damaged else table, kept)
    unfinished = [run for run in found if run not in keys]
    others = list(read(unfinished, set())) if unfinished else []
    return pa.concat_tables([*([known] if known is not None else []), *added, *others], promote_options="permissive")


class Varied:
    """The axes of the runs below a root, and the parts that have them, as their grids say; each list is read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, dict[str, index.IndexedCell]] = {}

    def of(self, run: str) -> Mapping[str, str] | None:
        """Return the axes of a run; None if its grid's list does not name them."""
        found = self._found(run)
        return found.axes if found else None

    def with_parts(self, runs: pa.Table) -> pa.Table:
        """Fill in the parts of grids of grids that have each run, which the rows of a cache may not know."""
        found = [self._found(run) for run in runs[RUN].to_pylist()]
        texts = pa.array([[*one.parts] if one and one.parts else None for one in found], FIELDS[PARTS])
        return runs.set_column(runs.column_names.index(PARTS), PARTS, texts)

    def _found(self, run: str) -> index.IndexedCell | None:
        place, _, name = run.rpartition("/")
        if place not in self._known:
            grid_dir = CellFolder(self._root / run).grid.path
            self._known[place] = {cell.signature: cell for cell in index.read_if_there(grid_dir)}
        return self._known[place].get(signature_in(name))


def _key(path: str, axes: Mapping[str, str] | None) -> str:
    """Return a key of a finished run's row that changes when its result or its axes do; empty for an unfinished run."""
    try:
        stat = os.stat(f"{path}/{_RESULT}")  # noqa: PTH116 (half the time)
    except OSError:  # there is none, or it cannot be read, which its row says
        return ""
    told = "" if axes is None else f".{crc32(json.dumps(axes).encode()):08x}"
    return f"{stat.st_mtime_ns}.{stat.st_size}{told}"


def _row_of(root: Path, run: str, varied: Varied) -> dict[str, Any]:
    folder = RunFolder(root / run)
    fields = {RUN: run, "grid": folder.grid.name, "signature": folder.signature, **_fields(folder)}
    try:
        config, axes = folder.config(), folder.axes()  # which also tells whether the configuration is whole
        axes = axes if (own := varied.of(run)) is None else dict(own)
        return {**fields, **names_in(config), **settings_in(config), **axes}
    except (ValueError, OSError) as error:
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        why = why if str(folder.path) in why else f"{folder.config_file}: {why}"
        tell(why)
        return {**fields, "status": "damaged", "failure": why}


def _fields(folder: RunFolder) -> dict[str, Any]:
    state, result = _state_and_result(folder)
    if state.status is CellState.UNREADABLE:
        tell(state.damage)
    return {
        **{name: getattr(state, name) for name in _OF_STATE},
        **{name: (result or {}).get(name) for name in _OF_RESULT},
        **{name: state.provenance.get(name) for name in ("split_sha256", "data_fingerprint", "transductive")},
        **{name: _side_by_side(made_with.values(state.provenance, name)) for name in _OF_ATTEMPTS},
        "code": _side_by_side(made_with.code(state.provenance)),
        "image": _side_by_side(made_with.images(state.provenance)),
        "folder": folder.path.name,
    }


def _state_and_result(folder: RunFolder) -> tuple[FolderState, dict[str, Any] | None]:
    """Read the result once for both, so that a row is complete or its state says why it is not."""
    for _ in range(2):  # between reading result and state, an error may pass or the cell may finish
        with suppress(DamagedFileError, OSError):  # its state says why
            if (result := folder.result()) is not None:
                return state_of_result(result), result
        if (state := folder.state()).status is not CellState.DONE:
            return state, None
    why = f"{folder.result_file} cannot be read for now"
    return FolderState(CellState.UNREADABLE, failure=why, damage=why), None


def _side_by_side(values: Sequence[str]) -> str | None:
    return BETWEEN.join(values) or None


def _names(cell: Cell) -> dict[str, str]:
    numerics = cell.config.numerics
    named = (numerics.dataset.name, numerics.backbone.name, numerics.method.name, numerics.split, str(numerics.seed))
    return dict(zip(NAMES, named, strict=True))


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    texts = list(dict.fromkeys(key for row in rows for key in row if key not in FIELDS)) or ["grid", "signature"]
    kinds = dict.fromkeys(texts, pa.string()) | {name: kind for name, kind in FIELDS.items() if name not in texts}
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds.items()})


def _ordered(table: pa.Table) -> pa.Table:
    first = [name for name in (RUN, "grid", "signature", *NAMES) if name in table.column_names]
    axes = sorted(name for name in table.column_names if name not in FIELDS and name not in first)
    return table.select([*first, *axes, *FIELDS])


def export(table: pa.Table, kind: str, path: Path) -> None:
    """Write a table as csv, parquet or json (one row per line); lists become JSON text in csv.

    Raises:
        ValueError: The kind is unknown.
    """
    check_kind(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        KINDS[kind](table, draft)


def check_kind(kind: str) -> None:
    """Refuse an unknown format.

    Raises:
        ValueError: The format is unknown; the message lists the formats.
    """
    if kind not in KINDS:
        raise ValueError(f"--format must be one of {', '.join(KINDS)}; got {kind!r}")


def with_column(table: pa.Table, name: str, values: Sequence[Any], *, first: bool = False) -> pa.Table:
    """Add a column; its values are numbers or None."""
    kind = pa.int64() if all(isinstance(value, int) for value in values) else pa.float64()
    return table.add_column(0 if first else table.num_columns, name, pa.array(values, kind))


def from_rows(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Build a table from rows that may have different fields."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _to_csv(table: pa.Table, path: Path) -> None:
    import pyarrow.csv

    for place, column in enumerate(table.schema):
        if pa.types.is_list(column.type):
            texts = [None if value is None else json.dumps(value) for value in table[column.name].to_pylist()]
            table = table.set_column(place, column.name, pa.array(texts, pa.string()))
    pyarrow.csv.write_csv(table, path)


def _to_parquet(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, path)


def _to_json(table: pa.Table, path: Path) -> None:
    with path.open("wb") as file:
        file.writelines(json_lines(table))


def json_lines(table: pa.Table) -> Iterator[bytes]:
    """Yield each row as a line of JSON."""
    for batch in table.to_batches(max_chunksize=10_000):
        yield from (files.to_line(row) for row in batch.to_pylist())


KINDS: dict[str, Callable[[pa.Table, Path], None]] = {"csv": _to_csv, "parquet": _to_parquet, "json": _to_json}

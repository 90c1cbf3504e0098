"""Write the rows of an attempt: epochs as lines of JSON, steps as a stream of Arrow batches."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from orchestration.machine import clock, files
from orchestration.machine.damage import tell
from orchestration.machine.fields import COUNT, NUMBER, Fields
from orchestration.runs.folders import AttemptFolder

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = 1
EPOCH_FIELDS = Fields(
    {"step": COUNT, "epoch": COUNT},
    {"num_steps": COUNT.or_null(), "num_epochs": COUNT.or_null()},
    others=NUMBER.or_null(),
)
"""The fields of an epoch row."""
ROWS_PER_BATCH = 50
SECONDS_PER_BATCH = 5.0
_TORN_BYTES = 1 << 16
"""No batch is as large, so where more follows, it was no torn write."""

Row = dict[str, Any]


class FencedError(Exception):
    """Another attempt owns the cell by now; nothing more may be written."""


class Recorder:
    """Write a training's reports: epoch rows at once and durably, step rows in small batches.

    Raises `FencedError` instead of writing once the attempt is superseded.
    """

    def __init__(
        self, path: Path, superseded: Callable[[], bool] = bool, tell_epoch: Callable[[Row], object] = bool
    ) -> None:
        self._folder, self._superseded, self._tell_epoch = AttemptFolder(path), superseded, tell_epoch
        self._columns: list[str] = []
        self._rows: list[Row] = []
        self._written = clock.monotonic()

    def __call__(self, step: int, row: Mapping[str, float | None]) -> None:
        """Record a row; one with `epoch` is an epoch row.

        Raises:
            ValueError: A step row has a column that the first one did not have.
        """
        if "epoch" in row:
            self.flush()
            self._refuse_when_superseded()
            whole = {"step": step, "time": clock.now(), **row}
            files.append_row(self._folder.epochs_file, whole)
            self._tell_epoch(whole)
            return
        self._columns = self._columns or list(row)
        for name in row:
            if name not in self._columns:
                raise ValueError(f"a step row must have the columns {', '.join(self._columns)}; got {name!r}")
        self._rows.append({"step": step, "time": clock.now(), **row})
        if len(self._rows) >= ROWS_PER_BATCH or clock.monotonic() - self._written > SECONDS_PER_BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the buffered step rows."""
        if not self._rows:
            return
        self._refuse_when_superseded()
        import pyarrow as pa

        floats = [pa.field(name, pa.float64()) for name in self._columns]
        first = [pa.field("step", pa.int64()), pa.field("time", pa.float64())]
        schema = pa.schema([*first, *floats], metadata={"schema": str(SCHEMA)})
        path = self._folder.steps_file
        is_begun = path.exists() and path.stat().st_size > 0
        batch = pa.RecordBatch.from_pylist(self._rows, schema).serialize().to_pybytes()
        # A stream is its schema followed by batches; it may end anywhere between two of them.
        files.append(path, batch if is_begun else schema.serialize().to_pybytes() + batch)
        self._rows, self._written = [], clock.monotonic()

    def before_checkpoint(self) -> None:
        """Write the buffered rows, because a run that resumes from the checkpoint repeats none of them."""
        self._refuse_when_superseded()
        self.flush()

    def _refuse_when_superseded(self) -> None:
        if self._superseded():
            self._rows = []
            raise FencedError("a newer attempt has begun")

    def close(self) -> None:
        """Write the buffered rows."""
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_steps(path: Path) -> "pa.Table":
    """Read a stream of batches up to its end or to a torn write."""
    import pyarrow as pa

    content = path.read_bytes() if path.exists() else b""
    source, batches = pa.BufferReader(content), []
    with suppress(pa.ArrowException, OSError, StopIteration), pa.ipc.open_stream(source) as reader:
        while True:
            batches.append(reader.read_next_batch())
    if not source.closed and len(content) - source.tell() > _TORN_BYTES:
        tell(f"{path}: what follows step row {sum(batch.num_rows for batch in batches)} cannot be read and is left out")
    return pa.Table.from_batches(batches) if batches else pa.table({"step": pa.array([], "int64")})

"""Whether a GPU that a training holds does nothing, by the rows of its machine's use."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestration.machine import files
from orchestration.runs.run_folder import RunFolder

IDLE_PERCENT, IDLE_S = 5.0, 1200.0
ADVICE = (
    "mostly a training waits for its data then: more data workers (trainer.num_data_workers, and CPUs for them, "
    "cluster.cpus_per_worker) or packed data (`rankmatch data pack`) help"
)
_END_BYTES = 64_000
"""Of a file of rows: hours of them."""


def idle_s(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return for how many seconds, up to the last row, a GPU was all but unused; 0 where nobody knows."""
    since = newest = 0.0
    for row in reversed(rows):
        percent = row.get("gpu_percent")
        if not isinstance(percent, int | float) or percent >= IDLE_PERCENT:
            break
        newest, since = newest or row["time"], row["time"]
    return float(newest - since)


def of_cell(folder: RunFolder) -> float:
    """Return for how long one of the GPUs of a cell that trains has idled; 0 if not as long as `IDLE_S`.

    Workers that wait for another one keep their GPUs busy, so the one that idles is enough.
    """
    attempts = folder.attempts()
    if not attempts:
        return 0.0
    found = [idle_s(_last_rows(path)) for path in attempts[-1].system_files().values()]
    longest = max(found, default=0.0)
    return longest if longest >= IDLE_S else 0.0


def in_words(seconds: float) -> str:
    """Say for how long a GPU has idled."""
    return f"its GPU idles, under {IDLE_PERCENT:g} % for {seconds / 60:.0f} min"


def _last_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows at the end of a file; what is damaged is told by who reads it all."""
    rows = []
    with suppress(OSError):
        for line in files.read_end(path, _END_BYTES).splitlines():
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("time"), int | float):
                    rows.append(row)
    return rows

"""The energy that the GPUs of runs took, from the power that their trainings logged; read only on demand."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestration.machine.damage import DamagedFileError
from orchestration.runs.attempt import Attempt
from orchestration.runs.folders import AttemptFolder
from orchestration.runs.run_folder import RunFolder, run_folder
from orchestration.tables.table import DASH, Table

KWH = "energy_kwh"
"""The column of results."""
MAX_GAP_S = 600.0
JOULES = 3.6e6
"""In a kWh."""
_POWER = re.compile(r'^\{"time": ([0-9.e+]+)[^\n]*?"gpu_power_w": ([0-9.e+]+)', re.M)


def of_run(folder: RunFolder) -> float | None:
    """Return what the GPUs took over all attempts, in kWh; None if it was not logged or cannot be read."""
    try:
        result, found = folder.result() or {}, folder.attempts()
        joules = energy_j([attempt.path for attempt in found]) if has_gpu(result, found) else None
    except (DamagedFileError, OSError, ValueError):
        return None
    return None if joules is None else joules / JOULES


def energy_j(attempts: Sequence[Path]) -> float | None:
    """Add up the power of the GPUs over time, of all workers of all attempts; None if it was not logged.

    A GPU counts in full even if several runs share it. The files have a line every half minute over days, so
    they are searched, not parsed; a gap of more than `MAX_GAP_S` counts as that long.
    """
    total, is_known = 0.0, False
    for path in (path for folder in attempts for path in AttemptFolder(folder).system_files().values()):
        rows = [(float(row[1]), float(row[2])) for row in _POWER.finditer(path.read_text(errors="replace"))]
        is_known |= len(rows) > 1
        total += sum(power * min(max(0.0, end - begin), MAX_GAP_S)
                     for (begin, _), (end, power) in itertools.pairwise(rows))  # fmt: skip
    return total if is_known else None


def has_gpu(result: Mapping[str, Any], attempts: Sequence[Attempt]) -> bool:
    """Return whether a run has a GPU, or may have one: only then a logged power is its own."""
    known = result.get("provenance") or (attempts[-1].environment() if attempts else {})
    return known.get("num_gpus") != 0


def in_words(kwh: float | None) -> str:
    """Write an energy in kWh."""
    return DASH if kwh is None else f"{kwh:.3g}"


def of_rows(table: Table, records: Sequence[Mapping[str, Any]], grid_dir: Path) -> list[list[str]]:
    """Return the energy of each row of a table and of all of it; the first row is the header.

    Args:
        table: The table.
        records: One for each cell at each point that it stands for; a cell counts once in a row, and once in all.
        grid_dir: The folder of the grid.
    """
    folders = {record["signature"]: record["folder"] for record in records}
    known = {key: of_run(run_folder(grid_dir, folder)) for key, folder in folders.items()}
    rows = [["row", "kWh", "logged by"]]
    for row in table.rows:
        mine = {one["signature"] for one in records if tuple(one.get(axis) for axis in table.row_axes) == tuple(row)}
        name = ", ".join(table.name(axis, value) for axis, value in zip(table.row_axes, row, strict=True)) or "all"
        rows.append([name, *_summed(known[key] for key in mine)])
    return [*rows, ["in all", *_summed(known.values())]]


def _summed(found: Iterable[float | None]) -> tuple[str, str]:
    each = list(found)
    known = [kwh for kwh in each if kwh is not None]
    return in_words(sum(known) if known else None), f"{len(known)} of {len(each)} cells"

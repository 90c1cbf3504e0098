"""How a grid was launched here, as far as that is no part of the grid: a retry is launched likewise."""

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestration import files
from orchestration.damage import DamagedFileError, tell
from orchestration.fields import COUNT, NUMBER, TEXT, Fields
from orchestration.launch_folder import only_launch_of
from orchestration.launch_plan import Options
from orchestration.processes import lives, this_process
from orchestration.recorder import SCHEMA, Row

FILE = "launch.json"
_KEPT = ("cluster", "address", "max_concurrent", "num_cpus_per_worker", "num_gpus_per_worker")
_OF_ORDER = Fields(
    {
        "cluster": TEXT,
        "address": TEXT,
        "max_concurrent": COUNT.or_null(),
        "num_cpus_per_worker": COUNT,
        "num_gpus_per_worker": NUMBER,
        "host": TEXT,
        "pid": COUNT,
    }
)


def keep(launch_dir: Path, options: Options) -> None:
    """Write down how a launch was said."""
    kept = {name: getattr(options, name) for name in _KEPT}
    files.replace(launch_dir / FILE, files.to_text({"schema": SCHEMA, **kept, **this_process()}))


def again(grid_dir: Path, settings: Sequence[str], retried: Sequence[str]) -> Options:
    """Return what launches some cells of a grid again, as its newest launch here was; `local` where none says so."""
    options = Options(str(grid_dir / "grid.yaml"), settings, runs=grid_dir.parent, retried=retried)
    known = _newest(grid_dir)
    return replace(options, **{name: known[name] for name in _KEPT}) if known else options


def stop(grid_dir: Path, cells: Sequence[str]) -> str:
    """End the launch that is at work here, as Ctrl-C does; return what is to be said of it.

    Raises:
        ValueError: Some cells of it are meant, or it is on another machine.
    """
    try:
        with only_launch_of(grid_dir):
            return f"nothing of {grid_dir.name} is at work: its newest launch has ended"
    except ValueError:
        known = _newest(grid_dir)
    if cells:
        raise ValueError(f"CELL must be left out: a launch that is no Slurm job is ended as a whole; got {cells[0]!r}")
    if not known or not lives(known):
        raise ValueError(f"the launch of {grid_dir.name} runs elsewhere ({known.get('host', '?')}): say this there")
    os.kill(known["pid"], signal.SIGTERM)
    return f"the launch (process {known['pid']}) was told to end; cells that train write a checkpoint first"


def _newest(grid_dir: Path) -> Row:
    for path in sorted(grid_dir.glob(f"launches/*/{FILE}"), reverse=True):
        try:
            return files.read_json(path, _OF_ORDER, "the launch before it is taken")
        except DamagedFileError as error:
            tell(error)
    return {}

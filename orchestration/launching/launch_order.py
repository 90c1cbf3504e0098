"""How a grid was launched here, beyond what is part of the grid: a retry is launched the same way."""

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NoReturn

from orchestration.launching.launch_folder import only_launch_of
from orchestration.launching.options import Workers
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.machine.processes import ProcessNote, this_process
from orchestration.runs.folders import GridFolder, LaunchFolder
from orchestration.runs.recorder import SCHEMA


@dataclass(frozen=True, slots=True)
class LaunchOrder(ProcessNote):
    """How a launch was requested, and the process that carries it out."""

    ADVICE: ClassVar[str] = "the launch before it is taken"

    cluster: str = field(kw_only=True)
    address: str = field(kw_only=True)
    max_concurrent: int | None = field(kw_only=True)
    num_cpus_per_worker: int = field(kw_only=True)
    num_gpus_per_worker: float = field(kw_only=True)
    until: float | None = field(default=None, kw_only=True)
    """Cells that would end later were left out: seconds since 1970."""
    left_out: dict[str, str] = field(default_factory=dict, kw_only=True)
    """Why cells were left out from the beginning, by signature."""
    adaptive: int | None = field(default=None, kw_only=True)
    """With how many seeds entries were to begin, if somebody said; 0: with all."""
    schema: int = SCHEMA

    @property
    def workers(self) -> Workers:
        """Where its cells were trained, and how."""
        return Workers(self.cluster, self.max_concurrent, self.num_cpus_per_worker, self.num_gpus_per_worker)


def keep(
    launch_dir: Path,
    workers: Workers,
    address: str,
    until: float | None = None,
    left_out: Mapping[str, str] | None = None,
    adaptive: int | None = None,
) -> None:
    """Store how a launch was requested."""
    LaunchOrder(
        **this_process(),
        cluster=workers.cluster,
        address=address,
        max_concurrent=workers.max_concurrent,
        num_cpus_per_worker=workers.num_cpus_per_worker,
        num_gpus_per_worker=workers.num_gpus_per_worker,
        until=until,
        left_out=dict(left_out or {}),
        adaptive=adaptive,
    ).to_file(LaunchFolder(launch_dir).command_file)


def newest(grid_dir: Path) -> tuple[Workers, str]:
    """Return the cluster of a grid's newest launch here, and the address of its Ray; `local` if none is recorded."""
    known = _newest(grid_dir)
    return (known.workers, known.address) if known else (Workers(), "")


def newest_until(grid_dir: Path) -> float | None:
    """Return the time by which cells of a grid's newest launch here were to end, if it was given one."""
    known = _newest(grid_dir)
    return known.until if known else None


def newest_left_out(grid_dir: Path) -> Mapping[str, str]:
    """Return the cells that a grid's newest launch here left out from the beginning, by signature, with why."""
    known = _newest(grid_dir)
    return known.left_out if known else {}


def newest_adaptive(grid_dir: Path) -> int | None:
    """Return with how many seeds the entries of a grid's newest launch here were to begin, if somebody said."""
    known = _newest(grid_dir)
    return known.adaptive if known else None


def stop(grid_dir: Path, cells: Sequence[str]) -> str:
    """End the launch that is at work here, as Ctrl-C does; return the message for the user.

    Raises:
        ValueError: Only some of its cells are to end, or it is on another machine.
    """
    try:
        with only_launch_of(grid_dir):
            return f"nothing of {grid_dir.name} is at work: its newest launch has ended"
    except ValueError:
        known = _newest(grid_dir)
    if cells:
        refuse_part(cells[0])
    if not known or not known.lives():
        raise ValueError(
            f"the launch of {grid_dir.name} runs elsewhere ({known.host if known else '?'}): say this there"
        )
    os.kill(known.pid, signal.SIGTERM)
    return f"the launch (process {known.pid}) was told to end; cells that train write a checkpoint first"


def refuse_part(cell: str, note: str = "") -> NoReturn:
    """Refuse to end one cell of a launch that is no Slurm job.

    Args:
        cell: Its name.
        note: What to do if the launch has ended, where that cannot be seen from here.

    Raises:
        ValueError: In any case.
    """
    raise ValueError(f"CELL must be left out: a launch that is no Slurm job is ended as a whole; got {cell!r}{note}")


def _newest(grid_dir: Path) -> LaunchOrder | None:
    for launch in reversed(GridFolder(grid_dir).launches()):
        try:
            return LaunchOrder.from_file(launch.command_file)
        except FileNotFoundError:
            continue
        except DamagedFileError as error:
            tell(error)
    return None

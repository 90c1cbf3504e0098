"""Look after a grid that was launched: how it stands, what it prints, and what shall be done about it."""

import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from orchestration import campaign, grid, launch, registry, slurm_commands, submissions
from orchestration.grid import Grid
from orchestration.launch import Options
from orchestration.launch_mirror import GridMirror, last_tracking_uri, mirrored_cells
from orchestration.mlflow_store import StoreError
from orchestration.run_folder import RunFolder, folders
from orchestration.schedulers import SchedulerError
from orchestration.slurm_commands import QueuedJob, SlurmError
from orchestration.slurm_state import queued_cells
from orchestration.status import CellStatus, judge, to_rich, totals

WATCH_S = 30.0


def grid_folder(runs: Path, name: str) -> Path:
    """Return the folder of a grid.

    Raises:
        ValueError: It was never launched there.
    """
    folder = runs.resolve() / name
    if not (folder / "grid.yaml").is_file():
        known = ", ".join(sorted(path.parent.name for path in runs.resolve().glob("*/grid.yaml"))) or "none"
        raise ValueError(f"--grid must be one that was launched into {runs} ({known}); got {name!r}")
    return folder


def status(grid_dir: Path, console: Console, *, watch: bool = False) -> None:
    """Show how the cells stand; watched, until all have ended, with MLflow kept up to date."""
    loaded, options = _load(grid_dir), Options(runs=grid_dir.parent)
    while True:
        rows, note = _look(loaded, grid_dir)
        planned = launch.make_plan(
            loaded, grid_dir, options, queued={row.signature: row.job for row in rows if row.job}
        )
        console.print(to_rich(rows))
        for line in [*totals(rows, planned), *([note] if note else [])]:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        if not watch or not any(row.standing.is_open for row in rows):
            return
        _sync(loaded, grid_dir)
        time.sleep(WATCH_S)


def logs(grid_dir: Path, cell: str, *, follow: bool = False) -> None:
    """Print the log of a cell's newest attempt, or what its newest job printed; following, until interrupted.

    Raises:
        ValueError: No cell, or several, are meant, or nothing was printed yet.
    """
    (folder,) = _chosen(grid_dir, [cell], only_one=True)
    attempts = folder.attempts()
    path = attempts[-1].path / "log" if attempts else None
    if path is None or not path.is_file():
        job = submissions.newest_jobs(grid_dir).get(folder.path.name, "")
        path = next(iter(sorted(grid_dir.glob(f"launches/*/jobs/{job}_0_log.out"))), None) if job else None
    if path is None:
        raise ValueError(f"{folder.path.name} has printed nothing yet")
    sys.stdout.write(f"{path}\n")
    with path.open(encoding="utf-8", errors="replace") as file:
        sys.stdout.write(file.read())
        while follow:
            sys.stdout.flush()
            time.sleep(1.0)
            sys.stdout.write(file.read())


def cancel(grid_dir: Path, cells: Sequence[str], console: Console) -> None:
    """End the jobs of some cells, or of all; no controller submits these again.

    Raises:
        ValueError: A cell is not known.
        SchedulerError: Slurm does not answer.
    """
    chosen = {folder.path.name for folder in _chosen(grid_dir, cells)}
    with _answers():
        queued = queued_cells(grid_dir)
        jobs = [job.job_id for name, job in queued.items() if name in chosen]
        submissions.note_cancelled(grid_dir, chosen)
        slurm_commands.cancel(jobs)
    console.print(f"{len(jobs)} jobs were told to end; those that train write a checkpoint first")


def retry(
    grid_dir: Path, cells: Sequence[str], kinds: Collection[str], settings: Sequence[str], console: Console
) -> None:
    """Submit failed cells again, however they failed.

    Raises:
        ValueError: None of them has failed so.
    """
    signatures = []
    for folder in _chosen(grid_dir, cells):
        state = folder.state()
        if state.status == "failed" and (not kinds or state.failure_class in kinds):
            signatures.append(folder.path.name.partition("-")[0])
    if not signatures:
        raise ValueError(f"there must be a failed cell{' of that class' if kinds else ''}; there is none")
    campaign.launch_again(grid_dir, signatures, settings, console)


def reconcile(grid_dir: Path, console: Console) -> None:
    """Bring what is written down in line with Slurm, and MLflow in line with that."""
    campaign.tidy(grid_dir, console)
    sync(grid_dir, console)


def sync(grid_dir: Path, console: Console, tracking_uri: str = "") -> None:
    """Write what MLflow lacks.

    Raises:
        SchedulerError: The store does not answer.
    """
    _sync(_load(grid_dir), grid_dir, tracking_uri)
    console.print("MLflow is up to date")


def register(
    grid_dir: Path, methods: Sequence[str], backbones: Sequence[str], tracking_uri: str, console: Console
) -> None:
    """Make the best model of each method and backbone a version of a registered one.

    Raises:
        ValueError: There is none.
        SchedulerError: The store does not answer.
    """
    try:
        registry.register(_load(grid_dir), grid_dir, tracking_uri, methods, backbones, console)
    except StoreError as error:
        raise SchedulerError(f"nothing more was registered: {error}") from None


def _sync(loaded: Grid, grid_dir: Path, tracking_uri: str = "") -> None:
    with launch.only_launch_of(grid_dir):
        mirror = GridMirror(
            last_tracking_uri(tracking_uri, grid_dir),
            grid_dir,
            mirrored_cells(loaded, launch.run_folders(loaded, grid_dir)),
        )
        mirror.start()
        warning = mirror.finish()
    if warning:
        raise SchedulerError(f"MLflow is not up to date: {warning}")


def _load(grid_dir: Path) -> Grid:
    return replace(grid.load(str(grid_dir / "grid.yaml"), ()), name=grid_dir.name)


def _look(loaded: Grid, grid_dir: Path) -> tuple[list[CellStatus], str]:
    """Return a row for each cell, and what could not be asked."""
    queued: dict[str, QueuedJob] | None = {}
    note = ""
    if submissions.read(grid_dir):
        try:
            queued = queued_cells(grid_dir)
        except SlurmError as error:
            queued, note = None, f"{error}; the states are those of the run folders alone"
    found = launch.run_folders(loaded, grid_dir)
    return [judge(cell, found[cell.signature], queued) for cell in loaded.cells], note


def _chosen(grid_dir: Path, cells: Sequence[str], *, only_one: bool = False) -> list[RunFolder]:
    """Return the folders whose names hold one of the given words; all where none is given."""
    every = list(folders(grid_dir).values())
    chosen = [folder for folder in every if not cells or any(cell in folder.path.name for cell in cells)]
    for cell in cells:
        if not any(cell in folder.path.name for folder in every):
            raise ValueError(
                f"CELL must be a signature or a part of a cell's name in {grid_dir / 'cells'}; got {cell!r}"
            )
    if only_one and len(chosen) != 1:
        names = ", ".join(folder.path.name for folder in chosen[:5])
        raise ValueError(f"CELL must mean one cell; {cells[0]!r} means {len(chosen)}: {names}")
    return chosen


class _answers:  # noqa: N801 (a context manager, used like a function)
    """Turn silence of Slurm into one message."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SlurmError):
            raise SchedulerError(str(error)) from None

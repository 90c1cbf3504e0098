"""Look after a grid that was launched: how it stands, what it prints, and what shall be done about it."""

import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from orchestration import grid, index, launch, search
from orchestration.attempt import LOG, RESULT
from orchestration.grid import Grid
from orchestration.index import IndexedCell
from orchestration.launch_folder import only_launch_of
from orchestration.mirror import registry
from orchestration.mirror.mlflow_store import StoreError
from orchestration.on_slurm import campaign, commands, submissions
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.queue_state import queued_cells
from orchestration.run_folder import RunFolder, folders
from orchestration.schedulers import SchedulerError
from orchestration.status import Slurm, judge, to_lines, totals

WATCH_S, LOOK_S = 30.0, 60.0


def grid_folder(runs: Path, name: str) -> Path:
    """Return the folder of a grid that is given by its name, its file, or that folder.

    Raises:
        ValueError: It was never launched there.
    """
    if grid.is_path(name) and (Path(name) / grid.FILE).is_file():
        return Path(name).resolve()
    folder = runs.resolve() / (grid.name_of(Path(name)) if grid.is_path(name) else name)
    if not (folder / grid.FILE).is_file():
        known = grid.launched_names(runs)
        raise ValueError(f"--grid must be one that was launched into {runs} ({known}); got {name!r}")
    return folder


def status(grid_dir: Path, console: Console, *, watch: bool = False) -> None:
    """Show how the cells stand; watched, until all have ended, with MLflow kept up to date.

    Where no controller goes on with the grid, the next step is taken here.
    """
    while True:
        notes = _go_on(grid_dir, console)
        slurm, silence = _ask(grid_dir)
        found = folders(grid_dir)
        rows = [judge(cell, _folder(cell, found, grid_dir), slurm) for cell in index.read(grid_dir)]
        console.out("\n".join([*to_lines(rows), *totals(rows), *notes, *silence]), highlight=False)
        if not watch or not any(row.standing.is_open for row in rows):
            return
        try:
            _sync(_load(grid_dir), grid_dir, wait_s=0.0)
        except (SchedulerError, ValueError) as error:  # the next time, or `sync`, writes it
            console.print(str(error), highlight=False, markup=False, soft_wrap=True)
        time.sleep(WATCH_S)


def logs(grid_dir: Path, cell: str, *, follow: bool = False) -> None:
    """Print the log of a cell's newest attempt, or what its newest job printed; following, until it is done.

    Raises:
        ValueError: No cell, or several, are meant, or nothing was printed yet.
    """
    (folder,) = _chosen(grid_dir, [cell], only_one=True)
    path = _log(grid_dir, folder)
    if path is None:
        raise ValueError(f"{folder.path.name} has printed nothing yet")
    while path is not None:
        path = _print_log(path, grid_dir, folder, follow=follow)


def _log(grid_dir: Path, folder: RunFolder) -> Path | None:
    attempts = folder.attempts()
    path = attempts[-1].path / LOG if attempts else None
    if path is not None and path.is_file():
        return path
    name = folder.path.name
    launch_dir = submissions.newest_launches(grid_dir).get(name)  # in others, the number may be another job's
    path = launch_dir / "jobs" / f"{submissions.newest_jobs(grid_dir)[name]}_0_log.out" if launch_dir else None
    return path if path is not None and path.is_file() else None


def _print_log(path: Path, grid_dir: Path, folder: RunFolder, *, follow: bool) -> Path | None:
    """Print a log and what is added to it; return the next attempt's once that has one."""
    sys.stdout.write(f"{path}\n")
    with path.open(encoding="utf-8", errors="replace") as file:
        sys.stdout.write(file.read())
        while follow and not folder.has_result():
            sys.stdout.flush()
            time.sleep(1.0)
            following = _log(grid_dir, folder)
            sys.stdout.write(file.read())
            if following not in (None, path):
                return following
    return None


def cancel(grid_dir: Path, cells: Sequence[str], console: Console) -> None:
    """End the jobs of some cells, or of all; no controller submits these again.

    Raises:
        ValueError: A cell is not known.
        SchedulerError: Slurm does not answer.
    """
    chosen = {folder.path.name for folder in _chosen(grid_dir, cells)}
    with _answers():
        queued = queued_cells(grid_dir)
        told = [name for name in queued if name in chosen]
        kept = {job.job for name, job in queued.items() if name not in chosen}  # heads of pilots go on with these
        jobs = sorted({queued[name].job for name in told} - kept)
        submissions.note_cancelled(grid_dir, chosen)
        commands.cancel(jobs)
        for nodes in submissions.nodes_of(grid_dir, jobs):
            commands.cancel_waiting(nodes)
    console.print(f"{len(told)} cells were told to end; those that train write a checkpoint first")


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
    with only_launch_of(grid_dir, LOOK_S):  # a launch at work has jobs that are not written down yet
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


def _sync(loaded: Grid, grid_dir: Path, tracking_uri: str = "", wait_s: float | None = None) -> None:
    try:
        launch.mirror_of(loaded, grid_dir, tracking_uri).sync(wait_s)
    except StoreError as error:
        raise SchedulerError(f"MLflow is not up to date: {error}") from None


def _load(grid_dir: Path) -> Grid:
    path = grid_dir / search.FILE
    return replace(search.load_folder(grid_dir) if grid.is_search(path) else grid.load(str(path)), name=grid_dir.name)


def _folder(cell: IndexedCell, found: Mapping[str, RunFolder], grid_dir: Path) -> RunFolder:
    return found.get(cell.signature) or RunFolder(grid_dir / "cells" / cell.folder_name)


def _ask(grid_dir: Path) -> tuple[Slurm, list[str]]:
    """Return what Slurm says, and what could not be asked."""
    submitted = submissions.newest_jobs(grid_dir)
    if not submitted:
        return Slurm({}, {}, {}), []
    try:
        queued = queued_cells(grid_dir)
    except SlurmError as error:
        return Slurm(submitted, None, {}), [f"{error}; the states are those of the run folders alone"]
    unclear = [
        job
        for name, job in submitted.items()
        if name not in queued and not (grid_dir / "cells" / name / RESULT).exists()
    ]
    return Slurm(submitted, queued, commands.ended(unclear)), []


def _go_on(grid_dir: Path, console: Console) -> list[str]:
    """Take the next step of a grid that has no controller; return what to say of one whose controller is gone."""
    try:
        launch_dir = campaign.waits_for_a_step(grid_dir)
        if launch_dir is None or campaign.controller_job(launch_dir) in submissions.queue(grid_dir):
            return []
    except SlurmError:
        return []
    if campaign.has_controller(launch_dir):
        job = campaign.controller_job(launch_dir)
        what = f"job {job}, which should go on with this grid, is gone" if job else "no job goes on with this grid"
        return [f"{what}; the launch command does"]
    console.print("no job goes on with this grid by itself (cluster.controller=false): taking the next step")
    try:
        campaign.take_step(launch_dir, console)
    except ValueError as error:
        return [f"the next step was not taken: {error}"]
    return []


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

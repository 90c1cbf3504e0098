"""Look after a grid that was launched: how it stands, what it prints, and what shall be done about it."""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from orchestration import cell_log, grid, hints, index, launch, launch_order, launched, search, trash, waiting
from orchestration.attempt import RESULT
from orchestration.failures import FailureClass
from orchestration.grid import Grid
from orchestration.index import IndexedCell
from orchestration.launch_folder import only_launch_of
from orchestration.mirror import registry
from orchestration.mirror.grid_mirror import GridMirror, last_tracking_uri
from orchestration.mirror.mlflow_store import StoreError
from orchestration.on_slurm import campaign, commands, controller, standing_still, submissions
from orchestration.on_slurm.campaign_file import ORDER, Campaign, open_campaigns
from orchestration.on_slurm.cluster import PREFIX
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.notices import harmless
from orchestration.on_slurm.queue_state import queued_cells
from orchestration.on_slurm.step import close, complete, take_step, tidy
from orchestration.run_folder import RunFolder, folders
from orchestration.schedulers import SchedulerError
from orchestration.status import Slurm, judge, to_lines, totals

WATCH_S, LOOK_S, CANCEL_LOOK_S = 30.0, 60.0, 5.0
NO_CONTROLLER = "no job goes on with this grid by itself (cluster.controller=false): taking the next step"
_STEP_THEN = "this command takes that step then"
_SAME_COMMAND = "give the same command again once Slurm answers"


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
        notes, is_due = _go_on(grid_dir, console)
        slurm, silence = _ask(grid_dir)
        found = folders(grid_dir)
        waits = waiting.cells(grid_dir)
        rows = [
            judge(cell, _folder(cell, found, grid_dir), slurm, waits.get(cell.signature, ""))
            for cell in index.read(grid_dir)
        ]
        console.out("\n".join([*to_lines(rows), *totals(rows), *_still(slurm), *notes, *silence]), highlight=False)
        if not watch or not (is_due or any(row.standing.is_open for row in rows)):
            return
        try:
            _sync(_load(grid_dir), grid_dir, wait_s=0.0)
        except (SchedulerError, ValueError) as error:  # the next time, or `sync`, writes it
            console.print(str(error), highlight=False, markup=False, soft_wrap=True)
        time.sleep(WATCH_S)


def logs(grid_dir: Path, cell: str, *, follow: bool = False) -> None:
    """Print what a cell printed, and what is the case where that is nothing; following, until it is done.

    Raises:
        ValueError: No cell, or several, are meant.
    """
    (folder,) = _chosen(grid_dir, [cell], only_one=True)
    cell_log.print_log(
        grid_dir, folder, follow=follow, waits=waiting.cells(grid_dir).get(folder.path.name.partition("-")[0], "")
    )


def cancel(grid_dir: Path, cells: Sequence[str], console: Console) -> None:
    """End the jobs of some cells, or of all; no controller submits these again.

    Raises:
        ValueError: A cell is not known.
        SchedulerError: Slurm does not answer.
    """
    chosen = {folder.path.name for folder in _chosen(grid_dir, cells)}
    if not _is_on_slurm(grid_dir):
        console.print(launch_order.stop(grid_dir, cells), highlight=False, markup=False, soft_wrap=True)
        return
    try:
        commands.queue()  # before anything is written: what cannot be cancelled goes on as if nobody had asked
    except SlurmError as error:
        raise SchedulerError(f"nothing was cancelled, and jobs go on: {error}; {_SAME_COMMAND}") from None
    _note_cancelled(grid_dir, chosen)
    closed = [] if cells else _close_campaigns(grid_dir)
    try:
        num_told = _end_jobs(grid_dir, chosen, closed)
    except SlurmError as error:
        for one in closed:  # while its jobs run it is not over
            one.over(grid_dir).unlink(missing_ok=True)
        text = f"{error}; no controller submits these cells again, but jobs of theirs may still run: {_SAME_COMMAND}"
        raise SchedulerError(text) from None
    console.print(f"{num_told} cells were told to end; those that train write a checkpoint first")
    if not cells and (grid_dir / "launches").is_dir():
        with harmless("the report"):
            launch.finish(_load(grid_dir), grid_dir, console)


def _note_cancelled(grid_dir: Path, chosen: Collection[str]) -> None:
    """Write down in every campaign that may submit them that cells were cancelled, before one is ended."""
    going_on = [one.folder(grid_dir) for one in open_campaigns(grid_dir).values()]
    submissions.note_cancelled(grid_dir, chosen, going_on)


def _close_campaigns(grid_dir: Path) -> list[Campaign]:
    """Have no controller submit what is being ended, and no job call one."""
    found = [*open_campaigns(grid_dir).values()]
    for one in found:
        close(one, grid_dir, why="cancelled")
    return found


def _end_jobs(grid_dir: Path, chosen: Collection[str], closed: Sequence[Campaign]) -> int:
    """End controllers first, then the jobs of cells; return how many cells were told."""
    for one in closed:
        commands.cancel_all(one.controllers_name)
    _complete(grid_dir)
    queued = queued_cells(grid_dir)
    _note_cancelled(grid_dir, chosen)  # in launches too that a controller has made meanwhile
    told = [name for name in queued if name in chosen]
    kept = {job.job for name, job in queued.items() if name not in chosen}  # heads of pilots go on with these
    jobs = sorted({queued[name].job for name in told} - kept)
    commands.cancel(jobs)
    for nodes in submissions.nodes_of(grid_dir, jobs):
        commands.cancel_waiting(nodes)
    return len(told)


def _complete(grid_dir: Path) -> None:
    """Find the jobs of a launch or a controller that was ended behind sbatch."""
    with suppress(ValueError), only_launch_of(grid_dir, CANCEL_LOOK_S):
        complete(grid_dir)
        return
    # a launch is at work, and gives its jobs their tasks itself
    submissions.complete(grid_dir, lambda *_: None)


def retry(
    grid_dir: Path, cells: Sequence[str], kinds: Collection[str], settings: Sequence[str], console: Console
) -> int:
    """Launch cells again that are neither done nor active, however they ended, as their newest launch was.

    Raises:
        ValueError: None of them has ended so.
        SchedulerError: Slurm does not answer.
    """
    _refuse_search(grid_dir)
    on_slurm = _is_on_slurm(grid_dir)
    if on_slurm:
        campaign.newest(grid_dir)
        with only_launch_of(grid_dir, LOOK_S):
            tidy(grid_dir, console)
    active = _queued(grid_dir)
    submitted = submissions.newest_jobs(grid_dir)
    left = {
        folder.path.name: _end_of(folder, folder.path.name in submitted)
        for folder in _chosen(grid_dir, cells, with_dropped=True)
        if folder.path.name not in active and folder.state().status not in ("done", "running", "unreadable")
    }
    names = [name for name, kind in left.items() if not kinds or kind in kinds]
    if not names:
        known = ", ".join(f"{count} {kind}" for kind, count in Counter(left.values()).items()) or "none"
        of_class = f" of class {' or '.join(kinds)}" if kinds else ""
        raise ValueError(f"there must be a cell{of_class} that is neither done nor active; there are {known}")
    signatures = [name.partition("-")[0] for name in names]
    if not on_slurm:
        _refuse_others(grid_dir, signatures, settings)
        return launch.launch(launch_order.again(grid_dir, settings, signatures), console)
    campaign.launch_again(grid_dir, signatures, settings, console)
    return 0


def _is_on_slurm(grid_dir: Path) -> bool:
    """Tell whether the newest launch of a grid was one on Slurm."""
    newest = sorted(grid_dir.glob("launches/*"))[-1:]
    return any((folder / ORDER).exists() or (folder / submissions.FOLDER).exists() for folder in newest)


def _queued(grid_dir: Path) -> Mapping[str, commands.QueuedJob]:
    """Return the jobs that Slurm has of a grid; a grid that it never had needs no Slurm."""
    if not submissions.newest_jobs(grid_dir):
        return {}
    with commands.answers():
        return queued_cells(grid_dir)


def _refuse_search(grid_dir: Path) -> None:
    if grid.is_search(grid_dir / grid.FILE):
        words = hints.shell("rankmatch", "tune", grid_dir.name, "--runs", str(grid_dir.parent))
        raise ValueError(f"retry is for the cells of a grid; {grid_dir.name} is a search, with which {words} goes on")


def _refuse_others(grid_dir: Path, signatures: Sequence[str], settings: Sequence[str]) -> None:
    """Refuse settings with which cells would be others: these are new ones, of a launch."""
    of_grid = [word for word in settings if not word.startswith(PREFIX)]
    known = {cell.signature for cell in launched.load_folder(grid_dir, of_grid).cells} if of_grid else {*signatures}
    if others := [name for name in signatures if name not in known]:
        raise ValueError(
            f"--set must change how cells are carried out, not what they are; with {' '.join(of_grid)} "
            f"{len(others)} of them would be others, which are launched as new ones, first {others[0]}"
        )


def drop(grid_dir: Path, cells: Sequence[str], console: Console) -> None:
    """Move the folders of some cells to a trash below the runs folder, and say how each is brought back.

    Raises:
        ValueError: No cell is meant, one of them is at work, or another launch is.
        SchedulerError: Slurm does not answer.
    """
    if not cells:
        raise ValueError("CELL must be a signature or a part of a cell's name; got none")
    with only_launch_of(grid_dir):
        active, chosen = _queued(grid_dir), _chosen(grid_dir, cells)
        busy = [one.path.name for one in chosen if one.path.name in active or one.state().status == "running"]
        if busy:
            words = hints.command("cancel", grid_dir, *busy)
            raise ValueError(f"a cell that is dropped must not be at work; {', '.join(busy)} may be ended by {words}")
        place = trash.folder(grid_dir)
        for one in chosen:
            moved = trash.move(one.path, place)
            text = f"{one.path.name} lies in {moved}; {trash.way_back(moved, one.path)} brings it back"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
        _forget(grid_dir, [one.path.name.partition("-")[0] for one in chosen], console)


def _forget(grid_dir: Path, signatures: Sequence[str], console: Console) -> None:
    """Have MLflow show the runs of dropped cells no more: those of cells that are trained anew are others."""
    try:
        GridMirror(last_tracking_uri("", grid_dir), grid_dir, []).forget(signatures)
    except (StoreError, ValueError) as error:
        text = f"MLflow still shows the runs of these cells, so delete them there before they are trained anew: {error}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def _end_of(folder: RunFolder, was_submitted: bool) -> str:
    """Name the class by which `--class` means a cell."""
    attempts = folder.attempts()
    if attempts:
        return attempts[-1].end().kind
    return FailureClass.NEVER_BEGAN if was_submitted else "new"


def reconcile(grid_dir: Path, console: Console) -> None:
    """Bring what is written down in line with Slurm, have somebody go on with what is open, and bring MLflow in line.

    Raises:
        ValueError: Another launch is at work.
        SchedulerError: Slurm or the store does not answer.
    """
    with only_launch_of(grid_dir, LOOK_S):  # a launch at work has jobs that are not written down yet
        tidy(grid_dir, console)
    campaign.go_on(grid_dir, console)
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
    return (
        replace(search.load_folder(grid_dir), name=grid_dir.name)
        if grid.is_search(path)
        else launched.load_folder(grid_dir)
    )


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


def _still(slurm: Slurm) -> list[str]:
    """Say which cells wait for what does not come by itself, and what helps."""
    return standing_still.of_cells((slurm.queued or {}).values())


def _go_on(grid_dir: Path, console: Console) -> tuple[list[str], bool]:
    """Take the next steps of campaigns that have no controllers; return what is to be said, and if more are due."""
    notes: list[str] = []
    is_due = False
    for launch_dir, one in open_campaigns(grid_dir).items():
        try:
            if one.config().controller:
                notes += controller.standing(one, launch_dir, submissions.queue(grid_dir))
            else:
                due_s = take_step(launch_dir, console, begins=NO_CONTROLLER).due_s
                if due_s is not None:
                    is_due = True
                    notes.append(f"cells wait before their next try, the first for {due_s:.0f} s more: {_STEP_THEN}")
        except SlurmError:
            continue  # that is said with the states
        except (ValueError, SchedulerError) as error:
            notes.append(f"the next step was not taken: {error}")
    return notes, is_due


def _chosen(
    grid_dir: Path, cells: Sequence[str], *, only_one: bool = False, with_dropped: bool = False
) -> list[RunFolder]:
    """Return the folders whose names hold one of the given words; all where none is given.

    `with_dropped` are also those that are not there, of cells that the grid has, as `status` shows it.
    """
    found = folders(grid_dir)
    indexed = index.read(grid_dir) if with_dropped and (grid_dir / index.INDEX).exists() else []
    every = [*found.values(), *(_folder(cell, {}, grid_dir) for cell in indexed if cell.signature not in found)]
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

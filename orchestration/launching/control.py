"""Look after a launched grid: show its status and logs, resume, cancel, retry and drop its cells."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from orchestration.grids import grid, launched
from orchestration.grids.grid import Grid
from orchestration.launching import (
    added_seeds,
    campaign,
    cell_log,
    closed_launches,
    dropping,
    earlier_code,
    launch,
    launch_order,
    named_cells,
    overview,
    status_answer,
    waiting,
)
from orchestration.launching.due_steps import is_on_slurm
from orchestration.launching.launch_folder import only_launch_of
from orchestration.launching.step import close, settle, tidy
from orchestration.launching.watching import Watched
from orchestration.machine import announce, answers, clock
from orchestration.machine.counts import counted
from orchestration.mirror import registry
from orchestration.mirror.mlflow_store import StoreError
from orchestration.on_slurm import commands, submissions
from orchestration.on_slurm.campaign_file import Campaign, open_campaigns
from orchestration.on_slurm.cluster import PREFIX
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.notices import harmless
from orchestration.on_slurm.queue_state import queued_cells
from orchestration.runs import hints, readable
from orchestration.runs.failures import FailureClass
from orchestration.runs.folders import GridFolder, RunsFolder, signature_in
from orchestration.runs.jobs import SchedulerError
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState
from orchestration.search import spaces

WATCH_S, LOOK_S, CANCEL_LOOK_S = 30.0, 60.0, 5.0
_LEFT_ALONE = (CellState.DONE, CellState.RUNNING, CellState.UNREADABLE)
_SAME_COMMAND = "give the same command again once Slurm answers"


def grid_folder(runs: Path, name: str) -> Path:
    """Return the folder of a grid, given the grid's name, its file, or that folder.

    Raises:
        ValueError: It was never launched there.
    """
    if grid.is_path(name) and GridFolder(Path(name)).grid_file.is_file():
        return Path(name).resolve()
    folder = RunsFolder(runs.resolve()).grid(grid.name_of(Path(name)) if grid.is_path(name) else name)
    if not folder.grid_file.is_file():
        known = grid.launched_names(runs)
        raise ValueError(f"--grid must be one that was launched into {runs} ({known}); got {name!r}")
    return folder.path


def status(grid_dir: Path, console: Console, *, watch: bool = False) -> None:
    """Show the state of the cells and who has to act; watched, until no cell changes by itself. Writes nothing."""
    if not watch:
        console.out("\n".join(overview.of_grid(grid_dir).lines), highlight=False)
        return
    with Watched(console) as watched:
        while True:
            seen = watched.look(grid_dir)
            if seen and not seen.is_open:
                return
            clock.sleep(WATCH_S)


def status_as_json(grid_dir: Path) -> None:
    """Print the state of the cells for programs, as the schema `status` says."""
    answers.write(status_answer.answer(grid_dir, overview.of_grid(grid_dir)))


def resume(grid_dir: Path, console: Console, *, watch: bool = False) -> int:
    """Take the next step of a grid: of each open launch on Slurm, else launch again as its newest launch was.

    If watched, take each further step that no controller takes, and keep MLflow up to date, until all cells end.
    The exit code is that of `launch`, which trains here.

    Raises:
        ValueError: It is a search, or another launch is at work.
        SchedulerError: Slurm does not answer, or sbatch refused.
    """
    _refuse_search(grid_dir, "resume")
    if not open_campaigns(grid_dir):
        if not is_on_slurm(grid_dir):
            return launch.launch_again(grid_dir, (), (), console)
        words = f"no launch of it is open; {hints.command('retry', grid_dir)} submits again what has no result"
        console.print(f"nothing of {grid_dir.name} is to be resumed: {words}", highlight=False, soft_wrap=True)
        return 0
    _resume_open(grid_dir, console)
    if watch:
        return stay(grid_dir, console)
    for line in overview.of_grid(grid_dir).due:
        announce.say(console, line)
    return 0


def _resume_open(grid_dir: Path, console: Console) -> None:
    """Record the ends of silent jobs, then have controllers resume, or take the step where there are none."""
    earlier_code.refuse_all(open_campaigns(grid_dir).values(), grid_dir)
    with only_launch_of(grid_dir, LOOK_S):  # a launch at work has jobs that are not recorded yet
        tidy(grid_dir, console)
    campaign.go_on(grid_dir, console)


def stay(grid_dir: Path, console: Console, cells: Collection[str] = ()) -> int:
    """Show the grid, and take the steps that nobody else takes, until no cell changes by itself and no step is due.

    The exit code is that of a launch: 0 all its cells are done, 1 some are not.

    Args:
        grid_dir: Folder of the grid.
        console: Shows it.
        cells: The signatures of the launch's cells; all of the grid if none is given.
    """
    with Watched(console) as watched:
        while True:
            seen = watched.look(grid_dir)
            if seen and not seen.is_open and not seen.due and not seen.is_unclear:
                mine = [row for row in seen.rows if not cells or row.cell.signature in cells]
                return int(any(row.standing is not CellState.DONE and not row.is_left_out for row in mine))
            try:
                _sync(_load(grid_dir), grid_dir, wait_s=0.0)
            except (SchedulerError, ValueError, OSError) as error:  # the next step, or `sync`, writes it
                announce.say(console, str(error))
            clock.sleep(WATCH_S)
            try:
                campaign.go_on(grid_dir, console, with_controllers=False)
            except (SchedulerError, ValueError, OSError) as error:  # Slurm may answer, another launch has ended by then
                announce.say(console, f"the next step was not taken: {error}")


def logs(grid_dir: Path, cell: str, *, follow: bool = False) -> None:
    """Print what a cell printed, or why there is nothing; with `follow`, until it is done.

    Raises:
        ValueError: The name matches no cell, or several.
    """
    (folder,) = named_cells.chosen(grid_dir, [cell], only_one=True)
    waits = {} if closed_launches.said(grid_dir) else waiting.cells(grid_dir)
    cell_log.print_log(grid_dir, folder, follow=follow, waits=waits.get(folder.signature, ""))


def cancel(grid_dir: Path, cells: Sequence[str], console: Console) -> None:
    """End the jobs of some cells, or of all; no controller submits these again.

    Raises:
        ValueError: A cell is unknown, or a launch here trains it, which can be ended as a whole only.
        SchedulerError: Slurm does not answer.
    """
    found = named_cells.chosen(grid_dir, cells)
    chosen = {folder.path.name for folder in found}
    on_slurm = is_on_slurm(grid_dir)
    if on_slurm and cells:
        _refuse_those_here(grid_dir, found, console)
    if on_slurm:
        _cancel_on_slurm(grid_dir, chosen, console, is_whole=not cells)
    if not on_slurm or (waiting.is_at_work(grid_dir) and not cells):
        announce.say(console, launch_order.stop(grid_dir, cells))


def _refuse_those_here(grid_dir: Path, found: Sequence[RunFolder], console: Console) -> None:
    """Refuse cells of a launch here that is at work beside one on Slurm, which would go on however they are noted."""
    has = waiting.of_launch_here(grid_dir, found)
    queued = {} if all(has.values()) else _queued(grid_dir)
    if here := [name for name, is_trained in has.items() if is_trained or name not in queued]:
        dead = waiting.said_of_dead(grid_dir, CANCEL_LOOK_S)
        if not dead:
            launch_order.refuse_part(here[0], waiting.said_of_note(grid_dir))
        announce.say(console, dead)


def _cancel_on_slurm(grid_dir: Path, chosen: Collection[str], console: Console, *, is_whole: bool) -> None:
    try:
        commands.queue()  # before anything is recorded: what cannot be cancelled continues as if nobody had asked
    except SlurmError as error:
        raise SchedulerError(f"nothing was cancelled, and jobs continue: {error}; {_SAME_COMMAND}") from None
    _note_cancelled(grid_dir, chosen)
    closed = _close_campaigns(grid_dir) if is_whole else []
    try:
        num_told = _end_jobs(grid_dir, chosen, closed)
    except SlurmError as error:
        for one in closed:  # a campaign is not over while its jobs run
            one.over(grid_dir).unlink(missing_ok=True)
        text = f"{error}; no controller submits these cells again, but jobs of theirs may still run: {_SAME_COMMAND}"
        raise SchedulerError(text) from None
    console.print(f"{counted(num_told, 'cell', 'was')} told to end; those that train write a checkpoint first")
    if is_whole and GridFolder(grid_dir).launches_dir.is_dir():
        with harmless("the report"):
            launch.finish(_load(grid_dir), grid_dir, console)


def _note_cancelled(grid_dir: Path, chosen: Collection[str]) -> None:
    """Record the cancelled cells in every campaign that may submit them, before any job is ended."""
    going_on = [one.folder(grid_dir).path for one in open_campaigns(grid_dir).values()]
    submissions.note_cancelled(grid_dir, chosen, going_on)


def _close_campaigns(grid_dir: Path) -> list[Campaign]:
    """Close campaigns, so that no controller submits what is being ended and no job calls a controller."""
    found = [*open_campaigns(grid_dir).values()]
    for one in found:
        close(one, grid_dir, why="cancelled")
    return found


def _end_jobs(grid_dir: Path, chosen: Collection[str], closed: Sequence[Campaign]) -> int:
    """End controllers first, then the jobs of cells; return how many cells were asked to end."""
    for one in closed:
        commands.cancel_all(one.controllers_name)
    at_work = _of_launch_at_work(grid_dir)
    queued = {**queued_cells(grid_dir), **at_work}
    _note_cancelled(grid_dir, chosen)  # also in launches that a controller has made meanwhile
    told = [name for name in queued if name in chosen]
    kept = {job.job for name, job in queued.items() if name not in chosen}  # heads of pilots continue with these
    earlier = submissions.jobs_of(grid_dir, chosen) & submissions.queue(grid_dir).keys()
    jobs = sorted(({queued[name].job for name in told} | earlier) - kept)
    commands.cancel(jobs)
    for nodes in submissions.nodes_of(grid_dir, jobs):
        commands.cancel_waiting(nodes)
    return len(told)


def _of_launch_at_work(grid_dir: Path) -> dict[str, commands.QueuedJob]:
    """Return the jobs by cell of which a launch at work has no number yet; settle what one that was killed has left."""
    with suppress(ValueError), only_launch_of(grid_dir, CANCEL_LOOK_S):
        settle(grid_dir)
    queued = submissions.queue(grid_dir)
    found = [one.jobs() for _, one in submissions.find(grid_dir)]
    return {cell: queued[job] for jobs in found for cell, job in jobs.items() if job in queued}


def retry(
    grid_dir: Path, cells: Sequence[str], kinds: Collection[str], settings: Sequence[str], console: Console
) -> int:
    """Launch cells again that are neither done nor active, however they ended, with their newest launch's settings.

    Raises:
        ValueError: No cell has ended that way.
        SchedulerError: Slurm does not answer.
    """
    _refuse_search(grid_dir, "retry")
    on_slurm = is_on_slurm(grid_dir)
    if on_slurm:
        campaign.newest(grid_dir)
        with only_launch_of(grid_dir, LOOK_S):
            tidy(grid_dir, console, is_typed=True)
    active = _queued(grid_dir)
    submitted = submissions.newest_jobs(grid_dir)
    spared = set[str]() if cells else added_seeds.not_needed(grid_dir)
    chosen = {
        folder.path.name: folder
        for folder in named_cells.chosen(grid_dir, cells, with_dropped=True)
        if folder.path.name not in active
        and folder.state().status not in _LEFT_ALONE
        and folder.signature not in spared
    }
    left = readable.each(chosen, lambda folder: _end_of(folder, folder.name in submitted))
    names = [name for name, kind in left.items() if not kinds or kind in kinds]
    if not names:
        known = ", ".join(f"{count} {kind}" for kind, count in Counter(left.values()).items()) or "none"
        of_class = f" of class {' or '.join(kinds)}" if kinds else ""
        raise ValueError(f"there must be a cell{of_class} that is neither done nor active; there are {known}")
    signatures = [signature_in(name) for name in names]
    if not on_slurm:
        _refuse_others(grid_dir, signatures, settings)
        return launch.launch_again(grid_dir, settings, signatures, console, named=bool(cells))
    campaign.launch_again(grid_dir, signatures, settings, console, named=bool(cells))
    return 0


def _queued(grid_dir: Path) -> Mapping[str, commands.QueuedJob]:
    """Return the jobs of a grid that Slurm has; a grid that was never on Slurm needs no Slurm."""
    if not submissions.newest_jobs(grid_dir):
        return {}
    with commands.answers():
        return queued_cells(grid_dir)


def _refuse_search(grid_dir: Path, command: str) -> None:
    folder = GridFolder(grid_dir)
    if grid.is_search(folder.grid_file):
        words = hints.shell("rankmatch", "tune", folder.name, "--runs", str(folder.runs.path))
        raise ValueError(f"{command} is for the cells of a grid; {grid_dir.name} is a search, which {words} resumes")


def _refuse_others(grid_dir: Path, signatures: Sequence[str], settings: Sequence[str]) -> None:
    """Refuse settings that would make the cells other cells: new cells need a launch."""
    of_grid = [word for word in settings if not word.startswith(PREFIX)]
    known = {cell.signature for cell in launched.load_folder(grid_dir, of_grid).cells} if of_grid else {*signatures}
    if others := [name for name in signatures if name not in known]:
        raise ValueError(
            f"--set must change how cells are carried out, not what they are; with {' '.join(of_grid)} "
            f"{len(others)} of them would be others, which are launched as new ones, first {others[0]}"
        )


def drop(grid_dir: Path, cells: Sequence[str], console: Console) -> None:
    """Move the folders of some cells to a trash below the runs folder, and print how to bring each one back.

    The folder of a cell that another grid has too stays.

    Raises:
        ValueError: No cell matches, one of them is at work or cannot be moved, or another launch is at work.
        SchedulerError: Slurm does not answer.
    """
    if not cells:
        raise ValueError("CELL must be a signature or a part of a cell's name; got none")
    with only_launch_of(grid_dir):
        if any(one.is_unanswered for _, one in submissions.read(grid_dir)):
            with commands.answers():
                settle(grid_dir)
        active, chosen = _queued(grid_dir), dropping.to_drop(named_cells.chosen(grid_dir, cells, with_dropped=True))
        busy = [one.path.name for one in chosen if one.path.name in active or dropping.trains(one)]
        if busy:
            words = hints.command("cancel", grid_dir, *busy)
            raise ValueError(f"a cell that is dropped must not be at work; {', '.join(busy)} may be ended by {words}")
        dropping.drop(grid_dir, chosen, console)


def _end_of(folder: RunFolder, was_submitted: bool) -> str:
    """Return the class of failure by which `--class` selects a cell."""
    attempts = folder.attempts()
    if attempts:
        return attempts[-1].end().kind
    return FailureClass.NEVER_BEGAN if was_submitted else "new"


def reconcile(grid_dir: Path, console: Console) -> None:
    """Bring what is recorded in line with Slurm, resume what is open, and bring MLflow up to date.

    Raises:
        ValueError: Another launch is at work.
        SchedulerError: Slurm or the store does not answer.
    """
    _resume_open(grid_dir, console)
    sync(grid_dir, console)


def sync(grid_dir: Path, console: Console, tracking_uri: str = "") -> None:
    """Write what is missing in MLflow.

    Raises:
        SchedulerError: The store does not answer.
    """
    _sync(_load(grid_dir), grid_dir, tracking_uri)
    console.print("MLflow is up to date")


def register(
    grid_dir: Path, methods: Sequence[str], backbones: Sequence[str], tracking_uri: str, console: Console
) -> None:
    """Register the best model of each method and backbone as a new version.

    Raises:
        ValueError: There is no such model.
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
    path = GridFolder(grid_dir).grid_file
    return (
        replace(spaces.load_folder(grid_dir), name=grid_dir.name)
        if grid.is_search(path)
        else launched.load_folder(grid_dir)
    )

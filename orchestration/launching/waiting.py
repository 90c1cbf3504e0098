"""Which cells wait for their turn in a launch that stays until its last cell ends."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestration.launching.launch_folder import only_launch_of
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.machine.processes import ProcessNote, this_process
from orchestration.runs import readable
from orchestration.runs.folders import GridFolder, LaunchFolder
from orchestration.runs.jobs import JobState, StateLog
from orchestration.runs.run_folder import RunFolder, folders
from orchestration.runs.states import CellState


@dataclass(frozen=True, slots=True)
class Launcher(ProcessNote):
    """The process that launches, and what it launches."""

    cells: list[str] = field(kw_only=True)
    """The signatures."""


@contextmanager
def noted(launch_dir: Path, signatures: Sequence[str]) -> Iterator[None]:
    """Keep a note of the cells that this process trains while it does so."""
    with _kept(LaunchFolder(launch_dir).launcher_file, signatures):
        yield


@contextmanager
def at_work(grid_dir: Path) -> Iterator[None]:
    """Keep a note that this process launches a grid, also before the first cell and between the rounds of its seeds."""
    with _kept(GridFolder(grid_dir).launcher_file, ()):
        yield


@contextmanager
def _kept(path: Path, signatures: Sequence[str]) -> Iterator[None]:
    Launcher(**this_process(), cells=list(signatures)).to_file(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def cells(grid_dir: Path) -> dict[str, str]:
    """Return what cells wait for, by signature: those that the newest launch has not reached yet."""
    newest = _newest(grid_dir)
    if newest is None or newest[1].lives() is False:
        return {}
    launch_dir, launcher = newest
    why = f"waits for its turn in {_in_words(launcher)}"
    why += "" if launcher.lives() else ", if that still lives"
    states, found = StateLog(launch_dir).read(), folders(grid_dir)
    mine = {signature: found[signature] for signature in launcher.cells if signature in found}
    waits = readable.each(mine, lambda one: _waits(one, states, launch_dir.name))
    return {signature: why for signature in mine if waits.get(signature, True)}  # the launch may yet come to it


def here(grid_dir: Path) -> dict[str, str]:
    """Return what `cells` does, only of a launch on this machine that lives for sure."""
    newest = _newest(grid_dir)
    return cells(grid_dir) if newest is not None and newest[1].lives() else {}


def of_launch_here(grid_dir: Path, some: Sequence[RunFolder]) -> dict[str, bool]:
    """Return those of some cells that the newest launch which stays still has, by name: whether it trains them now."""
    newest = _newest(grid_dir)
    if newest is None or newest[1].lives() is False:
        return {}
    launch, states = newest[0].name, StateLog(newest[0]).read()
    mine = {one.name: one for one in some if one.signature in newest[1].cells}
    trains = readable.each(mine, lambda one: _trains(one, launch))
    waits = readable.each(mine, lambda one: _waits(one, states, launch))
    return {name: is_trained for name, is_trained in trains.items() if is_trained or waits.get(name)}


def is_at_work(grid_dir: Path) -> bool:
    """Return whether a launch is at work, or may be so on another machine, where nobody here can see it."""
    return any(one.lives() is not False for one in _notes(grid_dir))


def lives(grid_dir: Path) -> bool:
    """Return whether a launch is at work on this machine: it takes further steps."""
    return any(one.lives() for one in _notes(grid_dir))


def out_of_sight(grid_dir: Path) -> Launcher | None:
    """Return the newest launch if it was begun on another machine and has not withdrawn its note: it may be dead."""
    newest = next(iter(_notes(grid_dir)), None)
    return newest if newest and newest.lives() is None else None


def said_of_dead(grid_dir: Path, wait_s: float) -> str:
    """Return words on the newest launch if it was killed on another machine, as far as can be seen; else nothing.

    Where machines share the lock of launches, whoever gets it knows; where they do not, a launch at work trains.

    Args:
        grid_dir: Folder of the grid.
        wait_s: How long to wait for the lock, which steps hold for a moment.
    """
    newest = _newest(grid_dir)
    if newest is None or newest[1].lives() is not None or _may_train(*newest):
        return ""
    with suppress(ValueError), only_launch_of(grid_dir, wait_s):
        return (
            f"{_in_words(newest[1])} has cells of these too, and counts as dead: it trains none, and the lock of "
            f"launches is free; if it lives after all, end it there. Its note is {_place(newest[0])}"
        )
    return ""


def said_of_note(grid_dir: Path) -> str:
    """Return what to do about the newest launch where nobody here can see whether it lives; nothing if that is seen."""
    newest = _newest(grid_dir)
    if newest is None or newest[1].lives() is not None:
        return ""
    return f"; where {_in_words(newest[1])} has ended, which cannot be seen from here, remove {_place(newest[0])}"


def _in_words(launcher: Launcher) -> str:
    return f"the launch of process {launcher.pid} on {launcher.host}"


def _place(launch_dir: Path) -> Path:
    return LaunchFolder(launch_dir).launcher_file


def _notes(grid_dir: Path) -> list[Launcher]:
    """Return the notes that were not withdrawn: that of the grid, then that of its newest launch."""
    folder, newest = GridFolder(grid_dir), _newest(grid_dir)
    of_grid = _read(folder.launcher_file) if folder.launcher_file.exists() else None
    if of_grid and not newest and of_grid.lives() is None and _is_overtaken(folder):
        of_grid = None
    return [one for one in (of_grid, newest[1] if newest else None) if one is not None]


def _newest(grid_dir: Path) -> tuple[Path, Launcher] | None:
    """Return the folder of the newest launch that has not withdrawn its note, and the note.

    A launch that began later had the lock of launches, so one before it whose note is still there was killed. Where
    another machine shares the files but not the lock, it may live nevertheless: then it trains some cell.
    """
    launches = GridFolder(grid_dir).launches()
    launch = next((one for one in reversed(launches) if one.launcher_file.exists()), None)
    note = _read(launch.launcher_file) if launch else None
    if launch is None or note is None:
        return None
    is_last = launch is launches[-1]
    return (launch.path, note) if is_last or note.lives() is not None or _may_train(launch.path, note) else None


def _is_overtaken(grid: GridFolder) -> bool:
    """Return whether a launch on Slurm has begun since the grid's note was written, both by the file server's clock."""
    on_slurm = next((one.campaign_file for one in reversed(grid.launches()) if one.campaign_file.exists()), None)
    with suppress(FileNotFoundError):  # the note was withdrawn meanwhile
        return on_slurm is not None and on_slurm.stat().st_mtime > grid.launcher_file.stat().st_mtime
    return True


def _may_train(launch_dir: Path, launcher: Launcher) -> bool:
    """Return whether a launch trains a cell of its, as far as these can be read."""
    mine = {key: one for key, one in folders(LaunchFolder(launch_dir).grid.path).items() if key in launcher.cells}
    trains, errors = readable.each_or_error(mine, lambda one: _trains(one, launch_dir.name))
    return bool(errors) or any(trains.values())


def _read(path: Path) -> Launcher | None:
    try:
        return Launcher.from_file(path)
    except FileNotFoundError:  # withdrawn meanwhile
        return None
    except DamagedFileError as error:
        tell(error)
        return None


def _trains(folder: RunFolder, launch: str) -> bool:
    attempts = folder.attempts()
    is_mine = bool(attempts) and attempts[-1].known_owner().get("launch") == launch
    return is_mine and folder.state().status is CellState.RUNNING


def _waits(folder: RunFolder, states: Mapping[str, JobState], launch: str) -> bool:
    state = states.get(folder.path.name)
    if state is JobState.PENDING:
        return True
    if state is not None and state.has_ended:
        return False
    attempts = folder.attempts()
    owner: Mapping[str, Any] = attempts[-1].known_owner() if attempts else {}
    return not folder.has_result() and owner.get("launch") != launch

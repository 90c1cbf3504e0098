"""Which cells wait for their turn in a launch that stays until its last cell ends."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    why = f"waits for its turn in the launch of process {launcher.pid} on {launcher.host}"
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


def _notes(grid_dir: Path) -> list[Launcher]:
    """Return the notes that were not withdrawn: that of the grid, then that of its newest launch."""
    path, newest = GridFolder(grid_dir).launcher_file, _newest(grid_dir)
    of_grid = _read(path) if path.exists() else None
    return [one for one in (of_grid, newest[1] if newest else None) if one is not None]


def _newest(grid_dir: Path) -> tuple[Path, Launcher] | None:
    """Return the folder of the newest launch that has not withdrawn its note, and the note."""
    launch = next((one for one in reversed(GridFolder(grid_dir).launches()) if one.launcher_file.exists()), None)
    note = _read(launch.launcher_file) if launch else None
    return (launch.path, note) if launch and note else None


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

"""What a cell printed: the log of its newest attempt or job, and what the cell is doing where there is no log."""

import sys
from pathlib import Path

from orchestration.launching import closed_launches
from orchestration.machine import clock
from orchestration.on_slurm import submissions
from orchestration.runs.attempt import Attempt
from orchestration.runs.epoch_lines import epoch_line
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState

LOOK_S = 1.0


def print_log(grid_dir: Path, folder: RunFolder, *, follow: bool = False, waits: str = "") -> None:
    """Print the log of a cell's newest attempt and the error that ended it, or of its newest job.

    Args:
        grid_dir: The folder of the grid.
        folder: The cell's folder.
        follow: Also print what is added, and the logs of later attempts, until the cell is done.
        waits: What the cell waits for, if that is known.
    """
    path = _log(grid_dir, folder)
    if path is None:
        print(_epochs(folder) or _what_is_the_case(grid_dir, folder, waits))  # noqa: T201 (what the command is for)
        sys.stdout.write(_error_of(next(reversed(folder.attempts()), None), ""))
    while follow and path is None and not folder.has_result():
        sys.stdout.flush()
        clock.sleep(LOOK_S)
        path = _log(grid_dir, folder)
    while path is not None:
        path = _print_file(path, grid_dir, folder, follow=follow, waits=waits)


def _log(grid_dir: Path, folder: RunFolder) -> Path | None:
    """Return the log of the newest attempt, or of the newest job if there is no attempt."""
    attempts, name = folder.attempts(), folder.path.name
    launches = {} if closed_launches.said(grid_dir) else submissions.newest_launches(grid_dir)
    launch_dir = launches.get(name)  # in others, the number may be another job's
    found = [attempts[-1].log_file] if attempts else []
    if launch_dir is not None:
        job, owner = submissions.newest_jobs(grid_dir)[name], attempts[-1].known_owner() if attempts else {}
        known = owner.get("slurm", {})
        is_its = known.get("job") == job.number and known.get("name", job.name) == job.name
        is_its = is_its or owner.get("launch") == launch_dir.name or bool(attempts and not owner)
        found.insert(len(found) if is_its else 0, LaunchFolder(launch_dir).job_log(str(job)))
    return next((path for path in found if path.is_file()), None)


def _print_file(path: Path, grid_dir: Path, folder: RunFolder, *, follow: bool, waits: str) -> Path | None:
    """Print a log and what is added to it; return the log of the next attempt once there is one."""
    sys.stdout.write(f"{path}\n")
    attempt = next((one for one in folder.attempts() if one.log_file == path), None)
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read()
        sys.stdout.write(text or f"(empty: {_epochs(folder) or _what_is_the_case(grid_dir, folder, waits)})\n")
        sys.stdout.write(error := _error_of(attempt, text))
        while follow and not folder.has_result():
            sys.stdout.flush()
            clock.sleep(LOOK_S)
            following = _log(grid_dir, folder)
            sys.stdout.write(more := file.read())
            text += more
            if not error:
                sys.stdout.write(error := _error_of(attempt, text))
            if following not in (None, path):
                return following
    return None


def _error_of(attempt: Attempt | None, printed: str) -> str:
    """Return the end of the error by which an attempt failed, unless its log has it: an exception is only recorded."""
    last = (attempt.events() if attempt else [{}])[-1:]
    told = str(last[0].get("traceback", "")).strip() if last and last[0].get("event") == "failed" else ""
    return f"{told}\n" if told and told.splitlines()[-1] not in printed else ""


def _epochs(folder: RunFolder) -> str:
    """Return the epochs from the run folder: the logs of attempts of earlier versions have no lines for them."""
    attempts = folder.attempts()
    return "\n".join(map(epoch_line, attempts[-1].epochs())) if attempts else ""


def _what_is_the_case(grid_dir: Path, folder: RunFolder, waits: str) -> str:
    state, name = folder.state(), folder.path.name
    if state.status is CellState.MISSING:
        if closed := closed_launches.said(grid_dir):
            return f"{name} has no attempt, and whether it was submitted is not known: {closed}"
        job = submissions.newest_jobs(grid_dir).get(name)
        told = f"was submitted as job {job}" if job else "has not begun"
        return f"{name} has printed nothing yet: it {waits or told}"
    at = f"attempt {state.num_attempts} on {state.host or 'an unknown host'}"
    if state.status is CellState.RUNNING:
        return f"{name} has printed nothing yet: {at} runs, and has finished no epoch"
    why = f": {state.failure}" if state.failure else ""
    return f"{name} has printed nothing: {at} is {state.status}{why}"

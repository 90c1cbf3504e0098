"""Jobs that ended before they claimed an attempt: no Python, no sources, a missing module.

Only a look at the queue finds them, and records them as attempts of the cell: so they are shown, counted and retried
like every other failure.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from orchestration.machine import files
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.on_slurm import commands, site_nodes, submissions
from orchestration.on_slurm.campaign_file import Campaign
from orchestration.on_slurm.commands import EndedJob, Job, SlurmError
from orchestration.on_slurm.evidence import BY_STATE, all_ended_lately
from orchestration.on_slurm.queue_state import Lost
from orchestration.running.run_cell import record_loss
from orchestration.runs.attempt import Attempt, last_write
from orchestration.runs.failures import Failure, FailureClass
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.jobs import cancelled_cells
from orchestration.runs.retries import decision_of
from orchestration.runs.run_folder import AttemptTaken, RunFolder, folders, run_folder

TAIL_LINES = 200
ENOUGH = 3
"""So many jobs of a launch that ended before they began, and none that did begin, are the launch's fault."""


def record(grid_dir: Path) -> list[Lost]:
    """Record the ends of all cells whose newest job is gone without an attempt.

    Raises:
        SlurmError: squeue does not answer, and nothing was written.
    """
    launches = submissions.newest_launches(grid_dir)
    left_out = _cancelled_or_begun(grid_dir)
    jobs = submissions.newest_jobs(grid_dir)
    silent = {
        folder: job
        for folder in folders(grid_dir).values()
        if (job := jobs.get(folder.path.name))
        and folder.path.name not in left_out
        and _is_silent(folder, job, launches[folder.path.name])
    }
    if not silent:
        return []
    queued = submissions.queue(grid_dir)
    gone = {folder: job for folder, job in silent.items() if job not in queued}
    ends = _ends(gone.values())
    found = []
    for folder, job in gone.items():
        known = ends.get(job)
        if known is None or known.state != "COMPLETED":  # it found the cell done, given up or another job's
            found += _record(folder, job, known, launches[folder.path.name])
    return found


def _ends(jobs: Collection[Job]) -> dict[Job, EndedJob]:
    """Return how jobs last ended, by accounting, else as slurmctld still knows it."""
    accounted = commands.ended(jobs) or {}
    lately = all_ended_lately(job for job in jobs if job not in accounted)
    return lately | {job: some[-1] for job, some in accounted.items()}


def whole_launches(grid_dir: Path, lost: Iterable[Lost]) -> Iterator[tuple[Path, str]]:
    """Return the launches in which some jobs have ended and none has started a cell, with the message of one."""
    words = {item.cell: item.failure.message for item in lost if item.failure.kind is FailureClass.NEVER_BEGAN}
    launches = submissions.newest_launches(grid_dir)
    for launch_dir in dict.fromkeys(launches[cell] for cell in words):
        cells = [cell for cell, folder in launches.items() if folder == launch_dir]
        kinds = [kind for cell in cells for kind in _kinds(run_folder(grid_dir, cell), launch_dir)]
        if len(kinds) >= min(ENOUGH, len(cells)) and {*kinds} == {FailureClass.NEVER_BEGAN}:
            yield launch_dir, next(words[cell] for cell in cells if cell in words)


def _cancelled_or_begun(grid_dir: Path) -> set[str]:
    """Return the cells that somebody cancelled by name, and those of pilots whose heads have started."""
    found: set[str] = set()
    for launch_dir, one in submissions.read(grid_dir):
        found -= {*one.cells}
        found |= {*one.cells} & {*cancelled_cells(launch_dir)}
        if one.is_pilot and any(job.node_file.exists() for job in LaunchFolder(launch_dir).jobs(one.job_id)):
            found |= {*one.cells}
    return found


def _is_silent(folder: RunFolder, job: Job, launch_dir: Path) -> bool:
    if folder.has_result() or folder.is_trained_for_another(folder.grid.name):
        return False
    return not any(_is_of(attempt, job, launch_dir) for attempt in folder.attempts())


def _is_of(attempt: Attempt, job: Job, launch_dir: Path) -> bool:
    """Return whether an attempt is one of a job or its launch; also true if its owner cannot be read."""
    owner = attempt.known_owner()
    if not owner:
        return last_write(attempt.path) >= LaunchFolder(launch_dir).campaign_file.stat().st_mtime
    return str(owner.get("slurm", {}).get("job", "")) == job.number or owner.get("launch") == launch_dir.name


def _record(folder: RunFolder, job: Job, known: EndedJob | None, launch_dir: Path) -> list[Lost]:
    try:
        campaign = Campaign.read(launch_dir)
    except DamagedFileError as error:  # a newer launch retries the cell
        tell(error)
        return []
    if not decision_of(folder, campaign.name).again:
        return []
    text = _tail(LaunchFolder(launch_dir).job_log(job.number))
    failure = _failure(job, known, text)
    owner = {"launch": launch_dir.name, "campaign": campaign.name, "grid": campaign.grid_name, "pid": 0,
             "commit": campaign.commit, "host": _first_node(known),
             "slurm": {"job": job.number, "name": job.name, "restart": 0, **_all_nodes(known)}}  # fmt: skip
    with suppress(AttemptTaken):  # by a job that has started after all
        attempt = folder.claim(owner)
        files.replace(attempt.log_file, text)
        record_loss(folder.path, failure, known_dead=True)
        return [Lost(folder.path.name, failure)]
    return []


def _all_nodes(known: EndedJob | None) -> dict[str, str]:
    """Return the nodes of a job of several: any of them may have kept it from starting."""
    return {"nodes": known.node} if known and any(mark in known.node for mark in ("[", ",")) else {}


def _first_node(known: EndedJob | None) -> str:
    """Return the node that ran the batch script, and the task that claims the attempt; none if unknown."""
    if known is None or not known.node.strip("()") or known.node.startswith(("None", "(")):
        return ""
    with suppress(SlurmError):
        return next(iter(site_nodes.names_of(known.node)), "")
    return ""


def _failure(job: Job, known: EndedJob | None, text: str) -> Failure:
    said = f"Slurm says {known.state}, exit code {known.exit_code}" if known else "Slurm knows nothing of its end"
    where = f" on {known.node}" if known and known.node else ""
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")
    kind = BY_STATE.get(known.state, FailureClass.NEVER_BEGAN) if known else FailureClass.NEVER_BEGAN
    code, state = (known.exit_code, known.state) if known else ("", "")
    message = f"job {job}{where} ended before it began the cell, {said}: {last}"
    ended = known.time if known else None
    return Failure(kind, "LostError", message, "", exit_code=code, slurm_state=state, ended=ended)


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return "".join(f"{line}\n" for line in lines[-TAIL_LINES:])


def _kinds(folder: RunFolder, launch_dir: Path) -> list[FailureClass]:
    return [
        attempt.end().kind for attempt in folder.attempts() if attempt.known_owner().get("launch") == launch_dir.name
    ]

"""Jobs that ended before they claimed an attempt: no Python, no sources, a missing module.

Only a look at the queue finds them, and records them as attempts of the cell: so they are shown, counted and retried
like every other failure. The head of a pilot that ended before any cell began counts for all of its cells: its nodes
may have queued for as long as it could run. One that began some has not tried the others, and is no attempt of theirs.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orchestration.machine import files
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.on_slurm import commands, site_nodes, submissions
from orchestration.on_slurm.campaign_file import Campaign
from orchestration.on_slurm.commands import EndedJob, Job, SlurmError
from orchestration.on_slurm.evidence import BY_STATE, all_ended_lately
from orchestration.on_slurm.queue_state import Lost
from orchestration.on_slurm.submissions import Submission
from orchestration.running.run_cell import record_loss
from orchestration.runs import readable
from orchestration.runs.attempt import Attempt, last_write
from orchestration.runs.failures import Failure, FailureClass
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.retries import decision_of
from orchestration.runs.run_folder import AttemptTaken, RunFolder, folders, run_folder

TAIL_LINES = 200
ENOUGH = 3
"""So many jobs of a launch that ended before they began, and none that did begin, are the launch's fault."""


def record(grid_dir: Path, only: Collection[str] = ()) -> tuple[list[Lost], dict[str, readable.Error]]:
    """Record the ends of all cells whose newest job is gone without an attempt.

    Return also why nothing is known of other cells, by signature: they cannot be read.

    Args:
        grid_dir: Folder of the grid.
        only: The signatures of the cells to look at; all if none is given.

    Raises:
        SlurmError: squeue does not answer, and nothing was written.
    """
    launches = submissions.newest_launches(grid_dir)
    left_out = submissions.cancelled(grid_dir)
    jobs = submissions.newest_jobs(grid_dir)
    submitted = {key: one for key, one in folders(grid_dir).items() if one.name in jobs and one.name not in left_out}
    made = {key: one for key, one in submitted.items() if not only or key in only}
    is_silent, unread = readable.each_or_error(made, lambda one: _is_silent(one, jobs[one.name], launches[one.name]))
    silent = {made[key]: jobs[made[key].name] for key in made if is_silent.get(key)}
    if not silent:
        return [], unread
    queued = submissions.queue(grid_dir)
    gone = {folder: job for folder, job in silent.items() if job not in queued}
    ends, heads = _ends(gone.values()), _heads(grid_dir, gone.values())
    failed = {one.signature: one for one, job in gone.items() if _is_failure(ends.get(job), heads.get(job))}

    def recorded(folder: RunFolder) -> list[Lost]:
        job = gone[folder]
        return _record(folder, job, ends.get(job), launches[folder.name], heads.get(job))

    lost, more = readable.each_or_error(failed, recorded)
    return [one for some in lost.values() for one in some], unread | more


@dataclass(frozen=True, slots=True)
class _Head:
    """The head of a pilot that is gone."""

    has_begun: bool
    """A cell of it has begun, or one that cannot be read now may have."""
    has_started: bool
    """Its node and its sources do: it waited for nodes."""
    told: str
    """Why it was told to end, in two lines, the class of failure first; empty if it was not."""


def _is_failure(known: EndedJob | None, head: _Head | None) -> bool:
    """Return whether a job should have begun its cell; one that completed found it done, given up or another job's."""
    if head:
        return not head.has_begun
    return known is None or known.state != "COMPLETED"


def _heads(grid_dir: Path, jobs: Collection[Job]) -> dict[Job, _Head]:
    """Return those of some jobs that are heads of pilots."""
    found: dict[Job, _Head] = {}
    for launch_dir, one in submissions.read(grid_dir):
        if one.is_pilot and one.job and one.job in jobs:
            launch = LaunchFolder(launch_dir)
            has_started = any(job.node_file.exists() for job in launch.jobs(one.job_id))
            made = {cell: run_folder(grid_dir, cell) for cell in one.cells}
            tried, errors = readable.each_or_error(made, partial(_has_tried, pilot=one, launch_dir=launch_dir))
            has_begun = any(tried.values()) or readable.passing(errors.values()) is not None
            told = launch.stop_file.read_text() if launch.stop_file.exists() else ""
            found[one.job] = _Head(has_begun, has_started, told)
    return found


def _has_tried(folder: RunFolder, pilot: Submission, launch_dir: Path) -> bool:
    """Return whether a node of a pilot has begun a cell: its attempts are of that node's job."""
    for attempt in folder.attempts():
        owner = attempt.known_owner()
        number = str(owner.get("slurm", {}).get("job", ""))
        if number != pilot.job_id and (
            owner.get("launch") == launch_dir.name or number.partition("_")[0] == pilot.nodes_id
        ):
            return True
    return False


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
        made = {cell: run_folder(grid_dir, cell) for cell in cells}
        every = readable.each(made, partial(_kinds, launch_dir=launch_dir))
        kinds = [kind for some in every.values() for kind in some]
        if len(kinds) >= min(ENOUGH, len(cells)) and {*kinds} == {FailureClass.NEVER_BEGAN}:
            yield launch_dir, next(words[cell] for cell in cells if cell in words)


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


def _record(folder: RunFolder, job: Job, known: EndedJob | None, launch_dir: Path, head: _Head | None) -> list[Lost]:
    try:
        campaign = Campaign.read(launch_dir)
    except DamagedFileError as error:  # a newer launch retries the cell
        tell(error)
        return []
    if not decision_of(folder, campaign.name).again:
        return []
    text = _tail(LaunchFolder(launch_dir).job_log(job.number))
    waited = head is not None and head.has_started  # then its own node is not to blame
    failure = _of_head(head, job, known, text) if head and waited else _failure(job, known, text)
    owner = {"launch": launch_dir.name, "campaign": campaign.name, "grid": campaign.grid_name, "pid": 0,
             "commit": campaign.commit, "host": "" if waited else _first_node(known),
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
    where = f" on {known.node}" if known and known.node else ""
    kind = BY_STATE.get(known.state, FailureClass.NEVER_BEGAN) if known else FailureClass.NEVER_BEGAN
    return _never_began(kind, f"job {job}{where} ended before it began the cell", known, _last_line(text))


def _of_head(head: _Head, job: Job, known: EndedJob | None, text: str) -> Failure:
    """Return the failure of a head that waited for nodes: whatever ended it, its cells were not at fault."""
    told, _, why = head.told.partition("\n")
    kind = BY_STATE.get(known.state) if known else None
    is_cancelled = FailureClass.CANCELLED in (told, None if told else kind)
    message = f"job {job}, the head of a pilot, ended before any of its cells began"
    why = f"{told}, {why}" if told else _last_line(text)
    return _never_began(FailureClass.CANCELLED if is_cancelled else FailureClass.NEVER_BEGAN, message, known, why)


def _never_began(kind: FailureClass, what: str, known: EndedJob | None, why: str) -> Failure:
    said = f"Slurm says {known.state}, exit code {known.exit_code}" if known else "Slurm knows nothing of its end"
    code, state = (known.exit_code, known.state) if known else ("", "")
    ended = known.time if known else None
    return Failure(kind, "LostError", f"{what}, {said}: {why}", "", exit_code=code, slurm_state=state, ended=ended)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return "".join(f"{line}\n" for line in lines[-TAIL_LINES:])


def _kinds(folder: RunFolder, launch_dir: Path) -> list[FailureClass]:
    return [
        attempt.end().kind for attempt in folder.attempts() if attempt.known_owner().get("launch") == launch_dir.name
    ]

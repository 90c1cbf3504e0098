"""The state of a grid's cells on Slurm: run folders first, squeue second, accounting third."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from orchestration.on_slurm import commands, submissions
from orchestration.on_slurm.commands import Job, QueuedJob
from orchestration.on_slurm.evidence import all_ended_lately, failure_of, is_unclear, last_event, says_more
from orchestration.on_slurm.standing_still import WAITS_FOR_NODE
from orchestration.running.run_cell import record_loss
from orchestration.runs import readable
from orchestration.runs.failures import Failure
from orchestration.runs.jobs import JobState, StateLog
from orchestration.runs.run_folder import RunFolder, folders


@dataclass(frozen=True, slots=True)
class Lost:
    """A cell whose attempt wrote nothing at its end, and what became of its job."""

    cell: str
    failure: Failure


def queued_cells(grid_dir: Path) -> dict[str, QueuedJob]:
    """Return the jobs that Slurm has not ended, by the names of the cells' folders.

    Raises:
        SlurmError: squeue does not answer.
    """
    queued = submissions.queue(grid_dir)
    pilots = {
        one.job: StateLog(launch_dir).read()
        for launch_dir, one in submissions.read(grid_dir)
        if one.is_pilot and one.job in queued
    }
    found = {}
    for cell, job in submissions.newest_jobs(grid_dir).items():
        if job in queued and (state := _in_pilot(cell, queued[job], pilots.get(job))):
            found[cell] = state
    return found


def waiting_nodes(grid_dir: Path) -> list[QueuedJob]:
    """Return the jobs that are to lend nodes to pilots whose heads run, where none of a pilot's has begun.

    Raises:
        SlurmError: squeue does not answer.
    """
    queued = submissions.queue(grid_dir)
    found: list[QueuedJob] = []
    for _, one in submissions.read(grid_dir):
        if one.is_pilot and one.job in queued and not queued[one.job].is_waiting:
            nodes = [job for job in queued.values() if job.job.array == one.nodes]
            found += nodes if all(job.is_waiting for job in nodes) else []
    return found


def pilots_at_work(grid_dir: Path, launches: Collection[Path]) -> list[tuple[submissions.Submission, bool]]:
    """Return the pilots of some launches of which Slurm has the head or nodes, each with whether it has the head.

    Raises:
        SlurmError: squeue does not answer.
    """
    pilots = [one for folder, one in submissions.read(grid_dir) if folder in launches and one.is_pilot]
    alive = {job.array for job in submissions.queue(grid_dir)} if pilots else set[Job]()
    return [(one, one.job in alive) for one in pilots if not alive.isdisjoint((one.job, one.nodes))]


def state_of(job: QueuedJob) -> JobState:
    """Return what Slurm says of a job that it has."""
    return JobState.PENDING if job.is_waiting else JobState.RUNNING


def _in_pilot(cell: str, job: QueuedJob, states: Mapping[str, JobState] | None) -> QueuedJob | None:
    """Return a cell's job; a pilot's job waits, runs or is gone as its cell does."""
    if states is None or job.is_waiting:
        return job
    state = states.get(cell, JobState.PENDING)
    if state.has_ended:
        return None
    alone = replace(job, node="")
    is_ending = job.state == "COMPLETING"  # nobody gives it a node any more
    return alone if state is JobState.RUNNING or is_ending else replace(alone, state="PENDING", reason=WAITS_FOR_NODE)


def record_lost(grid_dir: Path, only: Collection[str] = ()) -> tuple[list[Lost], dict[str, readable.Error]]:
    """Record how attempts of a grid ended whose jobs are gone and that could not do so themselves.

    Accounting overrules an attempt that recorded only that its process vanished, or that it was preempted where
    it could not ask. Return also why nothing is known of other cells, by signature: they cannot be read.

    Args:
        grid_dir: Folder of the grid.
        only: The signatures of the cells to look at; all if none is given.

    Raises:
        SlurmError: squeue does not answer, and nothing was written.
    """
    made = {key: folder for key, folder in folders(grid_dir).items() if not only or key in only}
    jobs, unread = readable.each_or_error(made, lambda folder: _job_of_unclear_end(folder, grid_dir))
    unclear = {made[key]: job for key, job in jobs.items() if job}
    if not unclear:
        return [], unread
    queued = submissions.queue(grid_dir)
    gone = {folder: job for folder, job in unclear.items() if job not in queued or queued[job].is_waiting}
    accounted = commands.ended(gone.values()) or {}
    lately = all_ended_lately({*gone.values()} - accounted.keys() - queued.keys())

    def recorded(folder: RunFolder) -> Lost | None:
        attempt, job = folder.attempts()[-1], gone[folder]
        failure = failure_of(attempt, job, accounted.get(job, ()), lately=lately.get(job), is_requeued=job in queued)
        if not says_more(last_event(attempt), failure):
            return None
        record_loss(folder.path, failure, known_dead=True)
        return Lost(folder.path.name, failure)

    lost, more = readable.each_or_error({folder.signature: folder for folder in gone}, recorded)
    return [one for one in lost.values() if one], unread | more


def _job_of_unclear_end(folder: RunFolder, grid_dir: Path) -> Job | None:
    """Return the job of the newest attempt if that recorded no reason for its end, and its job was one of Slurm's."""
    attempts = folder.attempts()
    if not attempts or folder.has_result() or folder.is_trained_for_another(folder.grid.name):
        return None
    if not is_unclear(last_event(attempts[-1])):
        return None
    known = attempts[-1].known_owner().get("slurm", {})
    return submissions.job_of(grid_dir, folder.path.name, known["job"], known.get("name", "")) if known else None

"""How the cells of a grid stand on Slurm: run folders first, squeue second, accounting third."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestration import slurm_commands, submissions
from orchestration.failures import Failure, FailureClass
from orchestration.run_cell import record_loss
from orchestration.run_folder import Attempt, RunFolder
from orchestration.slurm_commands import EndedJob, QueuedJob
from orchestration.slurm_job import log_tail

_BY_STATE = {
    "NODE_FAIL": FailureClass.NODE_FAILURE,
    "BOOT_FAIL": FailureClass.NODE_FAILURE,
    "TIMEOUT": FailureClass.TIME_LIMIT,
    "DEADLINE": FailureClass.TIME_LIMIT,
    "OUT_OF_MEMORY": FailureClass.HOST_MEMORY,
    "PREEMPTED": FailureClass.PREEMPTED,
    "REQUEUED": FailureClass.PREEMPTED,
    "CANCELLED": FailureClass.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class Lost:
    """A cell whose attempt wrote nothing at its end, and what became of its job."""

    cell: str
    failure: Failure


def queued_cells(grid_dir: Path) -> dict[str, QueuedJob]:
    """Return the jobs that Slurm has not ended, by the names of the cells' folders.

    Raises:
        SlurmError: squeue says nothing.
    """
    queued = slurm_commands.queue()
    return {cell: queued[job] for cell, job in submissions.newest_jobs(grid_dir).items() if job in queued}


def record_lost(folders: Iterable[RunFolder]) -> list[Lost]:
    """Write down how attempts ended whose jobs are gone and that could not do so themselves.

    Raises:
        SlurmError: squeue says nothing, and nothing was written.
    """
    silent = {folder: job for folder in folders if (job := _job_of_silent_attempt(folder))}
    if not silent:
        return []
    queued = slurm_commands.queue()
    gone = {folder: job for folder, job in silent.items() if job not in queued or queued[job].is_waiting}
    accounted = slurm_commands.ended(gone.values()) or {}
    lost = [Lost(folder.path.name, _failure(folder, job, accounted)) for folder, job in gone.items()]
    for folder, item in zip(gone, lost, strict=True):
        record_loss(folder.path, item.failure, known_dead=True)
    return lost


def _job_of_silent_attempt(folder: RunFolder) -> str:
    """Return the job of the newest attempt if that wrote nothing at its end, and its job was one of Slurm's."""
    attempts = folder.attempts()
    if not attempts or folder.result() is not None or _has_ended(attempts[-1]):
        return ""
    return str(attempts[-1].owner().get("slurm", {}).get("job", ""))


def _has_ended(attempt: Attempt) -> bool:
    return any(event["event"] in ("stopped", "failed") for event in attempt.events()[-1:])


def _failure(folder: RunFolder, job: str, accounted: Mapping[str, EndedJob]) -> Failure:
    known = accounted.get(job)
    node = folder.attempts()[-1].owner()["host"]
    if known is None:
        kind, message = FailureClass.LOST, f"job {job} on {node} is gone, and Slurm knows nothing of its end"
    else:
        kind = _BY_STATE.get(known.state, FailureClass.LOST)
        message = f"job {job} on {known.node or node}: Slurm says {known.state}, exit code {known.exit_code}"
    return Failure(kind, "LostError", message, log_tail(folder))

"""The one table of states: what a cell's folder says, what a scheduler says about its job, and what a user reads.

Why an attempt ended early is another question, answered by `failure_class.FailureClass`. docs/run_folder.md has the
table in words; a test compares the two.
"""

from enum import StrEnum
from typing import Literal


class CellState(StrEnum):
    """The state of a cell: by its folder alone, or by its folder and its job together (`joined`)."""

    DONE = "done"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    MISSING = "missing"
    """There is no attempt; only by a folder alone."""
    DAMAGED = "damaged"
    """One of its files cannot be read."""
    UNREADABLE = "unreadable"
    """It cannot be read now, because a file server is away; only by a folder alone."""
    STARTING = "starting"
    """Its job runs, but its training has not begun yet; by both together, like all states below."""
    WAITING = "waiting"
    LOST = "lost?"
    """It was submitted, but there is no job, and no record of its end."""
    NEW = "not submitted"
    UNKNOWN = "unknown"
    """It was submitted, but the scheduler does not answer; or its folder cannot be read now."""

    @property
    def is_open(self) -> bool:
        """Return whether the state may change by itself."""
        return self in (CellState.RUNNING, CellState.STARTING, CellState.WAITING, CellState.UNKNOWN)


FolderStatus = Literal[
    CellState.DONE,
    CellState.RUNNING,
    CellState.INTERRUPTED,
    CellState.FAILED,
    CellState.MISSING,
    CellState.DAMAGED,
    CellState.UNREADABLE,
]
"""The states that a folder alone can have."""
READ = (
    CellState.DONE,
    CellState.RUNNING,
    CellState.STARTING,
    CellState.WAITING,
    CellState.INTERRUPTED,
    CellState.FAILED,
    CellState.LOST,
    CellState.DAMAGED,
    CellState.NEW,
    CellState.UNKNOWN,
)
"""The states that a user reads, in the order of counts."""


class JobState(StrEnum):
    """The scheduler's state of a cell's job; the state of its training is in the run folder."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    """Ended early with a checkpoint, or cancelled before it began."""
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """Another launch trains the cell, or its own launcher is gone."""
    GONE = "gone"
    """It was submitted, but the scheduler no longer has it."""
    SILENT = "silent"
    """It was submitted, but the scheduler does not answer."""

    @property
    def has_ended(self) -> bool:
        """Return whether the state is final."""
        return self not in (JobState.PENDING, JobState.RUNNING, JobState.SILENT)


class Action(StrEnum):
    """What a launch does with a cell."""

    SUBMIT = "submit"
    RESUME = "resume"
    KEEP = "keep"
    RUNNING = "running"
    GIVE_UP = "give up"
    """It failed in a way that the same code would repeat."""
    LEAVE_OUT = "leave out"
    """It would not end by the time that the launch was given."""
    DAMAGED = "damaged"
    """One of its files cannot be read; nothing is done until it can be."""
    UNREADABLE = "unreadable"
    """Its file server does not answer; the next launch or step looks again."""


def joined(folder: FolderStatus, job: JobState | None) -> CellState:
    """Return the state of a cell that the user reads.

    Args:
        folder: The state by its folder.
        job: The scheduler's state of its newest job; None if it never had one, as when it trains on this machine.
    """
    if folder is CellState.DONE:
        return CellState.DONE
    if job is JobState.PENDING:
        return CellState.WAITING
    if job is JobState.RUNNING:
        return CellState.RUNNING if folder is CellState.RUNNING else CellState.STARTING
    if folder is CellState.UNREADABLE:
        return CellState.UNKNOWN
    if folder is CellState.RUNNING or folder is CellState.MISSING:
        return _without_a_job(folder, job)
    return folder


def _without_a_job(folder: FolderStatus, job: JobState | None) -> CellState:
    if job is None:
        return CellState.RUNNING if folder is CellState.RUNNING else CellState.NEW
    return CellState.UNKNOWN if job is JobState.SILENT else CellState.LOST


def at_end(folder: FolderStatus) -> JobState:
    """Return the final state of a job, by what it left in the cell's folder."""
    if folder is CellState.DONE:
        return JobState.DONE
    said_nothing = folder is CellState.RUNNING
    return JobState.FAILED if folder is CellState.FAILED or said_nothing else JobState.STOPPED


def action_for(folder: FolderStatus, *, has_checkpoint: bool, is_given_up: bool) -> Action:
    """Return what a launch does with a cell.

    Args:
        folder: The state by its folder.
        has_checkpoint: There is a checkpoint to resume from.
        is_given_up: It failed in a way that the same code would repeat, and the user did not ask for a retry.
    """
    known = {
        CellState.DONE: Action.KEEP,
        CellState.RUNNING: Action.RUNNING,
        CellState.DAMAGED: Action.DAMAGED,
        CellState.UNREADABLE: Action.UNREADABLE,
    }
    if folder in known:
        return known[folder]
    if folder is CellState.FAILED and is_given_up:
        return Action.GIVE_UP
    return Action.RESUME if has_checkpoint and folder is not CellState.MISSING else Action.SUBMIT

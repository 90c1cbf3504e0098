"""The classes of failure: what can end an attempt early."""

from enum import StrEnum


class FailureClass(StrEnum):
    """Why an attempt ended without a result."""

    PREEMPTED = "preempted"
    TIME_LIMIT = "time limit"
    NODE_FAILURE = "node failure"
    REQUEUED = "requeued"
    """Slurm restarted the job without saying why: a lost node, a preemption, or a user's `scontrol requeue`."""
    CANCELLED = "cancelled"
    OUTPERFORMED = "outperformed"
    """A search stopped it, because other points were ahead."""
    LOST = "lost"
    """The process vanished without a message: killed, crashed, or its node is gone."""
    HUNG = "hung"
    """The training gave no sign of life for too long, and was ended."""
    NEVER_BEGAN = "never began"
    """The job ended before it claimed an attempt: no Python, no sources, a missing module."""
    FILE_SYSTEM = "file system"
    """A file server was away, or answered with errors."""
    MISSING_FILE = "missing file"
    """A file that existed before the first job is missing: deleted, or a node lacks its mount."""
    GPU_FAULT = "GPU fault"
    """The GPU, its driver or its context is broken, or the node has none."""
    NETWORK = "network"
    """The workers of a cell, or it and its Ray, did not reach each other."""
    DATA_WORKER = "data worker killed"
    """A data worker was killed from outside, mostly for its memory use."""
    SHARED_MEMORY = "out of shared memory"
    NODE_LIMIT = "limit of the node"
    """No threads, processes, file handles or local disk space were left."""
    GPU_MEMORY = "out of GPU memory"
    HOST_MEMORY = "out of host memory"
    MACHINE_MEMORY = "machine out of memory"
    """Other processes on the machine used the memory, possibly cells of the same launch."""
    DISK_FULL = "disk full"
    BAD_DATA = "bad data"
    NON_FINITE_LOSS = "loss is not finite"
    """A loss, or a weight after a step, became NaN or infinite."""
    STEP_LEFT_OUT = "step is left out"
    """The same, where `trainer.when_not_finite=leave_out` has the next attempt go on without that step, once."""
    CODE = "code error"


def known_class(word: str) -> FailureClass:
    """Return the class named in a file; an unknown one, of a newer version, counts as `code error`."""
    return FailureClass(word) if word in set(FailureClass) else FailureClass.CODE

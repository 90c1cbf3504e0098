"""The classes of what can end an attempt early."""

from enum import StrEnum


class FailureClass(StrEnum):
    """Why an attempt ended without a result."""

    PREEMPTED = "preempted"
    TIME_LIMIT = "time limit"
    NODE_FAILURE = "node failure"
    REQUEUED = "requeued"
    """Slurm began the job again without a word why: a lost node, a preemption, or somebody's `scontrol requeue`."""
    CANCELLED = "cancelled"
    OUTPERFORMED = "outperformed"
    """A search trained it no further, as others of its points were ahead."""
    LOST = "lost"
    """The process vanished without a word: killed, crashed, or its node is gone."""
    NEVER_BEGAN = "never began"
    """The job ended before it claimed an attempt: no Python, no sources, a module that is missing."""
    FILE_SYSTEM = "file system"
    """A file server was away, or answered with errors."""
    MISSING_FILE = "missing file"
    """What was there before the first job is not there: deleted, or a node without its mount."""
    GPU_FAULT = "GPU fault"
    """The GPU, its driver or its context is broken, or the node has none."""
    NETWORK = "network"
    """The workers of a cell, or it and its Ray, did not reach each other."""
    DATA_WORKER = "data worker killed"
    """A process that loads images was ended from outside, mostly for the memory that it took."""
    SHARED_MEMORY = "out of shared memory"
    NODE_LIMIT = "limit of the node"
    """No thread, process, file handle or local disk was left."""
    GPU_MEMORY = "out of GPU memory"
    HOST_MEMORY = "out of host memory"
    MACHINE_MEMORY = "machine out of memory"
    """Others on the machine had taken it, cells of the same launch among them."""
    DISK_FULL = "disk full"
    BAD_DATA = "bad data"
    NON_FINITE_LOSS = "loss is not finite"
    CODE = "code error"


def known_class(word: str) -> FailureClass:
    """Return the class that a file names; one that a newer version wrote, unknown here, is an error of the code."""
    return FailureClass(word) if word in set(FailureClass) else FailureClass.CODE

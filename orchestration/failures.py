"""What can end an attempt early, how an exception is told to be which, and what a new launch tries again."""

import errno
import re
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self


class FailureClass(StrEnum):
    """Why an attempt ended without a result."""

    PREEMPTED = "preempted"
    TIME_LIMIT = "time limit"
    NODE_FAILURE = "node failure"
    CANCELLED = "cancelled"
    OUTPERFORMED = "outperformed"
    """A search trained it no further, as others of its points were ahead."""
    LOST = "lost"
    """The process vanished without a word: killed, crashed, or its node is gone."""
    NEVER_BEGAN = "never began"
    """The job ended before it claimed an attempt: no Python, no sources, a module that is missing."""
    GPU_MEMORY = "out of GPU memory"
    HOST_MEMORY = "out of host memory"
    DISK_FULL = "disk full"
    BAD_DATA = "bad data"
    NON_FINITE_LOSS = "loss is not finite"
    CODE = "code error"


class CancelledError(Exception):
    """Training was told to end at once, without a checkpoint."""


class LostError(Exception):
    """A process that trained died without raising anything."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure in words that can be written to a file and compared."""

    kind: FailureClass
    error: str
    """Class name of the exception."""
    message: str
    traceback: str
    """The last lines of it."""
    exit_code: str = ""
    """Of the process that vanished: a number, `signal 9`, or as Slurm writes it."""
    slurm_state: str = ""
    """What Slurm says became of the job."""

    @classmethod
    def of(cls, error: BaseException, num_lines: int = 40) -> Self:
        """Describe an exception; one that came from another process brings its own description."""
        if isinstance(error, TrainingError):
            return cls(**asdict(error.failure))
        text = "".join(traceback.format_exception(error))
        tail = "\n".join(text.splitlines()[-num_lines:])
        return cls(_classify(error, text), type(error).__name__, str(error), tail)

    @classmethod
    def from_dict(cls, fields: dict[str, str]) -> Self:
        """Rebuild what `dataclasses.asdict` made."""
        return cls(**{**fields, "kind": FailureClass(fields["kind"])})  # type: ignore[arg-type]


class TrainingError(Exception):
    """Carries a failure from the process where it happened."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.error}: {failure.message}")
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Treatment:
    """What a class of failure gets when nobody is asked."""

    retries: int | None = 0
    """How often a cell is tried again after it; None: for as long as it gets on."""
    excludes_node: bool = False
    """The next try goes to another node."""
    by_launch: bool = True
    """Somebody's new launch tries the cell again: the machine, the data or the code may have been mended."""


POLICY = {
    FailureClass.PREEMPTED: Treatment(retries=None),
    FailureClass.TIME_LIMIT: Treatment(retries=None),
    FailureClass.NODE_FAILURE: Treatment(retries=None, excludes_node=True),
    FailureClass.LOST: Treatment(retries=2, excludes_node=True),
    FailureClass.NEVER_BEGAN: Treatment(retries=2),
    FailureClass.DISK_FULL: Treatment(),
    FailureClass.BAD_DATA: Treatment(),
    FailureClass.CODE: Treatment(),
    FailureClass.CANCELLED: Treatment(),
    FailureClass.OUTPERFORMED: Treatment(by_launch=False),
    # Unchanged, these end the same way; code that changes numbers changes the signature.
    FailureClass.GPU_MEMORY: Treatment(by_launch=False),
    FailureClass.HOST_MEMORY: Treatment(by_launch=False),
    FailureClass.NON_FINITE_LOSS: Treatment(by_launch=False),
}
MAX_WITHOUT_PROGRESS = 3


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How one attempt of a cell ended."""

    kind: FailureClass
    first_step: int
    last_step: int
    node: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a cell is tried again without anybody being asked, and why not."""

    again: bool
    why: str = ""
    excluded_nodes: tuple[str, ...] = ()


def decide(ends: Sequence[AttemptEnd]) -> Decision:
    """Decide by all attempts of a cell, in order; one that has had none is begun."""
    if not ends:
        return Decision(again=True)
    last = ends[-1]
    if len(ends) >= MAX_WITHOUT_PROGRESS and all(
        end.last_step <= end.first_step for end in ends[-MAX_WITHOUT_PROGRESS:]
    ):
        return Decision(again=False, why=f"no progress in {MAX_WITHOUT_PROGRESS} attempts, last: {last.kind}")
    retries, tries = POLICY[last.kind].retries, sum(end.kind is last.kind for end in ends)
    if retries is not None and tries > retries:
        return Decision(again=False, why=f"{last.kind}, {tries} times" if tries > 1 else str(last.kind))
    excluded = dict.fromkeys(end.node for end in ends if end.node and POLICY[end.kind].excludes_node)
    return Decision(again=True, excluded_nodes=tuple(excluded))


def is_tried_again(kind: str | None) -> bool:
    """Tell whether a new launch tries a cell again that failed so, without being asked for it by name."""
    return kind is None or POLICY[FailureClass(kind)].by_launch


_BY_NAME = {
    "CancelledError": FailureClass.CANCELLED,
    "TaskCancelledError": FailureClass.CANCELLED,
    "KeyboardInterrupt": FailureClass.CANCELLED,
    "LostError": FailureClass.LOST,
    "WorkerCrashedError": FailureClass.LOST,
    "ActorDiedError": FailureClass.LOST,
    "RayActorError": FailureClass.LOST,
    "NodeDiedError": FailureClass.LOST,
    "NonFiniteLossError": FailureClass.NON_FINITE_LOSS,
    "MemoryError": FailureClass.HOST_MEMORY,
}
_FULL_DISK = re.compile(r"No space left on device|unexpected pos \d+ vs \d+")  # the second is what torch.save says
_GPU_MEMORY = re.compile(r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_HOST_MEMORY = re.compile(r"can't allocate memory|Cannot allocate memory|ran out of memory|killed due to the node")
_PARTNER_GONE = re.compile(r"gloo/transport/|ncclRemoteError")  # what the other workers of one that was killed say
_IN_DATA = re.compile(r'File "[^"]*rankmatch[/\\]data[/\\]')


def _classify(error: BaseException, text: str) -> FailureClass:
    """Name the class by the exception's type first, then by what it says, then by where it was raised.

    Types go by name: neither torch nor ray is imported for it, and torch's `OutOfMemoryError` (a GPU's) and Ray's
    (the node's) differ by module only.
    """
    names = [base.__name__ for base in type(error).__mro__]
    known = [_BY_NAME[name] for name in names if name in _BY_NAME]
    if known:
        return known[0]
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FailureClass.DISK_FULL
    message = str(error)
    if "OutOfMemoryError" in names:
        return FailureClass.HOST_MEMORY if _module_of(error, "ray") else FailureClass.GPU_MEMORY
    for pattern, kind in (
        (_FULL_DISK, FailureClass.DISK_FULL),
        (_GPU_MEMORY, FailureClass.GPU_MEMORY),
        (_HOST_MEMORY, FailureClass.HOST_MEMORY),
        (_PARTNER_GONE, FailureClass.LOST),
    ):
        if re.search(pattern, message):
            return kind
    # A data worker's exception keeps its class and carries its traceback as text, so the text is what is searched.
    if isinstance(error, ValueError | OSError) and _IN_DATA.search(text):
        return FailureClass.BAD_DATA
    return FailureClass.CODE


def _module_of(error: BaseException, package: str) -> bool:
    return type(error).__module__.partition(".")[0] == package

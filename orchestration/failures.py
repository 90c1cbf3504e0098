"""What can end an attempt early, how an exception is told to be which, and what a new launch tries again."""

import errno
import re
import traceback
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self


class FailureClass(StrEnum):
    """Why an attempt ended without a result."""

    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    LOST = "lost"
    """The process vanished without a word: killed, crashed, or its node is gone."""
    GPU_MEMORY = "out of GPU memory"
    HOST_MEMORY = "out of host memory"
    DISK_FULL = "disk full"
    BAD_DATA = "bad data"
    NON_FINITE_LOSS = "loss is not finite"
    CODE = "code error"


class CancelledError(Exception):
    """Training was told to end at once, without a checkpoint."""


class PreemptedError(Exception):
    """The machine is taken away."""


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


def is_tried_again(kind: str | None) -> bool:
    """Tell whether a new launch tries such a cell again without being asked for it by name.

    All but a loss that is not finite: whoever launches again may have mended the machine, the data or the code,
    but the same configuration computes the same numbers, and code that changes them changes the signature.
    """
    return kind != FailureClass.NON_FINITE_LOSS


_BY_NAME = {
    "CancelledError": FailureClass.CANCELLED,
    "TaskCancelledError": FailureClass.CANCELLED,
    "KeyboardInterrupt": FailureClass.CANCELLED,
    "PreemptedError": FailureClass.PREEMPTED,
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
    ):
        if re.search(pattern, message):
            return kind
    # A data worker's exception keeps its class and carries its traceback as text, so the text is what is searched.
    if isinstance(error, ValueError | OSError) and _IN_DATA.search(text):
        return FailureClass.BAD_DATA
    return FailureClass.CODE


def _module_of(error: BaseException, package: str) -> bool:
    return type(error).__module__.partition(".")[0] == package

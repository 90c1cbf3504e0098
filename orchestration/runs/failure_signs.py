"""The signs that classify an exception: its type, errno and message. A table, read in order."""

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from orchestration.runs.failure_class import FailureClass


@dataclass(frozen=True, slots=True)
class Sign:
    """Signs of a class; one of them is enough."""

    kind: FailureClass
    types: tuple[str, ...] = ()
    """Names of types or their bases, so that neither torch nor ray is imported. `ray.X` is only Ray's X."""
    errnos: tuple[int, ...] = ()
    says: str = ""
    """A pattern of the message."""

    def matches_type(self, error: BaseException) -> bool:
        """Return whether an exception is of one of the types."""
        bases = type(error).__mro__
        names = {base.__name__ for base in bases}
        names |= {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in bases}
        return not names.isdisjoint(self.types)

    def matches_text(self, text: str) -> bool:
        """Return whether a message matches the pattern, or names one of the errnos, as other libraries do."""
        return bool(self.says and re.search(self.says, text)) or any(
            os.strerror(number) in text or f"[Errno {number}]" in text for number in self.errnos
        )


# A full disk or missing folder of the node itself is no fault of the shared file system; so this precedes plain errnos.
PLACES = (
    Sign(
        FailureClass.SHARED_MEMORY,
        says=r"(No space left on device|Disk quota exceeded|No such file or directory|Cannot allocate memory)"
        r": '/dev/shm/",
    ),
    Sign(
        FailureClass.NODE_LIMIT,
        says=r"(No space left on device|Disk quota exceeded): '(/var)?/tmp/|No usable temporary directory found",
    ),
)
# The first matching sign counts, so special ones precede general ones.
SIGNS = (
    Sign(FailureClass.CANCELLED, types=("CancelledError", "TaskCancelledError", "KeyboardInterrupt")),
    Sign(
        FailureClass.LOST,
        types=("LostError", "WorkerCrashedError", "ActorDiedError", "RayActorError", "NodeDiedError",
               "LocalRayletDiedError", "ActorUnavailableError", "ObjectLostError", "ray.RaySystemError",
               "ray.RuntimeEnvSetupError", "TaskPlacementGroupRemoved", "ActorPlacementGroupRemoved"),
        says=r"gloo/transport/|ncclRemoteError|NCCL Error 6:",  # the other workers of one that was killed
    ),
    Sign(FailureClass.STEP_LEFT_OUT, types=("StepToLeaveOutError",)),
    Sign(FailureClass.NON_FINITE_LOSS, types=("NonFiniteLossError",)),
    Sign(
        FailureClass.SHARED_MEMORY,
        types=("ray.ObjectStoreFullError",),
        says=r"insufficient shared memory|out of shared memory|shared memory segment|/dev/shm/"
        r"|allocate shared memory|open shared memory object|unable to [^<]*</torch_",
    ),
    Sign(
        FailureClass.HOST_MEMORY,
        types=("MemoryError", "ray.OutOfMemoryError"),
        errnos=(errno.ENOMEM,),
        says=r"can't allocate memory|(?<!CUDA )ran out of memory|killed due to the node",
    ),
    Sign(
        FailureClass.GPU_MEMORY,
        types=("OutOfMemoryError",),  # torch's: Ray's is above
        says=r"CUDA (ran )?out of memory|CUDA (driver )?error: out of memory|Triton Error \[CUDA\]: out of memory"
        r"|Cuda failure \d* ?'out of memory'|CU[A-Z]+_STATUS_ALLOC_FAILED|INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"
        # cuDNN's engines fail one by one for lack of memory, and torch reports only the last one
        r"|unable to find an engine to execute this computation|Unable to find a valid cuDNN algorithm",
    ),
    Sign(
        FailureClass.DATA_WORKER,
        says=r"DataLoader worker \(pid(\(s\))? [\d, ]+\) (is killed by signal|exited unexpectedly)"
        r"|Pin memory thread exited unexpectedly|DataLoader timed out after",
    ),
    Sign(
        FailureClass.GPU_FAULT,
        types=("MissingGpuError",),
        says=r"CUDA (driver )?error: (?!device-side assert|invalid (argument|configuration|value))"
        r"|cuDNN error: CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|NOT_INITIALIZED)"
        r"|CUBLAS_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|NOT_INITIALIZED)"
        r"|CUDA (driver )?initiali[sz]ation (error|failed)|CUDA unknown error|Unexpected error from cudaGetDeviceCount"
        r"|No CUDA GPUs are available|Found no NVIDIA driver|GPU is lost|ncclUnhandledCudaError|NCCL Error 1:"
        r"|[Dd]river/library version mismatch|NVML/RM version mismatch|Can't initialize NVML",
    ),
    Sign(
        FailureClass.NETWORK,
        types=("ConnectionError", "TimeoutError", "DistNetworkError", "DistStoreError", "RpcError"),
        errnos=(errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET,
                errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.EADDRINUSE,
                errno.EADDRNOTAVAIL),
        says=r"ncclSystemError|ncclInternalError|NCCL Error [23]:|NCCL communicator was aborted|Socket Timeout"
        r"|EADDRINUSE|Watchdog caught collective operation timeout"
        r"|Connection was likely closed|nodes joined Ray within",
    ),
    Sign(
        FailureClass.FILE_SYSTEM,
        errnos=(errno.ESTALE, errno.EIO, errno.EREMOTEIO, errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN,
                errno.ENOLINK, errno.ENODEV, errno.ENXIO, errno.EROFS, errno.ENOLCK, errno.EUCLEAN, errno.EKEYEXPIRED,
                errno.EKEYREVOKED, errno.EKEYREJECTED, errno.ENOKEY,
                errno.EBUSY, errno.ENOTEMPTY,  # NFS keeps what is open as `.nfs*`
                errno.EACCES),  # a ticket that expired
    ),
    Sign(
        FailureClass.NODE_LIMIT,
        types=("ray.OutOfDiskError", "LocalDiskError"),
        errnos=(errno.EAGAIN, errno.EMFILE, errno.ENFILE),
        says=r"can't start new thread|received 0 items of ancdata",
    ),
    Sign(
        FailureClass.DISK_FULL,
        errnos=(errno.ENOSPC, errno.EDQUOT),
        says=r"unexpected pos \d+ vs \d+",  # torch.save
    ),
    Sign(
        FailureClass.MISSING_FILE,
        types=("MissingFileError", "FileNotFoundError", "NotADirectoryError"),
        errnos=(errno.ENOENT, errno.ENOTDIR),
        says=r"cannot open shared object file",
    ),
    Sign(FailureClass.FILE_SYSTEM, says=r"PytorchStreamWriter failed"),  # full or away: torch.save does not say
)  # fmt: skip
_IN_DATA = re.compile(r'File "[^"]*rankmatch[/\\]data[/\\]')


def class_of(error: BaseException, text: str) -> FailureClass:
    """Classify an exception: by the signs of its causes, by its own, else by where it was raised.

    Args:
        error: The exception.
        text: Its traceback.
    """
    for cause in reversed([*_causes(error)]):
        if kind := _by_signs(cause):
            return kind
    # A data worker's exception keeps its class and carries its traceback as text, so the text is searched.
    if isinstance(error, ValueError | OSError) and _IN_DATA.search(text):
        return FailureClass.BAD_DATA
    return FailureClass.CODE


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _by_signs(error: BaseException) -> FailureClass | None:
    number, message = getattr(error, "errno", None), str(error)
    by_place = (sign.kind for sign in PLACES if sign.matches_text(message))
    by_errno = (sign.kind for sign in SIGNS if number in sign.errnos)
    by_type = (sign.kind for sign in SIGNS if sign.matches_type(error))
    by_text = (sign.kind for sign in SIGNS if sign.matches_text(message))
    return next((kind for kinds in (by_place, by_errno, by_type, by_text) for kind in kinds), None)

"""Data workers: how their batches reach the training, how long it waits for one, and how the workers end.

A batch is handed over in a memory file (`memfd_create`), not in `/dev/shm`, of which containers often have only 64 MB:
when it is full, torch drops the batch, and the training waits for ever. Torch's other sharing strategy,
`file_system`, uses `/dev/shm` too.
"""

import errno
import mmap
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from multiprocessing import reduction
from typing import IO, Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from rankmatch.memory import keep_freed_memory

POLL_S = 5.0
"""Seconds between looks at whether somebody wants to stop, and at whether the workers live."""
_TIMED_OUT = "DataLoader timed out after"
_ALIGNED = 64
_T = TypeVar("_T")


class DataWorkerError(RuntimeError):
    """The data workers deliver no batches: they cannot be started, or none has come for too long."""


class Sent:
    """A loaded item on its way from a worker to the training; the tensors' numbers are in a memory file.

    It is made before the worker's queue sends it, because the queue would print an error and drop the batch.

    Raises:
        OSError: There is no room, or the process may open no more files.
    """

    def __init__(self, item: object) -> None:
        buffers: list[pickle.PickleBuffer] = []
        structure = BytesIO()
        _TensorsApart(structure, protocol=5, buffer_callback=buffers.append).dump(item)
        views = [buffer.raw() for buffer in buffers]
        with _memory() as file:
            for view in views:
                file.write(view)
                file.write(bytes(-view.nbytes % _ALIGNED))
            file.flush()
            handle: Any = reduction.DupFd(file.fileno())
        self._parts = (structure.getvalue(), [view.nbytes for view in views], handle)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        """Unpickle as the original item."""
        return _received, self._parts


def sent(item: _T) -> "_T | Sent":
    """Wrap an item to leave a worker; outside of a worker, return it unchanged."""
    return item if get_worker_info() is None else Sent(item)


def _memory() -> IO[bytes]:
    """Open a memory file, or an unnamed file on a disk if the system has no memory files."""
    try:
        return os.fdopen(os.memfd_create("rankmatch-batch"), "wb")
    except (AttributeError, PermissionError):  # a Python built for an old glibc; a container that forbids it
        return tempfile.TemporaryFile()
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return tempfile.TemporaryFile()


class _TensorsApart(pickle.Pickler):
    """Pickle tensors as arrays with out-of-band buffers."""

    def reducer_override(self, item: object) -> Any:  # noqa: ANN401 (as pickle has it)
        """Return how to rebuild a tensor."""
        return (torch.from_numpy, (item.contiguous().numpy(),)) if isinstance(item, Tensor) else NotImplemented


def _received(structure: bytes, sizes: list[int], handle: Any) -> object:  # noqa: ANN401 (multiprocessing's DupFd)
    descriptor = handle.detach()
    try:
        total = sum(size + -size % _ALIGNED for size in sizes)
        memory = memoryview(mmap.mmap(descriptor, total) if total else bytearray())
    finally:
        os.close(descriptor)
    views, start = [], 0
    for size in sizes:
        views.append(memory[start : start + size])
        start += size + -size % _ALIGNED
    return pickle.loads(structure, buffers=views)


class Batches(Generic[_T]):
    """The batches of a loader, with a time limit for each; the iteration ends early once `should_stop` returns true.

    Raises:
        DataWorkerError: The workers cannot be started; later, no batch came for `wait_min` minutes.
    """

    def __init__(
        self, loader: "DataLoader[Any]", wait_min: float, should_stop: Callable[[], bool] = lambda: False
    ) -> None:
        self.stopped = False
        """Whether they ended early."""
        self._wait_min, self._should_stop = wait_min, should_stop
        try:
            self._batches: Any = iter(loader)
        except OSError as error:
            raise DataWorkerError(
                f"out of shared memory: data workers cannot be started ({error.strerror}), as their locks lie in "
                f"/dev/shm, {_room()}; trainer.num_data_workers=0 does without workers"
            ) from None
        for worker in self._workers:  # they ignore SIGTERM, so only SIGKILL ends them as a last resort
            worker._popen.terminate = worker._popen.kill

    def __iter__(self) -> Iterator[_T]:
        return self

    def __next__(self) -> _T:
        began = time.monotonic()
        while True:
            try:
                batch: _T = next(self._batches)
            except RuntimeError as error:
                if _TIMED_OUT not in str(error):
                    raise
                self.stopped = self._should_stop()
                if self.stopped:
                    raise StopIteration from None
                self._look(began, error)
            else:
                return batch

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the data workers."""
        return [worker.pid for worker in self._workers]

    @property
    def _workers(self) -> list[Any]:
        found: list[Any] = getattr(self._batches, "_workers", [])
        return found

    def _look(self, began: float, error: RuntimeError) -> None:
        pinning = getattr(self._batches, "_pin_memory_thread", None)
        if pinning is not None and not pinning.is_alive():
            raise DataWorkerError("Pin memory thread exited unexpectedly") from error
        if time.monotonic() - began > 60 * self._wait_min:
            raise DataWorkerError(
                f"no batch has come for {self._wait_min:g} minutes (trainer.data_wait_min) from the data workers "
                f"{', '.join(map(str, self.worker_pids))}, which are alive; does the file system of the data respond?"
            ) from error


def options(num_data_workers: int) -> dict[str, Any]:
    """Return the loader options for a number of data workers."""
    return {
        "num_workers": max(0, num_data_workers),
        "persistent_workers": num_data_workers > 0,
        "timeout": POLL_S if num_data_workers > 0 else 0,
        "worker_init_fn": _prepare_worker,
        "generator": torch.Generator(),  # else torch's loader draws its base seed from the global generator
    }


def _prepare_worker(_: int) -> None:
    """Set up a data worker; it ignores what a scheduler or a terminal sends the whole group, as its parent ends it."""
    keep_freed_memory()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _room() -> str:
    try:
        found = os.statvfs("/dev/shm")
    except OSError as error:
        return f"which is not there ({error.strerror})"
    size, free = (found.f_frsize * blocks / 1e6 for blocks in (found.f_blocks, found.f_bavail))
    return f"which has {free:.1f} of {size:.1f} MB free"

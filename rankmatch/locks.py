"""Locks between processes, of several machines too, on whatever file system their files lie."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

FOR_EVER = -1.0
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
"""What file systems answer that cannot lock: NFS without its lock service, some FUSE and parallel ones."""


def acquire(path: Path, timeout_s: float = FOR_EVER) -> filelock.BaseFileLock:
    """Take a lock, which the kernel gives back when its holder dies; return it, to be released.

    Where the file system has no locks, a file beside it names the holder: it is taken over from one that died on this
    machine, and stays after one that died on another.

    Raises:
        filelock.Timeout: Somebody else holds it.
    """
    lock: filelock.BaseFileLock = filelock.FileLock(path, timeout=timeout_s, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if isinstance(error, filelock.Timeout) or error.errno not in _NO_LOCKS:
            raise
        lock = filelock.SoftFileLock(_marker(path), timeout=timeout_s)
        lock.acquire()
    return lock


@contextmanager
def held(path: Path, timeout_s: float = FOR_EVER) -> Iterator[None]:
    """Hold a lock while a block runs; see `acquire`."""
    lock = acquire(path, timeout_s)
    try:
        yield
    finally:
        lock.release()


def hint(path: Path) -> str:
    """Tell what to do about a holder that is gone; empty where the kernel knows that itself."""
    marker = _marker(path)
    return f"; this file system has no locks: where the holder is gone, remove {marker}" if marker.exists() else ""


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")

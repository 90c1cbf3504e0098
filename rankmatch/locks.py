"""Locks between processes, on one machine or several, on any file system."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

FOR_EVER = -1.0
BY_UMASK = -1
"""As filelock means it: no mode."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems that cannot lock: NFS without its lock service, some FUSE and parallel ones."""


def acquire(path: Path, timeout_s: float = FOR_EVER, mode: int = BY_UMASK) -> filelock.BaseFileLock:
    """Take a lock, which the kernel releases when its holder dies; the caller releases the returned lock.

    If the file system has no locks, a file beside it names the holder. Such a lock is taken over from a holder that
    died on this machine; after one that died on another machine it stays.

    Args:
        path: Its file, which is made if it is missing.
        timeout_s: How long to wait for its holder.
        mode: The mode of a file that is made, whatever the umask.

    Raises:
        filelock.Timeout: Somebody else holds it.
    """
    lock: filelock.BaseFileLock = filelock.FileLock(path, timeout=timeout_s, mode=mode, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if isinstance(error, filelock.Timeout) or error.errno not in _NO_LOCKS:
            raise
        lock = filelock.SoftFileLock(_marker(path), timeout=timeout_s, mode=mode)
        lock.acquire()
    return lock


@contextmanager
def held(path: Path, timeout_s: float = FOR_EVER, mode: int = BY_UMASK) -> Iterator[None]:
    """Hold a lock while a block runs; see `acquire`."""
    lock = acquire(path, timeout_s, mode)
    try:
        yield
    finally:
        lock.release()


def mode_in(folder: Path) -> int:
    """Return the mode of a lock's file that all must be able to take who may write in its folder."""
    return folder.stat().st_mode & 0o666 | 0o600


def hint(path: Path) -> str:
    """Return what to do about a dead holder; empty if the kernel releases its lock."""
    marker = _marker(path)
    return f"; this file system has no locks: where the holder is gone, remove {marker}" if marker.exists() else ""


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")

"""Folders on a node's own disk for the sockets and logs of a Ray: short, closed to others, and swept when left behind.

Whoever made a folder holds a lock on it while it lives. The kernel gives that back however the process ends, and knows
it across containers that share a /tmp but not their process numbers; `systemd-tmpfiles` leaves a locked folder alone.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestration import files

PLACES = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
"""In this order. Ray's sockets need a path of at most 40 characters; TMPDIR is often longer, and may be a network's."""
PREFIX = "rankmatch-"
ROOM = 64 * 2**20
"""Bytes that must be free: Ray's logs."""
OWNER, INNER = "owner.json", "ray"
_OLD_S = 3600.0
"""A folder without an owner was made just now, or by an earlier version, which held no lock. That is swept when it is
so old and nothing answers in it."""
_LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs", "jfs", "reiserfs", "ramfs")
"""File systems of one machine, so that its kernel knows all who hold a lock."""


@dataclass(slots=True)
class Scratch:
    """A folder of this process."""

    path: Path
    _handle: int

    @property
    def ray(self) -> Path:
        """Where a Ray puts its things: it opens its folder to everybody, so that lies in this one, which is closed."""
        return self.path / INNER

    def remove(self) -> None:
        """Remove it; a daemon that is just being killed may still write there."""
        for _ in range(20):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                break
            time.sleep(0.1)
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def make(**owner: Any) -> Scratch:  # noqa: ANN401 (whatever JSON can hold)
    """Make a folder that this user alone can enter, under a name that nobody can guess; `owner` is written into it.

    Raises:
        OSError: No place can be written and has room, with the reason of each.
    """
    refused = []
    for place in PLACES:
        try:
            if (free := shutil.disk_usage(place).free) < ROOM:
                raise OSError(errno.ENOSPC, f"{free / 2**20:.0f} MB are free")
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        except OSError as error:
            refused.append(f"{place}: {error.strerror}")
            continue
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # no locks there, so nobody sweeps there either
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        files.replace(path / OWNER, files.to_text(_describe() | owner), sync=False)
        return Scratch(path, handle)
    raise OSError(errno.ENOSPC, f"a Ray needs a folder with {ROOM // 2**20} MB on this machine ({'; '.join(refused)})")


@contextlib.contextmanager
def held(**owner: Any) -> Iterator[Scratch]:  # noqa: ANN401
    """Have a folder while a block runs."""
    made = make(**owner)
    try:
        yield made
    finally:
        made.remove()


def sweep(is_over: Callable[[Mapping[str, Any]], bool] = lambda owner: False) -> None:
    """Remove what this user's processes left behind when they were killed or the machine lost power.

    Args:
        is_over: Tells of an owner on another machine, where a folder is shared with that, whether it has ended.
    """
    for place in PLACES:
        with contextlib.suppress(OSError):
            for path in place.glob(f"{PREFIX}*"):
                with contextlib.suppress(OSError):  # somebody else sweeps, or it is not ours
                    _sweep(path, is_over)


def _sweep(path: Path, is_over: Callable[[Mapping[str, Any]], bool]) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its owner lives
        if _is_abandoned(path, time.time() - found.st_mtime, is_over):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(handle)


def _is_abandoned(path: Path, age_s: float, is_over: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Tell it of a folder that nobody on this machine has locked."""
    try:
        owner = files.read_json(path / OWNER)
    except (OSError, ValueError):
        return age_s > _OLD_S and not _answers(path)
    is_known_here = owner.get("host") == socket.gethostname() or owner.get("boot") == _boot() or is_local(path)
    return is_known_here or is_over(owner)


def is_local(path: Path) -> bool:
    """Tell whether a folder is on a file system that this machine alone can see."""
    mounts = [part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)]
    nearest = max(mounts, key=lambda part: len(part.mountpoint), default=None)
    return nearest is not None and nearest.fstype in _LOCAL


def _answers(path: Path) -> bool:
    """Tell whether a Ray still listens at one of its sockets."""
    for place in path.glob("session_*/sockets/*"):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            with contextlib.suppress(OSError):
                client.connect(str(place))
                return True
    return False


def _describe() -> dict[str, Any]:
    return {"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid()}


def _boot() -> str:
    """Return what tells this start of this machine from others, in all of its containers."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

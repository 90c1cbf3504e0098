"""Folders on a node's own disk for the sockets and logs of a Ray: short, private, and swept when abandoned.

Only folders with the file that their maker wrote into them are swept: everything else there belongs to somebody.

The maker of a folder holds a lock on it while it is alive. The kernel releases the lock however the process ends, and
knows it across containers that share a /tmp but not process numbers; `systemd-tmpfiles` skips locked folders.
"""

import contextlib
import errno
import fcntl
import os
import re
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

from orchestration.machine import files

PLACES = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
"""In this order. Ray's sockets need a path of at most 40 characters; TMPDIR is often longer, and may be a network's."""
PREFIX = "rm-ray-"
"""Prefix of these folders only; users may name their own folders after the program."""
ROOM = 64 * 2**20
"""Bytes that must be free: Ray's logs."""
OWNER, INNER = "owner.json", "ray"
MADE_BY = "rankmatch scratch"
_OLD_S = 3600.0
_EARLIER = re.compile(r"rankmatch-(j?\d+)([-_.]\w+)*")
"""Folders of earlier versions, which held no lock and wrote no owner: named by a job or a process. Such a one is swept
when it holds what a Ray makes and nothing else, has not changed for so long, and nothing answers in it."""
_OF_RAY = re.compile(r"session_(latest|\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d+_\d+)")
_BESIDE = ("ray_current_cluster", "prom_metrics_service_discovery.json")
_LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs", "jfs", "reiserfs", "ramfs")
"""Local file systems, where the kernel knows all holders of a lock."""


@dataclass(slots=True)
class Scratch:
    """A scratch folder of this process."""

    path: Path
    _handle: int

    @property
    def ray(self) -> Path:
        """The folder for Ray's files, inside this private one, because Ray opens its folder to everybody."""
        return self.path / INNER

    def remove(self) -> None:
        """Remove the folder; a daemon that is just being killed may still write there."""
        for _ in range(20):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                break
            time.sleep(0.1)
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def make(**owner: Any) -> Scratch:  # noqa: ANN401 (whatever JSON can hold)
    """Create a folder that only this user can enter, with an unguessable name; `owner` is written into it.

    Raises:
        OSError: No place is writable and has room; the message has the reason for each.
    """
    refused = []
    for place in PLACES:
        try:
            if (free := shutil.disk_usage(place).free) < ROOM:
                raise OSError(errno.ENOSPC, f"{free / 2**20:.0f} MB are free")
            return _make(place, owner)
        except OSError as error:
            refused.append(f"{place}: {error.strerror}")
    raise OSError(errno.ENOSPC, f"a Ray needs a folder with {ROOM // 2**20} MB on this machine ({'; '.join(refused)})")


def _make(place: Path, owner: Mapping[str, Any]) -> Scratch:
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    made = Scratch(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    with contextlib.suppress(OSError):  # no locks there, so nothing is swept there either
        fcntl.flock(made._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        files.replace(path / OWNER, files.to_text({**_describe(), **owner}), sync=False)
    except OSError:
        made.remove()
        raise
    return made


@contextlib.contextmanager
def held(**owner: Any) -> Iterator[Scratch]:  # noqa: ANN401
    """Provide a folder while a block runs."""
    made = make(**owner)
    try:
        yield made
    finally:
        made.remove()


def sweep(is_over: Callable[[Mapping[str, Any]], bool] = lambda owner: False) -> None:
    """Remove folders that this user's processes left behind when they were killed or the power failed.

    Args:
        is_over: Returns whether an owner on another machine has ended, for folders shared with other machines.
    """
    for place in PLACES:
        with contextlib.suppress(OSError):
            for path in place.iterdir():
                with contextlib.suppress(OSError):  # another process sweeps it, or it is not ours
                    if path.name.startswith(PREFIX) or _EARLIER.fullmatch(path.name):
                        _sweep(path, is_over)


def _sweep(path: Path, is_over: Callable[[Mapping[str, Any]], bool]) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its owner is alive
        if _is_abandoned(path, found, is_over):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(handle)


def _is_abandoned(path: Path, found: os.stat_result, is_over: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Return whether a folder that nobody on this machine has locked is abandoned; doubtful ones stay."""
    if not path.name.startswith(PREFIX):
        return time.time() - found.st_mtime > _OLD_S and _is_of_ray_alone(path) and not _answers(path)
    if stat.S_IMODE(found.st_mode) != 0o700 or (owner := _owner_of(path)) is None:
        return False
    is_known_here = owner.get("host") == socket.gethostname() or owner.get("boot") == _boot() or is_local(path)
    return is_known_here or is_over(owner)


def _owner_of(path: Path) -> Mapping[str, Any] | None:
    """Return what a folder's maker wrote into it; None for another program's folder."""
    place = path / OWNER
    try:
        if not stat.S_ISREG(place.lstat().st_mode):
            return None
        owner = files.read_json(place)
    except (OSError, ValueError):
        return None
    return owner if owner.get("made_by") == MADE_BY else None


def _is_of_ray_alone(path: Path) -> bool:
    """Return whether a folder contains a Ray's files and nothing else."""
    names = [inner.name for inner in path.iterdir()]
    sessions = [name for name in names if _OF_RAY.fullmatch(name)]
    return bool(sessions) and all(name in sessions or name in _BESIDE for name in names)


def is_local(path: Path) -> bool:
    """Return whether a folder is on a file system that only this machine can see."""
    mounts = [part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)]
    nearest = max(mounts, key=lambda part: len(part.mountpoint), default=None)
    return nearest is not None and nearest.fstype in _LOCAL


def _answers(path: Path) -> bool:
    """Return whether a Ray still listens at one of its sockets; any answer but a refusal counts."""
    for place in path.glob("session_*/sockets/*"):
        folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1.0)
                client.connect(f"/proc/self/fd/{folder}/{place.name}")  # the path may be too long for a socket
                return True
        except (ConnectionRefusedError, FileNotFoundError):
            continue
        except OSError:
            return True
        finally:
            os.close(folder)
    return False


def _describe() -> dict[str, Any]:
    return {"made_by": MADE_BY, "host": socket.gethostname(), "boot": _boot(), "pid": os.getpid()}


def _boot() -> str:
    """Return an id of this boot of the machine, the same in all its containers."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

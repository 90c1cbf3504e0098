"""Folders on a node's own disk for the sockets and logs of a Ray: short, closed to others, and swept when left behind.

Only a folder with the file that its maker wrote into it is ever swept: whatever else lies there belongs to somebody.

Whoever made a folder holds a lock on it while it lives. The kernel gives that back however the process ends, and knows
it across containers that share a /tmp but not their process numbers; `systemd-tmpfiles` leaves a locked folder alone.
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

from orchestration import files

PLACES = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
"""In this order. Ray's sockets need a path of at most 40 characters; TMPDIR is often longer, and may be a network's."""
PREFIX = "rm-ray-"
"""Of these folders alone; people name folders of theirs after the program."""
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
            return _make(place, owner)
        except OSError as error:
            refused.append(f"{place}: {error.strerror}")
    raise OSError(errno.ENOSPC, f"a Ray needs a folder with {ROOM // 2**20} MB on this machine ({'; '.join(refused)})")


def _make(place: Path, owner: Mapping[str, Any]) -> Scratch:
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    made = Scratch(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    with contextlib.suppress(OSError):  # no locks there, so nobody sweeps there either
        fcntl.flock(made._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        files.replace(path / OWNER, files.to_text({**_describe(), **owner}), sync=False)
    except OSError:
        made.remove()
        raise
    return made


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
            for path in place.iterdir():
                with contextlib.suppress(OSError):  # somebody else sweeps, or it is not ours
                    if path.name.startswith(PREFIX) or _EARLIER.fullmatch(path.name):
                        _sweep(path, is_over)


def _sweep(path: Path, is_over: Callable[[Mapping[str, Any]], bool]) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its owner lives
        if _is_abandoned(path, found, is_over):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(handle)


def _is_abandoned(path: Path, found: os.stat_result, is_over: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Tell it of a folder that nobody on this machine has locked; one that is not surely ours is left for good."""
    if not path.name.startswith(PREFIX):
        return time.time() - found.st_mtime > _OLD_S and _is_of_ray_alone(path) and not _answers(path)
    if stat.S_IMODE(found.st_mode) != 0o700 or (owner := _owner_of(path)) is None:
        return False
    is_known_here = owner.get("host") == socket.gethostname() or owner.get("boot") == _boot() or is_local(path)
    return is_known_here or is_over(owner)


def _owner_of(path: Path) -> Mapping[str, Any] | None:
    """Return what the maker of a folder wrote into it; None of a folder of somebody else's."""
    place = path / OWNER
    try:
        if not stat.S_ISREG(place.lstat().st_mode):
            return None
        owner = files.read_json(place)
    except (OSError, ValueError):
        return None
    return owner if owner.get("made_by") == MADE_BY else None


def _is_of_ray_alone(path: Path) -> bool:
    """Tell whether a folder holds what a Ray makes, and nothing else."""
    names = [inner.name for inner in path.iterdir()]
    sessions = [name for name in names if _OF_RAY.fullmatch(name)]
    return bool(sessions) and all(name in sessions or name in _BESIDE for name in names)


def is_local(path: Path) -> bool:
    """Tell whether a folder is on a file system that this machine alone can see."""
    mounts = [part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)]
    nearest = max(mounts, key=lambda part: len(part.mountpoint), default=None)
    return nearest is not None and nearest.fstype in _LOCAL


def _answers(path: Path) -> bool:
    """Tell whether a Ray still listens at one of its sockets; whatever else than a refusal they answer counts so."""
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
    """Return what tells this start of this machine from others, in all of its containers."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

"""The runs folder and its disks: what a run folder relies on, tried with files that are removed again."""

import os
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from orchestration.checkup.finding import Finding, fault, good, note
from orchestration.machine import files
from orchestration.machine.counts import counted
from rankmatch import locks

MIN_FREE_GB = 5.0
MIN_FILES = 10_000
MIN_SHARED_GB = 1.0
SLOW_SYNC_S = 0.1
MAX_CLOCK_S = 2.0
NUM_SYNCS = 9
LOCK_S = 10.0


def runs_folder(runs: Path) -> Iterator[Finding]:
    """Check the runs folder, or the place where it would be made: links, renames, locks, clock, speed, room."""
    if file := files.in_the_way(runs.resolve()):
        yield fault("runs folder", f"{file} is a file, and no folder", "every launch", "give another --runs")
        return
    place = nearest(runs.resolve())
    try:
        probe = Path(tempfile.mkdtemp(prefix=".rankmatch-doctor-", dir=place))
    except OSError as error:
        yield fault(
            "runs folder", f"{place} cannot be written: {error.strerror}", "every launch", "give another --runs"
        )
        return
    try:
        yield good("runs folder", f"{runs.resolve()} can be written")
        yield from _names(runs.resolve())
        yield from _links(probe)
        yield from _locks(probe)
        yield from clock(probe)
        yield from _speed(probe)
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    yield from _room(place)


def nearest(path: Path) -> Path:
    """Return the folder, or the first of its parents that exists."""
    while not path.is_dir():
        path = path.parent
    return path


def _names(path: Path) -> Iterator[Finding]:
    if any(character in "%\\:" for character in str(path)):
        yield note(
            "runs folder", f"{path} has one of % \\ : in it, which a launch on Slurm refuses", "give another --runs"
        )


def _links(probe: Path) -> Iterator[Finding]:
    first, second = probe / "first", probe / "second"
    first.write_text("word")
    try:
        second.hardlink_to(first)
    except OSError as error:
        yield note(
            "runs folder", f"has no hard links ({error.strerror}): checkpoints are copied, claims go by a lock file"
        )
    second.unlink(missing_ok=True)
    second.write_text("older")
    first.replace(second)
    if second.read_text() == "word" and not first.exists():
        yield good("runs folder", "a file can take another's place")
    else:
        yield fault(
            "runs folder",
            "a file that was renamed is not in its new place",
            "results may be lost",
            "give another --runs",
        )


def _locks(probe: Path) -> Iterator[Finding]:
    try:
        with locks.held(probe / "lock", LOCK_S):
            pass
        yield good("runs folder", "can be locked")
    except (OSError, TimeoutError) as error:
        yield fault(
            "runs folder", f"cannot be locked: {error}", "two launches of a grid at once", "give another --runs"
        )


def clock(probe: Path) -> Iterator[Finding]:
    """Check that a file that is written now gets the current time."""
    path, before = probe / f"time-{socket.gethostname()}", time.time()
    path.write_text("")
    after, written = time.time(), path.stat().st_mtime
    apart = max(before - written, written - after, 0.0)
    if apart <= MAX_CLOCK_S:
        yield good("clock", "that of the disk and this machine's agree")
    else:
        yield fault(
            "clock",
            f"that of the disk is {apart:.0f} s from this machine's",
            "cells that train elsewhere may look ended, or ended ones alive",
            "have the clocks set by NTP",
        )


def _speed(probe: Path) -> Iterator[Finding]:
    taken = []
    for number in range(NUM_SYNCS):
        began = time.monotonic()
        with (probe / f"row-{number}").open("wb") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        taken.append(time.monotonic() - began)
    usual = statistics.median(taken)
    text = f"a row is on the disk after {1000 * usual:.1f} ms"
    if usual > SLOW_SYNC_S:
        yield note("disk", f"{text}: each epoch waits for some of these", "give a faster --runs where epochs are short")
    else:
        yield good("disk", text)


def _room(place: Path) -> Iterator[Finding]:
    found = os.statvfs(place)
    free, num_files = found.f_bavail * found.f_frsize / 1e9, found.f_favail
    if free < MIN_FREE_GB:
        yield fault(
            "disk",
            f"{free:.1f} GB are left for you on that of {place}",
            "checkpoints cannot be written",
            "make room, or give another --runs",
        )
    else:
        yield good("disk", f"{free:,.0f} GB are left for you")
    if found.f_files and num_files < MIN_FILES:
        yield fault(
            "disk",
            f"{counted(num_files, 'more file', 'fits')} on that of {place}; a cell has about 20",
            "launches of many cells",
            "remove files, or give another --runs",
        )


def shared_memory(place: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Check the memory that processes share."""
    if not place.is_dir():
        yield note(
            "shared memory", f"there is no {place}: Ray and the data workers take files of {tempfile.gettempdir()}"
        )
        return
    size = shutil.disk_usage(place).total / 1e9
    if size < MIN_SHARED_GB:
        yield note(
            "shared memory",
            f"{place} has {size:.2f} GB: Ray is slower, and many data workers fail",
            "in a container: --shm-size 8g",
        )
    else:
        yield good("shared memory", f"{place} has {size:.0f} GB")


def temporary_folder() -> Iterator[Finding]:
    """Check the folder of Ray's sockets, whose paths must be short, and the folder for temporary files."""
    for place in dict.fromkeys(("/tmp", tempfile.gettempdir())):
        if not os.access(place, os.W_OK | os.X_OK):
            yield fault(
                "temporary files",
                f"{place} cannot be written",
                "Ray does not start",
                "a /tmp that you can write (in a container: --tmpfs /tmp)",
            )
        elif (free := shutil.disk_usage(place).free / 1e9) < 1:
            yield fault("temporary files", f"{place} has {free:.1f} GB left", "Ray does not start", "make room there")
        else:
            yield good("temporary files", f"{place} has {free:,.0f} GB left")

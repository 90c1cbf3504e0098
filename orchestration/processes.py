"""Whether a process that a file names still lives, as far as that can be known from here."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Describe this process, for others to tell later whether it lives."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "process_started": process_start(pid),
        "pid_namespace": pid_namespace(),
    }


def lives(described: Mapping[str, Any]) -> bool | None:
    """Tell whether a process lives; None: it is on another host, or in a container with process numbers of its own."""
    is_elsewhere = described["host"] != socket.gethostname()
    if is_elsewhere or described.get("pid_namespace", pid_namespace()) != pid_namespace():
        return None
    started = process_start(described["pid"])
    if started is None:
        return _is_hidden(described["pid"])
    return bool(started == described["process_started"])


def process_start(pid: int) -> int | None:
    """Return when a process of this host started, in the kernel's ticks since boot; None for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def pid_namespace() -> str:
    """Name the container, of those on a host, whose process numbers these are; empty where the system does not say."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _is_hidden(pid: int) -> bool:
    """Tell whether a process is there that /proc shows to its own user alone (hidepid); it counts as the one meant."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        pass
    return False

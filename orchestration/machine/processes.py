"""Find out whether a process named in a file is still alive, as far as possible from here."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.machine.messages import Message


@dataclass(frozen=True, slots=True)
class ProcessNote(Message):
    """A process that a file names."""

    host: str
    pid: int
    process_started: int | None = None
    pid_namespace: str | None = None
    """None in files of earlier versions."""

    def lives(self) -> bool | None:
        """Tell whether it lives; None where that cannot be known from here."""
        known = self.to_json()
        return lives({name: value for name, value in known.items() if name != "pid_namespace" or value is not None})


def this_process() -> dict[str, Any]:
    """Describe this process, so that others can check later whether it is alive."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "process_started": process_start(pid),
        "pid_namespace": pid_namespace(),
    }


def lives(described: Mapping[str, Any]) -> bool | None:
    """Return whether a process is alive; None if it is on another host or in another pid namespace."""
    is_elsewhere = described["host"] != socket.gethostname()
    if is_elsewhere or described.get("pid_namespace", pid_namespace()) != pid_namespace():
        return None
    started = process_start(described["pid"])
    if started is None:
        return _is_hidden(described["pid"])
    return bool(started == described["process_started"])


def process_start(pid: int) -> int | None:
    """Return the start of a process on this host, in kernel ticks since boot; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def pid_namespace() -> str:
    """Return the pid namespace of this process, which distinguishes containers; empty if the system does not say."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _is_hidden(pid: int) -> bool:
    """Return whether a process exists that /proc shows only to its own user (hidepid); it counts as alive."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        pass
    return False

"""What a process changes on the disk, call by call, as strace sees it; one of these calls can fail or be the last."""

import ast
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHANGES = (
    *("write", "pwrite64", "writev", "fsync", "fdatasync", "truncate", "ftruncate"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"),
)
"""Calls that change files or names, or wait until that is on the disk."""
_OTHERS = ("openat", "lseek", "close", "dup", "dup2", "dup3")
"""Calls that say where a write goes."""
_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(.*)", re.DOTALL)
_BEGUN, _RESUMED = (
    re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>"),
    re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)"),
)
_ARGUMENT = re.compile(r'\s*("(?:\\.|[^"\\])*"(?:\.\.\.)?|(?:AT_FDCWD|\d+)<[^>]*>(?:\(deleted\))?|\{[^}]*\}|[^,]+)')
_HANDLE = re.compile(r"(AT_FDCWD|\d+)<(.*?)>")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a process, as it returned."""

    process: int
    name: str
    arguments: tuple[str, ...]
    result: int
    """Negative: it failed."""
    number: int = 0
    """Counted from 1 among the process's calls of this name, as strace counts when it is to change one."""

    def path(self, place: int) -> str:
        """Return the path that an argument names, by itself or below the folder of the argument before it."""
        argument = self.arguments[place]
        if handle := _HANDLE.match(argument):
            return handle[2].removesuffix(" (deleted)")
        name = self.text(place).decode()
        if name.startswith("/") or not place:
            return name
        before = _HANDLE.match(self.arguments[place - 1])
        return f"{before[2]}/{name}" if before else name

    def text(self, place: int) -> bytes:
        """Return a string argument."""
        found: bytes = ast.literal_eval("b" + self.arguments[place])
        return found

    def handle(self, place: int = 0) -> int:
        """Return the number of an open file that an argument names."""
        return int(self.arguments[place].partition("<")[0])

    @property
    def paths(self) -> list[str]:
        """The paths that it is about: of a rename and a link the old and the new one."""
        places = {"rename": (0, 1), "link": (0, 1), "renameat": (1, 3), "renameat2": (1, 3), "linkat": (1, 3)}
        at = {"unlinkat": (1,), "mkdirat": (1,), "symlinkat": (2,), "symlink": (1,), "openat": (1,)}
        return [self.path(place) for place in (places | at).get(self.name, (0,))]


def traced(process: int, trace: Path, *, injected: str = "", is_whole: bool = False) -> "subprocess.Popen[bytes]":
    """Attach strace to a process and wait until it is.

    Args:
        process: Waits meanwhile, and may be a child of this one.
        trace: Receives the calls.
        injected: What to change, as strace takes it: `fsync:error=EIO:when=3`.
        is_whole: Whether the trace holds what is written.
    """
    names = ",".join((*CHANGES, *(_OTHERS if is_whole else ())))
    inject = ["-e", f"inject={injected}"] if injected else []
    command = ["strace", "-f", "-y", "-qq", "-s", str(1 << 24 if is_whole else 0), "-e", f"trace={names}", *inject]
    started = subprocess.Popen([*command, "-e", "signal=none", "-o", trace, "-p", str(process)])
    status = Path(f"/proc/{process}/status")
    while "TracerPid:\t0\n" in status.read_text():
        assert started.poll() is None, "strace cannot attach: is ptrace allowed here?"
        time.sleep(0.001)
    return started


def read(trace: Path) -> list[Call]:
    """Read a trace, in the order in which the calls returned; those that did not return are left out."""
    calls, counts = [], dict[tuple[int, str], int]()
    for process, name, arguments, result in _calls(trace):
        number = counts[process, name] = counts.get((process, name), 0) + 1
        if result != "?":
            parts = _ARGUMENT.findall(arguments)
            calls.append(Call(process, name, tuple(parts), int(result), number))
    return calls


def _calls(trace: Path) -> Iterator[tuple[int, str, str, str]]:
    begun: dict[str, str] = {}
    for line in trace.read_text(encoding="latin-1").splitlines():
        if half := _BEGUN.fullmatch(line):
            begun[half[1]] = half[3]
            continue
        if rest := _RESUMED.fullmatch(line):
            line = f"{rest[1]} {rest[2]}({begun.pop(rest[1])}{rest[3]}"
        if whole := _LINE.fullmatch(line):
            yield int(whole[1]), whole[2], whole[3], whole[4]

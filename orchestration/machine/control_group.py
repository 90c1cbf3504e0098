"""The memory limit of this process's control group, and the kernel's kills because of it."""

import os
import sys
from pathlib import Path

_MINE, _ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_NO_LIMIT = sys.maxsize
SLURM_JOB = "SLURM_JOB_ID"


def num_oom_kills(mine: Path = _MINE, root: Path = _ROOT) -> int:
    """Return how many processes of this control group the kernel has killed for their memory; 0 if unknown."""
    for folder in _folders(mine, root):
        for name in ("memory.events", "memory.oom_control"):
            if (count := _field(folder / name, "oom_kill")) is not None:
                return count
    return 0


def memory_is_watched(mine: Path = _MINE, root: Path = _ROOT) -> bool:
    """Return whether something else limits the memory of this process and its relatives.

    Slurm does so for its jobs; elsewhere it is a control group with a limit below the machine's memory.
    """
    return SLURM_JOB in os.environ or memory_limit(mine, root) < os.sysconf("SC_PHYS_PAGES") * os.sysconf(
        "SC_PAGE_SIZE"
    )


def memory_limit(mine: Path = _MINE, root: Path = _ROOT) -> int:
    """Return how many bytes this control group and those above it allow; a huge number if there is no limit."""
    found = [_NO_LIMIT]
    for folder in _folders(mine, root):
        found += [limit] if (limit := _field(folder / "memory.stat", "hierarchical_memory_limit")) is not None else []
        for above in (folder, *folder.parents):
            if above.is_relative_to(root) and (text := _text(above / "memory.max")).isdigit():
                found.append(int(text))
    return min(found)


def _folders(mine: Path, root: Path) -> list[Path]:
    """Return the possible folders of this group's memory files, for version 2 or 1.

    A container may see its own group at the root, under its outside name.
    """
    found = []
    for line in _text(mine).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            top = root / "memory" if controllers else root
            found += [top / path.lstrip("/"), top]
    return found


def _field(path: Path, name: str) -> int | None:
    fields = dict(line.split(maxsplit=1) for line in _text(path).splitlines() if " " in line)
    return int(fields[name]) if name in fields else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

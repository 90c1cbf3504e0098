"""What the kernel says of a process."""

from pathlib import Path


def memory_mb(pid: int, what: str = "VmRSS") -> float:
    """Return the memory of a process: VmRSS, what it has now; VmHWM, the most that it ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def num_handles(pid: int) -> int:
    """Return how many files, sockets and pipes a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())

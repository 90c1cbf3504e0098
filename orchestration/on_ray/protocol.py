"""What a job and the process in it that trains have agreed on: file names and exit codes; imports no Ray."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from orchestration.control_group import memory_is_watched
from orchestration.schedulers import JobState

SUPPORTED_RAY = "2.60"
"""Ray Train changes with each minor version; pyproject.toml asks for this one."""

ORDER, STOP_FILE, ADDRESS, ENDED = "order.json", "stop", "address", "ended"
NODES, NODE, HEAD = "jobs", "node.json", "head.json"
"""In the folder of a pilot's launch: one for each start of a job that lends its node, what that says of itself, and
where the head is."""
EXIT_CODES = {JobState.DONE: 0, JobState.STOPPED: 3, JobState.FAILED: 4, JobState.SUPERSEDED: 5}

TOKEN_VARIABLE = "RANKMATCH_RAY_TOKEN"
"""Carries the token of a job's Ray to all its nodes."""
NODE_VARIABLE = "RANKMATCH_NODE"
"""Names the folder of the job that lends a node, to all that runs there."""

SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # by default every look at a run costs 2 s
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",  # compute nodes have no way out, and nobody asked
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Each of these is a process or a thread per run that watches what the run folder or the scheduler watches already.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
}


def settings() -> dict[str, str]:
    """Return what Ray's processes on this machine get as variables.

    Ray ends processes where its machine runs out of memory, whoever took it. That is left to those who see to it
    already, and give each job its own.
    """
    return SETTINGS | ({"RAY_memory_monitor_refresh_ms": "0"} if memory_is_watched() else {})


def check_ray() -> None:
    """Refuse a Ray that this program was not made for.

    Raises:
        ValueError: With the version that is there.
    """
    try:
        installed = version("ray")
    except PackageNotFoundError:
        installed = "none"
    if installed.split(".")[:2] != SUPPORTED_RAY.split("."):
        raise ValueError(
            f"ray must be version {SUPPORTED_RAY}; installed is {installed} "
            f"(pip install 'ray[train,tune]=={SUPPORTED_RAY}.*')"
        )


def end_session(process: "subprocess.Popen[bytes]") -> None:
    """End a process that leads a session, and all that it started: after two seconds by force."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(2.0)
    kill_session(process.pid)
    process.wait()


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Have a thread do something while a block runs; an event tells it that the block has ended."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def kill_session(leader: int) -> None:
    """Kill what is left of a session, this process last if it is of it.

    Ray's workers lead groups of their own, and one that is stopped does not hear that its Ray is gone.
    """
    members = [pid for pid in psutil.pids() if _session(pid) == leader]
    for pid in sorted(members, key=lambda pid: pid == os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def stop_kind(folder: Path) -> str:
    """Return why a training was told to end, a value of `FailureClass`; empty: it was not."""
    path = folder / STOP_FILE
    return path.read_text().partition("\n")[0] if path.exists() else ""

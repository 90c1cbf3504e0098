"""What a job and its training process agree on: file names and exit codes; imports no Ray."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version

import psutil

from orchestration.machine.control_group import memory_is_watched
from orchestration.runs.jobs import JobState

SUPPORTED_RAY = "2.60"
"""Ray Train changes with each minor version; pyproject.toml asks for this one."""


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
    # Each of these is a process or a thread per run that watches what the run folder or the scheduler already watches.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
}


def settings() -> dict[str, str]:
    """Return the environment variables for Ray's processes on this machine.

    Ray kills processes when its machine runs out of memory, whoever took it. That is left to whatever already
    limits memory and gives each job its own.
    """
    return SETTINGS | ({"RAY_memory_monitor_refresh_ms": "0"} if memory_is_watched() else {})


def check_ray() -> None:
    """Refuse a version of Ray that this program does not support.

    Raises:
        ValueError: With the installed version.
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
    """End a process that leads a session, and all that it started; after two seconds by force."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(2.0)
    kill_session(process.pid)
    process.wait()


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run something in a thread while a block runs; an event signals that the block has ended."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def kill_session(leader: int) -> None:
    """Kill what is left of a session, this process last if it belongs to it.

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

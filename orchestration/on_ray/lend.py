"""A node lent to a Ray that another one has started; imports no Ray."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from orchestration.on_ray.protocol import settings


def lend_node(
    address: str,
    token: str,
    *,
    num_cpus: int,
    num_gpus: int,
    name: str = "",
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start Ray's daemon in a session of its own; what it runs inherits the environment.

    Args:
        address: Address of the Ray's head.
        token: Token of that Ray.
        num_cpus: CPUs to lend.
        num_gpus: GPUs to lend.
        name: Name of the node; empty: its address.
        folder: Folder for sockets and logs; None: where the head has its own.
        environment: Additional variables.
        prepare: Called in the new process before it becomes Ray's.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}",
               "--block", f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}", "--disable-usage-stats"]  # fmt: skip
    command += [f"--node-name={name}"] if name else []
    command += [f"--temp-dir={folder}"] if folder else []
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={**settings(), **os.environ, **(environment or {}), **secret},
        preexec_fn=prepare,
    )


def answers(address: str, timeout_s: float = 5.0) -> bool:
    """Return whether somebody listens at an address."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout_s).close()
    except OSError:
        return False
    return True


def has_raylet(daemon: "subprocess.Popen[bytes]") -> bool:
    """Return whether a daemon's raylet runs; a drained one ends, while `ray start --block` stays."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(daemon.pid).children()
        return any(child.name() == "raylet" and child.status() != psutil.STATUS_ZOMBIE for child in children)
    return False

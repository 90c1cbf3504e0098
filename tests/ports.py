"""Ports for the servers that tests start."""

import random
import socket
from contextlib import ExitStack, suppress

FIRST, END, STEP = 20_000, 32_000, 200
"""Above the ports that Ray gives to its workers, and below those that the system gives to whoever connects: a client
that tries again while its server is down could otherwise be given that server's port, and connect to itself."""


def free_block(*offsets: int) -> int:
    """Return a port from which on these are free, and keep other processes of tests off it while this one lives."""
    for base in random.sample(range(FIRST, END, STEP), (END - FIRST) // STEP):
        with suppress(OSError), ExitStack() as held:
            claim = held.enter_context(socket.socket(socket.AF_UNIX))
            claim.bind(f"\0rankmatch-tests-port-{base}")  # a name without a file; the kernel takes it back at the end
            for offset in offsets:
                held.enter_context(socket.socket()).bind(("127.0.0.1", base + offset))
            claim.detach()
            return base
    raise OSError("no ports are free")


def free_port() -> int:
    """Return a port that nobody listens at."""
    return free_block(0)

"""Where the simulation takes the place of the world: time, programs, files, processes, and what only takes long."""

import contextlib
import io
import itertools
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import pytest
import yaml
from simulation.world import World

from orchestration.grids import launched
from orchestration.launching import controller, launch, steps
from orchestration.machine import clock, files, processes, provenance, scratch, snapshot
from orchestration.on_slurm import commands, guarded_shell, job, notices, pilot, programs
from orchestration.planning import preflight
from orchestration.runs import run_folder
from rankmatch import durable, locks

KEPT = {"PATH", "HOME", "USER", "LANG", "OMP_NUM_THREADS", "PYTEST_CURRENT_TEST"}
"""Of the environment."""


@contextlib.contextmanager
def of_world(world: World) -> Iterator[None]:
    """Let the project live in a world."""
    with pytest.MonkeyPatch.context() as changed:
        _of_environment(changed)
        _of_time(world, changed)
        _of_processes(world, changed)
        _of_files(world, changed)
        _of_single_cells(world, changed)
        _of_locks(world, changed)
        _of_jobs(world, changed)
        _of_what_takes_long(changed)
        yield


def _of_environment(changed: pytest.MonkeyPatch) -> None:
    """Leave a login node only what every process has; each call of a program passes all of it on."""
    for name in os.environ.keys() - KEPT:
        changed.delenv(name)


def _of_time(world: World, changed: pytest.MonkeyPatch) -> None:
    hub = world.hub

    def now() -> float:
        return hub.now + (world.weather.skew.get(hub.current.host, 0.0) if hub.current else 0.0)

    changed.setattr(clock, "now", now)
    changed.setattr(clock, "monotonic", lambda: hub.now)
    changed.setattr(clock, "sleep", world.sleep)
    changed.setattr(programs, "run", world.run_program)
    changed.setattr(commands, "is_here", lambda: True)


def _of_processes(world: World, changed: pytest.MonkeyPatch) -> None:
    hub, pid, signals, numbers = world.hub, os.getpid(), signal.signal, itertools.count()

    def started(number: int) -> int | None:
        process = hub.processes.get(number)
        here = hub.current.host if hub.current else "login"
        return number if process and process.host == here else None

    def handle(number: int, handler: Any) -> Any:
        if hub.current is None:
            return signals(number, handler)
        if callable(handler):
            hub.current.handlers[number] = handler
        return None

    # not of `os` itself: filelock would take another number for a fork
    own = SimpleNamespace(**{**vars(os), "getpid": lambda: hub.current.pid if hub.current else pid})
    changed.setattr(processes, "os", own)
    changed.setattr(socket, "gethostname", lambda: hub.current.host if hub.current else "login")
    changed.setattr(processes, "process_start", started)
    changed.setattr(run_folder, "process_start", started)
    changed.setattr(signal, "signal", handle)
    changed.setattr(secrets, "token_hex", lambda size=8: f"{next(numbers):0{2 * size}x}")


def _of_files(world: World, changed: pytest.MonkeyPatch) -> None:
    """Files have simulated times, and a file server may be away."""

    def checked(name: str, *, writes: bool) -> None:
        act = getattr(files, name)

        def checking(path: Path | str, *words: Any, **options: Any) -> Any:
            if world.hub.current:
                world.weather.refuse_files(world.hub.current.host, path)
            result = act(path, *words, **options)
            if writes:
                os.utime(path, (clock.now(), clock.now()))
            return result

        changed.setattr(files, name, checking)

    for name in ("replace", "publish", "append", "append_row"):
        checked(name, writes=True)
    for name in ("read_bytes", "read_lines", "read_last_line"):
        checked(name, writes=False)

    changed.setattr(durable.os, "fsync", lambda _: None)  # nothing of a simulation outlives a power cut


def _of_single_cells(world: World, changed: pytest.MonkeyPatch) -> None:
    """A cell that is away fails whatever reads it, not only what `files` has."""
    if world.cells_away:
        for place, name in ((os, "stat"), (os, "listdir"), (os, "scandir"), (os, "open"), (io, "open")):
            changed.setattr(place, name, world.cells_away.checked(getattr(place, name)))


def _of_locks(world: World, changed: pytest.MonkeyPatch) -> None:
    def acquire(path: Path, timeout_s: float = locks.FOR_EVER, mode: int = locks.BY_UMASK) -> filelock.BaseFileLock:
        until = clock.monotonic() + (timeout_s if timeout_s >= 0 else 1e12)
        while True:
            try:
                return own(path, 0.0, mode)
            except filelock.Timeout:
                if world.hub.current is None or clock.monotonic() >= until:
                    raise
                world.hub.current.wait(1.0)

    own = locks.acquire
    changed.setattr(locks, "acquire", acquire)


def _of_jobs(world: World, changed: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def held(**_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(ray=world.folder / "ray")

    def beside(self: notices.Notifier, cause: str, text: str, *, once: bool = True) -> threading.Thread:
        self.tell(cause, text, once=once)
        over = threading.Thread(target=id, args=(0,))
        over.start()
        return over

    changed.setattr(scratch, "held", held)
    changed.setattr(scratch, "sweep", lambda _=None: None)
    changed.setattr(job, "subprocess", SimpleNamespace(Popen=world.popen, DEVNULL=-3))
    changed.setattr(job, "end_session", lambda training: training.end())
    changed.setattr(pilot, "subprocess", SimpleNamespace(Popen=world.pilots.drive, DEVNULL=-3))
    changed.setattr(pilot, "lend_node", world.pilots.lend)
    changed.setattr(pilot, "answers", world.pilots.answers)
    changed.setattr(pilot, "has_raylet", lambda daemon: daemon.poll() is None)
    changed.setattr(pilot, "end_session", lambda process: process.end())
    changed.setattr(controller, "traceback", SimpleNamespace(print_exc=world.saw_error))
    changed.setattr(job, "num_oom_kills", lambda: 0)
    changed.setattr(notices, "_run", lambda command: world.tell(command[-1]))
    changed.setattr(notices.Notifier, "tell_beside", beside)


def _of_what_takes_long(changed: pytest.MonkeyPatch) -> None:
    """Leave out the report and MLflow, which decide nothing, and compute once what depends on nothing."""

    def no_mirror(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no MLflow in a simulation")

    changed.setattr(launch, "finish", lambda *_: [])
    changed.setattr(launch, "mirror_of", no_mirror)
    changed.setattr(steps, "begin_mirror", lambda *_: (None, {}))
    changed.setattr(snapshot, "take", lambda folder, **_: snapshot.Snapshot(folder / "code", "abc", ""))
    changed.setattr(snapshot, "make_whole", lambda _: [])
    changed.setattr(guarded_shell, "refuse", lambda _: None)
    for place, name, known in _KNOWN:
        changed.setattr(place, name, known)


_TOKEN_HEX = secrets.token_hex


def _once(act: Callable[..., Any], key: Callable[..., Any]) -> Callable[..., Any]:
    found: dict[Any, Any] = {}

    def known(*words: Any, **options: Any) -> Any:
        which = key(*words, **options)
        if which not in found:
            with pytest.MonkeyPatch.context() as real:
                real.setattr(secrets, "token_hex", _TOKEN_HEX)  # whichever history comes first draws no other names
                found[which] = act(*words, **options)
        return found[which]

    return known


_KNOWN = [
    (launched, "load_stored", _once(launched.load_stored, lambda path, *_, **__: (path.read_text(), path.parent.name))),
    (provenance, "collect", cache(provenance.collect)),
    (provenance, "commit", cache(provenance.commit)),
    (yaml, "dump", _once(yaml.dump, lambda *words, **options: repr((words, options)))),
    (preflight, "check", _once(preflight.check, lambda cells, *_: tuple(cell.signature for cell in cells))),
]

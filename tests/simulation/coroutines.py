"""Simulated processes, as coroutines in one thread: one runs at a time, until it waits; and the time they wait in."""

import heapq
import itertools
import os
import traceback
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

START = 1_893_456_000.0
"""Where the simulated time begins, in seconds since 1970: no file has a real time that late."""


class Killed(BaseException):
    """SIGKILL: nothing more of the process runs."""


class Hub:
    """The time, what is to happen in it, and whichever process runs."""

    def __init__(self) -> None:
        self.now, self.current = START, None
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers, self._pids = itertools.count(), itertools.count(10_000_000)
        self.processes: dict[int, Process] = {}
        self.num_events = self.num_turns = 0
        """What happened, and how often a process ran."""
        self._own = getcurrent()

    def at(self, moment: float, act: Callable[[], None]) -> None:
        """Have something happen."""
        heapq.heappush(self._due, (moment, next(self._numbers), act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.at(self.now + seconds, act)

    def next_event(self, until: float) -> bool:
        """Let the next thing happen, if it is before a moment."""
        if not self._due or self._due[0][0] > until:
            return False
        moment, _, act = heapq.heappop(self._due)
        self.now = max(self.now, moment)
        self.num_events += 1
        act()
        return True

    def start(self, name: str, host: str, environment: dict[str, str], body: Callable[[], int | None]) -> "Process":
        """Start a process at once; the caller goes on first."""
        process = Process(self, next(self._pids), name, host, environment, body)
        self.processes[process.pid] = process
        self.after(0.0, process.resume)
        return process


class Process:
    """A process that is simulated."""

    def __init__(
        self, hub: Hub, pid: int, name: str, host: str, environment: dict[str, str], body: Callable[[], int | None]
    ) -> None:
        self.hub, self.pid, self.name, self.host, self.environment, self._body = hub, pid, name, host, environment, body
        self.code: int | None = None
        """How it ended."""
        self.trace = ""
        self.handlers: dict[int, Callable[[int, Any], None]] = {}
        self.is_frozen = self.is_killed = False
        self._token: object = None
        self._is_due = False
        self._thread = greenlet(self._run, hub._own)  # whoever starts it
        self._at_end: list[Callable[[], None]] = []

    @property
    def lives(self) -> bool:
        return self.code is None

    def when_over(self, act: Callable[[], None]) -> None:
        self._at_end.append(act)

    def wait(self, seconds: float) -> None:
        """Let others run; to be called by the process itself."""
        self._token = token = object()
        self.hub.after(seconds, lambda: self.resume() if self._token is token else None)
        self.hub._own.switch()
        if self.is_killed:
            raise Killed

    def resume(self) -> None:
        """Go on, by order of the hub."""
        if not self.lives:
            return
        if self.is_frozen:
            self._is_due = True
            return
        self._token = None
        self._enter(lambda: self._thread.switch())

    def wake(self) -> None:
        """Have it go on now, whatever it waits for."""
        self._token = None
        self.hub.after(0.0, self.resume)

    def freeze(self) -> None:
        """Stop it, as Slurm suspends jobs."""
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        if self._is_due:
            self._is_due = False
            self.wake()

    def hear(self, number: int) -> None:
        """Give it a signal; without a handler, nothing happens."""
        if self.lives and number in self.handlers:
            self.handlers[number](number, None)
            self.wake()

    def throw(self, error: BaseException) -> None:
        """Have an exception come over it where it waits; by order of the hub."""
        if self.lives and self._thread:
            self._token = None
            self._enter(lambda: self._thread.throw(error))

    def kill(self) -> None:
        """End it at once, by order of the hub or of another process."""
        if not self.lives or self.is_killed:
            return
        self.is_killed, self.is_frozen = True, False
        if getcurrent() is not self.hub._own:
            self.hub.after(0.0, self._die)
        else:
            self._die()

    def _die(self) -> None:
        if self.lives and not self._thread:
            self._end(-9)
        elif self.lives:
            self._enter(lambda: self._thread.throw(Killed()))

    def _enter(self, switch: Callable[[], object]) -> None:
        before, kept = self.hub.current, {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        self.hub.current = self
        self.hub.num_turns += 1
        try:
            switch()
        finally:
            self.hub.current = before
            for name, value in kept.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def _run(self) -> None:
        try:
            code = self._body() or 0
        except Killed:
            code = -9
        except SystemExit as error:
            code = int(error.code or 0)
        except Exception:
            self.trace, code = traceback.format_exc(), 1
        self._end(code)

    def _end(self, code: int) -> None:
        self.code = code
        self.hub.processes.pop(self.pid, None)
        for act in self._at_end:
            self.hub.after(0.0, act)


class Child:
    """A process as its parent sees it, in the place of a Popen; the parent is woken by its end."""

    def __init__(self, parent: Process, process: Process) -> None:
        self.process = process
        process.when_over(lambda: parent.wake() if parent.lives else None)

    def poll(self) -> int | None:
        return self.process.code

    @property
    def returncode(self) -> int | None:
        return self.process.code

    def end(self) -> None:
        """End it, as `end_session` does."""
        self.process.kill()

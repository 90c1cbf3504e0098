"""End a training that hangs: a process of its own notices that no sign of life comes any more.

A thread could not: a training may hang in a call that keeps Python's lock, such as a read of a mapped file whose server
is gone. The training sends its signs through a pipe, which no file server can block. A sign is a step, an image of an
evaluation, a look for data that are late (those have a time limit of their own), a checkpoint. The time during which
the training is stopped (SIGSTOP, a suspended job) does not count.
"""

import faulthandler
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import orchestration
from orchestration.runs.attempt import Attempt
from orchestration.runs.failures import FailureClass
from orchestration.runs.patience import say_once

DUMP_SIGNAL = signal.SIGUSR1
"""Has a training print the stacks of all its threads, even one that holds Python's lock."""
FACTOR = 10
"""So many median steps may pass without a sign of life."""
START_FACTOR = 4
"""Before the first step there are longer ways without one: a data store is copied, the network is compiled."""
_END = "end"
_SIGN_S = 0.2
_DUMP_S, _RECORD_S = 2.0, 60.0
_MAIN = "from orchestration.running.hang_watch import main; main()"


class Report(Protocol):
    """What a training calls with its rows."""

    def __call__(self, step: int, row: Mapping[str, float | None]) -> None:
        """Record a row."""


class HangWatch:
    """Watches the training of this process while it is open, by signs of life; `limit_min` 0 watches nothing."""

    def __init__(self, attempt: Attempt, limit_min: float, steps_per_sign: int = 1) -> None:
        """Take the attempt, the least limit, and how many steps a training takes between two signs."""
        self._attempt, self._limit_s, self._steps_per_sign = attempt, 60 * limit_min, steps_per_sign
        self._pipe: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._sent = 0.0

    def __enter__(self) -> Self:
        if self._limit_s:
            try:
                self._start()
            except OSError as error:  # such as no more processes: a training must not fail for lack of its watch
                say_once(f"{self._attempt.path} is not watched for hanging", error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pipe is None or self._process is None:
            return
        self._send(f"{_END}\n")  # forked data workers hold the pipe too, so that closing it may not be the end
        os.close(self._pipe)
        self._pipe = None
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        faulthandler.unregister(DUMP_SIGNAL)
        self._log.close()

    def sign(self) -> None:
        """Say that the training lives."""
        if time.monotonic() - self._sent > _SIGN_S:
            self._send(".\n")

    def living(self, act: Callable[[], bool]) -> Callable[[], bool]:
        """Return a function that a training calls while it lives, with a sign at each call."""

        def called() -> bool:
            self.sign()
            return act()

        return called

    def reporting(self, report: Report) -> Report:
        """Return a report whose step rows say how long steps take."""

        def called(step: int, row: Mapping[str, float | None]) -> None:
            report(step, row)
            self._send(".\n" if "epoch" in row else f"{step}\n")

        return called

    def _start(self) -> None:
        self._log = self._attempt.log_file.open("ab")
        faulthandler.register(DUMP_SIGNAL, file=self._log, all_threads=True)
        read, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        root = str(Path(orchestration.__file__).parents[1])
        words = [str(self._attempt.path), str(os.getpid()), str(self._limit_s), str(self._steps_per_sign)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, *words],
                stdin=read,
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))},
            )
        finally:
            os.close(read)

    def _send(self, text: str) -> None:
        if self._pipe is not None:
            with suppress(OSError):  # the pipe is full or nobody reads it: the watch is stopped, or gone
                os.write(self._pipe, text.encode())
                self._sent = time.monotonic()


class Silence:
    """How long a training has been silent, and how long it may be; without a clock of its own."""

    def __init__(self, limit_s: float, steps_per_sign: int = 1) -> None:
        self._limit_s, self._steps_per_sign = limit_s, steps_per_sign
        self._paces: deque[float] = deque(maxlen=200)
        self._last: tuple[int, float] | None = None
        self.step: int | None = None
        """The newest step that was reported."""
        self.silent_s = 0.0

    def hear(self, text: str, now: float) -> None:
        """Take signs of life, a line each: a dot, or the number of a step."""
        self.silent_s = 0.0
        for word in text.split():
            if word.isdigit():
                self.step = int(word)
                if self._last is not None and self.step > self._last[0]:
                    self._paces.append((now - self._last[1]) / (self.step - self._last[0]))
                self._last = self.step, now

    def wait(self, seconds: float) -> bool:
        """Let time pass without a sign; return whether it was too long."""
        self.silent_s += seconds
        return self.silent_s > self.limit_s

    @property
    def limit_s(self) -> float:
        """How long the training may be silent."""
        if self._last is None:
            return START_FACTOR * self._limit_s
        median = statistics.median(self._paces) if self._paces else 0.0
        return max(self._limit_s, FACTOR * median * self._steps_per_sign)


def main() -> None:
    """Watch the process given second, whose attempt is given first, until stdin ends or it hangs."""
    for number in (signal.SIGINT, signal.SIGHUP):  # a training that hears them, too, may hang at its last checkpoint
        signal.signal(number, signal.SIG_IGN)
    path, pid, limit_s, steps_per_sign = sys.argv[1:]
    began, attempt = time.monotonic(), Attempt(Path(path))
    silence = Silence(float(limit_s), int(steps_per_sign))
    if _hangs(silence, int(pid)):
        _end(attempt, int(pid), silence, time.monotonic() - began)


def _hangs(silence: Silence, pid: int) -> bool:
    """Return true once a process hangs, false once it says that its training has ended, or is gone."""
    tick_s = min(5.0, silence.limit_s / 40)
    before = time.monotonic()
    while True:
        heard, _, _ = select.select([0], [], [], tick_s)
        now = time.monotonic()
        passed, before = min(now - before, 2 * tick_s), now  # where this process was stopped, so was the training
        if heard:
            text = os.read(0, 1 << 16).decode()
            if not text or _END in text.split():
                return False
            silence.hear(text, now)
        elif os.getppid() != pid:
            return False
        elif not _is_stopped(pid) and silence.wait(passed):
            return True


def _is_stopped(pid: int) -> bool:
    """Return whether somebody stopped a process, which then cannot give a sign."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def _end(attempt: Attempt, pid: int, silence: Silence, duration_s: float) -> None:
    """Have a process print its stacks, record why it ends, and kill it, even where nothing can be written any more."""
    writing = threading.Thread(target=_record, args=(attempt, pid, silence, duration_s), daemon=True)
    writing.start()
    writing.join(_RECORD_S)
    if os.getppid() == pid:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)  # the thread may hang in the same file system


def _record(attempt: Attempt, pid: int, silence: Silence, duration_s: float) -> None:
    at = "before the first step" if silence.step is None else f"after step {silence.step}"
    message = f"no sign of life for {silence.silent_s / 60:.1f} min {at} on {socket.gethostname()}"
    attempt.say(f"{message}: its stacks follow, and it is ended")
    os.kill(pid, DUMP_SIGNAL)
    time.sleep(_DUMP_S)
    if spy := shutil.which("py-spy"):
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run([spy, "dump", "--pid", str(pid)], timeout=30)
    if attempt.superseded():
        return
    told = {"kind": FailureClass.HUNG, "error": "HungError", "message": message, "traceback": ""}
    attempt.event("failed", **told, log_tail=attempt.log_tail(80), duration_s=round(duration_s, 3))

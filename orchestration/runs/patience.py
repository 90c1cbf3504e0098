"""Wait for a file server that is away, so that necessary writes are done when it is back."""

import errno
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from orchestration.machine import clock
from orchestration.runs.failure_class import FailureClass
from orchestration.runs.failure_signs import class_of

WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0)
"""Four minutes in all; if the server is away for longer, the next attempt has to wait."""
_PASSING = (FailureClass.FILE_SYSTEM, FailureClass.NETWORK)
_STAYING = (errno.EACCES, errno.EROFS)
"""Permission errors pass too when a ticket expired, but readers that do not wait take them for what they mostly are."""
_said: set[str] = set()

T = TypeVar("T")


def patiently(act: Callable[[], T], also: Collection[FailureClass] = ()) -> T:
    """Repeat an action while a file server is away or another passing error lasts.

    Raises:
        OSError: The server is still away, or the error was another one.
    """
    for wait_s in WAITS_S:
        try:
            return act()
        except OSError as error:
            if class_of(error, "") not in (*_PASSING, *also):
                raise
            clock.sleep(wait_s)
    return act()


def passes(error: OSError) -> bool:
    """Return whether a reading error comes from the file server, not from the file."""
    return class_of(error, "") in _PASSING and error.errno not in _STAYING


class Mark:
    """A file that somebody makes once and that stays, for who looks again and again and must wait for nothing."""

    def __init__(self, path: Path) -> None:
        self.path, self._is_there = path, False

    def is_there(self) -> bool:
        """Return whether the file was made; while a file server is away, whether it had been before."""
        try:
            self._is_there = self._is_there or self.path.exists()
        except OSError as error:
            say_once(f"whether {self.path.name} is there is not known for now", error)
        return self._is_there


def say_once(what: str, error: BaseException | str) -> None:
    """Report on stderr, once per process, what is skipped or postponed because of an error or another reason."""
    text = f"{what}: {error}"
    if text not in _said:
        _said.add(text)
        with suppress(OSError):  # stderr may go to the very disk that is full
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

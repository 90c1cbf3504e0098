"""Waiting for a file server that is away: what must be written is written when it is back."""

import errno
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TypeVar

from orchestration.failure_class import FailureClass
from orchestration.failure_signs import class_of

WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0)
"""Four minutes; a server that is away for longer is for the next try."""
_PASSING = (FailureClass.FILE_SYSTEM, FailureClass.NETWORK)
_STAYING = (errno.EACCES, errno.EROFS)
"""A ticket that expired passes too, but who reads without waiting takes them for what they mostly are."""
_said: set[str] = set()

T = TypeVar("T")


def patiently(act: Callable[[], T], also: Collection[FailureClass] = ()) -> T:
    """Do something again while a file server is away, or something else lasts that may pass.

    Raises:
        OSError: It is still away, or that was not the reason.
    """
    for wait_s in WAITS_S:
        try:
            return act()
        except OSError as error:
            if class_of(error, "") not in (*_PASSING, *also):
                raise
            time.sleep(wait_s)
    return act()


def passes(error: OSError) -> bool:
    """Tell whether an error in reading a file is one of its server's, and not of the file."""
    return class_of(error, "") in _PASSING and error.errno not in _STAYING


def say_once(what: str, error: BaseException) -> None:
    """Say on stderr, once in this process, what is left out or put off because of an error."""
    text = f"{what}: {error}"
    if text not in _said:
        _said.add(text)
        with suppress(OSError):  # it may lead to the very disk that is full
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

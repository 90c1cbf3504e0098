"""Waiting for a file server that is away: what must be written is written when it is back."""

import time
from collections.abc import Callable
from typing import TypeVar

from orchestration.failure_class import FailureClass
from orchestration.failure_signs import class_of

WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0)
"""Four minutes; a server that is away for longer is for the next try."""
_PASSING = (FailureClass.FILE_SYSTEM, FailureClass.NETWORK)

T = TypeVar("T")


def patiently(act: Callable[[], T]) -> T:
    """Do something again while a file server is away.

    Raises:
        OSError: It is still away, or that was not the reason.
    """
    for wait_s in WAITS_S:
        try:
            return act()
        except OSError as error:
            if class_of(error, "") not in _PASSING:
                raise
            time.sleep(wait_s)
    return act()

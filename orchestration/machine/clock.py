"""Time as launches, jobs, controllers and `status` read it, and their waits: all of them ask here.

So a simulation can give them another time without a word of theirs being changed (`tests/simulation`).
"""

import time
from datetime import UTC, datetime


def now() -> float:
    """Return the seconds since 1970, which other machines can compare; a clock may jump."""
    return time.time()


def monotonic() -> float:
    """Return seconds that never go back, of this process alone."""
    return time.monotonic()


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def local() -> datetime:
    """Return the moment as people here write it."""
    return datetime.fromtimestamp(now())


def utc() -> datetime:
    """Return the moment as all places write it."""
    return datetime.fromtimestamp(now(), UTC)

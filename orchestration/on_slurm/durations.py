"""Durations and moments as Slurm writes and reads them: `90`, `1:30:00`, `1-12`, `1-12:00:00`."""

import math
import re
from datetime import datetime

UNLIMITED = "UNLIMITED"
_FORMS = "minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes or days-hours:minutes:seconds"
_DURATION = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def to_minutes(text: str) -> int:
    """Read a duration in minutes; seconds are rounded up.

    Raises:
        ValueError: It has none of Slurm's forms.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"a duration must be {_FORMS}; got {text!r}")
    days, *parts = (None if part is None else int(part) for part in match.groups())
    first, second, third = parts
    if days is not None:
        hours, minutes, seconds = first or 0, second or 0, third or 0
    elif third is not None:
        hours, minutes, seconds = first or 0, second or 0, third
    else:
        hours, minutes, seconds = 0, first or 0, second or 0
    return (days or 0) * 1440 + hours * 60 + minutes + math.ceil(seconds / 60)


def moment(text: str) -> float | None:
    """Return the seconds since 1970 of a moment in this machine's time zone; None of `Unknown` and `None`."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None

"""How many elements of each array run at a time, so that all arrays of a grid together stay within a limit; pure.

An array may start as many as its throttle says, whatever the others do. So each gets what it runs, and a share of what
is free: whichever starts first, the sum holds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestration.on_slurm.commands import Job, QueuedJob

NEW = Job("", "")
"""The array that is to be submitted."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """What arrays may run, and what a new array has to wait for."""

    of: Mapping[Job, int]
    throttled: tuple[Job, ...]
    """The arrays of which elements wait, so that their throttle counts."""
    ends: tuple[Job, ...] = ()
    """The elements of which one must have ended before there is room for the new array; none: there is room."""
    is_full: bool = False
    """There is no room beside the arrays that are there, whatever ends."""


def lanes(queued: Iterable[QueuedJob], most: int, num_new: int = 0) -> Lanes:
    """Divide what may run at a time among the existing arrays and a new one of `num_new` jobs."""
    jobs = list(queued)
    arrays = dict.fromkeys(job.job.array for job in jobs) | dict.fromkeys([NEW] if num_new else [])
    running = {array: sum(job.job.array == array and not job.is_waiting for job in jobs) for array in arrays}
    waiting = {array: sum(job.job.array == array and job.is_waiting for job in jobs) for array in arrays}
    waiting |= {NEW: num_new} if num_new else {}
    given = {array: max(running[array], 1 if waiting[array] else 0) for array in arrays}
    least = {array: 1 if waiting[array] else 0 for array in arrays}
    while sum(given.values()) < most and (short := [one for one in given if given[one] - running[one] < waiting[one]]):
        given[max(short, key=lambda one: waiting[one] + running[one] - given[one])] += 1
    while sum(given.values()) > most and (long := [one for one in given if given[one] > least[one] and one != NEW]):
        given[max(long, key=lambda one: given[one])] -= 1
    lowered = {array for array in arrays if given[array] < running[array]}
    return Lanes(
        of=given,
        throttled=tuple(array for array in arrays if waiting[array] and array != NEW and _is_array(array, jobs)),
        ends=tuple(job.job for job in jobs if job.job.array in lowered and not job.is_waiting),
        is_full=sum(given.values()) > most,
    )


def _is_array(array: Job, jobs: Iterable[QueuedJob]) -> bool:
    return any(job.job.array == array and job.job != array for job in jobs)

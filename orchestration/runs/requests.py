"""What the job of an attempt asked its site for, and what the next one asks for after it ran out of something; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from orchestration.machine.fields import COUNT, NUMBER, Fields
from orchestration.runs.failure_class import FailureClass

MEMORY_FACTOR, TIME_FACTOR = 1.5, 2
OF_REQUEST = Fields(
    {"workers": COUNT, "mem_gb_per_worker": NUMBER, "time_min": COUNT},
    {"more_workers": COUNT, "most_mem_gb_per_worker": NUMBER, "most_time_min": COUNT.or_null()},
).kind("what a job asked for")


class _End(Protocol):
    """The end of an attempt (`failures.AttemptEnd`)."""

    @property
    def kind(self) -> FailureClass: ...

    @property
    def asked(self) -> "Request | None": ...

    @property
    def has_epoch(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asked for, and how much more its site could have given; kept in `owner.json`."""

    workers: int
    mem_gb_per_worker: float
    time_min: int
    more_workers: int = 0
    """Twice as many, where the batch and the nodes allow that; else 0."""
    most_mem_gb_per_worker: float = 0.0
    most_time_min: int | None = 0
    """None: the site has no limit."""

    @classmethod
    def of_owner(cls, owner: Mapping[str, Any]) -> "Request | None":
        """Return what the owner of an attempt asked for; None for one that no job of its own trained."""
        known = owner.get("asked")
        return cls(**{name: known[name] for name in cls.__dataclass_fields__ if name in known}) if known else None

    def to_owner(self) -> dict[str, Any]:
        """Return it as the owner of an attempt holds it."""
        return {"asked": asdict(self)}

    def can_grow(self, kind: FailureClass) -> bool:
        """Return whether the site could give more of what an attempt of this class ran out of."""
        if kind is FailureClass.HOST_MEMORY:
            return self.most_mem_gb_per_worker > 1.01 * self.mem_gb_per_worker
        if kind is FailureClass.GPU_MEMORY:
            return self.more_workers > self.workers
        if kind is FailureClass.TIME_LIMIT:
            return self.most_time_min is None or self.most_time_min > self.time_min
        return False


@dataclass(frozen=True, slots=True)
class Larger:
    """What a cell's next job asks for instead of what its site says; 0 leaves it as it is."""

    workers: int = 0
    mem_gb_per_worker: float = 0.0
    time_min: int = 0
    """At least so much."""

    def __bool__(self) -> bool:
        """Return whether it asks for anything."""
        return bool(self.workers or self.mem_gb_per_worker or self.time_min)

    def __str__(self) -> str:
        """Say what is asked for, and why."""
        parts = [
            f"{self.mem_gb_per_worker:g} GB for each worker, after it ran out of host memory"
            if self.mem_gb_per_worker
            else "",
            f"{self.workers} GPUs, after it ran out of GPU memory (same batch, same numbers up to rounding)"
            if self.workers
            else "",
            f"at least {self.time_min} min, after no epoch ended within its time limit" if self.time_min else "",
        ]
        return "asks for " + " and ".join(filter(None, parts)) if self else ""


def larger(ends: Sequence[_End]) -> Larger:
    """Return what a cell asks for by all its attempts: what was once too little is not asked for again."""
    workers, mem_gb, minutes = 0, 0.0, 0
    for end in ends:
        asked = end.asked
        if asked is None or not lacked(end):
            continue
        if end.kind is FailureClass.HOST_MEMORY:
            mem_gb = max(mem_gb, min(MEMORY_FACTOR * asked.mem_gb_per_worker, asked.most_mem_gb_per_worker))
        elif end.kind is FailureClass.GPU_MEMORY:
            workers = max(workers, asked.more_workers)
        else:
            longer = TIME_FACTOR * asked.time_min
            minutes = max(minutes, longer if asked.most_time_min is None else min(longer, asked.most_time_min))
    return Larger(workers, mem_gb, minutes)


def lacked(end: _End) -> bool:
    """Return whether an attempt ended for want of something of which the next one can have more."""
    if end.asked is None or (end.kind is FailureClass.TIME_LIMIT and end.has_epoch):
        return False
    return end.asked.can_grow(end.kind)

"""How attempts ended that could not record it themselves, as their followers and controllers find it out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestration.machine import clock
from orchestration.on_slurm import commands, signals
from orchestration.on_slurm.commands import EndedJob, Job
from orchestration.running.run_cell import record_failure
from orchestration.runs.attempt import Attempt, node_of
from orchestration.runs.failures import Failure, FailureClass, known_class
from orchestration.runs.run_folder import RunFolder

BY_STATE = {
    "NODE_FAIL": FailureClass.NODE_FAILURE,
    "BOOT_FAIL": FailureClass.NODE_FAILURE,
    "TIMEOUT": FailureClass.TIME_LIMIT,
    "DEADLINE": FailureClass.TIME_LIMIT,
    "OUT_OF_MEMORY": FailureClass.HOST_MEMORY,
    "PREEMPTED": FailureClass.PREEMPTED,
    "REQUEUED": FailureClass.REQUEUED,
    "CANCELLED": FailureClass.CANCELLED,
}
_KNOWS_BETTER = {
    FailureClass.LOST: (FailureClass.HOST_MEMORY, FailureClass.NODE_FAILURE, FailureClass.CANCELLED),
    FailureClass.PREEMPTED: (FailureClass.NODE_FAILURE, FailureClass.CANCELLED),
}
"""What accounting may say of a job whose attempt could write no more than the key."""
_GUESSED = tuple(f"Slurm says {state}" for state in (signals.NOTHING, "PENDING", "COMPLETING"))
"""How the words of a stop end that is taken for a preemption: in a container without Slurm's commands it may have been
a cancel, and a job that was put back into the queue may have lost its node."""


def all_ended_lately(jobs: Iterable[Job]) -> dict[Job, EndedJob]:
    """Return how jobs ended that accounting does not know, or not yet, as far as slurmctld still knows it."""
    found: dict[Job, EndedJob] = {}
    for array in sorted({job.array for job in jobs}):
        found |= commands.ended_lately(array)
    return found


def last_event(attempt: Attempt) -> dict[str, Any]:
    """Return the event that an attempt wrote at its end; nothing if it wrote none."""
    return next((event for event in attempt.events()[-1:] if event["event"] in ("stopped", "failed")), {})


def is_unclear(event: Mapping[str, Any]) -> bool:
    """Return whether accounting may know better than the last event of an attempt why it ended."""
    if not event:
        return True
    kind = event.get("kind")
    if kind == FailureClass.LOST:
        return "slurm_state" not in event
    return kind == FailureClass.PREEMPTED and str(event.get("message", "")).endswith(_GUESSED)


def says_more(event: Mapping[str, Any], failure: Failure) -> bool:
    """Return whether what was found out about an end says more than the attempt's last event."""
    return not event or failure.kind in _KNOWS_BETTER.get(known_class(event.get("kind", "")), ())


def failure_of(
    attempt: Attempt,
    job: Job,
    ends: Sequence[EndedJob],
    *,
    lately: EndedJob | None = None,
    is_requeued: bool = False,
) -> Failure:
    """Return how an attempt ended, by what accounting knows of each start of its job, and whether it had another one.

    If accounting does not know the start, slurmctld may still know the last one.
    Slurm starts a job again when its node is lost, or when it is preempted and has not ended within its grace; not when
    it has crashed.
    """
    node, known = node_of(attempt.known_owner(), attempt.events()), _end(attempt, ends, lately)
    ended = when(attempt, known)
    if known is None and is_requeued:
        message = f"job {job} on {node} was requeued, and accounting does not say why"
        return Failure(FailureClass.REQUEUED, "LostError", message, "", ended=ended)
    if known is None:
        message = f"job {job} on {node} is gone, and Slurm knows nothing of its end"
        return Failure(FailureClass.LOST, "LostError", message, "", ended=ended)
    message = f"job {job} on {known.node or node}: Slurm says {known.state}, exit code {known.exit_code}"
    kind = BY_STATE.get(known.state, FailureClass.LOST)
    return Failure(kind, "LostError", message, "", exit_code=known.exit_code, slurm_state=known.state, ended=ended)


def when(attempt: Attempt, known: EndedJob | None) -> float:
    """Return when an attempt ended: by its own event, else by Slurm's word on its job, else by its last write."""
    if last_event(attempt) or known is None or known.time is None:
        return attempt.ended()
    return min(known.time, clock.now())


def _end(attempt: Attempt, ends: Sequence[EndedJob], lately: EndedJob | None) -> EndedJob | None:
    """Return how the start of a job ended in which an attempt was made, by how often the job had been requeued."""
    restart = attempt.known_owner().get("slurm", {}).get("restart", max(0, len(ends) - 1))
    if restart >= len(ends):
        return lately
    return ends[restart] if ends[restart].is_over else None


def record_earlier_starts(folder: RunFolder) -> None:
    """Record how the attempts of earlier starts of this job ended if they could not: nobody else looks at them."""
    own = signals.own_job()
    earlier = [attempt for attempt in folder.attempts() if _is_earlier_start(attempt, own)]
    unclear = [attempt for attempt in earlier if is_unclear(last_event(attempt))]
    ends = (commands.ended([own]) or {}).get(own, ()) if unclear else ()
    for attempt in unclear:
        failure = failure_of(attempt, own, ends, is_requeued=True)
        if says_more(last_event(attempt), failure):
            record_failure(attempt, failure)


def _is_earlier_start(attempt: Attempt, own: Job) -> bool:
    slurm = attempt.known_owner().get("slurm", {})
    is_mine = slurm.get("job") == own.number and slurm.get("name", own.name) == own.name
    return is_mine and int(slurm.get("restart", 0)) < int(signals.restart())

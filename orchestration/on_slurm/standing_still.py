"""Jobs that wait for what does not happen by itself: why, by squeue's word for it, and what helps; pure.

The advice is what Slurm lets the owner of a job do: release a job that they held, change where a waiting job is to
run, and end it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from orchestration.machine.counts import counted
from orchestration.on_slurm.commands import QueuedJob

WAITS_FOR_NODE = "waits for a node"
"""Of a cell in a pilot whose head runs."""
PASSING = ("", "None", "Priority", "Resources", "BeginTime", "Dependency", "Cleaning", "Prolog", "JobArrayTaskLimit",
           "Licenses", WAITS_FOR_NODE)  # fmt: skip
"""What comes by itself, as far as anybody can tell."""
NUM_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Remedy:
    """What helps jobs that wait for certain reasons."""

    reasons: str
    """A pattern of the whole word, as squeue writes it."""
    what: str
    """What it means and the command that fixes it; `{numbers}` are those of the jobs, `{number}` is the first."""


_ELSEWHERE = "scontrol update JobId={number} Partition=NAME"
HELD = Remedy(".*(Held|Hold|held|hold).*", "held: scontrol release {numbers}")
REMEDIES = (
    Remedy("JobHeldAdmin", "held by an administrator, who alone can release them; or end them: scancel {numbers}"),
    HELD,
    Remedy("DependencyNeverSatisfied", "they wait for what will not happen: scancel {numbers}"),
    Remedy("PartitionDown|PartitionInactive|NodeDown|ReqNodeNotAvail.*|Reservation.*|.*Maint.*|.*DOWN.*|.*unavail.*",
           f"they wait until the site has it up again, or go elsewhere: {_ELSEWHERE}"),
    Remedy("InvalidAccount|AccountNotAllowed|.*Account.*", "scontrol update JobId={number} Account=NAME"),
    Remedy("InvalidQOS|QOSNotAllowed|QOS$|.*Qos.*", "scontrol update JobId={number} QOS=NAME"),
    Remedy("BadConstraints|Partition.*Limit|PartitionConfig|.*(MaxWall|PerJob|PerNode|Minutes).*|TimeLimit",
           f"as they are asked for they never begin: {_ELSEWHERE} (or Features=, TimeLimit=), or scancel {{numbers}}"),
    Remedy("(Assoc|QOS|Max|Grp).*", "they wait until other jobs of this user or account have ended: squeue --me"),
)  # fmt: skip
UNKNOWN = Remedy(".*", "scontrol show job {number} says more")


def is_standing_still(job: QueuedJob) -> bool:
    """Return whether a job waits for what does not happen by itself."""
    return job.is_waiting and (job.is_held or job.reason not in PASSING)


def remedy(jobs: Iterable[QueuedJob]) -> str:
    """Return the reason of jobs that have one, and what helps; the first one's if they differ."""
    known = list(jobs)
    reason, numbers = known[0].reason, [*dict.fromkeys(str(job.job) for job in known)]  # a pilot's cells share one
    otherwise = HELD if known[0].is_held else UNKNOWN
    found = next((one for one in REMEDIES if re.fullmatch(one.reasons, reason)), otherwise)
    shown = ",".join(numbers[:NUM_SHOWN]) + (",..." if len(numbers) > NUM_SHOWN else "")
    return f"{reason}: {found.what.format(numbers=shown, number=numbers[0])}"


def all_still(jobs: Iterable[QueuedJob]) -> list[QueuedJob]:
    """Return the jobs that stand still, if no other can begin or runs.

    Those that wait for another job start after it, so they do not count unless they are held themselves.
    """
    first = [job for job in jobs if job.is_held or not (job.is_waiting and job.reason == "Dependency")]
    return first if all(map(is_standing_still, first)) else []


def of_cells(jobs: Iterable[QueuedJob], noun: str = "cell") -> list[str]:
    """Return a line for each lasting reason for which cells, or what else jobs are for, wait."""
    by_reason: dict[str, list[QueuedJob]] = defaultdict(list)
    for job in jobs:
        if is_standing_still(job):
            by_reason[job.reason].append(job)
    return [f"{counted(len(some), noun, 'stands')} still, {remedy(some)}" for some in by_reason.values()]

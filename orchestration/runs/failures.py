"""How attempts fail, in words, and what is retried: the policy of launches, jobs and controllers."""

import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Self

from orchestration.machine.counts import counted
from orchestration.machine.messages import Message
from orchestration.runs.failure_class import FailureClass as FailureClass
from orchestration.runs.failure_class import known_class as known_class
from orchestration.runs.failure_signs import class_of
from orchestration.runs.requests import Larger, Request, lacked, larger


class CancelledError(Exception):
    """The training was told to end at once, without a checkpoint."""


class LostError(Exception):
    """A training process died without raising an exception."""


@dataclass(frozen=True, slots=True)
class Failure(Message):
    """One failure in words, to write to a file and compare."""

    kind: FailureClass
    error: str
    """Class name of the exception."""
    message: str
    traceback: str
    """The last lines of the log."""
    exit_code: str = ""
    """Exit code of the process that vanished: a number, `signal 9`, or in Slurm's notation."""
    slurm_state: str = ""
    """Slurm's final state of the job."""
    ended: float | None = None
    """Time of the end, in seconds since 1970, if it was found out later."""

    @classmethod
    def of(cls, error: BaseException, num_lines: int = 40) -> Self:
        """Describe an exception; one from another process brings its own description."""
        if isinstance(error, TrainingError):
            return cls(**asdict(error.failure))
        text = "".join(traceback.format_exception(error))
        tail = "\n".join(text.splitlines()[-num_lines:])
        return cls(class_of(error, text), type(error).__name__, str(error), tail)


class TrainingError(Exception):
    """An exception that carries a failure from another process."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.error}: {failure.message}")
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Treatment:
    """How a class of failure is treated without asking the user."""

    retries: int | None = 0
    """How often a cell is retried after it without progress in between; None: as after any other failure."""
    in_all: int | None = None
    """How often at most, with or without progress; None: no limit."""
    wait_min: int = 0
    """Minutes before the retry; each further one in a row waits twice as long, up to `MAX_WAIT_MIN`."""
    excludes_node: bool = False
    """The retry goes to another node."""
    by_site: bool = False
    """If it hits many cells at once, it is no fault of theirs (`outages.py`)."""
    by_launch: bool = True
    """A new launch retries the cell: the machine, the data or the code may have been fixed."""
    enlarged: int = 0
    """How often a cell is retried with more of what it ran out of, where its site can give more."""
    advice: str = ""
    """What helps a cell that is given up after it."""


POLICY = {
    FailureClass.PREEMPTED: Treatment(retries=None),
    FailureClass.TIME_LIMIT: Treatment(
        retries=None,
        advice="`rankmatch retry` with a longer limit (--set cluster.partition=..., cluster.time_min) or more GPUs "
        "(trainer.num_workers: same numbers)",
    ),
    FailureClass.NODE_FAILURE: Treatment(retries=None, excludes_node=True, by_site=True),
    FailureClass.REQUEUED: Treatment(retries=None),
    FailureClass.LOST: Treatment(retries=2, in_all=10, excludes_node=True, by_site=True),
    FailureClass.HUNG: Treatment(retries=2, in_all=10, excludes_node=True, by_site=True),
    # A node that cannot start jobs is free again at once, and would use up all retries of all cells within minutes.
    # Never taken for the site's fault: a launch without its Python would be retried for hours.
    FailureClass.NEVER_BEGAN: Treatment(retries=4, wait_min=1, excludes_node=True),
    FailureClass.FILE_SYSTEM: Treatment(retries=6, wait_min=2, excludes_node=True, by_site=True),
    FailureClass.NETWORK: Treatment(retries=6, wait_min=2, excludes_node=True, by_site=True),
    FailureClass.MISSING_FILE: Treatment(retries=2, wait_min=2, excludes_node=True, by_site=True),
    FailureClass.GPU_FAULT: Treatment(retries=2, in_all=10, excludes_node=True),
    FailureClass.DATA_WORKER: Treatment(retries=2, in_all=10, excludes_node=True),
    FailureClass.SHARED_MEMORY: Treatment(retries=2, in_all=10, excludes_node=True),
    FailureClass.NODE_LIMIT: Treatment(retries=2, in_all=10, wait_min=2, excludes_node=True, by_site=True),
    FailureClass.MACHINE_MEMORY: Treatment(retries=6, wait_min=1, excludes_node=True),
    FailureClass.DISK_FULL: Treatment(by_site=True, advice="make room, then `rankmatch retry` resumes it"),
    FailureClass.BAD_DATA: Treatment(advice="mend the file that `rankmatch logs` names, then `rankmatch retry` it"),
    FailureClass.CODE: Treatment(advice="`rankmatch logs` has the traceback"),
    FailureClass.CANCELLED: Treatment(),
    FailureClass.OUTPERFORMED: Treatment(by_launch=False),
    # Unchanged, these end the same way; code that changes numbers changes the signature.
    # Accumulated gradients would change batch norm's statistics, so only more GPUs leave the numbers as they are.
    FailureClass.GPU_MEMORY: Treatment(
        by_launch=False,
        enlarged=1,
        advice="give it more GPUs (`rankmatch retry --set trainer.num_workers=4`: same numbers) or larger ones "
        "(cluster.gpu_type, cluster.constraint); a smaller crop or batch makes another cell",
    ),
    FailureClass.HOST_MEMORY: Treatment(
        by_launch=False,
        enlarged=2,
        advice="give it more memory (`rankmatch retry --set cluster.mem_gb_per_worker=64`, or a partition with larger "
        "nodes) or fewer data workers (trainer.num_data_workers)",
    ),
    FailureClass.NON_FINITE_LOSS: Treatment(
        by_launch=False,
        advice="a smaller trainer.learning_rate, trainer.precision=float32 or trainer.when_not_finite=leave_out makes "
        "another cell; `rankmatch data show RUN_FOLDER --step STEP` draws what the step saw",
    ),
    FailureClass.STEP_LEFT_OUT: Treatment(retries=None),  # a run leaves out one, so the second failure is another class
}
MAX_WITHOUT_PROGRESS = 3
MAX_LONGER = 5
"""This many attempts with too short a limit do not count as being without progress: each gets twice the time."""
MAX_EXCUSED = 8
"""This many attempts in a row that ended by others' fault do not count against a cell."""
MAX_WAIT_MIN = 60
AVOIDED_S = 86_400.0
"""How long a cell avoids a node where it failed."""


class Fault(StrEnum):
    """Who is to blame for an end that hit many cells at once."""

    CELL = ""
    NODE = "node"
    SITE = "site"


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How one attempt of a cell ended."""

    kind: FailureClass
    first_step: int
    """Step of the checkpoint that it began with."""
    last_step: int
    """Step of the checkpoint that the next one began with, or can begin with."""
    node: str = ""
    """The scheduler's name of the node."""
    nodes: str = ""
    """All nodes of a training on several, in the scheduler's notation: `n[1-2]`."""
    host: str = ""
    """The node's own name."""
    time: float = 0.0
    """When it ended, in seconds since 1970."""
    noted: float = 0.0
    """When that was recorded; for a process that vanished, when it was found out."""
    is_told: bool = True
    """Its end is recorded; otherwise it may still run."""
    fault: Fault = Fault.CELL
    asked: Request | None = None
    """What its job asked for; None for one that no job of its own trained, or of an earlier version."""
    has_epoch: bool = False
    """It finished an epoch."""

    @property
    def got_on(self) -> bool:
        """Whether it made progress: left a newer checkpoint than it began with."""
        return self.last_step > self.first_step


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to retry a cell without asking the user, how soon, and if not, why."""

    again: bool
    why: str = ""
    wait_min: int = 0
    larger: Larger = Larger()
    """What it asks for if it is retried."""
    advice: str = ""
    """What helps if it is not."""
    ended: float = field(default=0.0, compare=False)
    """When its last attempt did if it is not, in seconds since 1970."""

    @property
    def told(self) -> str:
        """Why a cell is not retried, and what helps."""
        return "; ".join(filter(None, (self.why, self.advice)))


def decide(ends: Sequence[AttemptEnd]) -> Decision:
    """Decide by all attempts of a cell, in order; a cell without attempts is begun."""
    if not ends:
        return Decision(again=True)
    row = _since_it_got_on(ends)
    excused = [place for place, end in enumerate(row) if end.fault][:MAX_EXCUSED]
    counted = [end for place, end in enumerate(row) if place not in excused]
    why = "" if len(row) - 1 in excused else _why_not(ends, counted)
    if why:
        return Decision(again=False, why=why, advice=POLICY[ends[-1].kind].advice, ended=ends[-1].time)
    return Decision(again=True, wait_min=_wait_min(row), larger=larger(ends))


def _why_not(ends: Sequence[AttemptEnd], counted: Sequence[AttemptEnd]) -> str:
    """Return why a cell is given up, by all its ends and those that count since its last progress; empty: it is not."""
    last = ends[-1]
    policy = POLICY[last.kind]
    if policy.enlarged:
        return _why_not_larger(last, sum(end.kind is last.kind for end in ends))
    if policy.retries == 0:
        return str(last.kind)
    # If waiting is meant to help, the class sets the number of retries.
    stuck = [end for end in counted if not end.got_on and not POLICY[end.kind].wait_min]
    in_vain = len(stuck) - min(MAX_LONGER, sum(map(lacked, stuck)))
    if in_vain >= MAX_WITHOUT_PROGRESS:
        return f"no progress in {in_vain} attempts, last: {last.kind}"
    tries, in_all = (sum(end.kind is last.kind for end in some) for some in (counted, ends))
    if policy.retries is not None and tries > policy.retries:
        return f"{last.kind}, {tries} times"
    return f"{last.kind}, {in_all} times" if policy.in_all is not None and in_all > policy.in_all else ""


def _why_not_larger(last: AttemptEnd, tries: int) -> str:
    """Return why a cell is not retried with more of what it ran out of `tries` times; empty: it is."""
    if last.asked is None:
        return str(last.kind)
    if tries > POLICY[last.kind].enlarged:
        return f"{last.kind}, {tries} times, last with {_had(last.kind, last.asked)}"
    return "" if lacked(last) else f"{last.kind} with {_had(last.kind, last.asked)}, and its site gives no more"


def _had(kind: FailureClass, asked: Request) -> str:
    if kind is FailureClass.HOST_MEMORY:
        return f"{asked.mem_gb_per_worker:g} GB for each worker"
    return f"{counted(asked.workers, 'GPU')}"


def _since_it_got_on(ends: Sequence[AttemptEnd]) -> list[AttemptEnd]:
    """Return the last attempts in a row without progress; always the last one."""
    row = [ends[-1]]
    for end in reversed(ends[:-1]):
        if row[-1].got_on or end.got_on:
            break
        row.append(end)
    return row[::-1]


def _wait_min(row: Sequence[AttemptEnd]) -> int:
    """Return how long the retry waits: longer after each failure in a row that passes by itself."""
    waits = [max(POLICY[end.kind].wait_min, 2 * bool(end.fault)) for end in row]
    return min(MAX_WAIT_MIN, waits[-1] * 2 ** (sum(map(bool, waits)) - 1)) if waits[-1] else 0


def failed_lately(ends: Sequence[AttemptEnd], now: float) -> list[AttemptEnd]:
    """Return the recent ends of a cell whose nodes it avoids; outages of the site do not count."""
    return [
        end
        for end in ends
        if POLICY[end.kind].excludes_node and end.fault is not Fault.SITE and now - end.time < AVOIDED_S
    ]


def is_tried_again(kind: str | None) -> bool:
    """Return whether a new launch retries a cell with this failure, without being asked for it by name."""
    return kind is None or POLICY[known_class(kind)].by_launch

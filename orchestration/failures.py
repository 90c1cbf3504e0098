"""How attempts fail, in words, and what is tried again after it: the policy of launches, jobs and controllers."""

import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self

from orchestration.failure_class import FailureClass as FailureClass
from orchestration.failure_class import known_class as known_class
from orchestration.failure_signs import class_of


class CancelledError(Exception):
    """Training was told to end at once, without a checkpoint."""


class LostError(Exception):
    """A process that trained died without raising anything."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure in words that can be written to a file and compared."""

    kind: FailureClass
    error: str
    """Class name of the exception."""
    message: str
    traceback: str
    """The last lines of it."""
    exit_code: str = ""
    """Of the process that vanished: a number, `signal 9`, or as Slurm writes it."""
    slurm_state: str = ""
    """What Slurm says became of the job."""
    ended: float | None = None
    """When that was, in seconds since 1970, where somebody found it out later."""

    @classmethod
    def of(cls, error: BaseException, num_lines: int = 40) -> Self:
        """Describe an exception; one that came from another process brings its own description."""
        if isinstance(error, TrainingError):
            return cls(**asdict(error.failure))
        text = "".join(traceback.format_exception(error))
        tail = "\n".join(text.splitlines()[-num_lines:])
        return cls(class_of(error, text), type(error).__name__, str(error), tail)

    @classmethod
    def from_dict(cls, fields: dict[str, str]) -> Self:
        """Rebuild what `dataclasses.asdict` made."""
        return cls(**{**fields, "kind": FailureClass(fields["kind"])})  # type: ignore[arg-type]


class TrainingError(Exception):
    """Carries a failure from the process where it happened."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.error}: {failure.message}")
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Treatment:
    """What a class of failure gets when nobody is asked."""

    retries: int | None = 0
    """How often a cell is tried again after it without having got on in between; None: as often as after nothing."""
    in_all: int | None = None
    """How often at most, got on or not; None: any number."""
    wait_min: int = 0
    """Minutes before the next try; each further one in a row waits twice as long, up to `MAX_WAIT_MIN`."""
    excludes_node: bool = False
    """The next try goes to another node."""
    by_site: bool = False
    """Where it hits many cells at once it is no fault of theirs (`outages.py`)."""
    by_launch: bool = True
    """Somebody's new launch tries the cell again: the machine, the data or the code may have been mended."""


POLICY = {
    FailureClass.PREEMPTED: Treatment(retries=None),
    FailureClass.TIME_LIMIT: Treatment(retries=None),
    FailureClass.NODE_FAILURE: Treatment(retries=None, excludes_node=True, by_site=True),
    FailureClass.REQUEUED: Treatment(retries=None),
    FailureClass.LOST: Treatment(retries=2, in_all=10, excludes_node=True, by_site=True),
    # A node that starts no job is free for the next at once, and would take all tries of all cells within minutes.
    # Never taken for the site's fault: a launch without its Python would be tried for hours.
    FailureClass.NEVER_BEGAN: Treatment(retries=4, wait_min=1, excludes_node=True),
    FailureClass.FILE_SYSTEM: Treatment(retries=6, wait_min=2, excludes_node=True, by_site=True),
    FailureClass.NETWORK: Treatment(retries=6, wait_min=2, excludes_node=True, by_site=True),
    FailureClass.MISSING_FILE: Treatment(retries=2, wait_min=2, excludes_node=True, by_site=True),
    FailureClass.GPU_FAULT: Treatment(retries=2, in_all=10, excludes_node=True),
    FailureClass.DATA_WORKER: Treatment(retries=2, in_all=10, excludes_node=True),
    FailureClass.SHARED_MEMORY: Treatment(retries=2, in_all=10, excludes_node=True),
    FailureClass.NODE_LIMIT: Treatment(retries=2, in_all=10, wait_min=2, excludes_node=True, by_site=True),
    FailureClass.MACHINE_MEMORY: Treatment(retries=6, wait_min=1, excludes_node=True),
    FailureClass.DISK_FULL: Treatment(by_site=True),
    FailureClass.BAD_DATA: Treatment(),
    FailureClass.CODE: Treatment(),
    FailureClass.CANCELLED: Treatment(),
    FailureClass.OUTPERFORMED: Treatment(by_launch=False),
    # Unchanged, these end the same way; code that changes numbers changes the signature.
    FailureClass.GPU_MEMORY: Treatment(by_launch=False),
    FailureClass.HOST_MEMORY: Treatment(by_launch=False),
    FailureClass.NON_FINITE_LOSS: Treatment(by_launch=False),
}
MAX_WITHOUT_PROGRESS = 3
MAX_EXCUSED = 8
"""So many attempts in a row that ended by the fault of others do not count against a cell."""
MAX_WAIT_MIN = 60
AVOIDED_S = 86_400.0
"""So long a cell keeps away from a node where it failed."""


class Fault(StrEnum):
    """Whose fault the end of an attempt was that hit many cells at once."""

    CELL = ""
    NODE = "node"
    SITE = "site"


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How one attempt of a cell ended."""

    kind: FailureClass
    first_step: int
    """Of the checkpoint that it began with."""
    last_step: int
    """Of the checkpoint that the next one began with, or can."""
    node: str = ""
    """As the scheduler calls it."""
    nodes: str = ""
    """All of a training on several, as the scheduler writes them: `n[1-2]`."""
    host: str = ""
    """As it calls itself."""
    time: float = 0.0
    """When it ended, in seconds since 1970."""
    noted: float = 0.0
    """When that was written down: of a process that vanished, when somebody looked."""
    is_told: bool = True
    """Somebody wrote down how it ended; else it may run."""
    fault: Fault = Fault.CELL

    @property
    def got_on(self) -> bool:
        """Whether it left more than it began with."""
        return self.last_step > self.first_step


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a cell is tried again without anybody being asked, how soon, and why not."""

    again: bool
    why: str = ""
    wait_min: int = 0


def decide(ends: Sequence[AttemptEnd]) -> Decision:
    """Decide by all attempts of a cell, in order; one that has had none is begun."""
    if not ends:
        return Decision(again=True)
    row = _since_it_got_on(ends)
    excused = [place for place, end in enumerate(row) if end.fault][:MAX_EXCUSED]
    counted = [end for place, end in enumerate(row) if place not in excused]
    why = "" if len(row) - 1 in excused else _why_not(ends, counted)
    return Decision(again=not why, why=why, wait_min=0 if why else _wait_min(row))


def _why_not(ends: Sequence[AttemptEnd], counted: Sequence[AttemptEnd]) -> str:
    """Say why a cell is given up, by all its ends and by those that count since it last got on; empty: it is not."""
    last = ends[-1]
    policy = POLICY[last.kind]
    if policy.retries == 0:
        return str(last.kind)
    # Where a wait is meant to help, the number of tries is that of the class.
    in_vain = sum(not POLICY[end.kind].wait_min for end in counted if not end.got_on)
    if in_vain >= MAX_WITHOUT_PROGRESS:
        return f"no progress in {in_vain} attempts, last: {last.kind}"
    tries, in_all = (sum(end.kind is last.kind for end in some) for some in (counted, ends))
    if policy.retries is not None and tries > policy.retries:
        return f"{last.kind}, {tries} times"
    return f"{last.kind}, {in_all} times" if policy.in_all is not None and in_all > policy.in_all else ""


def _since_it_got_on(ends: Sequence[AttemptEnd]) -> list[AttemptEnd]:
    """Return the last attempts in a row that left nothing new; the last one in any case."""
    row = [ends[-1]]
    for end in reversed(ends[:-1]):
        if row[-1].got_on or end.got_on:
            break
        row.append(end)
    return row[::-1]


def _wait_min(row: Sequence[AttemptEnd]) -> int:
    """Return how long the next try waits: longer after each in a row that ended by what goes by by itself."""
    waits = [max(POLICY[end.kind].wait_min, 2 * bool(end.fault)) for end in row]
    return min(MAX_WAIT_MIN, waits[-1] * 2 ** (sum(map(bool, waits)) - 1)) if waits[-1] else 0


def failed_lately(ends: Sequence[AttemptEnd], now: float) -> list[AttemptEnd]:
    """Return the ends of a cell whose nodes it keeps away from: none that hit the site as a whole, and not for ever."""
    return [
        end
        for end in ends
        if POLICY[end.kind].excludes_node and end.fault is not Fault.SITE and now - end.time < AVOIDED_S
    ]


def is_tried_again(kind: str | None) -> bool:
    """Tell whether a new launch tries a cell again that failed so, without being asked for it by name."""
    return kind is None or POLICY[known_class(kind)].by_launch

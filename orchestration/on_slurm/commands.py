"""The output of Slurm's own commands, as text: the only module that calls squeue, sacct, scontrol and scancel.

Every call has a time limit, since all of them hang while slurmctld is down.
"""

import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from orchestration.machine import clock, tool_environment
from orchestration.on_slurm import programs
from orchestration.on_slurm.array_elements import spelt_out
from orchestration.on_slurm.durations import moment
from orchestration.on_slurm.programs import SlurmError as SlurmError
from orchestration.on_slurm.refusals import passes
from orchestration.runs.jobs import SchedulerError

TIMEOUT_S = 30.0
SBATCH_TIMEOUT_S = 300.0
"""sbatch itself tries again while slurmctld is busy."""
SQUEUE = ("squeue", "--noheader", "--all")
"""Without `--all`, squeue says nothing of jobs in partitions that are hidden or closed to the user's groups: that would
count as their end."""
_QUEUE_FORMAT = "--format=%i|%T|%N|%r|%Q|%x|%j"
_NOT_ENDED = ("", "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD")
_KEPT_STATES = re.compile(r"[A-Z_]+")


class SlurmRefusal(SlurmError):
    """Slurm refuses a request, and would refuse it again."""


@contextmanager
def answers() -> Iterator[None]:
    """Turn Slurm's silence into an error that ends a command with one message."""
    try:
        yield
    except SlurmError as error:
        raise SchedulerError(str(error)) from None


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """A job by its number and its name: a slurmctld that lost its last seconds assigns numbers again."""

    number: str
    """`123`, or `123_4` of an array."""
    name: str
    """Of what was submitted at once, and of nothing else."""

    @property
    def array(self) -> "Job":
        """The whole array."""
        return Job(self.number.partition("_")[0], self.name)

    def elements(self, count: int) -> list["Job"]:
        """Return the jobs of `count` tasks that were submitted under this number; a single one is no array."""
        return [self] if count == 1 else [Job(f"{self.number}_{place}", self.name) for place in range(count)]

    def __str__(self) -> str:
        """Return it as users write it."""
        return self.number


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job or an element of an array that Slurm has not ended yet."""

    job: Job
    state: str
    """PENDING, RUNNING, COMPLETING, ..."""
    node: str
    reason: str
    """Why it waits."""
    has_no_priority: bool = False
    """Nobody lets it begin, whatever else it waits for."""
    excluded: str = ""
    """Nodes that it keeps away from, as `n[1-3],n7`."""

    @property
    def is_waiting(self) -> bool:
        """Return whether it has not started."""
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SPECIAL_EXIT")

    @property
    def is_held(self) -> bool:
        """Return whether it waits until somebody releases it."""
        says_so = any(word in self.reason.lower() for word in ("held", "hold"))
        return self.is_waiting and (says_so or self.has_no_priority)  # one that waits for a job too may not say it


@dataclass(frozen=True, slots=True)
class EndedJob:
    """What accounting knows of a job that has ended."""

    state: str
    """COMPLETED, FAILED, TIMEOUT, NODE_FAIL, OUT_OF_MEMORY, PREEMPTED, CANCELLED, ..."""
    exit_code: str
    """`<code>:<signal>`."""
    node: str
    time: float | None = None
    """When, in seconds since 1970."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended; for starts before the last one, accounting may have missed the end."""
        return self.state not in ("RUNNING", "PENDING")


def is_here() -> bool:
    """Return whether this machine can submit to Slurm."""
    return shutil.which("sbatch") is not None


def queue(users: Collection[int] = ()) -> dict[Job, QueuedJob]:
    """Return the jobs of this user, and of others by their user ids, that have not ended; array elements one by one.

    Raises:
        SlurmError: squeue does not answer; the jobs may exist or not.
    """
    asked = ",".join(map(str, sorted({os.getuid(), *users})))
    return _queued(output([*SQUEUE, "--array", f"--user={asked}", _QUEUE_FORMAT]))


def _queued(text: str) -> dict[Job, QueuedJob]:
    found = {}
    for line in text.splitlines():
        words = line.split("|", 6)  # the name comes last, since other people's names may contain anything
        if len(words) == 7:  # not the rest of a name with a line end in it
            number, state, node, reason, priority, excluded, name = words
            job = Job(number, name)
            found[job] = QueuedJob(job, state, node, reason, priority == "0", excluded.replace("(null)", ""))
    return found


def jobs_by_name(name: str) -> list[Job]:
    """Find the jobs of a name, in the queue or as far back as accounting knows, without their array indices.

    Raises:
        SlurmError: squeue does not answer.
    """
    found = output([*SQUEUE, f"--name={name}", "--states=all", "--format=%F"]).split()
    if not found and (text := _accounting([f"--name={name}", "--format=JobID"])) is not None:
        found = [line.partition("_")[0].partition(".")[0] for line in text.split()]
    return [Job(number, name) for number in dict.fromkeys(found)]


def is_queued(name: str) -> bool:
    """Return whether a job of a name has not ended.

    Raises:
        SlurmError: squeue does not answer.
    """
    return bool(output([*SQUEUE, f"--name={name}", "--format=%i"]).strip())


def submit(script: Path, name: str) -> Job:
    """Submit a batch script with sbatch; the job is found by its name, whatever else a site makes sbatch print.

    Raises:
        SlurmRefusal: sbatch says what it refuses.
        SlurmError: sbatch does not answer, or no job of the name is there.
    """
    try:
        text = programs.run(["sbatch", "--parsable", str(script)], tool_environment.for_sbatch(), SBATCH_TIMEOUT_S)
    except SlurmError as error:
        raise error if passes(str(error)) else SlurmRefusal(str(error)) from None
    told = re.findall(r"^(\d+)(?:;\S*)?$", text, re.MULTILINE)
    try:
        found = output([*SQUEUE, f"--user={os.getuid()}", f"--name={name}", "--states=all",
                        "--format=%F"]).split()  # fmt: skip
    except SlurmError:
        if len(told) != 1:
            raise
        found = told
    numbers = [number for number in dict.fromkeys(found) if number in told] or found
    if not numbers:
        raise SlurmError(f"sbatch printed {' '.join(text.split())!r}, and Slurm knows no job of the name {name}")
    return Job(numbers[-1], name)


def ended(jobs: Iterable[Job]) -> Mapping[Job, tuple[EndedJob, ...]] | None:
    """Return how each start of some jobs ended, if it has; None where there is no accounting.

    A requeued job has several starts, by its restarts. Of a job that is missing here nothing is known, which says
    nothing about how it ended. Elements that were cancelled before they started share one row, which is found by the
    number of their array alone.
    """
    wanted = sorted(set(jobs))
    arrays = sorted({job.array.number for job in wanted}, key=lambda number: (len(number), number))
    rows: dict[Job, tuple[EndedJob, ...]] = {}
    together: dict[Job, tuple[EndedJob, ...]] = {}
    for first in range(0, len(arrays), 1000):  # one argument of a command has at most 128 KiB
        numbers = ",".join(arrays[first : first + 1000])
        text = _accounting([f"--jobs={numbers}", "--format=JobID,State,ExitCode,NodeList,End,JobName"])
        if text is None:
            return None
        for line in text.splitlines():
            words = line.split("|", 5)
            if len(words) == 6:
                end = EndedJob(_state(words[1]), words[2], words[3], moment(words[4]))
                if "[" not in words[0]:
                    job = Job(words[0], words[5])
                    rows[job] = (*rows.get(job, ()), end)
                elif end.is_over:
                    together |= {Job(number, words[5]): (end,) for number in spelt_out(words[0])}
    known = together | {job: over for job, starts in rows.items() if (over := _up_to_the_last_end(starts))}
    return {job: known[job] for job in wanted if job in known}


def _up_to_the_last_end(starts: tuple[EndedJob, ...]) -> tuple[EndedJob, ...]:
    """Leave out the starts after the last one that has ended; those before it keep their places."""
    return starts[: max((place for place, start in enumerate(starts, 1) if start.is_over), default=0)]


def ended_lately(array: Job) -> dict[Job, EndedJob]:
    """Return how the elements of an array, or one job, ended; slurmctld knows for minutes, even without accounting."""
    try:
        text = output(["scontrol", "--all", "--oneliner", "show", "job", array.number])
    except SlurmError:
        return {}
    found: dict[Job, EndedJob] = {}
    for line in text.splitlines():
        fields = _fields_of(line)
        if fields.get("JobName") == array.name and fields.get("JobState", "") not in _NOT_ENDED:
            end = EndedJob(fields["JobState"], fields.get("ExitCode", ""), fields.get("NodeList", ""), end_time(fields))
            number = fields.get("ArrayJobId", array.number)
            numbers = spelt_out(f"{number}_{fields.get('ArrayTaskId', '')}") or [number]
            found |= {Job(number, array.name): end for number in numbers}
    return found


def _fields_of(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def job_fields(job: Job, *, is_silence_an_error: bool = False) -> dict[str, str]:
    """Return what `scontrol show job` says of a job; empty if the job is unknown or scontrol does not answer.

    The text is parsed, as the JSON of scontrol changes between versions.

    Raises:
        SlurmError: scontrol does not answer, and whoever asks must know.
    """
    try:
        text = output(["scontrol", "--all", "--oneliner", "show", "job", job.number])
    except SlurmError as error:
        if is_silence_an_error and passes(str(error)):
            raise
        return {}
    fields = _fields_of(text)
    return fields if fields.get("JobName") == job.name else {}


def is_preempted(fields: Mapping[str, str]) -> bool:
    """Return whether a job was preempted since its present start."""
    preempted = fields.get("PreemptTime", "None")
    return preempted[:1].isdigit() and preempted >= fields.get("StartTime", "")


def end_time(fields: Mapping[str, str]) -> float | None:
    """Return when the time limit of a job ends, in seconds since 1970, if it has one."""
    return moment(fields.get("EndTime", ""))


def cancel(jobs: Collection[Job]) -> None:
    """End jobs; skip those that have ended, and other jobs that have got their numbers.

    With `--name`, scancel would also end the elements next to one that waits, so squeue is asked.

    Raises:
        SlurmError: squeue does not answer, or scancel failed.
    """
    if not jobs:
        return
    names = ",".join(sorted({job.name for job in jobs}))
    found = _queued(output([*SQUEUE, "--array", f"--name={names}", _QUEUE_FORMAT]))
    alive = {*found, *(job.array for job in found)}
    numbers = [job.number for job in sorted({*jobs}) if job in alive]
    for first in range(0, len(numbers), 500):
        output(["scancel", "--quiet", *numbers[first : first + 500]])


def cancel_waiting(name: str) -> None:
    """End the jobs of a name that have not started.

    Raises:
        SlurmError: scancel failed.
    """
    output(["scancel", "--quiet", f"--name={name}", "--state=PENDING"])


def cancel_all(name: str) -> None:
    """End the jobs of a name.

    Raises:
        SlurmError: scancel failed.
    """
    output(["scancel", "--quiet", f"--name={name}"])


def submit_script(script: Path, *, begin_s: int, after: str = "") -> str:
    """Submit a batch script that starts in so many seconds, after another job has ended; return its number.

    Raises:
        SlurmError: sbatch refused, or did not answer.
    """
    options = [f"--begin=now+{max(1, begin_s)}", *([f"--dependency=afterany:{after}"] if after else [])]
    text = programs.run(
        ["sbatch", "--parsable", *options, str(script)], tool_environment.for_sbatch(), SBATCH_TIMEOUT_S
    )
    told = re.findall(r"^(\d+)(?:;\S*)?$", text, re.MULTILINE)
    if not told:
        raise SlurmError(f"sbatch printed {' '.join(text.split())!r}, and no number of a job")
    return str(told[-1])


def waiting_numbers(name: str) -> list[str]:
    """Return the numbers of the jobs of a name that have not started, oldest first.

    Raises:
        SlurmError: squeue does not answer.
    """
    said = output([*SQUEUE, "--me", f"--name={name}", "--states=PENDING", "--format=%A"])
    return sorted(said.split(), key=int)


def throttle(array: Job, count: int) -> None:
    """Limit how many elements of an array run at a time.

    Raises:
        SlurmError: No element waits any more, or Slurm does not answer.
    """
    output(["scontrol", "update", f"JobId={array.number}", f"ArrayTaskThrottle={count}"])


def keep_from(numbers: Iterable[str], nodes: Collection[str]) -> None:
    """Have waiting jobs avoid exactly these nodes; of an array, the elements that wait.

    Raises:
        SlurmError: Slurm does not answer, or does not allow it.
    """
    try:
        output(["scontrol", "update", f"JobId={','.join(numbers)}", f"ExcNodeList={','.join(nodes)}"])
    except SlurmError as error:
        if "no longer pending" not in str(error):
            raise


def begin_in(number: str, seconds: int) -> None:
    """Have a waiting job start in so many seconds.

    Raises:
        SlurmError: It does not wait any more, or Slurm does not answer.
    """
    output(["scontrol", "update", f"JobId={number}", f"StartTime=now+{seconds}"])


def _accounting(options: Sequence[str]) -> str | None:
    since = (clock.local() - timedelta(days=60)).strftime("%Y-%m-%d")  # by default sacct starts at midnight
    try:
        return output(
            [
                "sacct",
                "--noheader",
                "--parsable2",
                "--allusers",
                "--allocations",
                "--duplicates",
                f"--starttime={since}",
                *options,
            ]
        )
    except SlurmError:
        return None


def _state(text: str) -> str:
    """Return the state alone: `CANCELLED by 1000` is CANCELLED."""
    found = _KEPT_STATES.match(text)
    return found[0] if found else text


def output(command: Sequence[str]) -> str:
    """Return what one of Slurm's commands prints.

    Raises:
        SlurmError: It is missing, does not answer in time, or fails; with the reason that it gives.
    """
    return programs.run(command, tool_environment.for_slurm(), TIMEOUT_S)

"""What Slurm's own commands say, as text: the one seam to squeue, sacct, scontrol and scancel.

Every call has a time limit, since all of them hang while slurmctld is down.
"""

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

TIMEOUT_S = 30.0
_QUEUE_FORMAT = "--format=%i|%T|%N|%r|%j"
_KEPT_STATES = re.compile(r"[A-Z_]+")


class SlurmError(Exception):
    """A Slurm command failed or did not answer; nothing is known then."""


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """A job by its number and its name: a slurmctld that lost its last seconds gives numbers to other jobs again."""

    number: str
    """`123`, or `123_4` of an array."""
    name: str
    """Of what was submitted at once, and of nothing else."""

    @property
    def array(self) -> "Job":
        """The whole array."""
        return Job(self.number.partition("_")[0], self.name)

    def __str__(self) -> str:
        """Show it as users write it."""
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

    @property
    def is_waiting(self) -> bool:
        """Tell whether it has not started."""
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SPECIAL_EXIT")


@dataclass(frozen=True, slots=True)
class EndedJob:
    """What accounting knows of a job that has ended."""

    state: str
    """COMPLETED, FAILED, TIMEOUT, NODE_FAIL, OUT_OF_MEMORY, PREEMPTED, CANCELLED, ..."""
    exit_code: str
    """`<code>:<signal>`."""
    node: str


def is_here() -> bool:
    """Tell whether this machine can submit to Slurm."""
    return shutil.which("sbatch") is not None


def queue(users: Collection[int] = ()) -> dict[Job, QueuedJob]:
    """Return the jobs of this user, and of others by their user ids, that have not ended; array elements each.

    Raises:
        SlurmError: squeue says nothing; the jobs may be there or not.
    """
    asked = ",".join(map(str, sorted({os.getuid(), *users})))
    return _queued(_output(["squeue", "--noheader", "--array", f"--user={asked}", _QUEUE_FORMAT]))


def _queued(text: str) -> dict[Job, QueuedJob]:
    found = {}
    for line in text.splitlines():
        words = line.split("|", 4)  # the name comes last, as other people's may hold anything
        if len(words) == 5:  # not what follows a line end in somebody's name
            number, state, node, reason, name = words
            job = Job(number, name)
            found[job] = QueuedJob(job, state, node, reason)
    return found


def jobs_by_name(name: str) -> list[Job]:
    """Find the jobs of a name, queued or as far back as accounting knows, without their array indices.

    Raises:
        SlurmError: squeue says nothing.
    """
    found = _output(["squeue", "--noheader", f"--name={name}", "--states=all", "--format=%F"]).split()
    if not found and (text := _accounting([f"--name={name}", "--format=JobID"])) is not None:
        found = [line.partition("_")[0].partition(".")[0] for line in text.split()]
    return [Job(number, name) for number in dict.fromkeys(found)]


def is_queued(name: str) -> bool:
    """Tell whether a job of a name has not ended.

    Raises:
        SlurmError: squeue says nothing.
    """
    return bool(_output(["squeue", "--noheader", f"--name={name}", "--format=%i"]).strip())


def ended(jobs: Iterable[Job]) -> Mapping[Job, tuple[EndedJob, ...]] | None:
    """Return how each start of jobs ended, as far as it has; None where there is no accounting.

    A job that was requeued has several, by its restarts. Of one that is not named here nothing is known, which says
    nothing of how it went.
    """
    wanted = sorted(set(jobs))
    rows: dict[Job, tuple[EndedJob, ...]] = {}
    for first in range(0, len(wanted), 1000):  # one word of a command has at most 128 KiB
        numbers = ",".join(job.number for job in wanted[first : first + 1000])
        text = _accounting([f"--jobs={numbers}", "--format=JobID,State,ExitCode,NodeList,JobName"])
        if text is None:
            return None
        for line in text.splitlines():
            words = line.split("|", 4)
            if len(words) == 5 and (state := _state(words[1])) not in ("RUNNING", "PENDING"):
                job = Job(words[0], words[4])
                rows[job] = (*rows.get(job, ()), EndedJob(state, words[2], words[3]))
    return {job: rows[job] for job in wanted if job in rows}


def job_fields(job: Job) -> dict[str, str]:
    """Return what `scontrol show job` says of a job; empty where it is not known or scontrol is not here.

    The text is parsed, as the JSON of scontrol changes between versions.
    """
    try:
        text = _output(["scontrol", "--oneliner", "show", "job", job.number])
    except SlurmError:
        return {}
    fields = dict(word.split("=", 1) for word in text.split() if "=" in word)
    return fields if fields.get("JobName") == job.name else {}


def is_preempted(fields: Mapping[str, str]) -> bool:
    """Tell whether a job was preempted since its present start."""
    preempted = fields.get("PreemptTime", "None")
    return preempted[:1].isdigit() and preempted >= fields.get("StartTime", "")


def end_time(fields: Mapping[str, str]) -> float | None:
    """Return when the time limit of a job ends, in seconds since 1970, if it has one."""
    try:
        return datetime.fromisoformat(fields.get("EndTime", "")).timestamp()
    except ValueError:
        return None


def max_array_size() -> int:
    """Return how many elements an array may have at this site.

    Raises:
        SlurmError: scontrol says nothing.
    """
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _output(["scontrol", "show", "config"]))
    return int(found[1]) if found else 1001


def max_submit_jobs(account: str, qos: str) -> int | None:
    """Return how many jobs this user may have in the queue by account and qos; None where accounting does not say."""
    user = getpass.getuser()
    asked = [["assoc", f"user={user}", *([f"account={account}"] if account else []), "format=MaxSubmitJobs"]]
    if qos:
        asked.append(["qos", qos, "format=MaxSubmitJobsPerUser"])
    limits: list[int] = []
    for words in asked:
        try:
            text = _output(["sacctmgr", "--noheader", "--parsable2", "show", *words])
        except SlurmError:
            continue  # many sites let users ask nothing; sbatch refuses then
        limits += [int(word) for word in text.split() if word.isdigit()]
    return min(limits, default=None)


def max_minutes(partition: str) -> int | None:
    """Return the time limit of a partition (empty: the default one); None where there is none.

    Raises:
        SlurmError: scontrol says nothing.
    """
    rows = [
        dict(word.split("=", 1) for word in line.split() if "=" in word)
        for line in _output(["scontrol", "--oneliner", "show", "partition", *filter(None, [partition])]).splitlines()
    ]
    chosen = [
        row for row in rows if row.get("PartitionName") == partition or (not partition and row.get("Default") == "YES")
    ]
    limit = chosen[0].get("MaxTime", "UNLIMITED") if chosen else "UNLIMITED"
    return None if limit == "UNLIMITED" else _minutes(limit)


def cancel(jobs: Collection[Job]) -> None:
    """End jobs; one that has ended already is none of them, nor is another job that has its number.

    With `--name`, scancel ends the elements beside one that waits too, so squeue is asked.

    Raises:
        SlurmError: squeue says nothing, or scancel failed.
    """
    if not jobs:
        return
    names = ",".join(sorted({job.name for job in jobs}))
    found = _queued(_output(["squeue", "--noheader", "--array", f"--name={names}", _QUEUE_FORMAT]))
    alive = {*found, *(job.array for job in found)}
    numbers = [job.number for job in sorted({*jobs}) if job in alive]
    for first in range(0, len(numbers), 500):
        _output(["scancel", "--quiet", *numbers[first : first + 500]])


def cancel_waiting(name: str) -> None:
    """End the jobs of a name that have not begun.

    Raises:
        SlurmError: scancel failed.
    """
    _output(["scancel", "--quiet", f"--name={name}", "--state=PENDING"])


def _accounting(options: Sequence[str]) -> str | None:
    since = (datetime.now() - timedelta(days=60)).strftime("%Y-%m-%d")  # by default sacct starts at midnight
    try:
        return _output(
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
    """`CANCELLED by 1000` is CANCELLED."""
    found = _KEPT_STATES.match(text)
    return found[0] if found else text


def _minutes(limit: str) -> int:
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = map(int, clock.split(":"))
    return int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0)


def _output(command: Sequence[str]) -> str:
    # C: states and times as the manual writes them
    environment = {**os.environ, "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment
        )
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not here") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer within {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise SlurmError(f"{command[0]} failed with exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout

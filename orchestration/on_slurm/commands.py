"""What Slurm's own commands say, as text: the one seam to squeue, sacct, scontrol and scancel.

Every call has a time limit, since all of them hang while slurmctld is down.
"""

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

TIMEOUT_S = 30.0
_KEPT_STATES = re.compile(r"[A-Z_]+")


class SlurmError(Exception):
    """A Slurm command failed or did not answer; nothing is known then."""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job or an element of an array that Slurm has not ended yet."""

    job_id: str
    """`123`, or `123_4` of an array."""
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


def queue() -> dict[str, QueuedJob]:
    """Return this user's jobs that have not ended, array elements each.

    Raises:
        SlurmError: squeue says nothing; the jobs may be there or not.
    """
    text = _output(["squeue", "--noheader", "--array", "--me", "--format=%i|%T|%N|%r"])
    rows = [line.split("|") for line in text.splitlines() if line]
    return {row[0]: QueuedJob(*row[:4]) for row in rows}


def job_ids_by_name(name: str) -> list[str]:
    """Find the jobs of a name, queued or as far back as accounting knows, without their array indices.

    Raises:
        SlurmError: squeue says nothing.
    """
    found = _output(["squeue", "--noheader", "--me", f"--name={name}", "--states=all", "--format=%F"]).split()
    if not found and (text := _accounting([f"--name={name}", "--format=JobID"])) is not None:
        found = [line.partition("_")[0].partition(".")[0] for line in text.split()]
    return list(dict.fromkeys(found))


def is_queued(name: str) -> bool:
    """Tell whether a job of a name has not ended.

    Raises:
        SlurmError: squeue says nothing.
    """
    return bool(_output(["squeue", "--noheader", "--me", f"--name={name}", "--format=%i"]).strip())


def ended(job_ids: Iterable[str]) -> Mapping[str, EndedJob] | None:
    """Return what accounting says of jobs that have ended; None where there is no accounting.

    A job that it does not name is unknown, which says nothing of how it went.
    """
    wanted = sorted(set(job_ids))
    found: dict[str, EndedJob] = {}
    for first in range(0, len(wanted), 1000):  # one word of a command has at most 128 KiB
        jobs = ",".join(wanted[first : first + 1000])
        text = _accounting([f"--jobs={jobs}", "--format=JobID,State,ExitCode,NodeList"])
        if text is None:
            return None
        rows = [line.split("|") for line in text.splitlines() if line]
        found |= {row[0]: EndedJob(_state(row[1]), row[2], row[3]) for row in rows}
    return {job: ended for job, ended in found.items() if ended.state not in ("RUNNING", "PENDING")}


def job_fields(job_id: str) -> dict[str, str]:
    """Return what `scontrol show job` says of a job; empty where it is not known or scontrol is not here.

    The text is parsed, as the JSON of scontrol changes between versions.
    """
    try:
        text = _output(["scontrol", "--oneliner", "show", "job", job_id])
    except SlurmError:
        return {}
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


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


def cancel(job_ids: Sequence[str]) -> None:
    """End jobs; one that has ended already is none of them.

    Raises:
        SlurmError: scancel failed.
    """
    for first in range(0, len(job_ids), 500):
        _output(["scancel", "--quiet", *job_ids[first : first + 500]])


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
            ["sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", f"--starttime={since}", *options]
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

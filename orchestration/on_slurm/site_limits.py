"""What a site allows: by partition, account and qos, from scontrol and sacctmgr."""

import os
import pwd
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from orchestration.on_slurm import commands
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.durations import UNLIMITED, to_minutes


@dataclass(frozen=True, slots=True)
class SubmitLimit:
    """How many jobs of this user may be in the queue at a time, as the new ones are counted, and how many are."""

    most: int
    taken: int


def max_array_size() -> int:
    """Return how many elements an array may have at this site.

    Raises:
        SlurmError: scontrol does not answer.
    """
    return int(configuration().get("MaxArraySize", "1001"))


def max_minutes(partition: str) -> int | None:
    """Return the time limit of a partition, of several (`main,low`) the shortest; None if there is none.

    Args:
        partition: Empty: the default one.

    Raises:
        SlurmError: scontrol does not answer.
        ValueError: There is no such partition.
    """
    limits = [row.get("MaxTime", UNLIMITED) for row in _partitions(partition)]
    return min((to_minutes(limit) for limit in limits if limit != UNLIMITED), default=None)


def submit_limit(account: str, qos: str, partition: str) -> SubmitLimit | None:
    """Return the limit for jobs of an account, a qos and a partition; None if accounting does not say.

    As in Slurm, a limit of the partition's qos precedes one of the job's, and that precedes the association's. What
    the user has in other accounts or on other clusters does not count.

    Raises:
        SlurmError: squeue or scontrol does not answer.
        ValueError: There is no such partition.
    """
    places = _partitions(partition)
    association = _association(account, [row["PartitionName"] for row in places])
    for place in places:
        if (most := _limit_of_qos(place.get("QoS", ""))) is not None:
            return SubmitLimit(most, _num_queued(f"--partition={place['PartitionName']}"))
    name = qos or (association.qos if association else "")
    if (most := _limit_of_qos(name)) is not None:
        return SubmitLimit(most, _num_queued(f"--qos={name}"))
    if association is None or association.most is None:
        return None
    return SubmitLimit(association.most, _num_queued(f"--account={association.account}"))


def max_wall_minutes(account: str, qos: str, partition: str) -> int | None:
    """Return the longest time limit that account and qos allow, as far as accounting says it; None if it says none.

    A job that asks for more is refused, or waits for ever.

    Raises:
        SlurmError: scontrol does not answer.
        ValueError: There is no such partition.
    """
    cluster = configuration().get("ClusterName", "")
    text = _accounting("user", _user(), "withassoc", f"cluster={cluster}",
                       "format=DefaultAccount,Account,MaxWall,DefaultQOS")  # fmt: skip
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 3]
    mine = [row for row in rows if row[1] == (account.lower() or row[0])]
    names = {*([qos] if qos else [row[3] for row in mine]), *(row.get("QoS", "") for row in _partitions(partition))}
    limits = [row[2] for row in mine] + [_wall_of_qos(name) for name in sorted(names - {"", "N/A"})]
    return min((minutes for limit in limits if (minutes := _minutes(limit)) is not None), default=None)


def _wall_of_qos(name: str) -> str:
    return _accounting("qos", name, "format=MaxWall").strip()


def _minutes(text: str) -> int | None:
    with suppress(ValueError):  # empty, or what no version has written yet
        return to_minutes(text)
    return None


def refuse_other_clusters() -> None:
    """Refuse to launch if the shell sends sbatch to another cluster: nothing here would find the jobs again.

    Raises:
        SlurmError: scontrol does not answer.
        ValueError: Naming both clusters.
    """
    for variable in ("SBATCH_CLUSTERS", "SLURM_CLUSTERS"):
        named = os.environ.get(variable, "")
        if named and "SLURM_JOB_ID" not in os.environ and named != (here := configuration().get("ClusterName", "")):
            raise ValueError(
                f"{variable} must name the cluster that Slurm's commands are of here, {here}, or be unset; "
                f"got {named!r}: launch on a login node of that cluster, or with its SLURM_CONF"
            )


def default_partitions() -> list[str]:
    """Return the names of the partitions for jobs that name none; a site may have none.

    Raises:
        SlurmError: scontrol does not answer.
    """
    return [row["PartitionName"] for row in _partitions("")]


@dataclass(frozen=True, slots=True)
class Membership:
    """An account that this user may name, with its qos."""

    account: str
    is_default: bool
    qos: tuple[str, ...]
    """The default one first, where there is one."""


def memberships() -> list[Membership]:
    """Return the accounts of this user on this cluster; none if accounting does not say.

    Raises:
        SlurmError: scontrol does not answer.
    """
    cluster = configuration().get("ClusterName", "")
    text = _accounting("user", _user(), "withassoc", f"cluster={cluster}",
                       "format=DefaultAccount,Account,QOS,DefaultQOS")  # fmt: skip
    found = []
    for row in (line.split("|") for line in text.splitlines() if line.count("|") == 3):
        qos = dict.fromkeys(name for name in (row[3], *row[2].split(",")) if name)
        found.append(Membership(row[1], row[1] == row[0], tuple(qos)))
    return found


@dataclass(frozen=True, slots=True)
class _Association:
    """What accounting knows of this user in an account."""

    account: str
    partition: str
    """Empty: all those without an association of their own."""
    most: int | None
    qos: str
    """The default one."""


def _association(account: str, partitions: Sequence[str]) -> _Association | None:
    cluster = configuration().get("ClusterName", "")
    text = _accounting("user", _user(), "withassoc", f"cluster={cluster}",
                       "format=DefaultAccount,Account,Partition,MaxSubmitJobs,DefaultQOS")  # fmt: skip
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 4]
    found = [
        _Association(row[1], row[2], int(row[3]) if row[3].isdigit() else None, row[4])
        for row in rows
        if row[1] == (account.lower() or row[0]) and (not row[2] or row[2] in partitions)
    ]
    return max(found, key=lambda one: bool(one.partition), default=None)


def _limit_of_qos(name: str) -> int | None:
    if name in ("", "N/A"):
        return None
    limit = _accounting("qos", name, "format=MaxSubmitJobsPerUser").strip()
    return int(limit) if limit.isdigit() else None


def _num_queued(which: str) -> int:
    text = commands.output([*commands.SQUEUE, "--array", f"--user={os.getuid()}", which, "--format=%i"])
    return len(text.split())


def _accounting(*words: str) -> str:
    """Ask sacctmgr; nothing if it does not answer: many sites let users ask nothing, and then sbatch refuses."""
    try:
        return commands.output(["sacctmgr", "--noheader", "--parsable2", "show", *words])
    except SlurmError:
        return ""


def _partitions(names: str) -> list[dict[str, str]]:
    """Return what scontrol says of partitions, separated by commas; of the default one if none is named.

    Raises:
        SlurmError: scontrol does not answer.
        ValueError: There is no such partition.
    """
    text = commands.output(["scontrol", "--all", "--oneliner", "show", "partition"])
    rows = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in text.splitlines()]
    known = {row["PartitionName"]: row for row in rows if "PartitionName" in row}
    if not names:
        return [row for row in known.values() if row.get("Default") == "YES"]
    for name in names.split(","):
        if name not in known:
            raise ValueError(f"cluster.partition must be of {', '.join(sorted(known))}; got {names!r}")
    return [known[name] for name in names.split(",")]


def configuration() -> dict[str, str]:
    """Return what scontrol says of the cluster's settings.

    Raises:
        SlurmError: scontrol does not answer.
    """
    pairs = (line.partition("=") for line in commands.output(["scontrol", "show", "config"]).splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _user() -> str:
    """Return the name of this process's user, whatever LOGNAME says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())

"""A Slurm site: its commands, what it lets a user do, and whether a cell's job finds a node."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from orchestration.checkup.finding import Finding, Verdict, fault, good, note
from orchestration.machine.counts import counted
from orchestration.on_slurm import commands, site_limits, site_nodes
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.resources import Resources

NEEDED = ("sbatch", "squeue", "scontrol", "scancel", "sinfo", "srun")
_MEND = "on a login node of the cluster, with its Slurm in PATH"


def site(config: ClusterConfig) -> Iterator[Finding]:
    """Check a site from a login node; checks that need Slurm's answer are left out if there is none."""
    if lacking := [name for name in NEEDED if not shutil.which(name)]:
        yield fault("Slurm", f"{', '.join(lacking)} not in PATH", "every launch on this site", f"launch {_MEND}")
        return
    try:
        settings = site_limits.configuration()
    except SlurmError as error:
        yield fault(
            "Slurm", str(error), "every launch on this site", "wait until slurmctld answers, or ask who runs it"
        )
        return
    version = settings.get("SLURM_VERSION", "of an unknown version")
    yield good("Slurm", f"{version}, cluster {settings.get('ClusterName', 'without a name')}")
    yield from _cluster_of_the_shell()
    yield from _accounting(settings)
    yield from _requeue(settings, config)
    yield from _preemption(settings)
    yield good("arrays", f"up to {site_limits.max_array_size()} jobs each")
    yield from _partition(config)
    yield from _container(config)


def beside(config: ClusterConfig) -> Iterator[Finding]:
    """Check a Slurm that is here but was not named: its faults keep no launch on this machine from working."""
    for found in site(config):
        is_fault = found.verdict is Verdict.FAULT
        yield replace(found, verdict=Verdict.NOTE, breaks="launches with --cluster slurm only") if is_fault else found


def _cluster_of_the_shell() -> Iterator[Finding]:
    try:
        site_limits.refuse_other_clusters()
    except ValueError as error:
        yield fault("Slurm", str(error), "every launch on this site", "unset that variable")


def _accounting(settings: Mapping[str, str]) -> Iterator[Finding]:
    kind = settings.get("AccountingStorageType", "")
    lacks = kind in ("", "(null)") or kind.endswith("/none") or not shutil.which("sacct")
    if not lacks:
        try:
            commands.output(["sacct", "--noheader", "--parsable2", "--starttime=now", "--format=JobID"])
        except SlurmError as error:
            lacks, kind = True, str(error)
    if lacks:
        yield note(
            "accounting",
            f"does not answer ({kind or 'no sacct'}): how a job ended that could not say so itself is "
            "known for minutes only, as long as scontrol shows it",
        )
    else:
        yield good("accounting", kind)


def _requeue(settings: Mapping[str, str], config: ClusterConfig) -> Iterator[Finding]:
    if not config.requeue:
        yield good("requeue", "cluster.requeue=false: a new job takes over")
    elif settings.get("JobRequeue", "1") == "0":
        yield note(
            "requeue",
            "is off unless a job asks for it (JobRequeue=0), as ours do; some sites refuse that",
            "where sbatch refuses --requeue, cluster.requeue=false",
        )
    else:
        yield good("requeue", "is on")


def _preemption(settings: Mapping[str, str]) -> Iterator[Finding]:
    kind, modes = settings.get("PreemptType", "preempt/none"), settings.get("PreemptMode", "OFF").upper()
    if kind.endswith("/none") or modes == "OFF":
        yield good("preemption", "there is none")
    elif "CANCEL" in modes:
        yield note(
            "preemption", f"ends jobs for good ({modes}): the next step of the campaign submits their cells again"
        )
    elif "SUSPEND" in modes:
        yield note(
            "preemption",
            f"stops jobs where they are ({modes}): their cells keep the memory and look interrupted after 10 minutes",
            "a partition that requeues",
        )
    else:
        yield good("preemption", f"requeues jobs ({modes}), which resume from their checkpoint")


def _partition(config: ClusterConfig) -> Iterator[Finding]:
    name = config.partition or "the default partition"
    try:
        minutes = site_limits.max_minutes(config.partition)
        nodes = site_nodes.of_partition(config.partition)
        limit = site_limits.submit_limit(config.account, config.qos, config.partition)
    except ValueError as error:
        yield fault("partition", str(error), "every launch on this site", "name one of these in the site's file")
        return
    yield good(
        "partition",
        f"{name}: {counted(len(nodes), 'node')}, jobs of {f'{minutes} minutes' if minutes else 'any length'}",
    )
    if minutes and 60 * minutes <= 2 * config.signal_before_s:
        yield fault(
            "partition",
            f"{name} ends jobs after {minutes} minutes, and cluster.signal_before_s is {config.signal_before_s}",
            "every job stops as soon as it begins",
            "lower cluster.signal_before_s",
        )
    if limit is not None:
        most, taken = limit.most, limit.taken
        yield good(
            "limits", f"{most} jobs of this user at a time, {taken} are there; a launch submits as the rest frees"
        )
    yield from _nodes(config, nodes, name)


def _nodes(config: ClusterConfig, nodes: list[site_nodes.Node], name: str) -> Iterator[Finding]:
    up = [node for node in nodes if node.takes_jobs]
    if not up:
        yield fault(
            "nodes",
            f"none of the {len(nodes)} nodes of {name} takes jobs",
            "jobs wait forever",
            "another partition, or wait",
        )
        return
    gpus = 0 if config.gpu_flag == "none" else 1
    memory = config.mem_gb_per_worker if config.mem_flag != "none" else 0.0
    asked = Resources(1, config.cpus_per_worker, gpus, memory, 1)
    fitting = [node for node in up if node.holds(asked, gpu_type=config.gpu_type, constraint=config.constraint)]
    if not fitting:
        has = "; ".join(sorted({f"{one.num_cpus} CPUs, {one.memory_mb / 1024:.0f} GB, {one.gres}" for one in up}))
        yield fault(
            "nodes",
            f"none of {name} holds a worker of {config.cpus_per_worker} CPUs, {memory:g} GB and "
            f"{gpus} {config.gpu_type} GPU; they have {has}",
            "jobs wait forever or are refused",
            "cluster.cpus_per_worker, mem_gb_per_worker, gpu_type, gpu_flag or constraint",
        )
        return
    yield good("nodes", f"{len(fitting)} of {len(up)} that are up hold a worker")
    most = max(node.num_gpus(config.gpu_type) for node in fitting)
    if not gpus and not most:
        yield note(
            "GPUs",
            f"Slurm knows of none on the nodes of {name}",
            "where they have none, every cell ends with an error, unless its trainer.device is cpu",
        )
    if gpus and config.gpus_per_node > most:
        yield note(
            "nodes",
            f"cluster.gpus_per_node is {config.gpus_per_node}, and a node has {most} GPUs: cells of more "
            "workers than that are refused",
            f"cluster.gpus_per_node={most}",
        )


def _container(config: ClusterConfig) -> Iterator[Finding]:
    if config.container == "apptainer" and not shutil.which("apptainer"):
        yield note("container", "there is no apptainer here; the nodes must have it", "a module in cluster.modules")
    path = Path(config.image)
    if config.image.startswith("/") and not path.exists():
        yield fault("container", f"there is no {path}", "every job", "build the image, or correct cluster.image")
    elif config.image:
        yield good("container", f"{config.container}: {config.image}")

"""A site's file from what Slurm says of itself; each line says where its value is from, or that it is a guess."""

import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestration.on_slurm import commands, site_limits, site_nodes
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.site_limits import Membership
from orchestration.on_slurm.site_nodes import Node

_OF_MEMORY = 0.95
"""What the system of a node keeps for itself."""
_BASIC = (4, 16.0)
"""CPUs and memory of a worker where no node has a GPU."""


@dataclass(frozen=True, slots=True)
class Place:
    """A partition by its nodes."""

    name: str
    nodes: tuple[Node, ...]
    is_default: bool
    max_minutes: int | None

    @property
    def num_gpus(self) -> int:
        """The GPUs of all nodes."""
        return sum(node.num_gpus() for node in self.nodes)

    @property
    def gpus_per_node(self) -> int:
        """The GPU count that most of its nodes with GPUs have; 0: no node has any."""
        counts = Counter(node.num_gpus() for node in self.nodes if node.num_gpus())
        return counts.most_common(1)[0][0] if counts else 0

    @property
    def with_gpus(self) -> list[Node]:
        """The nodes with the most common number of GPUs, or else all."""
        return [node for node in self.nodes if node.num_gpus() == self.gpus_per_node]

    def in_words(self) -> str:
        """Describe it in words."""
        types = sorted(frozenset().union(*(node.gpu_types for node in self.nodes)))
        named = f" ({', '.join(types)})" if types else ""
        gpus = f"{self.num_gpus} GPUs{named}" if self.num_gpus else "no GPU"
        limit = f"jobs of up to {self.max_minutes} minutes" if self.max_minutes else "jobs of any length"
        return f"{self.name}: {len(self.nodes)} nodes, {gpus}, {limit}"


def detect() -> str:
    """Return the text of a site's file.

    Raises:
        SlurmError: Slurm does not answer.
    """
    settings = site_limits.configuration()
    places = [
        Place(name, tuple(nodes), is_default=name == _default(), max_minutes=site_limits.max_minutes(name))
        for name, nodes in site_nodes.by_partition().items()
    ]
    if not places:
        raise SlurmError("sinfo shows no partition that you may use")
    chosen = max(places, key=lambda one: (one.num_gpus > 0, one.is_default, one.num_gpus))
    sections = [
        _head(settings),
        _of_partition(chosen, places),
        _of_user(site_limits.memberships()),
        _of_worker(chosen),
        _of_jobs(settings, chosen),
        _of_containers(),
        _of_inputs(),
    ]
    return "\n".join("".join(f"{line}\n" for line in section) for section in sections)


def _default() -> str:
    try:
        return next((one for one in site_limits.default_partitions()), "")
    except SlurmError:
        return ""


def _head(settings: Mapping[str, str]) -> Iterator[str]:
    cluster = settings.get("ClusterName", "without a name")
    version = settings.get("SLURM_VERSION", "of some version")
    yield f"# A site by `rankmatch site detect`: cluster {cluster}, Slurm {version}."
    yield "# Look it through, then: rankmatch doctor --cluster THIS_FILE, and rankmatch launch --cluster THIS_FILE ..."
    named = os.environ.get("SLURM_CLUSTERS") or os.environ.get("SBATCH_CLUSTERS")
    if named and named != cluster:
        yield f"# The shell sends jobs to {named!r} (SLURM_CLUSTERS, SBATCH_CLUSTERS): a launch needs that unset."


def _of_partition(chosen: Place, places: Sequence[Place]) -> Iterator[str]:
    yield "# Of sinfo and `scontrol show partition`; guessed to be the one with GPUs that is the default, or has most:"
    yield f"# {chosen.in_words()}"
    yield f"partition: {_quoted(chosen.name)}"
    for place in places:
        if place is not chosen:
            yield f"# or {place.in_words()}"


def _of_user(found: Sequence[Membership]) -> Iterator[str]:
    if not found:
        yield "# sacctmgr tells nothing of this user: where sbatch asks for them, name account and qos."
        return
    yield "# Of `sacctmgr show user withassoc`; left out, Slurm takes the default."
    default = next((one for one in found if one.is_default), found[0])
    for one in {each.account: each for each in found}.values():
        qos = f", qos {', '.join(one.qos)}" if one.qos else ""
        text = f"account: {_quoted(one.account)}"
        yield f"{text}  # the default{qos}" if one is default else f"# or {text}{qos}"
    if len(default.qos) > 1:
        yield f"# qos: {_quoted(default.qos[0])}"


def _of_worker(chosen: Place) -> Iterator[str]:
    gpus, nodes = chosen.gpus_per_node, chosen.with_gpus
    cpus, memory = min(node.num_cpus for node in nodes), min(node.memory_mb for node in nodes)
    if not gpus:
        yield "# No node of it has a GPU, or Slurm knows of none: with gpu_flag none, a job has all GPUs of its nodes."
        yield "# If they have none, launch with trainer.device=cpu."
        yield "gpu_flag: none"
        yield f"cpus_per_worker: {min(_BASIC[0], cpus)}  # guessed; the smallest node has {cpus}"
        yield f"mem_gb_per_worker: {min(_BASIC[1], _gb_of(memory))}  # guessed; the smallest node has {memory:,} MB"
        return
    yield f"# Of sinfo: {len(nodes)} of {len(chosen.nodes)} nodes have {gpus}, {cpus} CPUs and {memory:,} MB or more."
    yield f"gpus_per_node: {gpus}"
    types = sorted(frozenset().union(*(node.gpu_types for node in chosen.nodes)))
    if types:
        yield f"# gpu_type: {types[0]}  # of {', '.join(types)}: asked for by --gres; without it a job gets any of them"
    yield f"cpus_per_worker: {max(1, cpus // gpus)}  # a GPU's share of a node"
    yield f"mem_gb_per_worker: {_gb_of(memory / gpus)}  # a GPU's share, less 5 % for the system"


def _gb_of(memory_mb: float) -> float:
    return float(max(1, math.floor(_OF_MEMORY * memory_mb / 1024)))


def _of_jobs(settings: Mapping[str, str], chosen: Place) -> Iterator[str]:
    if chosen.max_minutes:
        yield f"max_time_min: {chosen.max_minutes}  # MaxTime of the partition; a longer cell goes on in the next job"
    if settings.get("JobRequeue", "1") == "0":
        yield "# JobRequeue=0: jobs are requeued only if they ask for it. Ours do; where sbatch refuses, say false."
    yield "requeue: true"
    mode = settings.get("PreemptMode", "OFF")
    if settings.get("PreemptType", "preempt/none").endswith("/none") or mode.upper() == "OFF":
        yield "# PreemptMode OFF: no job is preempted."
    else:
        yield f"# PreemptMode {mode}: a preempted cell goes on from its checkpoint, in {_after(mode.upper())}."
    grace = settings.get("KillWait", "").partition(" ")[0]
    yield f"signal_before_s: 120  # guessed; a job is killed {grace or 'some'} s (KillWait) after its limit"
    yield "# Guessed: nodes may submit jobs. Where they must not: controller: false"
    yield "controller: true"


def _after(mode: str) -> str:
    return "a new job that the next controller submits" if "CANCEL" in mode else "the same job, which Slurm requeues"


def _of_containers() -> Iterator[str]:
    found = next((name for name in ("apptainer", "singularity") if shutil.which(name)), "")
    if found == "apptainer":
        yield "# apptainer is here. With the image of docs/image.md:"
        yield "# container: apptainer"
        yield "# image: /shared/images/rankmatch.sif"
        yield "# container_args: [--nv]"
    elif _has_pyxis():
        yield "# srun knows containers (pyxis). With the image of docs/image.md:"
        yield "# container: pyxis"
        yield "# image: /shared/images/rankmatch.sqsh"
    elif found:
        yield "# singularity is here; its successor apptainer is what cluster.container knows."
    else:
        yield "# No container runtime is found here (apptainer, pyxis); it may be a module."
    if os.environ.get("MODULEPATH"):
        yield "# There are modules; those that a job needs before Python: modules: [cuda/13.0]"


def _of_inputs() -> Iterator[str]:
    yield "# Where this site keeps data sets, ImageNet weights and MLflow, so that launches need no paths:"
    yield "# data_root: {pascal: /data/VOC2012, cityscapes: /data/cityscapes}"
    yield "# weights: {resnet50: /data/weights/resnet50.pth, resnet101: /data/weights/resnet101.pth}"
    yield "# tracking_uri: http://mlflow.example.org:5000  # without a password; left out, SQLite in the runs folder"


def _has_pyxis() -> bool:
    try:
        return "--container-image" in commands.output(["srun", "--help"])
    except SlurmError:
        return False


def _quoted(name: str) -> str:
    """Quote a name for YAML unless it is a plain word: a site's file reads every value as text."""
    return name if name.replace("_", "").replace("-", "").replace(".", "").isalnum() else f'"{name}"'

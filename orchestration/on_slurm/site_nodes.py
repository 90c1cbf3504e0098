"""The nodes of a site, as sinfo shows them."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestration.on_slurm import commands
from orchestration.on_slurm.resources import Resources

_TAKES_JOBS = ("idle", "mixed", "allocated", "completing", "planned", "reserved")
_GPUS = re.compile(r"gpu(?::([^:,()]+))??:(\d+)")


@dataclass(frozen=True, slots=True)
class Node:
    """A node with all its resources, whoever uses them now."""

    name: str
    """As Slurm calls it."""
    num_cpus: int
    memory_mb: int
    gres: str = ""
    """`gpu:a100:4(S:0-1)`, or `(null)`."""
    features: frozenset[str] = frozenset()
    state: str = "idle"

    @property
    def takes_jobs(self) -> bool:
        """Whether it is up, or powered down until a job comes."""
        return self.state.rstrip("~#!%$@^-+") in _TAKES_JOBS  # a state with `*` means that the node does not answer

    @property
    def gpu_types(self) -> frozenset[str]:
        """The types of its GPUs, if Slurm knows them."""
        return frozenset(found for found, _ in _GPUS.findall(self.gres) if found)

    def num_gpus(self, kind: str = "") -> int:
        """Count its GPUs, of a type or in all."""
        return sum(int(count) for found, count in _GPUS.findall(self.gres) if kind in ("", found))

    def holds(self, asked: Resources, *, gpu_type: str = "", constraint: str = "") -> bool:
        """Return whether it could hold a job's share; a constraint that is not understood is ignored."""
        return (
            self.takes_jobs
            and self.num_cpus >= asked.cpus_per_node
            and self.memory_mb >= round(asked.mem_gb_per_node * 1024)
            and self.num_gpus(gpu_type) >= asked.gpus_per_node
            and (not is_understood(constraint) or self._meets(constraint))
        )

    def _meets(self, constraint: str) -> bool:
        asked = re.split(r"[&|]", constraint) if constraint else []
        found = [feature in self.features for feature in asked]
        return any(found) if "|" in constraint else all(found)


def is_understood(constraint: str) -> bool:
    """Return whether a constraint is one feature, or several joined by one operator, `a&b` or `a|b`."""
    return not constraint or any(re.fullmatch(rf"[\w.:-]+({joined}[\w.:-]+)*", constraint) for joined in ("&", r"\|"))


def of_partition(partition: str) -> list[Node]:
    """Return the nodes of a partition, of several (`main,low`), or (if empty) of the default one.

    Raises:
        SlurmError: sinfo does not answer.
    """
    named = [f"--partition={partition}"] if partition else []
    found = {node.name: node for place, node in _places(named) if partition or place.endswith("*")}
    return list(found.values())


def by_partition() -> dict[str, list[Node]]:
    """Return the nodes of each partition that this user may see.

    Raises:
        SlurmError: sinfo does not answer.
    """
    found: dict[str, list[Node]] = {}
    for place, node in _places([]):
        found.setdefault(place.rstrip("*"), []).append(node)
    return found


def _places(named: Sequence[str]) -> Iterator[tuple[str, Node]]:
    """Yield each node with each of its partitions, as sinfo writes them."""
    text = commands.output(["sinfo", "--noheader", "--Node", *named, "--format=%N|%c|%m|%G|%f|%T|%P"])
    for line in text.splitlines():
        words = line.split("|")
        if len(words) == 7:
            features = frozenset(words[4].split(","))
            cpus, memory = (int(word.rstrip("+")) for word in words[1:3])
            yield words[6], Node(words[0], cpus, memory, words[3], features, words[5])


def names_of(expression: str) -> list[str]:
    """Return the nodes that an expression such as `n[1-3],n7` names.

    Raises:
        SlurmError: scontrol says nothing.
    """
    if "[" not in expression:
        return [name for name in expression.split(",") if name]
    return commands.output(["scontrol", "show", "hostnames", expression]).split()


def usable(
    nodes: Iterable[Node], asked: Resources, *, gpu_type: str, constraint: str, excluded: Collection[str]
) -> list[str]:
    """Return the names of the nodes that could hold a job's share."""
    return [
        node.name
        for node in nodes
        if node.name not in excluded and node.holds(asked, gpu_type=gpu_type, constraint=constraint)
    ]

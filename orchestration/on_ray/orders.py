"""The files with which a launcher or a Slurm job and the processes of a Ray instruct each other; imports no Ray."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from orchestration.machine.messages import Message
from orchestration.runs.failures import Failure
from orchestration.runs.jobs import CellJob


@dataclass(frozen=True, slots=True)
class JobOrder(Message):
    """To the process of a Slurm job that trains one cell: `order.json` in the job's folder."""

    cell_dir: Path
    end_time: float | None
    """When the job's time is over, in seconds since 1970; None: nobody knows."""
    num_nodes: int
    num_cpus_per_node: int
    num_gpus_per_node: int
    num_cpus_per_worker: float
    temp_dir: Path
    """For the sockets and logs of its Ray."""
    owner: dict[str, Any]
    """Of the attempt."""


@dataclass(frozen=True, slots=True)
class Sharing(Message):
    """How the cells of a launch share a Ray."""

    max_concurrent: int | None = None
    num_gpus_per_worker: float = 1.0


@dataclass(frozen=True, slots=True)
class Lent(Message):
    """What each job of a pilot lends of its node."""

    num_cpus: int
    num_gpus: int


@dataclass(frozen=True, slots=True)
class PilotOrder(Message):
    """To the driver that is the head of a pilot."""

    name: str
    """Of the head's node."""
    folder: Path
    """For the sockets and logs of its Ray."""
    num_nodes: int
    node: Lent
    end_time: float | None
    """When the head's time is over."""


@dataclass(frozen=True, slots=True)
class DriverOrder(Message):
    """To the process that drives Ray Tune: `ray.json` in the launch's folder."""

    jobs: tuple[CellJob, ...]
    owner: dict[str, Any]
    """Of the launch, with its `campaign`."""
    options: Sharing = Sharing()
    address: str = ""
    """Of a Ray that runs already; empty: it starts one."""
    is_search: bool = False
    ray_folder: str = ""
    """Where the Ray that it starts has its sockets and logs."""
    pilot: PilotOrder | None = None


@dataclass(frozen=True, slots=True)
class HeadAddress(Message):
    """To the jobs that lend a pilot their nodes, for this user alone: `head.json` in the launch's folder."""

    ADVICE: ClassVar[str] = "the next pilot has a head of its own"

    address: str
    token: str


@dataclass(frozen=True, slots=True)
class NodeNote(Message):
    """To the cells that train on a lent node: `node.json` in the folder of the job that lends it."""

    ADVICE: ClassVar[str] = "cells here know neither its job nor its end"

    end_time: float | None
    """When the job's time is over."""
    owner: dict[str, Any] = field(default_factory=dict)
    """What attempts hold of the job."""
    lasts_s: float | None = None
    """How long the job may take in all, as far as known."""


@dataclass(frozen=True, slots=True)
class WorkerFailure(Message):
    """From the first worker of a cell that failed to the process that started it."""

    failure: Failure
    fenced: bool
    """The cell belongs to somebody else by now."""

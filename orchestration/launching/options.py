"""What a user asks of a launch, split by who needs it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestration.grids.places import Places
from orchestration.machine import files

LOCAL_CLUSTERS = ("local", "inline")
FOLLOWED_CLUSTERS = (*LOCAL_CLUSTERS, "ray")
"""Those whose launcher stays until the last cell ends."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to launch."""

    grid: str = "demo"
    """A name, or a file."""
    overrides: Sequence[str] = ()
    runs: Path = field(default_factory=lambda: Path("runs"))
    retried: Collection[str] = ()
    """Signatures of cells that alone are launched, and tried again however they failed; none: the whole grid."""
    named: bool = True
    """Whether the user named the cells that are retried; else seeds that they show to be needed follow them."""
    budget_gpu_hours: float | None = None
    """A plan that is estimated to take more is refused."""
    until: float | None = None
    """Cells that are estimated to end later are left out: seconds since 1970."""
    available: bool = False
    """Leave out cells whose inputs are not here."""
    within_budget: bool = False
    """Leave out what would exceed the budget, instead of refusing the plan."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Cells to leave out, by signature, with why."""
    only: Sequence[str] = ()
    """Of a grid of grids: the tables to launch, by name or `table=NUMBER`; empty: all."""
    places: Places | None = None
    """What the site says of data and weights."""
    adaptive: int | None = None
    """With how many seeds entries begin that get more only where they decide something; 0: they get all at once; None:
    what the grid's file says."""

    def __post_init__(self) -> None:
        if self.within_budget and self.budget_gpu_hours is None:
            raise ValueError("--budget-gpu-hours must be given with --within-budget; got --within-budget alone")
        if file := files.in_the_way(self.runs.resolve()):
            raise ValueError(f"--runs must be a folder, or one that can be made; {file} is a file")


@dataclass(frozen=True, slots=True)
class Workers:
    """Where cells are trained, how many at a time, and what each of their workers gets."""

    cluster: str = "local"
    max_concurrent: int | None = None
    num_cpus_per_worker: int = 1
    num_gpus_per_worker: float = 1.0
    num_nodes: int | None = None
    """Of a pilot on Slurm; None: each cell is a job of its own."""

    def __post_init__(self) -> None:
        if self.cluster == "inline" and (self.max_concurrent or 1) > 1:
            raise ValueError(f"--max-concurrent must be 1 with --cluster inline; got {self.max_concurrent}")
        if self.num_nodes is not None and self.num_nodes < 1:
            raise ValueError(f"--nodes must be at least 1; got {self.num_nodes}")
        if self.num_nodes is not None and self.cluster in FOLLOWED_CLUSTERS:
            raise ValueError(f"--pilot must be given with --cluster slurm or a site; got it with {self.cluster}")

    @property
    def are_here(self) -> bool:
        """Whether cells are trained on this machine."""
        return self.cluster in LOCAL_CLUSTERS

    @property
    def are_alone(self) -> bool:
        """Whether a pilot keeps a limit, which nothing holds over it and other jobs of its grid."""
        return self.num_nodes is not None and self.max_concurrent is not None


@dataclass(frozen=True, slots=True)
class OnSlurm:
    """What only a launch on Slurm needs."""

    site: str = "slurm"
    """Or the file of a site."""
    settings: Sequence[str] = ()
    """Changes to it, `cluster.partition=gpu`."""
    allow_dirty: bool = False
    """Submit code that is not committed."""
    size_from_history: bool = False
    """Ask for what finished cells of the same kind took, and a quarter more."""


def refuse_address(address: str, cluster: str, *, is_needed: bool = True) -> None:
    """Refuse an address where no Ray is used, and a missing one where an existing Ray is to be used.

    Raises:
        ValueError: With what to give.
    """
    if address and cluster != "ray":
        raise ValueError(f"--address must be given with --cluster ray only; got it with --cluster {cluster}")
    if cluster == "ray" and is_needed and not address:
        raise ValueError("--address must be given with --cluster ray: HOST:PORT of the Ray's head, or auto; got none")

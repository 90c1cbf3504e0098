"""A campaign, a user's launch on Slurm and all that follows from it: what it keeps in the folders of its launches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from orchestration.machine import files
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.machine.fields import COUNT, NUMBER, Fields, Kind
from orchestration.machine.messages import KIND, Message
from orchestration.on_slurm.cluster import ClusterConfig, from_values
from orchestration.planning.history import Size
from orchestration.runs.folders import ControllersFolder, GridFolder, LaunchFolder
from orchestration.runs.jobs import cancelled_cells

_NEW_LAUNCH = "a new launch of the grid resumes its cells"
_NUMBER_FROM_0 = Kind("a number from 0", lambda value: NUMBER.holds(value) and value >= 0)
_FROM_1 = Kind("a whole number from 1", lambda value: COUNT.holds(value) and value > 0)
_SITE = Fields({}).kind("the fields of a site")


@dataclass(frozen=True, slots=True)
class Campaign(Message):
    """What a controller needs to know of the launch that it resumes."""

    ADVICE: ClassVar[str] = _NEW_LAUNCH

    name: str
    """The folder of the user's launch; attempts carry it, and the policy of retries counts by it."""
    grid_name: str
    runs: str
    snapshot: str
    commit: str
    dirty: bool
    cluster: dict[str, Any] = field(metadata={KIND: _SITE})
    max_concurrent: int | None = field(default=None, metadata={KIND: _FROM_1.or_null()})
    num_nodes: int | None = field(default=None, metadata={KIND: _FROM_1.or_null()})
    """Of a pilot; None: each cell is a job."""
    num_gpus_per_worker: float = field(default=1.0, metadata={KIND: _NUMBER_FROM_0})
    difference: dict[str, str] = field(default_factory=dict)
    """Where what was not committed is kept, and its hash."""
    commit_unknown: str = ""
    """Why there is no commit."""
    mark: dict[str, str] = field(default_factory=dict)
    """What attempts hold whose jobs write MLflow themselves."""
    retried: list[str] = field(default_factory=list)
    """The signatures of the cells that somebody wanted tried again; empty: it has the whole grid."""
    budget_gpu_hours: float | None = field(default=None, metadata={KIND: _NUMBER_FROM_0.or_null()})
    until: float | None = field(default=None, metadata={KIND: _NUMBER_FROM_0.or_null()})
    """Cells that would end later are not submitted: seconds since 1970."""
    sizes: list[Size] | None = None
    """What finished cells took when it was launched, by which its jobs are sized; None: by what the site says."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why the launch left out cells that are not submitted therefore, by signature: inputs, or its budget."""

    @classmethod
    def read(cls, launch_dir: Path) -> "Campaign":
        """Read the campaign of a launch.

        Raises:
            DamagedFileError: Its file cannot be read.
        """
        path = LaunchFolder(launch_dir).campaign_file
        return _checked(path, files.read_bytes(str(path)))

    def write(self, launch_dir: Path) -> None:
        """Make a launch one of this campaign."""
        self.to_file(LaunchFolder(launch_dir).campaign_file)

    def code(self) -> dict[str, Any]:
        """Return what the provenance of attempts says of the launched code."""
        dirty = self.dirty if self.commit else None
        unknown = "" if self.commit else self.commit_unknown
        return {"commit": self.commit, "dirty": dirty, "commit_unknown": unknown, **self.difference}

    @property
    def controllers_name(self) -> str:
        """The name of its controllers' jobs, and of no others."""
        return f"rankmatch-controller-{self.name}"

    def folder(self, grid_dir: Path) -> LaunchFolder:
        """Return the folder of the user's launch."""
        return GridFolder(grid_dir).launch(self.name)

    def controllers(self, grid_dir: Path) -> ControllersFolder:
        """Return the folder of its controllers."""
        return self.folder(grid_dir).controllers

    def over(self, grid_dir: Path) -> Path:
        """Return the file that marks the campaign as over."""
        return self.folder(grid_dir).campaign_over_file

    def config(self) -> ClusterConfig:
        """Return the site."""
        return ClusterConfig(**self.cluster)


@dataclass(frozen=True, slots=True)
class Ended(Message):
    """A note that nobody has to do anything about a campaign any more."""

    time: float
    why: str = ""
    """Where it was not brought to its end."""


@lru_cache(maxsize=1024)
def _checked(path: Path, content: bytes) -> Campaign:
    """Take a campaign from what was read of its file; a step and `status` read each many times, and check it once."""
    stored = Campaign.from_content(path, content)
    known = replace(stored, cluster=_of_this_version(path, stored.cluster))
    try:
        from_values(known.cluster)
    except ValueError as error:
        raise DamagedFileError(path, f"its cluster is none ({error})", _NEW_LAUNCH) from None
    return known


def _of_this_version(path: Path, site: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a site that this version knows; warn of those of a newer one."""
    unknown = site.keys() - {part.name for part in fields(ClusterConfig)}
    if unknown:
        tell(f"{path}: cluster.{', cluster.'.join(sorted(unknown))} are of a newer version and do nothing here")
    return {name: value for name, value in site.items() if name not in unknown}


def newest_readable(launches: Sequence[Path]) -> Campaign | None:
    """Return the campaign of the newest launch whose file can be read; warn of damaged files."""
    return next((known for folder in reversed(launches) if (known := _read(folder))), None)


def campaign_named(grid_dir: Path, name: str) -> Campaign:
    """Return a campaign by its name, from its own launch or else from one that followed it.

    Raises:
        DamagedFileError: None of these files can be read.
    """
    own = GridFolder(grid_dir).launch(name).path
    try:
        return Campaign.read(own)
    except DamagedFileError as error:
        found = newest_readable(launches_of(grid_dir, name))
        if found is None:
            raise
        tell(error)
        return found


def open_campaigns(grid_dir: Path) -> dict[Path, Campaign]:
    """Return the campaigns of a grid that are not over, by the folders of their newest launches, oldest first."""
    found: dict[str, list[tuple[Path, Campaign]]] = {}
    for folder in launches_of(grid_dir):
        if (campaign := _read(folder)) is not None:
            found.setdefault(campaign.name, []).append((folder, campaign))
    newest = {name: launches[-1] for name, launches in found.items() if not _is_over(grid_dir, name, launches)}
    return {newest[name][0]: newest[name][1] for name in sorted(newest)}


def launches_of(grid_dir: Path, campaign: str = "") -> list[Path]:
    """Return the folders of a campaign's launches, oldest first; of all campaigns if none is named."""
    found = [launch.path for launch in GridFolder(grid_dir).launches() if launch.campaign_file.exists()]
    return [folder for folder in found if not campaign or name_of(folder) == campaign]


def cancelled_in(grid_dir: Path, campaign: str) -> set[str]:
    """Return the cells of a campaign that somebody cancelled by name, whichever of its launches recorded that."""
    return {name for folder in launches_of(grid_dir, campaign) for name in cancelled_cells(folder)}


def name_of(launch_dir: Path) -> str:
    """Return the name of a launch's campaign; empty if the file cannot be read, so that others can continue."""
    known = _read(launch_dir)
    return known.name if known else ""


def _read(launch_dir: Path) -> Campaign | None:
    try:
        return Campaign.read(launch_dir)
    except DamagedFileError as error:
        tell(error)
        return None


def _is_over(grid_dir: Path, name: str, launches: Iterable[tuple[Path, Campaign]]) -> bool:
    """Return whether a campaign is over; earlier versions recorded it in the folder of the last launch."""
    folders = [GridFolder(grid_dir).launch(name), *(LaunchFolder(path) for path, _ in launches)]
    return any(folder.campaign_over_file.exists() for folder in folders)

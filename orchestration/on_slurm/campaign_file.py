"""What a campaign, a user's launch on Slurm and all that follows from it, keeps in the folders of its launches."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestration import files
from orchestration.damage import DamagedFileError, tell
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.schedulers import cancelled_cells

ORDER, ENDED, CONTROLLER = "campaign.json", "ended.json", "controller.json"
CONTROLLERS = "controllers"
"""The folder of a campaign's controllers."""
_NEEDED = ("name", "grid_name", "runs", "snapshot", "commit", "dirty", "cluster")


@dataclass(frozen=True, slots=True)
class Campaign:
    """What a controller needs to know of the launch that it goes on with."""

    name: str
    """The folder of the user's launch; attempts carry it, and the policy of retries counts by it."""
    grid_name: str
    runs: str
    snapshot: str
    commit: str
    dirty: bool
    cluster: dict[str, Any]
    max_concurrent: int | None = None
    num_nodes: int | None = None
    """Of a pilot; None: each cell is a job."""
    num_gpus_per_worker: float = 1.0
    difference: dict[str, str] = field(default_factory=dict)
    """Where what was not committed is kept, and its hash."""
    commit_unknown: str = ""
    """Why there is no commit."""
    mark: dict[str, str] = field(default_factory=dict)
    """What attempts hold whose jobs write MLflow themselves."""
    retried: list[str] = field(default_factory=list)
    """The signatures of the cells that somebody wanted tried again; empty: it has the whole grid."""
    budget_gpu_hours: float | None = None

    @classmethod
    def read(cls, launch_dir: Path) -> "Campaign":
        """Read that of a launch.

        Raises:
            DamagedFileError: It cannot be told.
        """
        return cls(**files.read_json(launch_dir / ORDER, _NEEDED, "a new launch of the grid goes on with its cells"))

    def write(self, launch_dir: Path) -> None:
        """Make a launch one of this campaign."""
        files.replace(launch_dir / ORDER, files.to_text(asdict(self)))

    def code(self) -> dict[str, Any]:
        """Return what the provenance of attempts says of the code that was launched."""
        dirty = self.dirty if self.commit else None
        unknown = "" if self.commit else self.commit_unknown
        return {"commit": self.commit, "dirty": dirty, "commit_unknown": unknown, **self.difference}

    @property
    def controllers_name(self) -> str:
        """The name of its controllers' jobs, and of no others."""
        return f"rankmatch-controller-{self.name}"

    def folder(self, grid_dir: Path) -> Path:
        """Return that of the user's launch."""
        return grid_dir / "launches" / self.name

    def controllers(self, grid_dir: Path) -> Path:
        """Return the folder of its controllers."""
        return self.folder(grid_dir) / CONTROLLERS

    def over(self, grid_dir: Path) -> Path:
        """Return the file that says that nothing is left to be done."""
        return self.folder(grid_dir) / ENDED

    def config(self) -> ClusterConfig:
        """Return the site."""
        return ClusterConfig(**self.cluster)


def open_campaigns(grid_dir: Path) -> dict[Path, Campaign]:
    """Return the campaigns of a grid that are not over by the folders of their newest launches, oldest first."""
    found: dict[str, list[tuple[Path, Campaign]]] = {}
    for folder in launches_of(grid_dir):
        if (campaign := _read(folder)) is not None:
            found.setdefault(campaign.name, []).append((folder, campaign))
    newest = {name: launches[-1] for name, launches in found.items() if not _is_over(grid_dir, name, launches)}
    return {newest[name][0]: newest[name][1] for name in sorted(newest)}


def launches_of(grid_dir: Path, campaign: str = "") -> list[Path]:
    """Return the folders of a campaign's launches, oldest first; of all campaigns where none is named."""
    found = [path.parent for path in sorted(grid_dir.glob(f"launches/*/{ORDER}"))]
    return [folder for folder in found if not campaign or name_of(folder) == campaign]


def cancelled_in(grid_dir: Path, campaign: str) -> set[str]:
    """Return the cells of a campaign that somebody cancelled by name, in whichever launch of it that was noted."""
    return {name for folder in launches_of(grid_dir, campaign) for name in cancelled_cells(folder)}


def name_of(launch_dir: Path) -> str:
    """Return the campaign of a launch; none where that cannot be told, so that others go on."""
    known = _read(launch_dir)
    return known.name if known else ""


def _read(launch_dir: Path) -> Campaign | None:
    try:
        return Campaign.read(launch_dir)
    except DamagedFileError as error:
        tell(error)
        return None


def _is_over(grid_dir: Path, name: str, launches: Iterable[tuple[Path, Campaign]]) -> bool:
    """Look where it is said; earlier versions said it in the folder of the last launch."""
    return any((folder / ENDED).exists() for folder in (grid_dir / "launches" / name, *(path for path, _ in launches)))

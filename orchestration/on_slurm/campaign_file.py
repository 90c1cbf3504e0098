"""What a campaign, a user's launch on Slurm and all that follows from it, keeps in the folders of its launches."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from orchestration import files
from orchestration.damage import DamagedFileError, tell
from orchestration.fields import COUNT, FLAG, NUMBER, TEXT, TEXTS, Fields, Kind
from orchestration.on_slurm.cluster import ClusterConfig, from_values
from orchestration.schedulers import cancelled_cells

ORDER, ENDED, CONTROLLER = "campaign.json", "ended.json", "controller.json"
CONTROLLERS = "controllers"
"""The folder of a campaign's controllers."""
_NEW_LAUNCH = "a new launch of the grid goes on with its cells"
_NUMBER_FROM_0 = Kind("a number from 0", lambda value: NUMBER.holds(value) and value >= 0)
_FROM_1 = Kind("a whole number from 1", lambda value: COUNT.holds(value) and value > 0)
_OF_CAMPAIGN = Fields(
    {"name": TEXT, "grid_name": TEXT, "runs": TEXT, "snapshot": TEXT, "commit": TEXT, "dirty": FLAG,
     "cluster": Fields({}).kind("the fields of a site")},
    {"max_concurrent": _FROM_1.or_null(), "num_nodes": _FROM_1.or_null(), "num_gpus_per_worker": _NUMBER_FROM_0,
     "difference": TEXTS, "commit_unknown": TEXT, "mark": TEXTS, "retried": TEXT.listed(),
     "budget_gpu_hours": _NUMBER_FROM_0.or_null()},
)  # fmt: skip


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
        path = launch_dir / ORDER
        known = files.read_json(path, _OF_CAMPAIGN, _NEW_LAUNCH)
        known["cluster"] = _of_this_version(path, known["cluster"])
        try:
            from_values(known["cluster"])
        except ValueError as error:
            raise DamagedFileError(path, f"its cluster is none ({error})", _NEW_LAUNCH) from None
        return cls(**{part.name: known[part.name] for part in fields(cls) if part.name in known})

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


def _of_this_version(path: Path, site: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a site that this version has; those of a newer one are named."""
    unknown = site.keys() - {part.name for part in fields(ClusterConfig)}
    if unknown:
        tell(f"{path}: cluster.{', cluster.'.join(sorted(unknown))} are of a newer version and do nothing here")
    return {name: value for name, value in site.items() if name not in unknown}


def newest_readable(launches: Sequence[Path]) -> Campaign | None:
    """Return the campaign of the newest of some launches whose file can be read; the damaged ones are named."""
    return next((known for folder in reversed(launches) if (known := _read(folder))), None)


def campaign_named(grid_dir: Path, name: str) -> Campaign:
    """Return a campaign by its name: as its own launch holds it, else as one that followed from it does.

    Raises:
        DamagedFileError: None of these files can be read.
    """
    own = grid_dir / "launches" / name
    try:
        return Campaign.read(own)
    except DamagedFileError as error:
        found = newest_readable(launches_of(grid_dir, name))
        if found is None:
            raise
        tell(error)
        return found


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

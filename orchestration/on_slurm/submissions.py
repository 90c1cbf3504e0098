"""Which Slurm job has which cell: written down before sbatch is called, completed behind it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestration import files
from orchestration.on_slurm import commands
from orchestration.schedulers import cancel_cells

FOLDER = "submissions"


@dataclass(slots=True)
class Submission:
    """An array of jobs, or one job; element i has cell i. In a pilot one job, its head, has all cells."""

    name: str
    """Of the jobs, and of no others."""
    cells: list[str]
    """Names of the cells' folders."""
    job_id: str = ""
    """Empty until sbatch has told it; one that stays empty is looked up by its name."""
    nodes_name: str = ""
    """Of the jobs that lend a pilot its nodes."""
    nodes_id: str = ""
    """Their array."""

    @property
    def is_pilot(self) -> bool:
        """Whether cells are no jobs of their own."""
        return bool(self.nodes_name)

    def job_ids(self) -> dict[str, str]:
        """Return the job of each cell as squeue writes it; empty where it is not known."""
        if not self.job_id:
            return dict.fromkeys(self.cells, "")
        if self.is_pilot:
            return dict.fromkeys(self.cells, self.job_id)
        if len(self.cells) == 1:
            return {self.cells[0]: self.job_id}
        return {cell: f"{self.job_id}_{number}" for number, cell in enumerate(self.cells)}

    def write(self, launch_dir: Path) -> None:
        """Store it."""
        folder = launch_dir / FOLDER
        folder.mkdir(exist_ok=True)
        files.replace(folder / f"{self.name}.json", files.to_text(asdict(self)))


def read(grid_dir: Path) -> list[tuple[Path, Submission]]:
    """Return all submissions of a grid with the folders of their launches, oldest first."""
    paths = sorted(grid_dir.glob(f"launches/*/{FOLDER}/*.json"))
    return [(path.parents[1], Submission(**files.read_json(path))) for path in paths]


def complete(grid_dir: Path) -> list[tuple[Path, Submission]]:
    """Look up by name the jobs of launches that were killed between sbatch and the note of its answer; as `read`.

    Raises:
        SlurmError: Slurm does not answer.
    """
    found = []
    for launch_dir, submission in read(grid_dir):
        if not submission.job_id and (ids := commands.job_ids_by_name(submission.name)):
            submission.job_id = ids[-1]
            submission.write(launch_dir)
            found.append((launch_dir, submission))
    return found


def note_cancelled(grid_dir: Path, cells: Iterable[str]) -> None:
    """Write down that cells were cancelled: in the launches that submitted them, and in the newest, which goes on."""
    submitted = {launch for launch, submission in read(grid_dir) if {*submission.cells} & {*cells}}
    for launch_dir in submitted | {*sorted(grid_dir.glob("launches/*"))[-1:]}:
        cancel_cells(launch_dir, cells)


def nodes_of(grid_dir: Path, heads: Collection[str]) -> list[str]:
    """Return the names of the jobs that lend their nodes to pilots, by the jobs of their heads."""
    return [one.nodes_name for _, one in read(grid_dir) if one.is_pilot and one.job_id in heads]


def newest_jobs(grid_dir: Path) -> Mapping[str, str]:
    """Return the newest job of each cell's folder that was ever submitted."""
    jobs: dict[str, str] = {}
    for _, submission in read(grid_dir):
        jobs |= {cell: job for cell, job in submission.job_ids().items() if job}
    return jobs

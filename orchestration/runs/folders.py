"""Every name and path below a runs folder is defined here and nowhere else.

    RunsFolder / GridFolder / LaunchFolder / JobFolder
                            / ControllersFolder
                            / CellFolder / AttemptFolder

On a folder, a member is a path: `GridFolder(path).grid_file`. On the class, it has only a name:
`GridFolder.grid_file.name`. docs/run_folder.md describes the files. No name may change or mean two things: folders of
earlier versions stay readable, and jobs of a campaign read what a newer version writes.
"""

import datetime
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestration.machine import clock
from orchestration.machine.provenance import DIFFERENCE
from orchestration.runs.cell_names import entries_in, one_for_each_cell
from orchestration.runs.members import Folder
from orchestration.runs.members import Inner as Inner
from rankmatch import run_files

_MOMENT = "%Y%m%dT%H%M%S.%f"
"""Names of launches begin with the time in this form, so that they sort in order."""


class RunsFolder(Folder):
    """A folder of grids; `--runs`."""

    __slots__ = ()
    store_file = Inner("mlflow.db")
    artifacts_dir = Inner("artifacts")
    """The files of the MLflow store, one folder for each experiment."""
    id_file = Inner("runs.json")
    """The id by which stores know the folder, and its earlier places."""
    checked_dir = Inner("checked")
    """Data and weights that passed the check, by the state of their files."""
    cache_dir = Inner(".results")
    """Rows of finished runs; can be deleted."""
    cache_lock = Inner(".results/lock")
    cells_dir = Inner("cells")
    """The store: each cell once, to which the folders of grids link."""
    cells_lock = Inner(".cells.lock")
    """Held while cells are added to the store or taken out of it."""
    trash_dir = Inner(".trash")
    """Dropped cells; runs are never searched in folders whose names begin with a dot."""

    def grid(self, name: str) -> "GridFolder":
        """Return the folder of a grid or a search."""
        return GridFolder(self.path / name)

    def grids(self) -> list["GridFolder"]:
        """Return the folders of all launched grids and searches, by name."""
        return [GridFolder(path.parent) for path in sorted(self.path.glob(f"*/{GridFolder.grid_file.name}"))]

    def cell(self, name: str) -> "CellFolder":
        """Return the folder of a cell in the store by its name."""
        return CellFolder(self.cells_dir / name)

    def cells(self) -> list["CellFolder"]:
        """Return the folders of the cells in the store, by name."""
        return _cells_in(self.cells_dir)


class GridFolder(Folder):
    """The folder of a launched grid or search."""

    __slots__ = ()
    grid_file = Inner("grid.yaml")
    """The resolved grid."""
    index_file = Inner("index.jsonl")
    """Its cells, without their configurations."""
    lists_dir = Inner("splits")
    """Copies of its split lists, a folder for each data set."""
    cells_dir = Inner("cells")
    launches_dir = Inner("launches")
    snapshots_dir = Inner("snapshots")  # the sources that jobs import, a folder for each commit
    launch_lock = Inner(".launch.lock")
    launcher_file = Inner("launcher.json")  # exists while a launch that stays is at work: its process
    mirror_lock = Inner(".mirror.lock")
    notices_file = Inner("notices.json")  # the notifications that were sent, and when
    notices_lock = Inner(".notices.lock")
    report_file = Inner("report.md")
    table_file = Inner("table.csv")
    page_file = Inner("report.html")
    curves_file = Inner("curves.png")
    figures_dir = Inner("figures")
    """The main figures of the page, a file for each."""

    @property
    def runs(self) -> RunsFolder:
        """The runs folder that contains it."""
        return RunsFolder(self.path.parent)

    def figure_file(self, name: str) -> Path:
        """Return the file of one figure of the page."""
        return self.figures_dir / f"{name}.svg"

    def cell(self, name: str) -> "CellFolder":
        """Return the folder of a cell by its name."""
        return CellFolder(self.cells_dir / name)

    def cells(self) -> list["CellFolder"]:
        """Return the folders of its cells, by name."""
        return _cells_in(self.cells_dir)

    def launch(self, name: str) -> "LaunchFolder":
        """Return the folder of a launch by its name."""
        return LaunchFolder(self.launches_dir / name)

    def launches(self) -> list["LaunchFolder"]:
        """Return the folders of all launches, oldest first."""
        return [LaunchFolder(one) for one in entries_in(self.launches_dir, os.DirEntry.is_dir, may_be_closed=True)]

    def next_launch(self) -> "LaunchFolder":
        """Return the folder of a launch that begins now; it sorts after earlier ones, even if their clock was ahead.

        The lock of launches prevents two from looking at once.
        """
        behind = [moment + datetime.timedelta(microseconds=1) for one in self.launches() if (moment := one.moment)]
        moment = max([clock.utc(), *behind])
        return self.launch(f"{moment:{_MOMENT}}-{os.getpid()}")

    def next_trash(self) -> Path:
        """Return a folder for the cells to drop now."""
        return self.runs.trash_dir / self.name / f"{clock.utc():{_MOMENT}}"


class LaunchFolder(Folder):
    """The folder of one launch; on Slurm a launch is a step of a campaign, which is named after its first launch."""

    __slots__ = ()
    grid_file = Inner("grid.yaml")
    """The part of the grid that was launched."""
    plan_file = Inner("plan.txt")
    difference_file = Inner(DIFFERENCE)
    """Uncommitted changes."""
    states_file = Inner("jobs.jsonl")
    """The states of its jobs."""
    mirror_file = Inner("mlflow.json")
    """The store that it wrote to, without a password."""
    stop_file = Inner("cancelled")
    """Tells its trainings to end; its content says why, empty for a user's request."""
    cancelled_cells_file = Inner("cancelled.json")
    """Cells that were cancelled by name."""
    cancelled_cells_lock = Inner(".cancelled.lock")  # held while these are written
    verdicts_dir = Inner("verdicts")
    tune_dir = Inner("tune")
    """Files of Ray Tune while it runs."""

    command_file = Inner("launch.json")
    """The options of a launch that is not on Slurm, so that a retry uses the same ones."""
    launcher_file = Inner("launcher.json")
    """Exists while a launch follows its cells: its process, and the cells."""
    ray_order_file = Inner("ray.json")
    """The instructions for the driver of Ray."""
    ray_log = Inner("ray.log")
    campaign_file = Inner("campaign.json")
    """On Slurm: the information that controllers need."""
    campaign_over_file = Inner("ended.json")
    """On Slurm, in a campaign's first launch: nothing is left to do."""
    controllers_dir = Inner("controllers")
    """On Slurm, in a campaign's first launch."""
    old_controller_file = Inner("controller.json")
    """Earlier versions: the single controller after all jobs of a launch."""
    submissions_dir = Inner("submissions")
    """On Slurm: which job has which cell."""
    jobs_dir = Inner("jobs")
    """On Slurm: what jobs received and printed, and a folder for each start of a job."""
    pilot_head_file = Inner("head.json")
    """Address and token of the head of a pilot."""
    pilot_over_file = Inner("ended")
    """The head of a pilot has ended."""

    @property
    def grid(self) -> GridFolder:
        """The folder of its grid."""
        return GridFolder(self.path.parents[1])

    @property
    def controllers(self) -> "ControllersFolder":
        """The folder of its campaign's controllers."""
        return ControllersFolder(self.controllers_dir)

    @property
    def moment(self) -> datetime.datetime | None:
        """The time of the launch, by its name; None if that is no launch's name."""
        with suppress(ValueError):
            return datetime.datetime.strptime(self.name.partition("-")[0], _MOMENT).replace(tzinfo=datetime.UTC)
        return None

    def submission_file(self, name: str) -> Path:
        """Return the file that records what was submitted under a name."""
        return self.submissions_dir / f"{name}.json"

    def submission_files(self) -> list[Path]:
        """Return the files of all submissions, by name."""
        return entries_in(self.submissions_dir, lambda entry: entry.name.endswith(".json"))

    def withdrawn_file(self, name: str) -> Path:
        """Return the file that says that jobs of a name are to end: their cells have others."""
        return self.submissions_dir / f"{name}.withdrawn"

    def withdrawn_names(self) -> list[str]:
        """Return the names of such jobs."""
        return [one.stem for one in entries_in(self.submissions_dir, lambda entry: entry.name.endswith(".withdrawn"))]

    def verdict_file(self, cell: str) -> Path:
        """Return the file that records whether a point of a search continues."""
        return self.verdicts_dir / f"{cell}.json"

    def batch_script(self, name: str) -> Path:
        """Return the sbatch script for jobs of a name."""
        return self.jobs_dir / f"{name}.sh"

    def waiting_task(self, name: str, place: int) -> Path:
        """Return the file where an array element's task waits for its job number."""
        return self.jobs_dir / f"{name}.{place}.pkl"

    def waiting_tasks(self, name: str) -> list[Path]:
        """Return these files of a name."""
        return [*self.jobs_dir.glob(f"{name}.*.pkl")]

    def job_log(self, number: str) -> Path:
        """Return the log of a job."""
        return self.jobs_dir / f"{number}_0_log.out"

    def job_logs(self) -> list[Path]:
        """Return the logs of all its jobs, by name."""
        return sorted(self.jobs_dir.glob("*.out"))

    def job(self, number: str, restart: object) -> "JobFolder":
        """Return the folder of one start of a job."""
        return JobFolder(self.jobs_dir / f"{number}.{restart}")

    def job_named(self, name: str) -> "JobFolder":
        """Return the folder of one start of a job by its name, which the node of a pilot's Ray also has."""
        return JobFolder(self.jobs_dir / name)

    def jobs(self, number: str = "*") -> list["JobFolder"]:
        """Return the folders of all starts of a job, or of all jobs."""
        return [JobFolder(path) for path in self.jobs_dir.glob(f"{number}.*") if path.is_dir()]


class ControllersFolder(Folder):
    """The files that the controllers of a campaign share."""

    __slots__ = ()
    script_file = Inner("controller.sh")
    failures_file = Inner("failures")
    """How many in a row have not completed."""
    told_file = Inner("told")
    """A notification about these failures was sent."""
    state_file = Inner("state.json")
    log_pattern = Inner("%j.log")
    """As sbatch takes it."""

    def logs(self) -> list[Path]:
        """Return the logs of controllers, unordered."""
        return list(self.path.glob("*.log"))


class JobFolder(Folder):
    """One start of a Slurm job."""

    __slots__ = ()
    order_file = Inner("order.json")
    """The instructions for its training process."""
    stop_file = Inner("stop")
    """Tells the training in it to end, and why."""
    address_file = Inner("address")
    """Of a cell on several nodes: the address of its Ray."""
    over_file = Inner("ended")
    """Of a cell on several nodes: its training has ended."""
    node_file = Inner("node.json")
    """Of a node of a pilot: the fields for owners of attempts there, and the end of its time."""


class CellFolder(Folder):
    """The folder of one cell: `<signature>-<slug>`."""

    __slots__ = ()
    config_file = Inner("config.yaml")
    axes_file = Inner("axes.json")
    result_file = Inner("result.json")
    attempts_dir = Inner("attempts")
    changes_dir = Inner("changes")
    imports_file = Inner("imports.jsonl")

    @property
    def grid(self) -> GridFolder:
        """The folder of its grid."""
        return GridFolder(self.path.parents[1])

    @property
    def signature(self) -> str:
        """Signature of the cell's configuration when the folder was made."""
        return signature_in(self.name)

    @property
    def slug(self) -> str:
        """The readable part of its name."""
        return self.name.partition("-")[2]

    @property
    def is_in_grid(self) -> bool:
        """Whether it is in a grid's folder of cells; a copy of a single cell is not."""
        return self.path.parent.name == GridFolder.cells_dir.name

    @property
    def whole_path(self) -> Path:
        """Its absolute path, by the link of its grid where that is one: only so is its grid known."""
        return self.path.parent.resolve() / self.path.name

    def attempt(self, number: int | str) -> "AttemptFolder":
        """Return the folder of an attempt."""
        return AttemptFolder(self.attempts_dir / str(number))

    def change_file(self, sha256: str) -> Path:
        """Return the file of uncommitted changes that it was trained with, by their hash."""
        return self.changes_dir / f"{sha256}.diff"


@dataclass(frozen=True, slots=True)
class AttemptFolder(Folder):
    """The folder of one attempt of a cell; its name is its number."""

    owner_file = Inner("owner.json")
    """Creating it claims the attempt."""
    events_file = Inner("events.jsonl")
    epochs_file = Inner("epochs.jsonl")
    steps_file = Inner("steps.arrow")
    log_file = Inner("log")
    samples_file = Inner(run_files.SAMPLES)
    pictures_dir = Inner(run_files.PICTURES)
    pictures_file = Inner(f"{run_files.PICTURES}/{run_files.INDEX}")
    """The index of the pictures."""
    evaluation_file = Inner(run_files.EVALUATION)
    bad_step_file = Inner(run_files.BAD_STEP)
    best_file = Inner(run_files.BEST)
    checkpoints_dir = Inner(run_files.CHECKPOINTS)
    training_dir = Inner("ray")
    """Files that workers of Ray Train exchange; removed when they end."""
    training_result_file = Inner("ray/result.json")
    training_failure_file = Inner("ray/failure.json")

    @property
    def cell_dir(self) -> Path:
        """The folder of its cell."""
        return self.path.parents[1]

    @property
    def above(self) -> list[Path]:
        """The folders that it lies in, up to the grid's, and up to the runs folder where the grid links to the cell."""
        return list(dict.fromkeys([*self.path.parents[:4], *self.path.resolve().parents[:4]]))

    def system_file(self, worker: int) -> Path:
        """Return the file for a worker's rows of machine use."""
        return self.path / f"system-{worker}.jsonl"

    def system_files(self) -> dict[int, Path]:
        """Return these files by worker."""
        named = {path.stem.partition("-")[2]: path for path in self.path.glob("system-*.jsonl")}
        return dict(sorted((int(name), path) for name, path in named.items() if name.isdecimal()))

    def checkpoints(self) -> Iterator[Path]:
        """Return the complete checkpoints by name, unordered."""
        found = self.checkpoints_dir.glob(f"*/{run_files.MANIFEST}")
        return (path.parent for path in found if run_files.is_checkpoint(path.parent))


def cell_name(signature: str, slug: str) -> str:
    """Return the name of a cell's folder."""
    return f"{signature}-{slug}"


def cell_names(folder: str) -> list[str]:
    """Return the names of the run folders in a folder `cells`, one for each cell, unordered."""
    return one_for_each_cell(folder, CellFolder.result_file.name)


def _cells_in(folder: Path) -> list[CellFolder]:
    return [CellFolder(folder / name) for name in sorted(cell_names(str(folder)))] if folder.is_dir() else []


def signature_in(name: str) -> str:
    """Return the signature in the name of a cell's folder."""
    return name.partition("-")[0]


def launch_with_jobs(jobs_dir: Path) -> LaunchFolder:
    """Return the launch whose folder of jobs this is."""
    return LaunchFolder(jobs_dir.parent)

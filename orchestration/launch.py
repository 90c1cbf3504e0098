"""A launch: plan, then commit. The plan is pure; the commit checks the data, makes run folders and hands over jobs."""

import datetime
import hashlib
import os
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import filelock
from rich.console import Console

from orchestration import (
    cells,
    costs,
    files,
    grid,
    index,
    plan,
    preflight,
    provenance,
    report,
    results,
    simulate,
    tables,
)
from orchestration.grid import Grid
from orchestration.index import IndexedCell
from orchestration.launch_mirror import GridMirror, last_tracking_uri, mirrored_cells, tracking_uri, where
from orchestration.plan import Plan
from orchestration.progress import Progress, Snapshot
from orchestration.run_cell import launcher
from orchestration.run_folder import FolderState, RunFolder, folders
from orchestration.schedulers import CellJob, Jobs, Scheduler
from orchestration.tracking import Launch

PLAN = "plan.txt"
LOCAL_CLUSTERS = ("local", "inline")
FOLLOWED_CLUSTERS = (*LOCAL_CLUSTERS, "ray")
"""Those whose launcher stays until the last cell ends."""
POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    grid: str = "demo"
    overrides: Sequence[str] = ()
    cluster: str = "local"
    address: str = ""
    """Of the Ray of `--cluster ray`."""
    runs: Path = field(default_factory=lambda: Path("runs"))
    dry_run: bool = False
    scripts: bool = True
    """A dry run on Slurm prints the scripts too."""
    max_concurrent: int | None = None
    num_cpus_per_worker: int = 1
    num_gpus_per_worker: float = 1.0
    tracking_uri: str = ""
    """Empty: that of MLFLOW_TRACKING_URI, else SQLite in the runs folder."""
    watch: bool = False
    allow_dirty: bool = False
    budget_gpu_hours: float | None = None
    cluster_settings: Sequence[str] = ()
    """Changes to a Slurm site, `cluster.partition=gpu`."""
    retried: Collection[str] = ()
    """Signatures of cells that are tried again however they failed."""

    def __post_init__(self) -> None:
        if self.cluster == "inline" and (self.max_concurrent or 1) > 1:
            raise ValueError(f"--max-concurrent must be 1 with --cluster inline; got {self.max_concurrent}")
        if self.address and self.cluster != "ray":
            raise ValueError(f"--address must be given with --cluster ray only; got it with --cluster {self.cluster}")
        if self.cluster == "ray" and not self.address and not self.dry_run:
            raise ValueError(
                "--address must be given with --cluster ray: HOST:PORT of the Ray's head, or auto; got none"
            )


def launch(options: Options, console: Console) -> int:
    """Bring a grid to its table; return the exit code: 0 all cells done, 1 some failed or were stopped.

    Raises:
        ValueError: Something the user can mend, before any training.
    """
    loaded = grid.load(options.grid, options.overrides)
    grid_dir = options.runs.resolve() / loaded.name
    planned = make_plan(loaded, grid_dir, options)
    console.print("\n".join(plan.summary(planned)), highlight=False, markup=False, soft_wrap=True)
    if options.dry_run:
        say_missing_inputs(loaded, console)
        refuse_budget(planned, options)
        return 0
    grid_dir.mkdir(parents=True, exist_ok=True)
    with only_launch_of(grid_dir):
        return _commit(loaded, grid_dir, options, console)


def simulate_launch(options: Options, pool: simulate.Pool, checkpoint_min: float | None, console: Console) -> None:
    """Print what would come of a grid's launch on a pool of GPUs.

    Raises:
        ValueError: Something the user can mend.
    """
    loaded = grid.load(options.grid, options.overrides)
    planned = make_plan(loaded, options.runs.resolve() / loaded.name, options)
    text = simulate.lines(simulate.tasks(planned, checkpoint_min), pool)
    console.print("\n".join(text), highlight=False, markup=False, soft_wrap=True)


def say_missing_inputs(loaded: Grid, console: Console) -> None:
    """Print what a launch would refuse to begin without."""
    for line in dict.fromkeys(line for cell in loaded.cells for line in cells.missing_inputs(cell)):
        console.print(f"needed before launching: {line}", highlight=False, markup=False, soft_wrap=True)


def make_plan(
    loaded: Grid,
    grid_dir: Path,
    options: Options,
    identities: Mapping[str, preflight.DataIdentity] | None = None,
    *,
    queued: Mapping[str, str] | None = None,
    refused: Mapping[str, str] | None = None,
) -> Plan:
    """Compare a grid with its run folders; touches nothing."""
    found = folders(grid_dir)
    states = {signature: folder.state() for signature, folder in found.items()}
    measured = _measured_pace(loaded, states)
    device = _device(loaded, options)
    return plan.make_plan(
        loaded.cells,
        states,
        num_steps={cell.signature: costs.num_steps(cell.config) for cell in loaded.cells},
        seconds_per_step={
            cell.signature: costs.seconds_per_step(cell.config, device, measured) for cell in loaded.cells
        },
        provenance={signature: identity.as_dict() for signature, identity in (identities or {}).items()},
        commit=provenance.commit(),
        max_concurrent=options.max_concurrent or _num_concurrent(loaded, options),
        queued=queued,
        refused=refused,
        retried=options.retried,
        uses_gpus=device == "cuda",
    )


def finish(loaded: Grid, grid_dir: Path, console: Console) -> list[Path]:
    """Collect the results, print the table and write the report; return the files that were written."""
    records = results.collect(grid_dir, loaded.cells).to_pylist()
    table = tables.build(records, loaded.table, baseline=loaded.baseline)
    console.print()
    console.print(tables.to_rich(table))
    console.print(tables.note(table), highlight=False)
    path = report.write_report(grid_dir, loaded.cells, loaded.table, loaded.baseline)
    return [path, grid_dir / report.CSV]


def _commit(loaded: Grid, grid_dir: Path, options: Options, console: Console) -> int:
    identities = look_at_data(loaded, options, console)
    planned = make_plan(loaded, grid_dir, options, identities)
    refuse_conflicts(planned)
    refuse_budget(planned, options)
    jobs, scheduler = cell_jobs(planned, loaded, grid_dir, identities, options), _scheduler(options)
    scheduler.check(jobs)
    launch_dir = make_folders(loaded, grid_dir, planned)
    mirror, mark = begin_mirror(loaded, grid_dir, planned, launch_dir, options, console)
    mirror.start()
    try:
        stopped = bool(jobs) and _work(scheduler, jobs, planned, launch_dir, mark, console)
    finally:
        end_with_results(loaded, grid_dir, mirror, console)
    if stopped:
        console.print("Stopped. The same command goes on from the newest checkpoints.")
        return 130
    ended = [folder.state().status for folder in run_folders(loaded, grid_dir).values()]
    return 0 if all(status == "done" for status in ended) else 1


def begin_mirror(
    loaded: Grid, grid_dir: Path, planned: Plan, launch_dir: Path, options: Options, console: Console
) -> tuple[GridMirror, dict[str, str]]:
    """Open MLflow for a launch; return its mirror, and what the owner of its attempts must hold.

    Raises:
        ValueError: The experiment was deleted, or a driver is missing.
    """
    begun = Launch(launch_dir.name, [path for path in (launch_dir / "grid.yaml", launch_dir / PLAN) if path.exists()])
    uri = tracking_uri(options.tracking_uri, options.runs)
    mirror = GridMirror(uri, grid_dir, mirrored_cells(loaded, run_folders(loaded, grid_dir)), begun)
    with console.status("opening MLflow"):
        mark = mirror.begin({item.cell.signature for item in planned.jobs})
    if mirror.warning:
        say_outdated(f"it did not answer: {mirror.warning}", console)
    return mirror, mark


def mirror_of(loaded: Grid, grid_dir: Path, uri: str = "", launch_id: str = "") -> GridMirror:
    """Return the mirror of a grid that was launched before; without a `uri`, into the store of its last launch.

    Raises:
        ValueError: That store needs a password, which is not given.
    """
    cells_of_grid = mirrored_cells(loaded, run_folders(loaded, grid_dir))
    return GridMirror(
        last_tracking_uri(uri, grid_dir), grid_dir, cells_of_grid, Launch(launch_id) if launch_id else None
    )


def end_with_results(loaded: Grid, grid_dir: Path, mirror: GridMirror, console: Console) -> None:
    """Write table, report and figures, bring MLflow up to date, and say where all that is."""
    written = finish(loaded, grid_dir, console)
    with console.status("writing the last rows to MLflow"):
        warning = mirror.finish_launch(loaded, run_folders(loaded, grid_dir), written)
    _say_where(grid_dir, written[0], mirror.uri, console)
    if warning:
        say_outdated(warning, console)


def say_outdated(why: str, console: Console) -> None:
    """Tell that MLflow lacks something, and how it gets that."""
    console.print(f"MLflow is not up to date, `rankmatch sync` writes what it lacks: {why}", highlight=False,
                  markup=False, soft_wrap=True)  # fmt: skip


def refuse_conflicts(planned: Plan) -> None:
    """Refuse to go on with cells whose data have changed.

    Raises:
        ValueError: A line each.
    """
    if planned.conflicts:
        raise ValueError("\n".join(planned.conflicts))


def refuse_budget(planned: Plan, options: Options) -> None:
    """Refuse a plan that is estimated to take more than the user allows.

    Raises:
        ValueError: With both figures.
    """
    hours = planned.gpu_hours
    if options.budget_gpu_hours is not None and hours > options.budget_gpu_hours:
        raise ValueError(
            f"--budget-gpu-hours must be at least {hours:.1f}, the estimate of what is left; "
            f"got {options.budget_gpu_hours:g}"
        )


def look_at_data(loaded: Grid, options: Options, console: Console) -> Mapping[str, preflight.DataIdentity]:
    """Look once at all that the cells open; see `preflight.check`."""
    with console.status("checking the data") as status:
        return preflight.check(
            loaded.cells,
            options.runs.resolve() / "checked",
            lambda name, done, total: status.update(f"checking the data: {name}, {done} of {total} images"),
        )


def make_folders(loaded: Grid, grid_dir: Path, planned: Plan) -> Path:
    """Make the folder of this launch, which is returned, and those of the cells that it starts."""
    files.replace(grid_dir / "grid.yaml", loaded.text)
    index.write(grid_dir, _indexed(loaded, planned))
    launch_dir = grid_dir / "launches" / f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S.%f}-{os.getpid()}"
    launch_dir.mkdir(parents=True)
    files.replace(launch_dir / "grid.yaml", loaded.text)
    files.replace(launch_dir / PLAN, "\n".join(plan.summary(planned)) + "\n")
    made = run_folders(loaded, grid_dir)
    for item in planned.jobs:
        made[item.cell.signature].create(cells.to_yaml(item.cell.config), item.cell.axes)
    return launch_dir


def _indexed(loaded: Grid, planned: Plan) -> list[IndexedCell]:
    """Return what is kept of each cell, in the grid's order."""
    items = {item.cell.signature: item for item in planned.items}
    return [
        IndexedCell(
            cell.signature,
            cell.slug,
            cell.config.numerics.method.name,
            items[cell.signature].num_steps,
            items[cell.signature].seconds_per_step,
            cell.config.execution.trainer.num_workers if planned.uses_gpus else 0,
        )
        for cell in loaded.cells
    ]


def run_folders(loaded: Grid, grid_dir: Path) -> dict[str, RunFolder]:
    """Return the folder of each cell by signature: the one there is, whatever its slug, else where it will be."""
    found = folders(grid_dir)
    return {
        cell.signature: found.get(cell.signature, RunFolder(grid_dir / "cells" / cell.folder_name))
        for cell in loaded.cells
    }


def _work(
    scheduler: Scheduler,
    jobs: Sequence[CellJob],
    planned: Plan,
    launch_dir: Path,
    mark: Mapping[str, str],
    console: Console,
) -> bool:
    """Have the jobs done and show how they go on; true if the user stopped them."""
    software = provenance.collect()
    if software["dirty"]:
        software |= keep_difference(launch_dir, provenance.difference())
    owner = launcher() | {"launch": launch_dir.name, "commit": software["commit"], "provenance": software, **mark}
    with _stoppable():
        handle = scheduler.submit(jobs, launch_dir, owner)
        try:
            follow(handle, planned, launch_dir.parents[1], console)
        except KeyboardInterrupt:
            console.print("\nstopping: running cells write a checkpoint; one that evaluates is ended after a minute")
            handle.cancel()
            return True
    return False


def keep_difference(launch_dir: Path, difference: str) -> dict[str, str]:
    """Store what was not committed; return what the provenance says of it."""
    files.replace(launch_dir / provenance.DIFFERENCE, difference)
    place = (launch_dir / provenance.DIFFERENCE).relative_to(launch_dir.parents[1])
    return {"difference": str(place), "difference_sha256": hashlib.sha256(difference.encode()).hexdigest()}


def follow(handle: Jobs, planned: Plan, grid_dir: Path, console: Console) -> None:
    """Show how jobs go on until the last one has ended."""
    began = time.monotonic()
    with Progress(console) as progress:
        ended = False
        while not ended:
            ended = handle.wait(POLL_S)
            found = folders(grid_dir)
            progress.show(
                Snapshot(
                    items=planned.jobs,
                    jobs={name.partition("-")[0]: state for name, state in handle.poll().items()},
                    folders={signature: folder.state() for signature, folder in found.items()},
                    num_concurrent=planned.max_concurrent,
                    elapsed_s=time.monotonic() - began,
                )
            )


def cell_jobs(
    planned: Plan,
    loaded: Grid,
    grid_dir: Path,
    identities: Mapping[str, preflight.DataIdentity],
    options: Options,
) -> list[CellJob]:
    """Return the jobs of a plan for a scheduler."""
    found = run_folders(loaded, grid_dir)
    return [
        CellJob(
            cell_dir=found[item.cell.signature].path,
            num_workers=item.cell.config.execution.trainer.num_workers,
            num_cpus_per_worker=options.num_cpus_per_worker,
            device=item.cell.config.execution.trainer.device,
            estimate_s=item.estimate_s,
            gpu_memory_gb=costs.gpu_memory_gb(item.cell.config),
            data=identities[item.cell.signature].as_dict() if identities else {},
        )
        for item in planned.jobs
    ]


def _scheduler(options: Options) -> Scheduler:
    if options.cluster == "inline":
        from orchestration.schedulers.inline import InlineScheduler

        return InlineScheduler()
    from orchestration.schedulers.ray_tune import RayTuneScheduler

    return RayTuneScheduler(
        max_concurrent=options.max_concurrent,
        num_gpus_per_worker=options.num_gpus_per_worker,
        address=options.address,
    )


@contextmanager
def only_launch_of(grid_dir: Path) -> Iterator[None]:
    """Refuse a second launch of the same grid while one is at work."""
    lock = filelock.FileLock(grid_dir / ".launch.lock", timeout=0)
    try:
        with lock:
            yield
    except filelock.Timeout:
        raise ValueError(f"another launch is at work in {grid_dir}; wait for its end or stop it") from None


@contextmanager
def _stoppable() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _measured_pace(loaded: Grid, states: Mapping[str, FolderState]) -> dict[str, float]:
    """Return seconds a step by method, from the finished cells of the grid."""
    pace: dict[str, list[float]] = {}
    for cell in loaded.cells:
        state = states.get(cell.signature)
        if state is None or state.status != "done" or not state.num_steps:
            continue
        pace.setdefault(cell.config.numerics.method.name, []).append(state.duration_s / state.num_steps)
    return {method: sum(values) / len(values) for method, values in pace.items()}


def _num_concurrent(loaded: Grid, options: Options) -> int:
    if options.cluster == "inline":
        return 1
    if options.cluster not in LOCAL_CLUSTERS:
        return len(loaded.cells)
    workers = max(cell.config.execution.trainer.num_workers for cell in loaded.cells)
    at_once = len(os.sched_getaffinity(0)) // (workers * options.num_cpus_per_worker)
    if _device(loaded, options) == "cuda":
        at_once = min(at_once, int(len(provenance.gpus()) / (workers * options.num_gpus_per_worker)))
    return max(1, at_once)


def _device(loaded: Grid, options: Options) -> str:
    asked = loaded.cells[0].config.execution.trainer.device
    if asked != "auto":
        return asked
    if options.cluster not in LOCAL_CLUSTERS:
        return "cuda"
    return "cuda" if provenance.gpus() else "cpu"


def _say_where(grid_dir: Path, report_path: Path, uri: str, console: Console) -> None:
    lines = {
        "report": str(report_path),
        "run folders": str(grid_dir / "cells"),
        "MLflow UI": where(uri),
    }
    console.print()
    for name, place in lines.items():
        console.print(f"{name + ':':<13}{place}", highlight=False, markup=False, soft_wrap=True)

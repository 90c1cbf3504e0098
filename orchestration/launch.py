"""A launch: plan, then commit. The plan is pure; the commit checks the data, makes run folders and hands over jobs."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from orchestration import (
    announce,
    costs,
    folder_states,
    hints,
    launch_order,
    launched,
    made_with,
    outcome,
    page,
    preflight,
    provenance,
    waiting,
)
from orchestration.cells import missing_inputs_of
from orchestration.checkout import NO_REPOSITORY
from orchestration.grid import Grid
from orchestration.launch_folder import PLAN, keep_difference, make_folders, only_launch_of, run_folders
from orchestration.launch_plan import (
    Options,
    make_plan,
    not_asked_for,
    refuse_budget,
    refuse_conflicts,
    refuse_full_disk,
    say_missing_inputs,
    say_part,
    show_plan,
)
from orchestration.mirror.grid_mirror import GridMirror, last_tracking_uri, mirrored_cells, tracking_uri
from orchestration.mirror.tracking import Launch, MirroredCell
from orchestration.patience import WAITS_S, patiently, say_once
from orchestration.plan import Item, Plan
from orchestration.progress import Progress, Snapshot
from orchestration.results import report, run_table
from orchestration.run_cell import launcher
from orchestration.run_folder import folders
from orchestration.schedulers import CellJob, Jobs, Scheduler, SchedulerError
from orchestration.tables import formats

POLL_S = 0.5


def launch(options: Options, console: Console) -> int:
    """Bring a grid to its table; return the exit code: 0 all cells done, 1 some failed or were stopped.

    Raises:
        ValueError: Something the user can mend, before any training.
    """
    if not options.dry_run:
        announce.begin(console, f"composing the cells of {options.grid}")
    loaded = launched.load(options.grid, options.overrides, options.runs)
    grid_dir = options.runs.resolve() / loaded.name
    planned = make_plan(loaded, grid_dir, options, refused=not_asked_for(loaded, options))
    show_plan(planned, console)
    say_part(loaded, grid_dir, planned, console)
    if options.dry_run:
        say_missing_inputs(loaded, console)
        refuse_full_disk(planned, options, console)
        refuse_budget(planned, options)
        return 0
    grid_dir.mkdir(parents=True, exist_ok=True)
    with only_launch_of(grid_dir):
        return _commit(loaded, grid_dir, options, console)


def finish(loaded: Grid, grid_dir: Path, console: Console) -> list[Path]:
    """Collect the results of all launches, print the table, write the report and the page; return what was written."""
    every = launched.whole(loaded, grid_dir)
    folder_states.states(run_folders(every, grid_dir), WAITS_S)  # a table must not lack a cell for a moment's error
    records = patiently(lambda: run_table.collect(grid_dir, every.cells)).to_pylist()
    console.print()
    formats.show(report.build_table(records, every.cells, every.table, baseline=every.baseline), console)
    return [*patiently(lambda: report.write(every, grid_dir)), *page.write(every, grid_dir, console)]


def _commit(loaded: Grid, grid_dir: Path, options: Options, console: Console) -> int:
    identities = look_at_data(loaded, options, console) if _needs_data(loaded, grid_dir, options, console) else {}
    planned = make_plan(loaded, grid_dir, options, identities, refused=not_asked_for(loaded, options))
    refuse_conflicts(planned)
    refuse_budget(planned, options)
    refuse_full_disk(planned, options, console)
    jobs, scheduler = cell_jobs(planned, loaded, grid_dir, identities, options), _scheduler(options)
    scheduler.check(jobs)
    launch_dir = make_folders(loaded, grid_dir, planned)
    launch_order.keep(launch_dir, options)
    mirror, mark = begin_mirror(loaded, grid_dir, planned, launch_dir, options, console)
    mirror.start()
    try:
        stopped = bool(jobs) and work(
            partial(scheduler.submit, jobs, launch_dir),
            lambda: planned.jobs,
            planned.max_concurrent,
            launch_dir,
            mark,
            console,
        )
    finally:
        end_with_results(loaded, grid_dir, mirror, console)
    ended = [*folder_states.states(run_folders(loaded, grid_dir)).values()]
    said = outcome.lines(ended, grid_dir, stopped=stopped)
    console.print("\n".join(said), highlight=False, markup=False, soft_wrap=True)
    if stopped:
        return 130
    return 0 if all(state.status == "done" for state in ended) else 1


def _needs_data(loaded: Grid, grid_dir: Path, options: Options, console: Console) -> bool:
    """Tell whether data are to be looked at; those that are gone are not where all cells are done."""
    gone = missing_inputs_of(loaded.cells)
    if not gone or make_plan(loaded, grid_dir, options, refused=not_asked_for(loaded, options)).jobs:
        return True
    for line in gone:
        words = f"data: nothing is to be trained, so what is not there was not looked at: {line}"
        console.print(words, highlight=False, markup=False, soft_wrap=True)
    return False


def begin_mirror(
    loaded: Grid,
    grid_dir: Path,
    planned: Plan,
    launch_dir: Path,
    options: Options,
    console: Console,
    added: Iterable[MirroredCell] | None = None,
) -> tuple[GridMirror, dict[str, str]]:
    """Open MLflow for a launch; return its mirror, and what the owner of its attempts must hold.

    `added` are the cells of a launch to which more are added while it goes on: this process alone writes them.

    Raises:
        ValueError: The experiment was deleted, or a driver is missing.
    """
    begun = Launch(launch_dir.name, [path for path in (launch_dir / "grid.yaml", launch_dir / PLAN) if path.exists()])
    uri = tracking_uri(options.tracking_uri, options.runs)
    cells_of_grid = mirrored_cells(loaded, run_folders(loaded, grid_dir)) if added is None else added
    mirror = GridMirror(uri, grid_dir, cells_of_grid, begun)
    with announce.doing(console, "opening MLflow"):
        mark = mirror.begin({item.cell.signature for item in planned.jobs}, writes_all=added is not None)
    if mirror.warning:
        say_outdated(f"it did not answer: {mirror.warning}", grid_dir, console)
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
    end_mirror(loaded, grid_dir, mirror, finish(loaded, grid_dir, console), console)


def end_mirror(loaded: Grid, grid_dir: Path, mirror: GridMirror, written: Sequence[Path], console: Console) -> None:
    """Bring MLflow up to date, with files of which the first is the report, and say where all that is."""
    with announce.doing(console, "writing the last rows to MLflow"):
        every = launched.whole(loaded, grid_dir)
        mine = run_folders(loaded, grid_dir)
        warning = mirror.finish_launch(every, run_folders(every, grid_dir) | mine, written, [*mine])
    _say_where(grid_dir, written, mirror.where(), console)
    if warning:
        say_outdated(warning, grid_dir, console)


def say_outdated(why: str, grid_dir: Path, console: Console) -> None:
    """Tell that MLflow lacks something, and how it gets that."""
    words = f"MLflow is not up to date, {hints.command('sync', grid_dir)} writes what it lacks: {why}"
    console.print(words, highlight=False, markup=False, soft_wrap=True)


def look_at_data(loaded: Grid, options: Options, console: Console) -> Mapping[str, preflight.DataIdentity]:
    """Look once at all that the cells open; see `preflight.check`."""
    with announce.doing(console, "checking the data") as update:
        identities = preflight.check(
            loaded.cells,
            options.runs.resolve() / "checked",
            lambda name, done, total: update(f"checking the data: {name}, {done} of {total} images"),
        )
    for note in dict.fromkeys(note for identity in identities.values() for note in identity.notes):
        console.print(f"data: {note}", highlight=False, markup=False, soft_wrap=True)
    return identities


def work(
    begin: Callable[[Mapping[str, Any]], Jobs],
    items: Callable[[], Sequence[Item]],
    num_concurrent: int,
    launch_dir: Path,
    mark: Mapping[str, str],
    console: Console,
) -> bool:
    """Have jobs done and show how they go on; true if the user stopped them.

    Args:
        begin: Hands over the jobs for the owner that it is given.
        items: Returns the cells of the jobs; a search adds some.
        num_concurrent: How many cells run at a time.
        launch_dir: Folder of this launch.
        mark: What the owner of the attempts must hold for MLflow.
        console: Shows it.
    """
    software = provenance.collect()
    if (why := software.get("commit_unknown", NO_REPOSITORY)) != NO_REPOSITORY and not software["commit"]:
        text = f"no table will say what code trained these cells, as its commit is not known: {why}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    if software["dirty"] and made_with.CHANGE not in software:  # of installed code the build knows it, and it is gone
        software |= keep_difference(launch_dir, provenance.difference())
    owner = launcher() | {"launch": launch_dir.name, "commit": software["commit"], "provenance": software, **mark}
    signatures = [item.cell.signature for item in items()]
    with _stoppable(), waiting.noted(launch_dir, signatures):
        announce.begin(console, _begins(len(signatures), num_concurrent, launch_dir))
        handle = begin(owner)
        try:
            follow(handle, items, num_concurrent, launch_dir.parents[1], console)
        except KeyboardInterrupt:
            console.print("\nstopping: running cells write a checkpoint; one that evaluates is ended after a minute")
            handle.cancel()
            return True
        except SchedulerError:  # nothing of it is left to be asked
            raise
        except BaseException as error:  # whatever ends who watches, SystemExit too: trainings must not be left alone
            say_once("stopping, running cells write a checkpoint", error)  # the console itself may be gone
            handle.cancel()
            raise
    return False


def _begins(num_cells: int, num_concurrent: int, launch_dir: Path) -> str:
    what = f"starting {num_cells} {'cell' if num_cells == 1 else 'cells'}, " if num_cells else "starting, "
    return f"{what}{num_concurrent} at a time; what the launch notes is in {launch_dir}"


def follow(
    handle: Jobs, items: Callable[[], Sequence[Item]], num_concurrent: int, grid_dir: Path, console: Console
) -> None:
    """Show how jobs go on until the last one has ended; while a file server is away, they go on unseen."""
    began = time.monotonic()

    def look() -> Snapshot:
        return Snapshot(
            items=items(),
            jobs={name.partition("-")[0]: state for name, state in handle.poll().items()},
            folders={signature: folder.state() for signature, folder in folders(grid_dir).items()},
            num_concurrent=num_concurrent,
            elapsed_s=time.monotonic() - began,
        )

    with Progress(console) as progress:
        ended = False
        while not ended:
            ended = handle.wait(POLL_S)
            try:
                seen = patiently(look) if ended else look()
            except OSError as error:
                if ended:
                    raise
                say_once("the cells go on, but cannot be looked at for now", error)
                continue
            progress.show(seen)


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
def _stoppable() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say_where(grid_dir: Path, written: Sequence[Path], place: str, console: Console) -> None:
    lines = {
        "report": str(written[0]),
        **({"page": str(written[-1])} if written[-1].suffix == ".html" else {}),
        "run folders": str(grid_dir / "cells"),
        "MLflow UI": place,
    }
    console.print()
    for name, place in lines.items():
        console.print(f"{name + ':':<13}{place}", highlight=False, markup=False, soft_wrap=True)

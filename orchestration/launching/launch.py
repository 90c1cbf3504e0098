"""A launch that stays until its table is written: it takes the common steps, trains, and collects results."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestration.grids import index, inputs, launched
from orchestration.grids.grid import Grid
from orchestration.grids.launched import run_folders
from orchestration.launching import added_seeds, elsewhere, launch_order, outcome, page, steps, waiting
from orchestration.launching.cell_states import CellStates
from orchestration.launching.hand_in import cells_on_slurm, seen_on_slurm
from orchestration.launching.launch_folder import keep_difference, only_launch_of, was_available
from orchestration.launching.options import Wanted, Workers
from orchestration.launching.progress import Progress, Snapshot
from orchestration.launching.steps import Begun
from orchestration.launching.target import Target
from orchestration.machine import announce, clock, provenance, stops
from orchestration.machine.checkout import NO_REPOSITORY
from orchestration.machine.counts import counted
from orchestration.mirror.grid_mirror import GridMirror, last_tracking_uri, mirrored_cells
from orchestration.mirror.tracking import Launch
from orchestration.planning import adaptive, simulate
from orchestration.planning.plan import Action, Item, Plan
from orchestration.results import report, show
from orchestration.running.run_cell import launcher
from orchestration.runs import folder_states, made_with, store
from orchestration.runs.folders import GridFolder, LaunchFolder, signature_in
from orchestration.runs.jobs import FollowedJobs, Jobs, Scheduler, SchedulerError
from orchestration.runs.patience import WAITS_S, patiently, say_once
from orchestration.runs.run_folder import FolderState
from orchestration.runs.states import CellState
from rankmatch.durable import make_folder

POLL_S = 0.5
STOPPED = 130
"""The exit code of a launch that its user ended."""


def composed(wanted: Wanted) -> Grid:
    """Return the grid that is to be launched.

    Raises:
        ValueError: As `launched.load` does, or a grid lies where the store of cells belongs.
    """
    store.refuse_grid_of_its_name(wanted.runs.resolve())
    loaded = launched.load(wanted.grid, wanted.overrides, wanted.runs, site=wanted.places, only=wanted.only)
    return launched.with_first_seeds(loaded, wanted.adaptive, wanted.runs.resolve() / loaded.name)


def left_out_of(wanted: Wanted, loaded: Grid) -> dict[str, str]:
    """Return the cells that a launch leaves out before it plans, by signature, with why."""
    return {**wanted.left_out, **(inputs.absent(loaded.cells) if wanted.available else {})}


def launch(wanted: Wanted, workers: Workers, console: Console, *, address: str = "", uri: str = "") -> int:
    """Bring a grid to its table; return the exit code: 0 all cells done, 1 some failed or were stopped.

    Args:
        wanted: What to launch.
        workers: Where to train, and how many cells at a time.
        console: Shows the progress.
        address: Address of the Ray of `--cluster ray`.
        uri: URI of MLflow's store; empty: MLFLOW_TRACKING_URI, else SQLite in the runs folder.

    Raises:
        ValueError: Something that the user can fix, before any training.
    """
    announce.begin(console, f"composing the cells of {wanted.grid}")
    loaded = composed(wanted)
    added_seeds.refuse_within_budget(loaded, within_budget=wanted.within_budget)
    grid_dir = wanted.runs.resolve() / loaded.name
    make_folder(grid_dir)
    with only_launch_of(grid_dir), waiting.at_work(grid_dir):
        target = _target(wanted, loaded, workers, cells_on_slurm(grid_dir))
        target = target if wanted.named else added_seeds.with_later_seeds(target)
        target, planned = steps.plan_within(target, wanted.budget_gpu_hours, leaves_out=wanted.within_budget)
        steps.refuse_more_than(planned, wanted.budget_gpu_hours)
        code = _launch_once(wanted, target, planned, console, address, uri)
        while code != STOPPED and (more := _with_added_seeds(target, planned)):
            target, planned = more
            announce.say(console, "\nthe numbers so far leave differences open, so these get another seed:")
            code = _launch_once(wanted, target, planned, console, address, uri)
        if code != STOPPED:
            for line in outcome.of_nobody(_at_rest(target), grid_dir):
                announce.say(console, line)
    return code


def _target(wanted: Wanted, loaded: Grid, workers: Workers, queued: Mapping[str, str]) -> Target:
    grid_dir = wanted.runs.resolve() / loaded.name
    return Target.of(loaded, grid_dir, workers, retried=wanted.retried, queued=queued,
                     until=wanted.until, left_out=left_out_of(wanted, loaded))  # fmt: skip


def _launch_once(wanted: Wanted, target: Target, planned: Plan, console: Console, address: str, uri: str) -> int:
    """Train what a plan says, and write the table."""
    workers = target.workers
    steps.show(target, planned, console)
    steps.refuse_limits(target, planned, wanted.budget_gpu_hours)
    steps.refuse_full_disk(target, planned, console)
    ready = steps.prepare(target, planned, console)
    jobs, scheduler = steps.jobs_of(target, ready), _scheduler(workers, address)
    until = _until_later(wanted, target, ready.planned)
    note = partial(launch_order.keep, workers=workers, address=address, until=until,
                   left_out=_left_out_later(wanted, target), adaptive=wanted.adaptive)  # fmt: skip
    begun = steps.commit(target, ready, jobs, scheduler, uri, console, note=note)
    return _train(target, ready.planned, begun, partial(scheduler.submit, jobs, begun.launch_dir), console)


def _with_added_seeds(target: Target, planned: Plan) -> tuple[Target, Plan] | None:
    """Return what to train after a plan: cells that no pair needed then and one needs now; None if there is none.

    Others of the plan that are not done have been tried by this launch, or were not asked for. A plan that only leaves
    out cells is carried out, too: it records why.
    """
    waited = {item.cell.signature for item in planned.items if adaptive.waits(item)}
    others = {cell.signature for cell in target.loaded.cells} - waited
    again = Target.of(
        target.loaded,
        target.grid_dir,
        target.workers,
        queued=target.queued,
        refused=dict.fromkeys(others, "tried already by this launch"),
        until=target.until,
        left_out=target.left_out,
    )
    found = steps.plan_of(again) if waited else planned
    due = [one for one in found.items if one.cell.signature in waited and (one.to_do or one.action is Action.LEAVE_OUT)]
    return (again, found) if any(not adaptive.waits(item) for item in due) else None


def _until_later(wanted: Wanted, target: Target, planned: Plan) -> float | None:
    """Return the time that `resume` will keep to; a retry of some cells changes nothing for the others."""
    if not wanted.retried:
        return wanted.until
    return launch_order.newest_until(target.grid_dir) if any(map(target.passes_over, planned.items)) else None


def _left_out_later(wanted: Wanted, target: Target) -> Mapping[str, str]:
    """Return what `resume` will leave out; see `_until_later`."""
    before = launch_order.newest_left_out(target.grid_dir) if wanted.retried else {}
    return {key: why for key, why in before.items() if key not in wanted.retried} | {**target.left_out}


def dry_run(wanted: Wanted, workers: Workers, console: Console, *, as_json: bool = False) -> int:
    """Print what a launch would do; touch nothing.

    Raises:
        ValueError: What a launch would refuse before it looks at the data.
    """
    loaded = composed(wanted)
    added_seeds.refuse_within_budget(loaded, within_budget=wanted.within_budget)
    queued, unseen = seen_on_slurm(wanted.runs.resolve() / loaded.name)
    planned = steps.rehearse(
        _target(wanted, loaded, workers, queued),
        wanted.budget_gpu_hours,
        console,
        as_json=as_json,
        within_budget=wanted.within_budget,
    )
    if unseen:
        announce.say(console, unseen)
    steps.refuse_more_than(planned, wanted.budget_gpu_hours)
    return 0


def launch_again(
    grid_dir: Path, settings: Sequence[str], retried: Sequence[str], console: Console, *, named: bool = True
) -> int:
    """Launch a grid, or some of its cells, as its newest launch here was; see `launch`.

    Cells that are retried are trained however late they end, but where nobody `named` them, only those with inputs.
    """
    workers, address = launch_order.newest(grid_dir)
    folder, left_out = GridFolder(grid_dir), launch_order.newest_left_out(grid_dir)
    wanted = Wanted(str(folder.grid_file), settings, folder.runs.path, retried,
                    until=None if retried else launch_order.newest_until(grid_dir),
                    named=named,
                    available=not named and was_available(grid_dir),
                    left_out={key: why for key, why in left_out.items() if key not in retried},
                    adaptive=launch_order.newest_adaptive(grid_dir))  # fmt: skip
    return launch(wanted, workers, console, address=address)


def simulate_launch(wanted: Wanted, pool: simulate.Pool, checkpoint_min: float | None, console: Console) -> None:
    """Print how a grid's launch would run on a pool of GPUs.

    Raises:
        ValueError: Something that the user can fix.
    """
    loaded = composed(wanted)
    workers = Workers(cluster="slurm")  # each worker has a GPU
    planned = steps.plan_of(Target.of(loaded, wanted.runs.resolve() / loaded.name, workers))
    text = simulate.lines(simulate.tasks(planned, checkpoint_min), pool)
    announce.say(console, "\n".join(text))


def finish(every: Grid, grid_dir: Path, console: Console) -> list[Path]:
    """Collect the results of all cells of a grid, print its tables, write report and page; return these files."""
    folder_states.states(run_folders(every, grid_dir), WAITS_S)  # a momentary error must not cost the table a cell
    console.print()
    patiently(lambda: show.show_grid(every, grid_dir, console))
    return [*patiently(lambda: report.write(every, grid_dir)), *page.write(every, grid_dir, console)]


def _train(
    target: Target, planned: Plan, begun: Begun, begin: Callable[[Mapping[str, Any]], FollowedJobs], console: Console
) -> int:
    """Train the cells of a plan, and write table, report and mirror however that ends."""
    loaded, grid_dir = target.loaded, target.grid_dir
    begun.mirror.start()
    try:
        stopped = bool(planned.jobs) and work(
            begin, lambda: planned.jobs, planned.max_concurrent, begun.launch_dir, begun.mark, console
        )
    finally:
        written = finish(target.every, grid_dir, console)
        end_mirror(loaded, target.every, grid_dir, begun.mirror, written, console)
    states, to_others = _needed(target)
    ended = [*states.values()]
    said = outcome.lines(ended, grid_dir, stopped=stopped) + outcome.of_others(to_others, grid_dir)
    announce.say(console, "\n".join(said))
    if stopped:
        return STOPPED
    return 0 if all(state.status is CellState.DONE for state in ended) else 1


def _needed(target: Target) -> tuple[Mapping[str, FolderState], Mapping[str, Sequence[str]]]:
    """Return the states of the cells that the tables need now, and the names of those left to each other grid."""
    found = run_folders(target.loaded, target.grid_dir)
    states = folder_states.states(found)
    needs = added_seeds.of_target(target, states)
    due = {key: state for key, state in states.items() if needs is None or key in needs.cells}
    return due, elsewhere.left_to(target.grid_dir, found, states) if target.loaded.shares_cells else {}


def _at_rest(target: Target) -> list[str]:
    """Return the cells that are open and neither left out nor another grid's, whose launch may have died meanwhile.

    The index has left out seeds that were needed only later; those that are needed now are known.
    """
    states, to_others = _needed(target)
    found = run_folders(target.loaded, target.grid_dir)
    indexed = index.read_if_there(target.grid_dir)
    left_out = {one.signature for one in indexed if one.left_out and not one.left_out.startswith(adaptive.WHY)}
    kept = {name for names in to_others.values() for name in names}
    open_ = [key for key, one in states.items() if one.status in (CellState.MISSING, CellState.INTERRUPTED)]
    return [found[key].slug for key in open_ if key not in left_out and found[key].slug not in kept]


def mirror_of(loaded: Grid, grid_dir: Path, uri: str = "", launch_id: str = "") -> GridMirror:
    """Return the mirror of a grid that was launched before; without a `uri`, into the store of its last launch.

    Raises:
        ValueError: That store needs a password, which is not given.
    """
    cells_of_grid = mirrored_cells(loaded, run_folders(loaded, grid_dir))
    return GridMirror(
        last_tracking_uri(uri, grid_dir), grid_dir, cells_of_grid, Launch(launch_id) if launch_id else None
    )


def end_mirror(
    loaded: Grid, every: Grid, grid_dir: Path, mirror: GridMirror, written: Sequence[Path], console: Console
) -> None:
    """Bring MLflow up to date, with files of which the first is the report, and print where everything is."""
    with announce.doing(console, "writing the last rows to MLflow"):
        mine = run_folders(loaded, grid_dir)
        warning = mirror.finish_launch(every, run_folders(every, grid_dir) | mine, written, [*mine])
    _say_where(grid_dir, written, mirror.where(), console)
    if warning:
        steps.say_outdated(warning, grid_dir, console)


def work(
    begin: Callable[[Mapping[str, Any]], FollowedJobs],
    items: Callable[[], Sequence[Item]],
    num_concurrent: int,
    launch_dir: Path,
    mark: Mapping[str, str],
    console: Console,
) -> bool:
    """Carry out jobs and show their progress; true if the user stopped them.

    Args:
        begin: Submits the jobs for the given owner.
        items: Returns the cells of the jobs; a search adds more.
        num_concurrent: How many cells run at a time.
        launch_dir: Folder of this launch.
        mark: What MLflow needs in the owner of the attempts.
        console: Shows the progress.
    """
    software = provenance.collect()
    if (why := software.get("commit_unknown", NO_REPOSITORY)) != NO_REPOSITORY and not software["commit"]:
        text = f"no table will say what code trained these cells, as its commit is not known: {why}"
        announce.say(console, text)
    if software["dirty"] and made_with.CHANGE not in software:  # of installed code the build knows it, and it is gone
        software |= keep_difference(launch_dir, provenance.difference())
    grid_dir = LaunchFolder(launch_dir).grid.path
    begun_by = {"launch": launch_dir.name, "grid": grid_dir.name, "commit": software["commit"]}
    owner = {**launcher(), **begun_by, "provenance": software, **mark}
    signatures = [item.cell.signature for item in items()]
    with stops.like_ctrl_c(), waiting.noted(launch_dir, signatures):
        announce.begin(console, _begins(len(signatures), num_concurrent, launch_dir))
        handle = begin(owner)
        try:
            follow(handle, items, num_concurrent, grid_dir, console)
        except KeyboardInterrupt:
            console.print("\nstopping: running cells write a checkpoint; one that evaluates is ended after a minute")
            handle.cancel()
            return True
        except SchedulerError:  # nothing is left that could be asked
            raise
        except BaseException as error:  # however the watching ends, SystemExit too: trainings must not be left alone
            say_once("stopping, running cells write a checkpoint", error)  # the console itself may be gone
            handle.cancel()
            raise
    return False


def _begins(num_cells: int, num_concurrent: int, launch_dir: Path) -> str:
    what = f"starting {counted(num_cells, 'cell')}, " if num_cells else "starting, "
    return f"{what}{num_concurrent} at a time; what the launch notes is in {launch_dir}"


def follow(
    handle: Jobs, items: Callable[[], Sequence[Item]], num_concurrent: int, grid_dir: Path, console: Console
) -> None:
    """Show the progress of jobs until the last one has ended; while a file server is away, they continue unseen."""
    began, states = clock.monotonic(), CellStates(grid_dir)

    def look() -> Snapshot:
        cells = items()
        jobs = {signature_in(name): state for name, state in handle.poll().items()}
        return Snapshot(
            items=cells,
            jobs=jobs,
            folders=states.look((item.cell.signature for item in cells), jobs),
            num_concurrent=num_concurrent,
            elapsed_s=clock.monotonic() - began,
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
                say_once("the cells continue, but cannot be looked at for now", error)
                continue
            progress.show(seen)


def _scheduler(workers: Workers, address: str) -> Scheduler[FollowedJobs]:
    if workers.cluster == "inline":
        from orchestration.running.inline import InlineScheduler

        return InlineScheduler()
    from orchestration.on_ray.scheduler import RayTuneScheduler

    return RayTuneScheduler(
        max_concurrent=workers.max_concurrent, num_gpus_per_worker=workers.num_gpus_per_worker, address=address
    )


def _say_where(grid_dir: Path, written: Sequence[Path], place: str, console: Console) -> None:
    lines = {
        "report": str(written[0]),
        **dict([("page", str(path)) for path in written if path.suffix == ".html"]),
        "run folders": str(GridFolder(grid_dir).cells_dir),
        "MLflow UI": place,
    }
    console.print()
    for name, place in lines.items():
        announce.say(console, f"{name + ':':<13}{place}")

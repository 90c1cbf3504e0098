"""A launch on Slurm: submitted and left alone; controllers take the next steps until its table is written."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestration import announce, launch, launched, snapshot
from orchestration.grid import Grid
from orchestration.launch_folder import keep_difference, make_folders, only_launch_of
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
from orchestration.mirror.grid_mirror import last_tracking_uri
from orchestration.on_slurm import cluster, commands, controller, shell_defaults, step, submissions
from orchestration.on_slurm.campaign_file import ORDER, Campaign, launches_of, newest_readable, open_campaigns
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.hand_in import Submitted, queued_jobs, say_what, scheduler_of, submit
from orchestration.plan import Action, Plan
from orchestration.schedulers import CellJob, JobState, SchedulerError

if TYPE_CHECKING:
    from orchestration.schedulers.slurm import SiteLimits, SlurmScheduler


def launch_on_slurm(options: Options, console: Console) -> int:
    """Submit a grid and return; or, watched, follow it to its table. The exit code is that of `launch`.

    Raises:
        ValueError: Something the user can mend, before any job.
        SchedulerError: sbatch refused, or Slurm does not answer.
    """
    if not options.dry_run:
        announce.begin(console, f"composing the cells of {options.grid}")
    loaded = launched.load(options.grid, options.overrides, options.runs)
    grid_dir = options.runs.resolve() / loaded.name
    site = shell_defaults.with_defaults(cluster.load(options.cluster, options.cluster_settings))
    for line in shell_defaults.notes(site):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if options.dry_run:
        return _dry_run(loaded, grid_dir, options, site, console)
    grid_dir.mkdir(parents=True, exist_ok=True)
    with only_launch_of(grid_dir):
        submitted = _submit_new(loaded, grid_dir, options, site, console)
    if not options.watch or submitted.jobs is None:
        return 0
    planned = submitted.planned
    launch.follow(submitted.jobs, lambda: planned.jobs, planned.max_concurrent, grid_dir, console)
    if not site.controller:
        step.take_step(submitted.launch_dir, console)
    return 0 if all(state is JobState.DONE for state in submitted.jobs.poll().values()) else 1


def launch_again(grid_dir: Path, signatures: Sequence[str], settings: Sequence[str], console: Console) -> None:
    """Submit some cells of a grid again with the settings of its newest launch, changed by `key=value` words.

    Raises:
        ValueError: It was not launched on Slurm, or a setting is not allowed: one that would make other cells of them.
        SchedulerError: sbatch refused, or Slurm does not answer.
    """
    before = newest(grid_dir)
    of_site = [setting for setting in settings if setting.startswith(cluster.PREFIX)]
    others = [setting for setting in settings if setting not in of_site]
    site = cluster.from_values(before.cluster, of_site)
    loaded = _composed(grid_dir, others)
    retried = _of_grid(loaded, signatures, console)
    options = Options(runs=grid_dir.parent, cluster="slurm", max_concurrent=before.max_concurrent,
                      num_nodes=before.num_nodes, num_gpus_per_worker=before.num_gpus_per_worker,
                      allow_dirty=before.dirty or not before.commit, retried=retried,
                      budget_gpu_hours=before.budget_gpu_hours,
                      tracking_uri=last_tracking_uri("", grid_dir))  # fmt: skip
    with only_launch_of(grid_dir):
        _submit_new(loaded, grid_dir, options, site, console)


def _composed(grid_dir: Path, settings: Sequence[str]) -> Grid:
    """Compose a grid as it was launched last, with settings that leave its cells what they are."""
    loaded = launched.load_folder(grid_dir, settings)
    if settings and _points(loaded) != _points(launched.load_folder(grid_dir)):
        raise ValueError(
            "retry --set must have settings that leave cells what they are: cluster.field=value, and of the execution "
            f"such as trainer.device and trainer.num_workers; got {' '.join(settings)}, which makes another grid: "
            "launch that one"
        )
    return loaded


def _points(loaded: Grid) -> dict[str, dict[str, str]]:
    return {cell.signature: dict(cell.axes) for cell in loaded.cells}


def _of_grid(loaded: Grid, signatures: Sequence[str], console: Console) -> list[str]:
    """Return those of some cells that a grid has; a folder may hold cells of what was launched there earlier."""
    known = {cell.signature for cell in loaded.cells}
    found, foreign = ([key for key in signatures if (key in known) is of_grid] for of_grid in (True, False))
    if not foreign:
        return found
    what = f"not of the grid {loaded.name} as it was launched last and as this code composes it: {', '.join(foreign)}"
    if not found:
        raise ValueError(f"there must be a cell to submit again; all that were chosen are {what}")
    console.print(f"{len(foreign)} cells are passed over, {what}", highlight=False, markup=False, soft_wrap=True)
    return found


def newest(grid_dir: Path) -> Campaign:
    """Return the campaign that a grid's newest launch is of, as its user launched it.

    Raises:
        ValueError: It was not launched on Slurm.
    """
    launches = launches_of(grid_dir)
    if not launches:
        raise ValueError(f"{grid_dir.name} must have been launched on Slurm; it was launched here")
    found = newest_readable(launches)
    if found is None:
        where = f"no {ORDER} in {grid_dir / 'launches'} can be read"
        raise ValueError(f"{where}, so nobody knows the settings of {grid_dir.name}: launch it again")
    return found


def go_on(grid_dir: Path, console: Console) -> None:
    """Have somebody go on with each campaign that is not over: its controllers, or where nodes may not submit, this.

    Raises:
        ValueError: The sources that were launched are gone, or another launch is at work.
        SchedulerError: sbatch refused, or Slurm does not answer.
    """
    errors: list[SchedulerError | ValueError] = []
    for launch_dir, campaign in open_campaigns(grid_dir).items():
        try:
            _go_on_with(campaign, launch_dir, console)
        except (SchedulerError, ValueError) as error:
            errors.append(error)
    if len(errors) > 1:
        raise SchedulerError("; ".join(map(str, errors)))
    if errors:
        raise errors[0]


def _go_on_with(campaign: Campaign, launch_dir: Path, console: Console) -> None:
    if harmed := snapshot.make_whole(Path(campaign.snapshot)):
        console.print(f"brought back into {campaign.snapshot}: {', '.join(harmed)}", soft_wrap=True)
    if not campaign.config().controller:
        step.take_step(launch_dir, console)
        return
    numbers = controller.begin(campaign, launch_dir.parents[1], now=True)
    with commands.answers():
        why = controller.stands_still(campaign, commands.queue())
    words = why or f"jobs {', '.join(numbers)} go on with launch {campaign.name}"
    console.print(words, highlight=False, soft_wrap=True)


def _submit_new(loaded: Grid, grid_dir: Path, options: Options, site: ClusterConfig, console: Console) -> Submitted:
    step.tidy(grid_dir, console)
    identities = launch.look_at_data(loaded, options, console)
    queued = step.in_words(queued_jobs(grid_dir))
    planned = make_plan(loaded, grid_dir, options, identities, queued=queued, refused=not_asked_for(loaded, options))
    show_plan(planned, console)
    say_part(loaded, grid_dir, planned, console)
    refuse_conflicts(planned)
    refuse_budget(planned, options)
    refuse_full_disk(planned, options, console)
    taken = snapshot.take(grid_dir, allow_dirty=options.allow_dirty)
    jobs = launch.cell_jobs(planned, loaded, grid_dir, identities, options)
    scheduler_of(site, taken.path, options).check(jobs)
    launch_dir = make_folders(loaded, grid_dir, planned)
    difference = keep_difference(launch_dir, taken.difference) if taken.difference else {}
    _, mark = launch.begin_mirror(loaded, grid_dir, planned, launch_dir, options, console)
    campaign = Campaign(
        name=launch_dir.name,
        grid_name=loaded.name,
        runs=str(options.runs.resolve()),
        snapshot=str(taken.path),
        commit=taken.commit,
        dirty=bool(taken.difference),
        commit_unknown=taken.unknown,
        difference=difference,
        mark=mark,
        cluster=asdict(site),
        max_concurrent=options.max_concurrent,
        num_nodes=options.num_nodes,
        num_gpus_per_worker=options.num_gpus_per_worker,
        retried=[*options.retried],
        budget_gpu_hours=options.budget_gpu_hours,
    )
    campaign.write(launch_dir)
    submitted = _submit_first(campaign, planned, jobs, launch_dir)
    say_what(submitted, campaign, console)
    if not jobs:
        _end_at_once(campaign, loaded, grid_dir, planned, console)
    return submitted


def _submit_first(campaign: Campaign, planned: Plan, jobs: Sequence[CellJob], launch_dir: Path) -> Submitted:
    """Submit the controllers, then the cells, so that somebody goes on with whatever part of these is submitted."""
    grid_dir = launch_dir.parents[1]
    if jobs and campaign.config().controller:
        try:
            controller.begin(campaign, grid_dir)
        except SchedulerError as error:
            _give_up(campaign, grid_dir, error)
            raise
    try:
        return submit(campaign, planned, jobs, launch_dir)
    except SchedulerError as error:
        if _num_submitted(launch_dir) == 0:
            _give_up(campaign, grid_dir, error)
            raise
        raise SchedulerError(
            f"{error}; what was submitted before stays, and controllers submit the rest, or the same command does"
        ) from None


def _give_up(campaign: Campaign, grid_dir: Path, error: SchedulerError) -> None:
    """Have nobody go on with a launch of which Slurm has no cell."""
    step.close(campaign, grid_dir, why=str(error))
    controller.end(campaign)


def _num_submitted(launch_dir: Path) -> int | None:
    """Return how many arrays Slurm has of a launch; None where it does not say."""
    with suppress(SlurmError):
        step.complete(launch_dir.parents[1])
        return sum(bool(one.job_id) for folder, one in submissions.read(launch_dir.parents[1]) if folder == launch_dir)
    return None


def _end_at_once(campaign: Campaign, loaded: Grid, grid_dir: Path, planned: Plan, console: Console) -> None:
    if any(item.action is Action.RUNNING for item in planned.items):
        step.close(campaign, grid_dir, why="an earlier launch has all that is left")
    else:
        step.end(campaign, loaded, grid_dir, planned, console)


def _dry_run(loaded: Grid, grid_dir: Path, options: Options, site: ClusterConfig, console: Console) -> int:
    planned = make_plan(loaded, grid_dir, options)
    show_plan(planned, console)
    say_part(loaded, grid_dir, planned, console)
    say_missing_inputs(loaded, console)
    refuse_budget(planned, options)
    refuse_full_disk(planned, options, console)
    if not options.scripts:
        return 0
    jobs = launch.cell_jobs(planned, loaded, grid_dir, {}, options)
    place = grid_dir / "launches" / "<launch>"
    scheduler = scheduler_of(site, grid_dir / "snapshots" / "<commit>", options)
    for script in scheduler.scripts(jobs, place, _limits(scheduler, console)):
        console.print(f"\n{script}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _limits(scheduler: "SlurmScheduler", console: Console) -> "SiteLimits":
    """Return the site's limits; where Slurm does not answer, a plan is worth having without them."""
    from orchestration.schedulers.slurm import SiteLimits

    try:
        return scheduler.site_limits()
    except SchedulerError as error:
        console.print(f"{error}; the scripts below know no limits of the site", highlight=False, soft_wrap=True)
        return SiteLimits()

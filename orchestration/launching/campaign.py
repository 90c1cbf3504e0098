"""A launch on Slurm: it submits and returns, and controllers take the next steps until its table is written."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestration.grids import inputs, launched
from orchestration.grids.grid import Grid
from orchestration.grids.places import Places
from orchestration.launching import controller, earlier_code, launch, step, steps
from orchestration.launching.hand_in import (
    Submitted,
    in_words,
    queued_jobs,
    say_what,
    scheduler_of,
    site_at,
    submit,
    workers_of,
)
from orchestration.launching.launch_folder import keep_difference, only_launch_of, was_available
from orchestration.launching.options import OnSlurm, Wanted, Workers
from orchestration.launching.steps import Begun
from orchestration.launching.target import Target
from orchestration.machine import announce, snapshot
from orchestration.machine.counts import counted
from orchestration.mirror.grid_mirror import last_tracking_uri
from orchestration.on_slurm import cluster, commands, notices, queue_state, shell_defaults, submissions
from orchestration.on_slurm.campaign_file import Campaign, launches_of, newest_readable, open_campaigns
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import SlurmError
from orchestration.planning.plan import Action, Plan
from orchestration.runs import folder_states, hints, readable
from orchestration.runs.folders import GridFolder, LaunchFolder
from orchestration.runs.jobs import CellJob, SchedulerError, SchedulerRefusal
from rankmatch.durable import make_folder

if TYPE_CHECKING:
    from orchestration.on_slurm.site import Site, SiteLimits


def launch_on_slurm(wanted: Wanted, workers: Workers, asked: OnSlurm, console: Console, *, uri: str = "") -> Submitted:
    """Submit a grid.

    Raises:
        ValueError: Something that the user can fix, before any job is submitted.
        SchedulerError: sbatch refused, or Slurm does not answer.
    """
    announce.begin(console, f"composing the cells of {wanted.grid}")
    loaded = launch.composed(wanted)
    grid_dir = wanted.runs.resolve() / loaded.name
    site = _site(asked, console)
    order = _Order(workers, site, asked.allow_dirty, wanted.retried, wanted.budget_gpu_hours, uri, wanted.until,
                   asked.size_from_history, launch.left_out_of(wanted, loaded), wanted.within_budget)  # fmt: skip
    make_folder(grid_dir)
    with only_launch_of(grid_dir):
        return _submit_new(loaded, grid_dir, order, console)


def dry_run(
    wanted: Wanted,
    workers: Workers,
    asked: OnSlurm,
    console: Console,
    *,
    with_scripts: bool = True,
    as_json: bool = False,
) -> int:
    """Print what a launch would do and the scripts that it would submit, as JSON without these; touch nothing.

    Raises:
        ValueError: What a launch would refuse before it looks at the data.
    """
    loaded = launch.composed(wanted)
    grid_dir = wanted.runs.resolve() / loaded.name
    site = _site(asked, console)
    target = Target.of(loaded, grid_dir, workers, retried=wanted.retried, until=wanted.until,
                       left_out=launch.left_out_of(wanted, loaded))  # fmt: skip
    target = steps.sized_by_history(target) if asked.size_from_history else target
    planned = steps.rehearse(
        target, wanted.budget_gpu_hours, console, as_json=as_json, within_budget=wanted.within_budget
    )
    if as_json or not with_scripts:
        return 0
    folder = GridFolder(grid_dir)
    there, place = site_at(site, folder.snapshots_dir / "<commit>"), folder.launch("<launch>").path
    jobs = steps.jobs_of(target, steps.Ready(planned))
    for script in scheduler_of(there, workers).scripts(jobs, place, _limits(there, console)):
        announce.say(console, f"\n{script}")
    return 0


def launch_again(
    grid_dir: Path, signatures: Sequence[str], settings: Sequence[str], console: Console, *, named: bool = True
) -> None:
    """Submit some cells of a grid again with the settings of its newest launch, changed by `key=value` words.

    Where nobody `named` them, only those with inputs, if that launch left out others.

    Raises:
        ValueError: It was not launched on Slurm, or a setting is not allowed because it would make them other cells.
        SchedulerError: sbatch refused, or Slurm does not answer.
    """
    before = newest(grid_dir)
    of_site = [setting for setting in settings if setting.startswith(cluster.PREFIX)]
    others = [setting for setting in settings if setting not in of_site]
    site = cluster.from_values(before.cluster, of_site)
    settled = {setting.removeprefix(cluster.PREFIX).partition("=")[0] for setting in of_site}
    # what the site said before has been weighed against the command line of the launch, whose grid holds the outcome
    loaded = _composed(grid_dir, others, cluster.places_of(site).only(settled), settings)
    retried = _of_grid(loaded, signatures, console)
    left_out = {key: why for key, why in before.left_out.items() if key not in retried}
    left_out |= inputs.absent(loaded.cells) if not named and was_available(grid_dir) else {}
    order = _Order(workers_of(before), site, before.dirty or not before.commit, retried, before.budget_gpu_hours,
                   last_tracking_uri("", grid_dir), size_from_history=before.sizes is not None,
                   left_out=left_out)  # fmt: skip
    with only_launch_of(grid_dir):
        _submit_new(loaded, grid_dir, order, console)


@dataclass(frozen=True, slots=True)
class _Order:
    """The settings with which a user's launch on Slurm is submitted, the first time or again."""

    workers: Workers
    site: ClusterConfig
    allow_dirty: bool
    retried: Collection[str]
    budget_gpu_hours: float | None
    uri: str
    until: float | None = None
    size_from_history: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)
    within_budget: bool = False


def _site(asked: OnSlurm, console: Console) -> ClusterConfig:
    notices.check_webhook()
    site = shell_defaults.with_defaults(cluster.load(asked.site, asked.settings))
    for line in shell_defaults.notes(site):
        announce.say(console, line)
    return site


def _composed(grid_dir: Path, settings: Sequence[str], places: Places, said: Sequence[str]) -> Grid:
    """Compose a grid as it was last launched, with settings that do not change what its cells are."""
    loaded = launched.load_folder(grid_dir, settings, places)
    if (settings or places) and _points(loaded) != _points(launched.load_folder(grid_dir)):
        raise ValueError(
            "retry --set must have settings that leave cells what they are: cluster.field=value, and of the execution "
            f"such as trainer.device and trainer.num_workers; got {' '.join(said)}, which makes another grid: "
            "launch that one"
        )
    return loaded


def _points(loaded: Grid) -> dict[str, dict[str, str]]:
    return {cell.signature: dict(cell.axes) for cell in loaded.cells}


def _of_grid(loaded: Grid, signatures: Sequence[str], console: Console) -> list[str]:
    """Return those of some cells that are in a grid; a folder may also hold cells of earlier launches."""
    known = {cell.signature for cell in loaded.cells}
    found, foreign = ([key for key in signatures if (key in known) is of_grid] for of_grid in (True, False))
    if not foreign:
        return found
    what = f"not of the grid {loaded.name} as it was launched last and as this code composes it: {', '.join(foreign)}"
    if not found:
        raise ValueError(f"there must be a cell to submit again; all that were chosen are {what}")
    announce.say(console, f"{counted(len(foreign), 'cell', 'is')} passed over, {what}")
    return found


def newest(grid_dir: Path) -> Campaign:
    """Return the campaign of a grid's newest launch, as its user launched it.

    Raises:
        ValueError: It was not launched on Slurm.
    """
    launches = launches_of(grid_dir)
    if not launches:
        raise ValueError(f"{grid_dir.name} must have been launched on Slurm; it was launched here")
    found = newest_readable(launches)
    if found is None:
        where = f"no {LaunchFolder.campaign_file.name} in {GridFolder(grid_dir).launches_dir} can be read"
        raise ValueError(f"{where}, so nobody knows the settings of {grid_dir.name}: launch it again")
    return found


def go_on(grid_dir: Path, console: Console, *, with_controllers: bool = True) -> None:
    """Resume each campaign that is not over, by its controllers or, where nodes may not submit, in this process.

    Args:
        grid_dir: Folder of the grid.
        console: Prints what is done.
        with_controllers: Also resume campaigns whose controllers take the steps; these start at once.

    Raises:
        ValueError: The sources that were launched are gone or of an earlier version, or another launch is at work.
        SchedulerError: sbatch refused, or Slurm does not answer; or the steps of several campaigns were not taken.
        OSError: What a step needs cannot be read or written.
    """
    errors: list[SchedulerError | ValueError | OSError] = []
    for launch_dir, campaign in open_campaigns(grid_dir).items():
        if campaign.config().controller and not with_controllers:
            continue
        try:
            _go_on_with(campaign, launch_dir, console)
        except (SchedulerError, ValueError, OSError) as error:
            errors.append(error)
    if len(errors) > 1:
        raise SchedulerError("; ".join(map(str, errors)))
    if errors:
        raise errors[0]


def _go_on_with(campaign: Campaign, launch_dir: Path, console: Console) -> None:
    earlier_code.refuse(campaign, LaunchFolder(launch_dir).grid.path)
    if harmed := snapshot.make_whole(Path(campaign.snapshot)):
        console.print(f"brought back into {campaign.snapshot}: {', '.join(harmed)}", soft_wrap=True)
    if not campaign.config().controller:
        step.take_step(launch_dir, console)
        return
    numbers = controller.begin(campaign, LaunchFolder(launch_dir).grid.path, now=True)
    with commands.answers():
        why = controller.stands_still(campaign, commands.queue())
    words = why or f"jobs {', '.join(numbers)} resume launch {campaign.name}"
    console.print(words, highlight=False, soft_wrap=True)


def _submit_new(loaded: Grid, grid_dir: Path, order: _Order, console: Console) -> Submitted:
    away = step.tidy(grid_dir, console, is_typed=True, waits_s=folder_states.WAITS_S)
    queued = in_words(queued_jobs(grid_dir))
    unread = {key: readable.in_words(error) for key, error in away.items()}
    target = Target.of(loaded, grid_dir, order.workers, retried=order.retried, queued=queued, refused=unread,
                       until=order.until, left_out=order.left_out)  # fmt: skip
    target = steps.sized_by_history(target) if order.size_from_history else target
    target, planned = steps.plan_within(target, order.budget_gpu_hours, leaves_out=order.within_budget)
    steps.show(target, planned, console)
    steps.refuse_limits(target, planned, order.budget_gpu_hours)
    steps.refuse_full_disk(target, planned, console)
    if planned.jobs:
        _refuse_two_limits(order.workers, queued, grid_dir)
    else:
        _refuse_doubt(target, planned, unread)
    ready = steps.prepare(target, planned, console)
    taken = snapshot.take(GridFolder(grid_dir).snapshots_dir, allow_dirty=order.allow_dirty)
    jobs, scheduler = steps.jobs_of(target, ready), scheduler_of(site_at(order.site, taken.path), order.workers)
    begun = steps.commit(target, ready, jobs, scheduler, order.uri, console)
    campaign = _campaign(order, target, begun, taken)
    campaign.write(begun.launch_dir)
    submitted = _submit_first(campaign, ready.planned, jobs, begun.launch_dir)
    say_what(submitted, campaign, console)
    for line in _who_looks_again(campaign, ready.planned, grid_dir):
        announce.say(console, line)
    if not jobs and not _left_to_others(ready.planned):
        _end_at_once(campaign, target, ready.planned, console)
    return submitted


def _refuse_doubt(target: Target, planned: Plan, unread: Mapping[str, str]) -> None:
    """Refuse to launch nothing only because nobody can read how cells ended: the launch would end at once."""
    asked = [item.cell.signature for item in planned.items if target.passes_over(item)]
    if doubtful := [unread[signature] for signature in asked if signature in unread]:
        raise ValueError(f"nothing was submitted: {doubtful[0]}; type it again once that can be read")


def _refuse_two_limits(workers: Workers, queued: Mapping[str, str], grid_dir: Path) -> None:
    """Refuse a pilot that would keep a limit beside jobs of the same grid: nobody could hold it over both."""
    if not workers.are_alone:
        return
    with commands.answers():
        pilots = queue_state.pilots_at_work(grid_dir, launches_of(grid_dir))
    nodes = [one.nodes_id for one, has_head in pilots if not has_head]
    there = [
        *([f"{counted(len(queued), 'cell', 'has')} a job on Slurm"] if queued else []),
        *([f"nodes of a pilot whose head has ended may train: job {', '.join(nodes)}"] if nodes else []),
    ]
    if there:
        raise ValueError(
            f"--pilot with --max-concurrent={workers.max_concurrent} must be alone, as nothing holds one limit over it "
            f"and other jobs; {'; '.join(there)}. Launch once these have ended, or "
            f"after {hints.command('cancel', grid_dir)}"
        )


def _campaign(order: _Order, target: Target, begun: Begun, taken: snapshot.Snapshot) -> Campaign:
    return Campaign(
        name=begun.launch_dir.name,
        grid_name=target.loaded.name,
        runs=str(target.runs),
        snapshot=str(taken.path),
        commit=taken.commit,
        dirty=bool(taken.difference),
        commit_unknown=taken.unknown,
        difference=keep_difference(begun.launch_dir, taken.difference) if taken.difference else {},
        mark=begun.mark,
        cluster=asdict(order.site),
        max_concurrent=order.workers.max_concurrent,
        num_nodes=order.workers.num_nodes,
        num_gpus_per_worker=order.workers.num_gpus_per_worker,
        retried=[*order.retried],
        budget_gpu_hours=order.budget_gpu_hours,
        until=order.until,
        sizes=None if target.sizes is None else [*target.sizes],
        left_out=dict(target.left_out),
    )


def _submit_first(campaign: Campaign, planned: Plan, jobs: Sequence[CellJob], launch_dir: Path) -> Submitted:
    """Submit the controllers before the cells, so that whatever is submitted has somebody to resume it."""
    grid_dir = LaunchFolder(launch_dir).grid.path
    if (jobs or _left_to_others(planned)) and campaign.config().controller:
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
            if isinstance(error, SchedulerRefusal):
                raise
            text = f"{error}; Slurm has no job of it, and one that comes after all ends at once: launch again"
            raise SchedulerError(text) from None
        rest = "controllers submit the rest, or" if campaign.config().controller else "the rest is submitted by"
        text = f"{error}; what was submitted before stays, and {rest} the same command"
        raise SchedulerError(text) from None


def _left_to_others(planned: Plan) -> bool:
    """Return whether cells are left to launches of other grids: the next step looks at them again."""
    return any(item.is_left_to_another for item in planned.items)


def _who_looks_again(campaign: Campaign, planned: Plan, grid_dir: Path) -> list[str]:
    left = Counter(item.of_grid for item in planned.items if item.is_left_to_another)
    by_itself = f"jobs {campaign.controllers_name} look again"
    then = by_itself if campaign.config().controller else f"once it has ended, {hints.command('resume', grid_dir)}"
    return [f"{counted(num, 'cell', 'is')} left to grid {name}: {then}" for name, num in left.items()]


def _give_up(campaign: Campaign, grid_dir: Path, error: SchedulerError) -> None:
    """Close a launch of which Slurm has no cell."""
    step.close(campaign, grid_dir, why=str(error))
    controller.end(campaign)


def _num_submitted(launch_dir: Path) -> int | None:
    """Return how many arrays of a launch Slurm has; None where it does not say."""
    grid_dir = LaunchFolder(launch_dir).grid.path
    with suppress(SlurmError):
        step.settle(grid_dir)
        return sum(one.job is not None for folder, one in submissions.read(grid_dir) if folder == launch_dir)
    return None


def _end_at_once(campaign: Campaign, target: Target, planned: Plan, console: Console) -> None:
    if any(item.action is Action.RUNNING for item in planned.items):
        step.close(campaign, target.grid_dir, why="an earlier launch has all that is left")
    else:
        step.end(campaign, target, planned, console)


def _limits(site: "Site", console: Console) -> "SiteLimits":
    """Return what a site allows, or Slurm's defaults where it does not answer: a plan is useful without the limits."""
    from orchestration.on_slurm.site import SiteLimits

    try:
        return site.limits()
    except SchedulerError as error:
        console.print(f"{error}; the scripts below know no limits of the site", highlight=False, soft_wrap=True)
        return SiteLimits()

"""A launch on Slurm: submitted and left alone; a small controller job takes the next step when the jobs have ended."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestration import files, grid, launch, provenance, snapshot, terminal
from orchestration.grid import Grid
from orchestration.launch_folder import keep_difference, make_folders, only_launch_of
from orchestration.launch_plan import Options, make_plan, refuse_budget, refuse_conflicts, say_missing_inputs, show_plan
from orchestration.mirror.grid_mirror import last_tracking_uri
from orchestration.on_slurm import cluster, policy, queue_state, shell_defaults, submissions
from orchestration.on_slurm.campaign_file import CONTROLLER, ENDED, Campaign, launches_of
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import Job, QueuedJob, SlurmError
from orchestration.on_slurm.notices import Notifier
from orchestration.plan import Action, Plan
from orchestration.retries import decision_of
from orchestration.run_folder import folders
from orchestration.schedulers import CellJob, JobState, SchedulerError

if TYPE_CHECKING:
    from orchestration.schedulers.slurm import SiteLimits, SlurmJobs, SlurmScheduler


@dataclass(frozen=True, slots=True)
class ControllerTask:
    """What travels to the controller's job."""

    launch_dir: str

    def __call__(self) -> None:
        """Take the next step of the campaign, and print what was done into the job's log."""
        terminal.take_any_character()
        take_step(Path(self.launch_dir), Console(width=200))


@dataclass(frozen=True, slots=True)
class Submitted:
    """What one step handed to Slurm."""

    planned: Plan
    launch_dir: Path
    jobs: "SlurmJobs | None" = None
    job_ids: list[Job] = field(default_factory=list)
    controller: Job | None = None

    @property
    def num_cells(self) -> int:
        """How many cells got a job."""
        return len(self.jobs.names) if self.jobs else 0


def launch_on_slurm(options: Options, console: Console) -> int:
    """Submit a grid and return; or, watched, follow it to its table. The exit code is that of `launch`.

    Raises:
        ValueError: Something the user can mend, before any job.
        SchedulerError: sbatch refused, or Slurm does not answer.
    """
    loaded = grid.load(options.grid, options.overrides, options.runs)
    grid_dir = options.runs.resolve() / loaded.name
    site = shell_defaults.with_defaults(cluster.load(options.cluster, options.cluster_settings))
    for line in shell_defaults.notes(site):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if options.dry_run:
        return _dry_run(loaded, grid_dir, options, site, console)
    grid_dir.mkdir(parents=True, exist_ok=True)
    with only_launch_of(grid_dir):
        submitted = _submit_new(loaded, grid_dir, options, site, console)
        _say_what(submitted, options, console)
        if submitted.jobs is None and not _runs(submitted.planned):
            _end(submitted.launch_dir, loaded, grid_dir, submitted.planned, console)
    if not options.watch or submitted.jobs is None:
        return 0
    planned = submitted.planned
    launch.follow(submitted.jobs, lambda: planned.jobs, planned.max_concurrent, grid_dir, console)
    if not site.controller:
        take_step(submitted.launch_dir, console)
    return 0 if all(state is JobState.DONE for state in submitted.jobs.poll().values()) else 1


def _submit_new(loaded: Grid, grid_dir: Path, options: Options, site: ClusterConfig, console: Console) -> Submitted:
    tidy(grid_dir, console)
    identities = launch.look_at_data(loaded, options, console)
    others = {cell.signature for cell in loaded.cells} - {*options.retried}
    refused = dict.fromkeys(others, "not asked for") if options.retried else {}
    planned = make_plan(loaded, grid_dir, options, identities, queued=queued(grid_dir), refused=refused)
    show_plan(planned, console)
    refuse_conflicts(planned)
    refuse_budget(planned, options)
    taken = snapshot.take(grid_dir, allow_dirty=options.allow_dirty)
    jobs = launch.cell_jobs(planned, loaded, grid_dir, identities, options)
    _scheduler(site, taken.path, options).check(jobs)
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
    )
    return _submit(campaign, planned, jobs, launch_dir)


def launch_again(grid_dir: Path, signatures: Sequence[str], settings: Sequence[str], console: Console) -> None:
    """Submit some cells of a grid again with the settings of its newest launch, changed by `key=value` words.

    Raises:
        ValueError: It was not launched on Slurm, or a setting is not allowed.
        SchedulerError: sbatch refused, or Slurm does not answer.
    """
    launches = launches_of(grid_dir)
    if not launches:
        raise ValueError(f"retry must be said of a grid on Slurm; {grid_dir.name} was launched here: launch it again")
    before = Campaign.read(launches[-1])
    of_site = [setting for setting in settings if setting.startswith(cluster.PREFIX)]
    others = [setting for setting in settings if setting not in of_site]
    site = cluster.from_values(before.cluster, of_site)
    loaded = replace(grid.load(str(grid_dir / "grid.yaml"), others), name=grid_dir.name)
    options = Options(runs=grid_dir.parent, cluster="slurm", max_concurrent=before.max_concurrent,
                      num_nodes=before.num_nodes, num_gpus_per_worker=before.num_gpus_per_worker,
                      allow_dirty=before.dirty or not before.commit, retried=signatures,
                      tracking_uri=last_tracking_uri("", grid_dir))  # fmt: skip
    with only_launch_of(grid_dir):
        submitted = _submit_new(loaded, grid_dir, options, site, console)
    _say_what(submitted, options, console)


def take_step(launch_dir: Path, console: Console) -> None:
    """Submit what the policy allows, or where nothing is left, write table and report.

    Raises:
        ValueError: The data have changed.
        SchedulerError: sbatch refused, or Slurm does not answer.
    """
    campaign = Campaign.read(launch_dir)
    grid_dir = launch_dir.parents[1]
    loaded = replace(grid.load(str(launch_dir / "grid.yaml"), ()), name=campaign.grid_name)
    options = Options(runs=Path(campaign.runs), cluster="slurm", max_concurrent=campaign.max_concurrent,
                      num_nodes=campaign.num_nodes, num_gpus_per_worker=campaign.num_gpus_per_worker)  # fmt: skip
    with only_launch_of(grid_dir):
        _tell_of_lost(campaign, grid_dir, tidy(grid_dir, console))
        identities = launch.look_at_data(loaded, options, console)
        refused = policy.given_up(loaded, grid_dir, campaign.name)
        planned = make_plan(loaded, grid_dir, options, identities, queued=queued(grid_dir), refused=refused)
        show_plan(planned, console)
        refuse_conflicts(planned)
        if planned.jobs:
            jobs = launch.cell_jobs(planned, loaded, grid_dir, identities, options)
            policy.tell_of_outages(campaign.config(), grid_dir, campaign.name, console)
            jobs = policy.placed(jobs, campaign.config(), grid_dir, campaign.name)
            if harmed := snapshot.make_whole(Path(campaign.snapshot)):
                console.print(f"brought back into {campaign.snapshot}: {', '.join(harmed)}", soft_wrap=True)
            _say_what(
                _submit(campaign, planned, jobs, make_folders(loaded, grid_dir, planned)),
                options,
                console,
            )
            return
        _end(launch_dir, loaded, grid_dir, planned, console)


def waits_for_a_step(grid_dir: Path) -> Path | None:
    """Return the newest launch where nobody goes on with a grid by themselves, and something is left to be done.

    Raises:
        SlurmError: squeue says nothing.
    """
    launches = launches_of(grid_dir)
    if not launches or (launches[-1] / ENDED).exists() or queue_state.queued_cells(grid_dir):
        return None
    return launches[-1]


def has_controller(launch_dir: Path) -> bool:
    """Tell whether the site lets a job of a launch submit others."""
    return Campaign.read(launch_dir).config().controller


def controller_job(launch_dir: Path) -> Job | None:
    """Return the controller of a launch; None where there is none."""
    path = launch_dir / CONTROLLER
    if not path.exists():
        return None
    known = files.read_json(path)
    return Job(known["job_id"], known.get("name", f"rankmatch-controller-{launch_dir.name[-12:]}"))


def tidy(grid_dir: Path, console: Console) -> list[queue_state.Lost]:
    """Find the jobs of launches that were killed, and write down how silent attempts ended; return these.

    Raises:
        SchedulerError: Slurm does not answer.
    """
    try:
        for launch_dir, submission in submissions.complete(grid_dir):
            _hand_over(launch_dir, submission)
            console.print(f"found job {submission.job_id} of a launch that was killed: {submission.name}")
        found = queue_state.record_lost(grid_dir)
    except SlurmError as error:
        raise SchedulerError(str(error)) from None
    for lost in found:
        console.print(f"{lost.cell}: {lost.failure.kind}: {lost.failure.message}", soft_wrap=True)
    return found


def _hand_over(launch_dir: Path, submission: submissions.Submission) -> None:
    from orchestration.schedulers.batch import hand_over  # submitit: only where a launch was killed

    hand_over(launch_dir, submission)


def queued(grid_dir: Path) -> dict[str, str]:
    """Return what Slurm says of the cells that it has a job of, by signature.

    Raises:
        SchedulerError: squeue says nothing.
    """
    return {
        name.partition("-")[0]: f"job {job.job} is {job.state.lower()}{f' on {job.node}' if job.node else ''}"
        for name, job in _queued_jobs(grid_dir).items()
    }


def _queued_jobs(grid_dir: Path) -> dict[str, QueuedJob]:
    try:
        return queue_state.queued_cells(grid_dir)
    except SlurmError as error:
        raise SchedulerError(f"nothing was submitted, as jobs may be there: {error}") from None


def _submit(campaign: Campaign, planned: Plan, jobs: Sequence[CellJob], launch_dir: Path) -> Submitted:
    campaign.write(launch_dir)
    if not jobs:
        return Submitted(planned, launch_dir)
    software = provenance.collect() | campaign.code()
    owner = {"launch": launch_dir.name, "campaign": campaign.name, "commit": campaign.commit, "provenance": software,
             **campaign.mark}  # fmt: skip
    busy = [job.job for job in _queued_jobs(launch_dir.parents[1]).values()]
    scheduler = _scheduler(campaign.config(), Path(campaign.snapshot), campaign, busy)
    handle = scheduler.submit(jobs, launch_dir, owner)
    ids = handle.job_ids
    controller = None
    if campaign.config().controller:
        controller = scheduler.submit_controller(ControllerTask(str(launch_dir)), launch_dir, ids)
        files.replace(launch_dir / CONTROLLER, files.to_text({"job_id": controller.number, "name": controller.name}))
    return Submitted(planned, launch_dir, handle, ids, controller)


def _scheduler(
    site: ClusterConfig, sources: Path, limits: "Options | Campaign", busy: Sequence[Job] = ()
) -> "SlurmScheduler":
    from orchestration.schedulers.slurm import SlurmScheduler

    if limits.num_nodes:
        from orchestration.schedulers.slurm_pilot import PilotScheduler

        return PilotScheduler(site, sources, num_nodes=limits.num_nodes, max_concurrent=limits.max_concurrent,
                              num_gpus_per_worker=limits.num_gpus_per_worker)  # fmt: skip
    return SlurmScheduler(site, sources, max_concurrent=limits.max_concurrent, busy=busy)


def _dry_run(loaded: Grid, grid_dir: Path, options: Options, site: ClusterConfig, console: Console) -> int:
    planned = make_plan(loaded, grid_dir, options)
    show_plan(planned, console)
    say_missing_inputs(loaded, console)
    refuse_budget(planned, options)
    if not options.scripts:
        return 0
    jobs = launch.cell_jobs(planned, loaded, grid_dir, {}, options)
    place = grid_dir / "launches" / "<launch>"
    scheduler = _scheduler(site, grid_dir / "snapshots" / "<commit>", options)
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


def _say_what(submitted: Submitted, options: Options, console: Console) -> None:
    if not submitted.job_ids:
        console.print("nothing to submit")
        return
    count, due = submitted.num_cells, len(submitted.planned.jobs)
    how_many = f"{count} cells" if count == due else f"{count} of {due} cells, as many as the site takes,"
    jobs = "jobs" if len(submitted.job_ids) > 1 else "job"
    jobs = f"a pilot of {options.num_nodes} nodes, {jobs}" if options.num_nodes else jobs
    lines = [f"submitted: {how_many} as {jobs} {', '.join(map(str, submitted.job_ids))}"]
    if submitted.controller:
        lines.append(f"job {submitted.controller} goes on when they have ended, and writes the table in the end")
    name = submitted.launch_dir.parents[1].name
    for word in ("status", "logs", "cancel", "table"):
        lines.append(f"  rankmatch {word} --grid {name} --runs {options.runs}")
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _runs(planned: Plan) -> bool:
    return any(item.action is Action.RUNNING for item in planned.items)


def _end(launch_dir: Path, loaded: Grid, grid_dir: Path, planned: Plan, console: Console) -> None:
    """Write table and report; once nothing runs any more, that is the end of the campaign."""
    campaign = Campaign.read(launch_dir)
    mirror = launch.mirror_of(loaded, grid_dir, launch_id=campaign.name)
    mirror.start()
    launch.end_with_results(loaded, grid_dir, mirror, console)
    if _runs(planned):
        return
    files.replace(launch_dir / ENDED, files.to_text({"time": time.time()}))
    notifier = Notifier.of(campaign.config(), grid_dir)
    notifier.tell(f"finished {campaign.name}", _outcome(planned, campaign.grid_name), once=True)


def _tell_of_lost(campaign: Campaign, grid_dir: Path, lost: Sequence[queue_state.Lost]) -> None:
    """Tell of cells that were found lost and are given up; the jobs tell of the others themselves."""
    made = {folder.path.name: folder for folder in folders(grid_dir).values()}
    for cell in (item.cell for item in lost):
        decision = decision_of(made[cell], campaign.name)
        if not decision.again:
            text = f"{campaign.grid_name}: {cell} is not tried again: {decision.why}"
            Notifier.of(campaign.config(), grid_dir).tell(f"failed: {decision.why}", text)


def _outcome(planned: Plan, grid_name: str) -> str:
    num_done = sum(item.action is Action.KEEP for item in planned.items)
    given_up = len(planned.items) - num_done
    return f"{grid_name}: {num_done} of {len(planned.items)} cells are done" + (
        f", {given_up} are given up" if given_up else ""
    )

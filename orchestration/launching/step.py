"""The next step of a campaign: what its cells need now, by their folders and by the queue."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from orchestration.grids import launched
from orchestration.grids.grid import Grid
from orchestration.launching import earlier_code, given_up, launch, steps
from orchestration.launching.hand_in import (
    Submitted,
    in_words,
    queued_jobs,
    say_what,
    scheduler_of,
    site_of,
    submit,
    workers_of,
)
from orchestration.launching.launch_folder import make_folders, only_launch_of
from orchestration.launching.over_budget import OverBudget, over_budget
from orchestration.launching.target import Target
from orchestration.machine import announce, clock, snapshot
from orchestration.machine.counts import counted
from orchestration.on_slurm import commands, ending, never_began, placement, policy, queue_state, submissions
from orchestration.on_slurm.campaign_file import Campaign, Ended, campaign_named, launches_of, name_of, open_campaigns
from orchestration.on_slurm.commands import QueuedJob, SlurmError
from orchestration.on_slurm.lanes import lanes
from orchestration.on_slurm.notices import Notifier, harmless
from orchestration.on_slurm.standing_still import WAITS_FOR_NODE, all_still, remedy
from orchestration.planning import adaptive
from orchestration.planning.plan import Action, Plan
from orchestration.planning.until import in_words as in_words_of
from orchestration.runs import folder_states, hints, readable
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.jobs import SchedulerError


@dataclass(frozen=True, slots=True)
class Step:
    """The result of a step."""

    is_over: bool = False
    """Nothing is left to be done, and the report is written."""
    submitted: Submitted | None = None
    presses: bool = False
    """A cell has ended whose job has not yet; what is to be done about it can be done in some seconds."""
    due_s: float | None = None
    """The seconds until the first cell is tried again that waits for that."""
    is_quiet: bool = False
    """No job runs, so none can fail."""
    held: str = ""
    """Why all jobs that are left wait for what does not come by itself, and what helps."""


def take_step(launch_dir: Path, console: Console, *, wait_s: float = 0.0) -> Step:
    """Submit what the policy allows, or if nothing is left, write table and report.

    Args:
        launch_dir: Folder of any launch of the campaign.
        console: Prints what is done; nothing if there is nothing to do.
        wait_s: How long another launch of the grid may be at work before this counts as refused.

    Raises:
        ValueError: The data have changed, another launch is at work, or an earlier version began the campaign.
        SchedulerError: sbatch refused, or Slurm does not answer.
    """
    grid_dir = LaunchFolder(launch_dir).grid.path
    with only_launch_of(grid_dir, wait_s):
        campaign = campaign_named(grid_dir, name_of(launch_dir) or launch_dir.name)
        if campaign.over(grid_dir).exists():  # closed while its controller waited for the lock
            return Step(is_over=True)
        earlier_code.refuse(campaign, grid_dir)
        loaded = replace(launched.load_stored(campaign.folder(grid_dir).grid_file), name=campaign.grid_name)
        away = tidy(grid_dir, console, waits_s=folder_states.WAITS_S)
        jobs, owners = queued_jobs(grid_dir), policy.passed_on(loaded, grid_dir, campaign.name)
        others = {*owners}
        policy.tell_of_idle_gpus(campaign.config(), grid_dir, [key for key, job in jobs.items() if not job.is_waiting])
        with suppress(SlurmError):  # the next step does it
            placement.free_waiting(campaign, loaded, grid_dir, jobs, console)
        left, errors = policy.left(loaded, grid_dir, campaign.name, jobs, waits_s=folder_states.WAITS_S)
        left, errors = {key: one for key, one in left.items() if key not in away}, {**away, **errors}
        given_up.tell_of_untold(campaign, grid_dir, {key: one for key, one in left.items() if key not in others})
        later = policy.not_due(left)
        if later:
            policy.tell_of_outages(campaign.config(), grid_dir, campaign.name, console)
        unread = {key: readable.in_words(error) for key, error in errors.items()}
        held = {key for key, error in errors.items() if readable.passing([error])}
        refused, over = _refused(campaign, loaded, grid_dir, others, jobs, left, unread)
        refused |= dict.fromkeys(later, "waits before its next try")
        doubtful = {**over.unread, **({} if over.is_known else dict.fromkeys(over.cells, over.why))}
        unread, held = {**doubtful, **unread}, held | doubtful.keys()
        larger = {key: one.decision.larger for key, one in left.items()}
        target = Target.of(loaded, grid_dir, workers_of(campaign), retried=campaign.retried, queued=in_words(jobs),
                           refused=refused, until=campaign.until, larger=larger, sizes=campaign.sizes,
                           left_out=campaign.left_out)  # fmt: skip
        retried = (*campaign.retried, *unread)  # that the plan can read them decides nothing
        target = replace(target, retried=retried, is_step=True)
        planned = steps.plan_of(target)
        _tell_of_left_out(campaign, grid_dir, planned)
        _tell_of_unreadable(campaign, grid_dir, planned, unread)
        endings = ending.of_jobs(grid_dir, jobs)
        ending.tell_of_stuck(campaign.config(), grid_dir, endings)
        if planned.jobs and not _pilot_is_at_work(campaign, grid_dir) and _is_room_for(campaign, planned, jobs):
            return Step(submitted=_submit(campaign, target, planned, console))
        due = {*later} - others - _not_asked_for(campaign, loaded)
        _share_lanes(campaign, jobs)
        if planned.jobs or due or _goes_on(planned, others | _not_asked_for(campaign, loaded), held):
            return replace(_waits(jobs, endings, grid_dir), due_s=min((later[key] for key in due), default=None))
        if {*owners.values()} & {one.name for one in open_campaigns(grid_dir).values()}:
            close(campaign, grid_dir, why="a newer launch has its cells")  # and writes the report
        else:
            end(campaign, target, planned, console)
        return Step(is_over=True)


def tidy(
    grid_dir: Path, console: Console, *, is_typed: bool = False, waits_s: Sequence[float] = ()
) -> dict[str, OSError]:
    """Find the jobs of launches that were killed, record how silent attempts ended, and tell of cells thus given up.

    Return, by signature, which cells cannot be read now, so that nobody knows how they ended: whoever trains one of
    them now, as it can be read a moment later, does so without knowing.

    Args:
        grid_dir: Folder of the grid.
        console: Prints what was found.
        is_typed: Whoever typed the command decides about these cells: no notice is sent.
        waits_s: After how many seconds to look again, and again, where cells cannot be read.

    Raises:
        SchedulerError: Slurm does not answer.
    """
    with commands.answers():
        for submission in settle(grid_dir):
            console.print(f"found job {submission.job_id}, of which sbatch told no number: {submission.name}")
        found, away = _record_ends(grid_dir)
        for wait_s in waits_s if away else ():
            clock.sleep(wait_s)
            more, away = _record_ends(grid_dir, away)
            found += more
            if not away:
                break
    for lost in found:
        console.print(f"{lost.cell}: {lost.failure.kind}: {lost.failure.message}", soft_wrap=True)
    given_up.tell_of_lost(grid_dir, found, console, is_typed=is_typed)
    return away


def _record_ends(grid_dir: Path, only: Collection[str] = ()) -> tuple[list[queue_state.Lost], dict[str, OSError]]:
    """Record how attempts and jobs ended; return also which cells could not be read, as may pass."""
    ended, unread = queue_state.record_lost(grid_dir, only)
    never, more = never_began.record(grid_dir, only)
    errors = {key: readable.passing([error]) for key, error in (unread | more).items()}
    return [*ended, *never], {key: error for key, error in errors.items() if error}


def settle(grid_dir: Path) -> list[submissions.Submission]:
    """Find the jobs of which sbatch told no number, give them their tasks, and withdraw what has no job.

    Hold the grid's lock; see `submissions.settle`.

    Raises:
        SlurmError: Slurm does not answer.
    """

    def give(launch_dir: Path, submission: submissions.Submission) -> None:
        from orchestration.on_slurm.batch import give_tasks

        give_tasks(launch_dir, submission)

    return [submission for _, submission in submissions.settle(grid_dir, give)]


def end(campaign: Campaign, target: Target, planned: Plan, console: Console) -> None:
    """Write table and report, then MLflow: that ends a campaign, even if MLflow fails."""
    loaded, grid_dir = target.loaded, target.grid_dir
    written = launch.finish(target.every, grid_dir, console)
    with harmless("the mirror in MLflow"):
        mirror = launch.mirror_of(loaded, grid_dir, launch_id=campaign.name)
        mirror.start()
        launch.end_mirror(loaded, target.every, grid_dir, mirror, written, console)
    notifier = Notifier.of(campaign.config(), grid_dir)
    notifier.tell(f"finished {campaign.name}", _outcome(planned, campaign, loaded), once=True, is_last_word=True)
    close(campaign, grid_dir)


def close(campaign: Campaign, grid_dir: Path, why: str = "") -> None:
    """Record that a campaign is closed and nobody has to do anything about it."""
    Ended(clock.now(), why).to_file(campaign.over(grid_dir))


def _refused(
    campaign: Campaign,
    loaded: Grid,
    grid_dir: Path,
    others: set[str],
    jobs: Mapping[str, QueuedJob],
    left: Mapping[str, policy.Left],
    unread: Mapping[str, str],
) -> tuple[dict[str, str], OverBudget]:
    """Return why cells are not submitted, by signature, and what the budget has to do with it."""
    refused = (
        {**unread}
        | policy.given_up(left, grid_dir, campaign.name)
        | dict.fromkeys(others, "a newer launch has it")
        | dict.fromkeys(_not_asked_for(campaign, loaded), "not asked for")
    )
    larger = {key: one.decision.larger for key, one in left.items()}
    over = over_budget(campaign, loaded, grid_dir, jobs, refused, larger)
    if over.cells and over.is_known:
        text = f"{campaign.grid_name}: {counted(len(over.cells), 'cell', 'is')} not tried again: {over.why}"
        Notifier.of(campaign.config(), grid_dir).tell(f"budget {campaign.name}", text, once=True, is_last_word=True)
    if over.estimated:
        text = f"{campaign.grid_name}: {over.estimated}"
        Notifier.of(campaign.config(), grid_dir).tell(f"estimated {campaign.name}", text, once=True)
    return {**refused, **over.unread, **dict.fromkeys(over.cells, over.why)}, over


def left_out(campaign: Campaign, loaded: Grid, grid_dir: Path, jobs: Mapping[str, QueuedJob]) -> set[str]:
    """Return the cells that a campaign does not submit: too late, without inputs, or not needed."""
    if campaign.until is None and not campaign.left_out and not any(one.table.adaptive for one in loaded.tables):
        return set()
    target = Target.of(
        loaded,
        grid_dir,
        workers_of(campaign),
        retried=campaign.retried,
        queued=in_words(jobs),
        until=campaign.until,
        left_out=campaign.left_out,
    )
    return {item.cell.signature for item in steps.plan_of(target).items if item.action is Action.LEAVE_OUT}


def _tell_of_left_out(campaign: Campaign, grid_dir: Path, planned: Plan) -> None:
    """Report once that cells are not submitted because they would end too late."""
    out = [item for item in planned.items if item.action is Action.LEAVE_OUT]
    left_out = sum(item.cell.signature not in campaign.left_out and not adaptive.waits(item) for item in out)
    if campaign.until is not None and left_out:
        what = f"{left_out} cells are left out, as they would not end by {in_words_of(campaign.until)}"
        text = f"{campaign.grid_name}: {what}; {hints.command('retry', grid_dir)} submits them all the same"
        Notifier.of(campaign.config(), grid_dir).tell(f"until {campaign.name}", text, once=True, is_last_word=True)


def _tell_of_unreadable(campaign: Campaign, grid_dir: Path, planned: Plan, unread: Mapping[str, str]) -> None:
    """Report once of each cell, together and once an hour at most, that nothing is done with it: it cannot be read."""
    found = {
        item.cell.signature: item
        for item in planned.items
        if item.action in (Action.UNREADABLE, Action.DAMAGED) or item.reason == unread.get(item.cell.signature)
    }
    notifier, cause = Notifier.of(campaign.config(), grid_dir), f"unreadable {campaign.name}"
    if found and (new := notifier.untold(cause, found)):
        first = min(new)
        more = f" and {counted(len(new) - 1, 'other')}" if new - {first} else ""
        what = f"nothing is done with {found[first].cell.folder_name}{more}: {found[first].reason}"
        notifier.tell(cause, f"{campaign.grid_name}: {what}", about=new)


def _not_asked_for(campaign: Campaign, loaded: Grid) -> set[str]:
    return {cell.signature for cell in loaded.cells} - {*campaign.retried} if campaign.retried else set()


def _submit(campaign: Campaign, target: Target, planned: Plan, console: Console) -> Submitted:
    grid_dir = target.grid_dir
    steps.show(target, planned, console)
    ready = steps.prepare(target, planned, console)
    policy.tell_of_outages(campaign.config(), grid_dir, campaign.name, console)
    jobs = placement.placed(steps.jobs_of(target, ready), campaign.config(), grid_dir, campaign.name)
    if harmed := snapshot.make_whole(Path(campaign.snapshot)):
        console.print(f"brought back into {campaign.snapshot}: {', '.join(harmed)}", soft_wrap=True)
    launch_dir = make_folders(target, ready.planned)
    try:
        campaign.write(launch_dir)
        submitted = submit(campaign, ready.planned, jobs, launch_dir)
    except (SchedulerError, OSError):
        with suppress(SlurmError):  # jobs that have begun wait for their tasks
            settle(grid_dir)
        submissions.remove_unused(launch_dir)  # the next controller makes another one, for days if sbatch refuses
        raise
    say_what(submitted, campaign, console)
    return submitted


def pilots_at_work(campaign: Campaign, grid_dir: Path) -> list[tuple[submissions.Submission, bool]]:
    """Return the pilots that a campaign's next one waits for, each with whether Slurm has its head.

    One that keeps a limit waits for all of the grid: nodes of one whose head is gone may train on.

    Raises:
        SlurmError: squeue does not answer.
    """
    name = "" if workers_of(campaign).are_alone else campaign.name
    return queue_state.pilots_at_work(grid_dir, launches_of(grid_dir, name)) if campaign.num_nodes else []


def _pilot_is_at_work(campaign: Campaign, grid_dir: Path) -> bool:
    """Return whether a pilot has not ended; nodes that wait for a head that has ended are cancelled."""
    with commands.answers():
        found = pilots_at_work(campaign, grid_dir)
        for pilot, has_head in found:
            if not has_head:
                commands.cancel_waiting(pilot.nodes_name)
    return bool(found)


def has_room(campaign: Campaign, num_due: int, queued: Mapping[str, QueuedJob], *, is_tried: bool) -> bool:
    """Return whether submitting is worthwhile: where this grid's own jobs fill the site, some have to end first.

    Untried cells wait until a quarter of the room is free, so that launches stay few.
    """
    if not queued:
        return True  # if the site is full, others fill it, and sbatch says so
    if workers_of(campaign).are_alone:
        return False
    busy = [*queued.values()]
    room = scheduler_of(site_of(campaign), workers_of(campaign), busy).room()
    if room is None:
        return True
    return room >= (1 if is_tried else max(1, min(num_due, (len(busy) + room) // 4)))


def _is_room_for(campaign: Campaign, planned: Plan, queued: Mapping[str, QueuedJob]) -> bool:
    is_tried = any(item.reason != "new" for item in planned.jobs)
    return has_room(campaign, len(planned.jobs), queued, is_tried=is_tried)


def _share_lanes(campaign: Campaign, queued: Mapping[str, QueuedJob]) -> None:
    """Let arrays start what others have left free of --max-concurrent."""
    if campaign.max_concurrent is None or campaign.num_nodes:
        return
    given = lanes(queued.values(), campaign.max_concurrent)
    with suppress(SlurmError):  # the next step does it
        for array in given.throttled:
            commands.throttle(array, given.of[array])


def _waits(jobs: Mapping[str, QueuedJob], endings: Sequence[ending.Ending], grid_dir: Path) -> Step:
    left = [job for job in jobs.values() if job.reason != WAITS_FOR_NODE]
    if len(left) < len(jobs):
        with commands.answers():
            left += queue_state.waiting_nodes(grid_dir) or jobs.values()
    still = all_still(left)
    return Step(
        presses=any(one.is_near for one in endings),
        is_quiet=all(job.is_waiting for job in jobs.values()),
        held=remedy(still) if still else "",
    )


def _goes_on(planned: Plan, others: set[str], held: set[str]) -> bool:
    """Return whether a cell may still finish without a submission now; true if it cannot be read for now."""
    goes_on = (Action.RUNNING, Action.UNREADABLE)
    return any(
        item.action in goes_on or (item.action is Action.GIVE_UP and item.cell.signature in held)
        for item in planned.items
        if item.cell.signature not in others
    )


def _print(line: str, console: Console) -> None:
    if line:
        announce.say(console, line)


def _outcome(planned: Plan, campaign: Campaign, loaded: Grid) -> str:
    """Report how many cells are done, and what happens to the others; cells of other launches may still finish."""
    left = [item for item in planned.items if item.action is not Action.KEEP]
    others = _not_asked_for(campaign, loaded)
    num_others = sum(item.action is Action.RUNNING or item.cell.signature in others for item in left)
    num_not_needed = sum(adaptive.waits(item) for item in left)
    num_left_out = sum(item.action is Action.LEAVE_OUT for item in left) - num_not_needed
    num_given_up = len(left) - num_others - num_left_out - num_not_needed
    return ", ".join(
        [
            f"{campaign.grid_name}: {len(planned.items) - len(left)} of {len(planned.items)} cells are done",
            *([f"{num_given_up} are given up"] if num_given_up else []),
            *([f"{num_left_out} are left out"] if num_left_out else []),
            *([f"{num_not_needed} are seeds that no pair needed"] if num_not_needed else []),
            *([f"{num_others} are left to other launches"] if num_others else []),
        ]
    )

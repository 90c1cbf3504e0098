"""The steps of every launch, from the plan to the submission: of a grid, of a campaign's step, of a search.

Look at the run folders (`plan_of`), say what would be done (`show`), refuse what does not fit (`refuse_limits`); so far
nothing is touched, and a dry run ends. Then look at the disk (`refuse_full_disk`) and the data and refuse what they
contradict (`prepare`), make the jobs (`jobs_of`), have the scheduler check them, make folders and open the mirror
(`commit`). What submits differs.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from orchestration.grids import inputs, launched
from orchestration.grids.grid import Grid
from orchestration.launching import added_seeds, elsewhere, plan_notes
from orchestration.launching.launch_folder import make_folders
from orchestration.launching.target import Target
from orchestration.machine import announce, answers, clock, own_files, provenance
from orchestration.machine.counts import counted
from orchestration.mirror.grid_mirror import GridMirror, mirrored_cells, tracking_uri
from orchestration.mirror.tracking import Launch, MirroredCell
from orchestration.planning import (
    adaptive,
    budget,
    costs,
    disk_space,
    enlarged,
    history,
    order,
    paces,
    plan,
    plan_answer,
    preflight,
    shares,
    until,
)
from orchestration.planning.history import Size
from orchestration.planning.plan import Item, Plan
from orchestration.runs import folder_states, hints, store
from orchestration.runs.folders import LaunchFolder, RunsFolder
from orchestration.runs.jobs import CellJob, Jobs, Scheduler
from orchestration.runs.run_folder import folders, run_folder
from orchestration.runs.states import CellState

Identities = Mapping[str, preflight.DataIdentity]
"""The identity of each cell's data, by signature; empty if nobody looked."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A plan that nothing stands in the way of."""

    planned: Plan
    identities: Identities = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Begun:
    """What a launch has made before its first job."""

    launch_dir: Path
    mirror: GridMirror
    mark: dict[str, str]
    """What the owner of its attempts must hold for MLflow."""


def plan_of(target: Target, identities: Identities | None = None) -> Plan:
    """Compare cells with their run folders, and leave out what would end too late; touch nothing."""
    loaded, found = target.loaded, launched.known_folders(target.loaded, target.grid_dir)
    states = folder_states.states(found)
    device = _device(target)
    measured = paces.measured(loaded.cells, states, found, device)
    open_cells = [key for key, state in states.items() if state.status is not CellState.DONE]
    awaited = elsewhere.awaited(target.grid_dir, open_cells) if target.loaded.shares_cells else {}
    num_steps = {cell.signature: costs.num_steps(cell.config) for cell in loaded.cells}
    pace = {cell.signature: costs.seconds_per_step(cell.config, device, measured) for cell in loaded.cells}
    rounds, needs = order.rounds_of(loaded.tables), added_seeds.of_target(target, states)
    planned = plan.make_plan(
        loaded.cells,
        states,
        num_steps=num_steps,
        seconds_per_step=pace,
        provenance={signature: identity.as_dict() for signature, identity in (identities or {}).items()},
        commit=provenance.commit(),
        max_concurrent=target.workers.max_concurrent or _num_concurrent(target),
        queued=target.queued,
        awaited=awaited,
        refused={**store.closed(found), **target.refused},
        retried=target.retried,
        uses_gpus=device == "cuda",
        larger={key: str(one) for key, one in target.larger.items()},
        grid=target.grid_dir.name,
        rounds=order.added_last(rounds, needs.ranks(_gpu_seconds(loaded, num_steps, pace))) if needs else rounds,
    )
    planned = plan.without(planned, target.left_out)
    if needs:
        others = [cell.signature for cell in loaded.cells if cell.signature not in target.retried]
        planned = plan.without(planned, needs.why_not(others))
    return planned if target.until is None else until.left_out(planned, target.until, clock.now())


def _gpu_seconds(loaded: Grid, num_steps: Mapping[str, int | None], pace: Mapping[str, float]) -> dict[str, float]:
    return {
        cell.signature: cell.config.execution.trainer.num_workers
        * (num_steps[cell.signature] or 1)
        * pace[cell.signature]
        for cell in loaded.cells
    }


def plan_within(target: Target, budget_gpu_hours: float | None, *, leaves_out: bool) -> tuple[Target, Plan]:
    """Plan; if what exceeds the budget is to be left out, return the target with that, too."""
    planned = plan_of(target)
    if budget_gpu_hours is None or not leaves_out:
        return target, planned
    over = budget.over(planned, budget_gpu_hours)
    return replace(target, left_out={**target.left_out, **over}), plan.without(planned, over)


def show(target: Target, planned: Plan, console: Console) -> None:
    """Print a plan, which part of a grid it covers, and how failed cells are retried."""
    of_tables = shares.lines(shares.of_tables(target.loaded.tables, planned), planned)
    _print([*plan.summary(planned), *of_tables, *plan_notes.of_plan(target, planned)], console)


def rehearse(
    target: Target,
    budget_gpu_hours: float | None,
    console: Console,
    *,
    as_json: bool = False,
    within_budget: bool = False,
) -> Plan:
    """Take all steps of a launch before it touches anything; this is a dry run.

    With `as_json` the plan is one JSON document on stdout.
    """
    target, planned = plan_within(target, budget_gpu_hours, leaves_out=within_budget)
    if as_json:
        answers.write(_answer(target, planned))
    else:
        show(target, planned, console)
        say_missing_inputs(target, console)
        _print([f"needed before launching: {line}" for line in disk_space.lacking(planned, target.runs)], console)
    refuse_limits(target, planned, budget_gpu_hours)
    _print(disk_space.warnings(planned, target.runs), console)
    return planned


def _answer(target: Target, planned: Plan) -> plan_answer.PlanAnswer:
    of_lists = (f"data: {line}" for line in preflight.notes_of_lists(target.loaded.cells))
    notes = [*plan_notes.of_plan(target, planned), *of_lists]
    end = None if target.until is None else plan_answer.Until(target.until, plan_notes.entries(target, planned))
    missing = inputs.missing_inputs_of(target.cells, target.loaded.cells) + disk_space.lacking(planned, target.runs)
    of_tables = shares.of_tables(target.loaded.tables, planned)
    return plan_answer.answer(planned, target.loaded.name, target.runs, of_tables, missing, notes, end)


def say_missing_inputs(target: Target, console: Console) -> None:
    """Print which missing inputs a launch would refuse, and what the split lists have in common."""
    missing = inputs.missing_inputs_of(target.cells, target.loaded.cells)
    _print([f"needed before launching: {line}" for line in missing], console)
    gone = [cell for cell in target.loaded.cells if target.left_out.get(cell.signature, "").startswith(inputs.ABSENT)]
    _print([f"not here, so left out: {line}" for line in inputs.missing_inputs_of(gone, target.loaded.cells)], console)
    _print(plan_notes.way_round(target, missing), console)
    _print([f"data: {line}" for line in preflight.notes_of_lists(target.loaded.cells)], console)


def refuse_limits(target: Target, planned: Plan, budget_gpu_hours: float | None) -> None:
    """Refuse a plan that exceeds the GPU-hour budget, or whose folders no group could share, by a ValueError."""
    own_files.check_group()
    _refuse_budget(planned, budget_gpu_hours)
    absent = [one for one in planned.items if target.left_out.get(one.cell.signature, "").startswith(inputs.ABSENT)]
    if absent and len(absent) == len(planned.items):
        lines = inputs.missing_inputs_of(target.loaded.cells)
        raise ValueError("\n".join(["--available must find the inputs of a cell here; it finds none:", *lines]))
    if target.until is not None and planned.num_unknown:
        raise ValueError(
            f"--until {until.in_words(target.until)} cannot be held: {counted(planned.num_unknown, 'cell')} cannot be "
            "estimated, as split lists are not here"
        )


def refuse_full_disk(target: Target, planned: Plan, console: Console) -> None:
    """Refuse cells that the disk cannot hold once they are done; warn if their checkpoints may not fit.

    Raises:
        ValueError: With what is needed and what there is.
    """
    if lacking := disk_space.lacking(planned, target.runs):
        raise ValueError(*lacking)
    _print(disk_space.warnings(planned, target.runs), console)


def refuse_more_than(planned: Plan, budget_gpu_hours: float | None) -> None:
    """Refuse a budget that the seeds which may be added later would exceed, where nobody would ask again.

    Raises:
        ValueError: With what is needed at most.
    """
    more = adaptive.more_gpu_hours(planned)
    if budget_gpu_hours is not None and more and planned.gpu_hours + more > budget_gpu_hours:
        raise ValueError(
            f"--budget-gpu-hours must be at least {plan.format_amount(planned.gpu_hours + more)} with --adaptive here, "
            f"the estimate of what is left with all seeds; got {budget_gpu_hours:g}"
        )


def prepare(target: Target, planned: Plan, console: Console, *, is_due: bool | None = None) -> Ready:
    """Look at the data of a plan, and plan again with their identity.

    Only cells that are to be trained need the data: if there are none, missing data are only reported.

    Args:
        target: What to launch.
        planned: Its plan by the run folders.
        console: Prints what is looked at.
        is_due: Whether anything is to be trained; by default, what the plan says.

    Raises:
        ValueError: They are missing or damaged, or have changed since cells were trained.
    """
    gone = inputs.missing_inputs_of(target.cells, target.loaded.cells)
    if gone and not (bool(planned.jobs) if is_due is None else is_due):
        words = "data: nothing is to be trained, so what is not there was not looked at:"
        _print([f"{words} {line}" for line in gone], console)
        return Ready(planned)
    if gone:
        raise ValueError("\n".join([*gone, *plan_notes.way_round(target, gone)]))
    identities = _look_at_data(target, console)
    planned = plan_of(target, identities)
    if planned.conflicts:
        raise ValueError("\n".join(planned.conflicts))
    return Ready(planned, identities)


def jobs_of(target: Target, ready: Ready) -> list[CellJob]:
    """Return the jobs of a plan for a scheduler."""
    own = folders(target.grid_dir)
    return [
        _job_of(
            target,
            item,
            own.get(item.cell.signature, run_folder(target.grid_dir, item.cell.folder_name)).path,
            ready.identities,
        )
        for item in ready.planned.jobs
    ]


def _job_of(target: Target, item: Item, cell_dir: Path, identities: Identities) -> CellJob:
    key, trainer, larger = (
        item.cell.signature,
        item.cell.config.execution.trainer,
        target.larger.get(item.cell.signature),
    )
    size = target.size_of(item)
    return CellJob(
        cell_dir=cell_dir,
        num_workers=trainer.num_workers,
        num_cpus_per_worker=target.workers.num_cpus_per_worker,
        device=trainer.device,
        estimate_s=item.estimate_s,
        gpu_memory_gb=costs.gpu_memory_gb(item.cell.config),
        mem_gb_per_worker=max(size.mem_gb_per_worker if size else 0.0, larger.mem_gb_per_worker if larger else 0.0),
        time_min=larger.time_min if larger else 0,
        limit_s=_limit_s(item, size) if size else None,
        more_workers=enlarged.more_workers(item.cell.config),
        larger=str(larger or ""),
        data=identities[key].as_dict() if identities else {},
    )


def _limit_s(item: Item, size: Size) -> float | None:
    """Return how long what is left of a cell may take at the pace of the slowest cell of its kind."""
    if item.estimate_s is None or not item.seconds_per_step:
        return None
    return size.limit_s(round(item.estimate_s / item.seconds_per_step))


def commit(
    target: Target,
    ready: Ready,
    jobs: Sequence[CellJob],
    scheduler: Scheduler[Jobs],
    uri: str,
    console: Console,
    *,
    note: Callable[[Path], None] = lambda _: None,
    added: Iterable[MirroredCell] | None = None,
) -> Begun:
    """Have the scheduler check the jobs, then make folders and open the mirror; submitting comes next.

    Args:
        target: What to launch.
        ready: Its plan.
        jobs: The jobs of the plan.
        scheduler: Refuses what it can never carry out, before anything is made.
        uri: URI of MLflow's store; empty: MLFLOW_TRACKING_URI, else SQLite in the runs folder.
        console: Warns of a store that does not answer.
        note: Records in the launch's folder how it was launched, before anything takes long.
        added: The cells of a launch that grows while it runs: this process alone mirrors them.

    Raises:
        ValueError: What the scheduler refuses; MLflow's experiment was deleted, or a driver is missing.
    """
    scheduler.check(jobs)
    launch_dir = make_folders(target, ready.planned)
    note(launch_dir)
    mirror, mark = begin_mirror(target, ready.planned.jobs, launch_dir, uri, console, added)
    return Begun(launch_dir, mirror, mark)


def begin_mirror(
    target: Target,
    items: Sequence[Item],
    launch_dir: Path,
    uri: str,
    console: Console,
    added: Iterable[MirroredCell] | None = None,
) -> tuple[GridMirror, dict[str, str]]:
    """Open MLflow for the cells that a launch starts; see `commit`."""
    folder = LaunchFolder(launch_dir)
    begun = Launch(folder.name, [path for path in (folder.grid_file, folder.plan_file) if path.exists()])
    found = launched.run_folders(target.loaded, target.grid_dir)
    cells_of_grid = mirrored_cells(target.loaded, found) if added is None else added
    mirror = GridMirror(tracking_uri(uri, target.runs), target.grid_dir, cells_of_grid, begun)
    with announce.doing(console, "opening MLflow"):
        mark = mirror.begin({item.cell.signature for item in items}, writes_all=added is not None)
    if mirror.warning:
        say_outdated(f"it did not answer: {mirror.warning}", target.grid_dir, console)
    return mirror, mark


def say_outdated(why: str, grid_dir: Path, console: Console) -> None:
    """Report that MLflow is missing something, and how to bring it up to date."""
    _print([f"MLflow is not up to date, {hints.command('sync', grid_dir)} writes what it lacks: {why}"], console)


def _look_at_data(target: Target, console: Console) -> Identities:
    with announce.doing(console, "checking the data") as update:
        identities = preflight.check(
            target.cells,
            RunsFolder(target.runs).checked_dir,
            lambda name, done, total: update(f"checking the data: {name}, {done} of {total} images"),
        )
    notes = dict.fromkeys(note for identity in identities.values() for note in identity.notes)
    _print([f"data: {note}" for note in notes], console)
    return identities


def _refuse_budget(planned: Plan, budget_gpu_hours: float | None) -> None:
    if budget_gpu_hours is not None and planned.num_unknown and planned.uses_gpus:
        raise ValueError(
            f"--budget-gpu-hours={budget_gpu_hours:g} cannot be held: {counted(planned.num_unknown, 'cell')} cannot be "
            "estimated, as split lists are not here"
        )
    if budget_gpu_hours is not None and planned.gpu_hours > budget_gpu_hours:
        raise ValueError(
            f"--budget-gpu-hours must be at least {plan.format_amount(planned.gpu_hours)}, the estimate of what is "
            f"left; got {budget_gpu_hours:g}"
        )


def _num_concurrent(target: Target) -> int:
    workers = target.workers
    if workers.cluster == "inline":
        return 1
    if workers.num_nodes:
        return workers.num_nodes * int(1 / workers.num_gpus_per_worker)
    if not workers.are_here:
        return len(target.loaded.cells)
    most = max(cell.config.execution.trainer.num_workers for cell in target.loaded.cells)
    at_once = len(os.sched_getaffinity(0)) // (most * workers.num_cpus_per_worker)
    if _device(target) == "cuda":
        at_once = min(at_once, int(len(provenance.gpus()) / (most * workers.num_gpus_per_worker)))
    return max(1, at_once)


def sized_by_history(target: Target) -> Target:
    """Return a target whose jobs ask for what finished cells of their kinds took, of all grids of its runs folder."""
    return replace(target, sizes=history.sizes(target.loaded.cells, RunsFolder(target.runs), _device(target)))


def _device(target: Target) -> str:
    asked = target.loaded.cells[0].config.execution.trainer.device
    if asked != "auto":
        return asked
    if not target.workers.are_here:
        return "cuda"
    return "cuda" if provenance.gpus() else "cpu"


def _print(lines: Sequence[str], console: Console) -> None:
    for line in lines:
        announce.say(console, line)

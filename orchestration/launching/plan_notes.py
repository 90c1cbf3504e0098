"""What a plan says besides its cells: which part of a grid it covers, what is left out, and what that leaves whole."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from orchestration.grids import inputs, launched, site_places
from orchestration.grids.cells import choices_of
from orchestration.launching import added_seeds, moved_inputs
from orchestration.launching.target import Target
from orchestration.machine import clock
from orchestration.machine.counts import counted
from orchestration.planning import adaptive, budget, history, plan, until
from orchestration.planning.plan import Plan
from orchestration.runs import hints

LOOK_STEPS = 200
"""Steps of a run that shows whether data of one's own can be learned, as docs/data.md recommends."""


def of_plan(target: Target, planned: Plan) -> list[str]:
    """Return what a plan says besides its cells: places, parts, what is left out, and what is done by a time."""
    num_failed = sum(item.reason.startswith("failed") and not item.to_do for item in planned.items)
    notes = [
        *site_places.lines(target.loaded.site, target.loaded.cells),
        launched.part_in_words(target.loaded, target.every),
        *_left_out_in_words(target, planned),
        *(adaptive.lines(needs, planned) if (needs := added_seeds.of_target(target)) else []),
        f"failed cells are retried by {hints.command('retry', target.grid_dir)}" if num_failed else "",
        *_few_steps(planned),
        *([] if target.sizes is None else history.notes([item.cell for item in planned.jobs], target.sizes)),
        *([] if target.until is None else until.lines(planned, entries(target, planned), target.until, clock.now())),
    ]
    return [*filter(None, notes)]


def _left_out_in_words(target: Target, planned: Plan) -> list[str]:
    """Say how many cells of each table are left out from the beginning, and which tables that leaves whole."""
    out = {item.cell.signature for item in planned.items if item.action is plan.Action.LEAVE_OUT}
    absent, over = (
        {name for name, why in target.left_out.items() if name in out and why.startswith(kind)}
        for kind in (inputs.ABSENT, budget.OVER)
    )
    retry = hints.command("retry", target.grid_dir)
    later = f"{retry} trains them once these are, as the next launch does; neither starts by itself"
    said = (
        [f"--available leaves out {_of_tables(target, absent)}, whose inputs are not here: {later}"] if absent else []
    )
    said += [f"--within-budget leaves out {_of_tables(target, over)}"] if over else []
    whole = [one.title for one in target.loaded.tables if not any(cell.signature in out for cell in one.cells)]
    if target.loaded.parts and out:
        said.append(
            f"complete with what is trained: {', '.join(whole) or 'none'}, of {len(target.loaded.parts)} tables"
        )
    return said


def _of_tables(target: Target, out: Collection[str]) -> str:
    counts = {one.title: sum(cell.signature in out for cell in one.cells) for one in target.loaded.tables}
    shares = ", ".join(f"{number} of {title}" for title, number in counts.items() if number)
    return f"{counted(len(out), 'cell')} ({shares})"


def _few_steps(planned: Plan) -> list[str]:
    """Warn of cells of data sets of one's own that train for too few steps to learn anything."""
    shipped = choices_of("dataset")
    few = [
        item.num_steps
        for item in planned.jobs
        if item.num_steps is not None
        and item.num_steps < LOOK_STEPS
        and item.cell.config.numerics.dataset.name not in shipped
    ]
    if not few:
        return []
    steps = f"{min(few)}" if min(few) == max(few) else f"{min(few)} to {max(few)}"
    return [
        f"warning: {counted(len(few), 'cell')} of {steps} steps: below {LOOK_STEPS} a model rarely learns more than "
        "the most frequent class, and a result takes 1,000 and more; trainer.epochs sets the number"
    ]


def entries(target: Target, planned: Plan) -> list[until.Entry]:
    """Return the entries of the tables with what is done by the time of the launch; none where it has no such time."""
    if target.until is None:
        return []
    left_s = target.until - clock.now()
    return [
        replace(entry, table=one.name)
        for one in target.loaded.tables
        for entry in until.entries(one.cells, planned, one.table.over, left_s)
    ]


def way_round(target: Target, missing: Sequence[str]) -> list[str]:
    """Say how to launch the part whose inputs are here, and what to type where they have moved, if some are missing."""
    num_here = len(target.cells) - len(inputs.absent(target.cells))
    part = [f"--available launches the {counted(num_here, 'cell')} whose inputs are here"]
    return [*(part if missing and num_here else ()), *moved_inputs.ways(missing, target.grid_dir)]

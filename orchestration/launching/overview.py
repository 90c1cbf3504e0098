"""The state of a grid and who resumes it, for a reader: nothing here submits, resumes or writes."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestration.grids import index
from orchestration.grids.index import IndexedCell
from orchestration.launching import (
    added_seeds,
    closed_launches,
    controller,
    due_steps,
    elsewhere,
    moved_inputs,
    waiting,
)
from orchestration.launching.status import CellStatus, Slurm, judge, to_lines, totals
from orchestration.on_slurm import commands, ending, placement, policy, standing_still, submissions
from orchestration.on_slurm.campaign_file import open_campaigns
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.queue_state import queued_cells, waiting_nodes
from orchestration.planning import adaptive
from orchestration.planning.plan import format_duration
from orchestration.runs import readable
from orchestration.runs.jobs import SchedulerError
from orchestration.runs.run_folder import RunFolder, folders, run_folder
from orchestration.runs.states import CellState


@dataclass(frozen=True, slots=True)
class Overview:
    """What `status` shows of a grid."""

    rows: list[CellStatus]
    lines: list[str]
    due: list[str]
    """Of each open campaign that has no controllers, what its next step is; some of the lines."""
    is_unclear: bool = False
    """Slurm did not answer, or launches are closed to this user: steps of open campaigns may be due but not named."""
    is_resumed: bool = False
    """A controller takes the next step of an open campaign, or a launch here that of the grid."""
    notes: list[str] = field(default_factory=list)
    """Who has to act next, what waits in vain, and what could not be asked; the last of the lines."""

    @property
    def is_open(self) -> bool:
        """Return whether a cell may still change without the user: also one that a controller may try again."""
        if self.is_resumed or self.is_unclear:
            return any(row.standing is not CellState.DONE for row in self.rows)
        return any(row.standing.is_open for row in self.rows)


def of_grid(grid_dir: Path) -> Overview:
    """Read run folders and launches, and ask Slurm if it has had jobs of the grid.

    Of a colleague's grid, whose launches are closed, only the run folders are read.
    """
    closed = closed_launches.note(grid_dir)
    slurm, silence = (Slurm({}, None, {}), [closed]) if closed else _ask(grid_dir)
    found, (cells, of_seeds) = folders(grid_dir), _needed_now(grid_dir)
    waits = {} if closed else _waits(grid_dir, found, slurm)
    rows = [
        judge(
            cell,
            found.get(cell.signature) or run_folder(grid_dir, cell.folder_name),
            slurm,
            waits.get(cell.signature, ""),
        )
        for cell in cells
    ]
    steps = _Steps(is_unclear=True) if closed else _who_goes_on(grid_dir, rows)
    still = standing_still.of_cells((slurm.queued or {}).values()) + _nodes_standing_still(grid_dir, slurm)
    stuck = map(str, ending.stuck(ending.of_jobs(grid_dir, slurm.queued or {})))
    moved = moved_inputs.ways((row.state.failure or "" for row in rows), grid_dir)
    said = [*still, *stuck, *of_seeds, *moved, *steps.notes, *silence]
    return Overview(rows, [*to_lines(rows), *totals(rows), *said], steps.due, steps.is_unclear, steps.is_resumed, said)


def _nodes_standing_still(grid_dir: Path, slurm: Slurm) -> list[str]:
    """Return why pilots whose heads run get no nodes."""
    if all(job.reason != standing_still.WAITS_FOR_NODE for job in (slurm.queued or {}).values()):
        return []
    with suppress(SlurmError):  # the states already say so
        return standing_still.of_cells(waiting_nodes(grid_dir), "pilot node")
    return []


def _needed_now(grid_dir: Path) -> tuple[list[IndexedCell], list[str]]:
    """Return the cells of a grid, and which pairs are not decided where seeds are added adaptively.

    The index says what no pair needed at the newest launch; cells that have ended since may say otherwise.
    """
    cells = index.read(grid_dir)
    try:
        needs = added_seeds.of_folder(grid_dir)
    except ValueError as error:
        return cells, [f"which seeds are needed is unknown: {error}"]
    if needs is None:
        return cells, []
    why = needs.why_not([cell.signature for cell in cells])
    cells = [
        replace(cell, left_out=why.get(cell.signature, "")) if cell.left_out.startswith(adaptive.WHY) else cell
        for cell in cells
    ]
    return cells, adaptive.in_words(needs)


def _waits(grid_dir: Path, found: Mapping[str, RunFolder], slurm: Slurm) -> dict[str, str]:
    """Return what cells wait for, by signature: a turn in a launch of this grid or of another, or their next try."""
    own = waiting.cells(grid_dir)
    is_done = readable.each({key: cell for key, cell in found.items() if key not in own}, RunFolder.has_result)
    idle = [key for key in is_done if not is_done[key] and found[key].name not in (slurm.queued or {})]
    others = elsewhere.awaited(grid_dir, idle)
    again = _before_next_try(grid_dir, {key: found[key] for key in idle if key not in others})
    return again | {key: f"for grid {name}: {why}" for key, (name, why) in others.items()} | own


def _before_next_try(grid_dir: Path, found: Mapping[str, RunFolder]) -> dict[str, str]:
    """Return how long cells wait before a controller tries them again; of the others, the next step is shown."""
    with suppress(ValueError):  # of a campaign that cannot be read: a note says it
        return {
            key: f"waits {format_duration(seconds)} before its next try"
            for key, seconds in policy.waiting_cells(grid_dir, found).items()
        }
    return {}


def _ask(grid_dir: Path) -> tuple[Slurm, list[str]]:
    """Return what Slurm says, and what could not be asked."""
    submitted = submissions.newest_jobs(grid_dir)
    if not submitted:
        return Slurm({}, {}, {}), []
    try:
        queued = queued_cells(grid_dir)
    except SlurmError as error:
        return Slurm(submitted, None, {}), [f"{error}; the states are those of the run folders alone"]
    gone = {name: run_folder(grid_dir, name) for name in submitted if name not in queued}
    is_done = readable.each(gone, RunFolder.has_result)
    unclear = [submitted[name] for name in gone if not is_done.get(name)]
    larger, heads = submissions.larger_cells(grid_dir), submissions.heads(grid_dir)
    return Slurm(submitted, queued, commands.ended(unclear), larger, heads, submissions.cancelled(grid_dir)), []


@dataclass(slots=True)
class _Steps:
    """Who takes the next step of each open launch; the fields are those of `Overview`."""

    notes: list[str] = field(default_factory=list)
    due: list[str] = field(default_factory=list)
    is_unclear: bool = False
    is_resumed: bool = False


def _who_goes_on(grid_dir: Path, rows: list[CellStatus]) -> _Steps:
    """Look at each open launch, and write lines about those that the user has to resume."""
    found = _Steps(is_resumed=waiting.lives(grid_dir))
    tried = {row.cell.signature for row in rows if row.state.num_attempts > 1 or row.state.failure_class}
    failed = {folder.path.name for key, folder in folders(grid_dir).items() if key in tried} if tried else set()
    for launch_dir, campaign in open_campaigns(grid_dir).items():
        if failed:
            found.notes += placement.evidence(grid_dir, campaign.name, failed)
        try:
            if campaign.config().controller:
                queue = submissions.queue(grid_dir)
                found.notes += controller.standing(campaign, launch_dir, queue)
                found.is_resumed |= controller.will_act(campaign, launch_dir, queue)
            else:
                found.due.append(due_steps.of_campaign(campaign, launch_dir, rows))
        except SlurmError:
            found.is_unclear = True  # the states already say so
        except (SchedulerError, ValueError) as error:
            found.is_unclear |= isinstance(error, SchedulerError)  # Slurm answered before, and may the next time
            found.notes.append(f"what launch {campaign.name} does next is unknown: {error}")
    others = [*due_steps.of_ended_launch(grid_dir, rows), *due_steps.of_left_out(grid_dir, rows)]
    found.notes += [*found.due, *others]
    return found

"""A search: a launch whose points are drawn while it runs, and whose end is a list of the best settings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestration.grids import grid, index, site_places
from orchestration.grids.cells import Cell
from orchestration.grids.launched import run_folders
from orchestration.grids.values import Value
from orchestration.launching import launch, steps
from orchestration.launching.launch_folder import only_launch_of
from orchestration.launching.options import Wanted, Workers
from orchestration.launching.steps import Begun, Ready
from orchestration.launching.target import Target
from orchestration.machine import announce, files, own_files
from orchestration.machine.counts import counted
from orchestration.mirror.tracking import MirroredCell
from orchestration.on_ray.scheduler import RayTuneScheduler
from orchestration.planning import plan
from orchestration.planning.plan import Item, Plan
from orchestration.runs.folders import GridFolder
from orchestration.runs.jobs import CellJob, FollowedJobs
from orchestration.runs.run_folder import folders
from orchestration.search import spaces, study
from orchestration.search.spaces import Search
from orchestration.tables import search_table
from orchestration.tables.search_table import OUTPERFORMED, SETTLED, Point
from rankmatch.durable import make_folder

CLUSTERS = ("local", "ray")
JOB = "search"
"""What stands for the search as a whole among the jobs."""


def tune(wanted: Wanted, workers: Workers, console: Console, *, address: str = "", uri: str = "") -> int:
    """Run a search to its end; return the exit code: 0 all points settled, 1 some failed, 130 stopped.

    Raises:
        ValueError: Something that the user can fix, before any training.
    """
    _refuse_cluster(workers.cluster)
    own_files.check_group()
    announce.begin(console, f"reading the search {wanted.grid}")
    loaded = spaces.load(wanted.grid, wanted.overrides, wanted.runs, wanted.places)
    grid_dir = wanted.runs.resolve() / loaded.name
    _refuse_other_grids(grid_dir)
    make_folder(grid_dir)
    with only_launch_of(grid_dir):
        known = _Known.of(loaded, grid_dir, workers)
        planned = steps.plan_of(known.target)
        _show(known, planned, console)
        is_due = known.is_due(planned)
        ready = steps.prepare(known.target, planned, console, is_due=is_due)
        scheduler = RayTuneScheduler(
            max_concurrent=workers.max_concurrent, num_gpus_per_worker=workers.num_gpus_per_worker, address=address
        )
        jobs = known.jobs(ready) if is_due else []
        of_points = replace(ready, planned=known.of_points(ready.planned))
        begun = steps.commit(known.drawn, of_points, jobs, scheduler, uri, console, added=_Mirrored(grid_dir))
        return _train(known, ready.planned, begun, partial(scheduler.search, jobs, begun.launch_dir), jobs, console)


def dry_run(wanted: Wanted, workers: Workers, console: Console) -> int:
    """Print what a search would do; touch nothing.

    Raises:
        ValueError: The search cannot be read.
    """
    _refuse_cluster(workers.cluster)
    own_files.check_group()
    loaded = spaces.load(wanted.grid, wanted.overrides, wanted.runs, wanted.places)
    known = _Known.of(loaded, wanted.runs.resolve() / loaded.name, workers)
    _show(known, steps.plan_of(known.target), console)
    steps.say_missing_inputs(replace(known.target, loaded=spaces.as_grid(loaded, [loaded.base])), console)
    return 0


def _refuse_cluster(name: str) -> None:
    if name not in CLUSTERS:
        raise ValueError(f"--cluster must be {' or '.join(CLUSTERS)} for a search; got {name!r}")


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a search besides the plan: the points that have run folders."""

    loaded: Search
    target: Target
    """The cells of the points, and the one that stands for a new point."""
    drawn: Target
    """Those of the points alone, in the order of their draws."""
    points: list[Point]

    @classmethod
    def of(cls, loaded: Search, grid_dir: Path, workers: Workers) -> "_Known":
        """Read what is known."""
        found, cells = folders(grid_dir), spaces.cells_of(loaded, grid_dir)
        points = [spaces.point_of(cell, found[cell.signature]) for cell in cells]
        behind = {
            cell.signature: "stopped: others were ahead"
            for cell, point in zip(cells, points, strict=True)
            if point.status == OUTPERFORMED
        }
        every = {cell.signature: cell for cell in [*cells, loaded.base]}
        target = Target.of(spaces.as_grid(loaded, [*every.values()]), grid_dir, workers, refused=behind)
        return cls(loaded, target, replace(target, loaded=spaces.as_grid(loaded, cells)), points)

    def of_points(self, planned: Plan) -> Plan:
        """Return the plan of the points, in the order of their draws."""
        items = {item.cell.signature: item for item in planned.items}
        return replace(planned, items=[items[cell.signature] for cell in self.drawn.loaded.cells])

    def of_new(self, planned: Plan) -> Item:
        """Return a placeholder for a new point."""
        return next(item for item in planned.items if item.cell.signature == self.loaded.base.signature)

    def is_due(self, planned: Plan) -> bool:
        """Return whether anything is to be trained."""
        return len(self.points) < self.loaded.settings.num_samples or bool(self.of_points(planned).jobs)

    def jobs(self, ready: Ready) -> list[CellJob]:
        """Return the job that stands for the search, then those of the points to resume."""
        new = replace(ready.planned, items=[replace(self.of_new(ready.planned), action=plan.Action.SUBMIT)])
        (one,) = steps.jobs_of(self.target, replace(ready, planned=new))
        of_points = replace(ready, planned=self.of_points(ready.planned))
        return [
            replace(one, cell_dir=GridFolder(self.target.grid_dir).cell(JOB).path),
            *steps.jobs_of(self.drawn, of_points),
        ]


def _show(known: _Known, planned: Plan, console: Console) -> None:
    loaded, of_points, new = known.loaded, known.of_points(planned), known.of_new(planned)
    settings, left_s = loaded.settings, sum(item.estimate_s or 0.0 for item in of_points.jobs)
    num_new = max(0, settings.num_samples - len(known.points))
    whole_s = (new.seconds_per_step or 0.0) * (new.num_steps or 0)
    at_once, num_others = planned.max_concurrent, len(folders(known.target.grid_dir)) - len(known.points)
    lines = [
        *site_places.lines(loaded.site, [loaded.base]),
        *(f"{key}: {_space(space)}" for key, space in loaded.spaces.items()),
        f"{search_table.summary(known.points, settings.num_samples)}; {len(of_points.jobs)} to resume",
        *([f"{counted(num_others, 'run folder')} of other settings left out"] if num_others else []),
        f"scored on {100 * settings.held_out:g} % of the {settings.held_out_from} images, which are not trained on",
        f"ASHA: every point is trained {settings.grace_epochs} of {loaded.epochs} epochs, one in "
        f"{settings.reduction_factor:g} continues past each rung",
        _estimate((left_s + num_new * whole_s) / at_once, at_once, whole_s, is_known=new.num_steps is not None),
    ]
    announce.say(console, "\n".join(lines))


def _estimate(at_most_s: float, at_once: int, whole_s: float, *, is_known: bool) -> str:
    if not is_known:
        return "rough estimate: not known, as the split lists are not here"
    return (
        f"rough estimate: at most {plan.format_duration(at_most_s)} with {at_once} at a time, "
        f"{plan.format_duration(whole_s)} for a point that is not stopped"
    )


def _space(space: spaces.Space) -> str:
    if isinstance(space, spaces.Choices):
        return ", ".join(map(str, space.values))
    return f"{space.low:g} to {space.high:g}" + (", by its logarithm" if space.log else "")


def _refuse_other_grids(grid_dir: Path) -> None:
    """Refuse the folder of a grid that has the same name."""
    path = GridFolder(grid_dir).grid_file
    if path.exists() and not grid.is_search(path):
        raise ValueError(f"{grid_dir} must be free, or hold a search; it holds the grid of that name")


def _train(
    known: _Known,
    planned: Plan,
    begun: Begun,
    begin: Callable[[Mapping[str, Any]], FollowedJobs],
    jobs: Sequence[CellJob],
    console: Console,
) -> int:
    """Draw and train points, and write table, report and mirror however that ends."""
    loaded, grid_dir = known.loaded, known.target.grid_dir
    begun.mirror.start()
    stopped = False
    try:
        if jobs:
            items = _Items(loaded, grid_dir, known.of_new(planned))
            stopped = launch.work(begin, items, planned.max_concurrent, begun.launch_dir, begun.mark, console)
    finally:
        now = spaces.as_grid(loaded, spaces.cells_of(loaded, grid_dir))
        written = finish(loaded, grid_dir, console)
        launch.end_mirror(now, now, grid_dir, begun.mirror, [written], console)
    return _ended(loaded, grid_dir, stopped=stopped, console=console)


def _ended(loaded: Search, grid_dir: Path, *, stopped: bool, console: Console) -> int:
    points = [point for _, point in _history(loaded, grid_dir)]
    if stopped:
        console.print("Stopped. The same command resumes from the newest checkpoints.")
        return 130
    if len(points) < loaded.settings.num_samples:
        console.print("The spaces hold no more points that differ.")
    return 0 if all(point.status in SETTLED and point.status != search_table.FAILED for point in points) else 1


@dataclass(frozen=True, slots=True)
class _Mirrored:
    """The points of a search for MLflow, as many as there are by now."""

    grid_dir: Path

    def __iter__(self) -> Iterator[MirroredCell]:
        found = folders(self.grid_dir)
        for cell in index.read(self.grid_dir):
            if folder := found.get(cell.signature):
                yield MirroredCell(folder, folder.axes(), cell.signature)


class _Items:
    """The points of a search for the display, as many as there are by now."""

    def __init__(self, loaded: Search, grid_dir: Path, base: Item) -> None:
        self._loaded, self._grid_dir, self._base = loaded, grid_dir, base
        self._cells: dict[str, Cell] = {}

    def __call__(self) -> list[Item]:
        names = {cell.signature for cell in index.read(self._grid_dir)}
        if names - set(self._cells):
            self._cells = {cell.signature: cell for cell in spaces.cells_of(self._loaded, self._grid_dir)}
        whole_s = (self._base.seconds_per_step or 0.0) * (self._base.num_steps or 0)
        return [replace(self._base, cell=cell, estimate_s=whole_s) for cell in self._cells.values()]


def finish(loaded: Search, grid_dir: Path, console: Console) -> Path:
    """Print the best points and the importance of each setting, and write both; return the report."""
    history = _history(loaded, grid_dir)
    points, importance = [point for _, point in history], study.importance(loaded, history)
    note = search_table.warning(loaded.settings.held_out, loaded.settings.held_out_from)
    said = (points, loaded.settings.num_samples, loaded.epochs, note, importance)
    console.print()
    search_table.show(*said, console)
    path = GridFolder(grid_dir).report_file
    files.replace(path, search_table.to_markdown(loaded.name, *said))
    return path


def _history(loaded: Search, grid_dir: Path) -> list[tuple[dict[str, Value], Point]]:
    cells = spaces.cells_of(loaded, grid_dir)
    found = run_folders(spaces.as_grid(loaded, cells), grid_dir)
    return [(loaded.values(cell), spaces.point_of(cell, found[cell.signature])) for cell in cells]

"""A search: like a launch, but of points that are drawn as it goes on, and ended by what the best settings are."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from orchestration import announce, files, grid, index, launch, plan, search, study
from orchestration.cells import Cell
from orchestration.launch_folder import make_folders, only_launch_of, run_folders
from orchestration.launch_plan import Options, make_plan, refuse_conflicts, say_missing_inputs
from orchestration.mirror.tracking import MirroredCell
from orchestration.plan import Item, Plan
from orchestration.preflight import DataIdentity
from orchestration.results.report import REPORT
from orchestration.run_folder import folders
from orchestration.schedulers import CellJob
from orchestration.schedulers.ray_tune import RayTuneScheduler
from orchestration.search import Search
from orchestration.tables import search_table
from orchestration.tables.search_table import OUTPERFORMED, SETTLED, Point
from orchestration.values import Value

CLUSTERS = ("local", "ray")
JOB = "search"
"""What stands for the search as a whole among the jobs."""


def tune(options: Options, console: Console) -> int:
    """Bring a search to its end; return the exit code: 0 all points settled, 1 some failed, 130 stopped.

    Raises:
        ValueError: Something the user can mend, before any training.
    """
    if options.cluster not in CLUSTERS:
        raise ValueError(f"--cluster must be {' or '.join(CLUSTERS)} for a search; got {options.cluster!r}")
    if not options.dry_run:
        announce.begin(console, f"reading the search {options.grid}")
    loaded = search.load(options.grid, options.overrides, options.runs)
    grid_dir = options.runs.resolve() / loaded.name
    if options.dry_run:
        _show(loaded, _Plan.of(loaded, grid_dir, options), grid_dir, console)
        say_missing_inputs(search.as_grid(loaded, [loaded.base]), console)
        return 0
    _refuse_other_grids(grid_dir)
    grid_dir.mkdir(parents=True, exist_ok=True)
    with only_launch_of(grid_dir):
        return _commit(loaded, grid_dir, options, console)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is known of a search, and what a point takes."""

    points: list[Point]
    planned: Plan
    """Of the points that have run folders."""
    base: Item
    """Stands for a new point."""

    @classmethod
    def of(
        cls, loaded: Search, grid_dir: Path, options: Options, identities: Mapping[str, DataIdentity] | None = None
    ) -> "_Plan":
        found, base = folders(grid_dir), loaded.base
        known = search.cells_of(loaded, grid_dir)
        points = [search.point_of(cell, found[cell.signature]) for cell in known]
        every = {cell.signature: cell for cell in [*known, base]}
        behind = {
            cell.signature: "stopped: others were ahead"
            for cell, point in zip(known, points, strict=True)
            if point.status == OUTPERFORMED
        }
        planned = make_plan(search.as_grid(loaded, list(every.values())), grid_dir, options, identities, refused=behind)
        items = {item.cell.signature: item for item in planned.items}
        of_known = [items[cell.signature] for cell in known]  # in the order of their draws
        return cls(points, replace(planned, items=of_known), items[base.signature])


def _show(loaded: Search, known: _Plan, grid_dir: Path, console: Console) -> None:
    settings, left_s = loaded.settings, sum(item.estimate_s or 0.0 for item in known.planned.jobs)
    num_new = max(0, settings.num_samples - len(known.points))
    whole_s = (known.base.seconds_per_step or 0.0) * (known.base.num_steps or 0)
    at_once, num_others = known.planned.max_concurrent, len(folders(grid_dir)) - len(known.points)
    lines = [
        *(f"{key}: {_space(space)}" for key, space in loaded.spaces.items()),
        f"{search_table.summary(known.points, settings.num_samples)}; {len(known.planned.jobs)} to go on with",
        *([f"{num_others} run folders of other settings are left out"] if num_others else []),
        f"scored on {100 * settings.held_out:g} % of the {settings.held_out_from} images, which are not trained on",
        f"ASHA: every point is trained {settings.grace_epochs} of {loaded.epochs} epochs, one in "
        f"{settings.reduction_factor:g} goes on past each rung",
        _estimate((left_s + num_new * whole_s) / at_once, at_once, whole_s, is_known=known.base.num_steps is not None),
        *(f"conflict: {text}" for text in known.planned.conflicts),
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _estimate(at_most_s: float, at_once: int, whole_s: float, *, is_known: bool) -> str:
    if not is_known:
        return "rough estimate: not known, as the split lists are not here"
    return (
        f"rough estimate: at most {plan.format_duration(at_most_s)} with {at_once} at a time, "
        f"{plan.format_duration(whole_s)} for a point that is not stopped"
    )


def _space(space: search.Space) -> str:
    if isinstance(space, search.Choices):
        return ", ".join(map(str, space.values))
    return f"{space.low:g} to {space.high:g}" + (", by its logarithm" if space.log else "")


def _refuse_other_grids(grid_dir: Path) -> None:
    """Refuse the folder of a grid that has the same name."""
    path = grid_dir / search.FILE
    if path.exists() and not grid.is_search(path):
        raise ValueError(f"{grid_dir} must be free, or hold a search; it holds the grid of that name")


def _commit(loaded: Search, grid_dir: Path, options: Options, console: Console) -> int:
    cells = {cell.signature: cell for cell in [*search.cells_of(loaded, grid_dir), loaded.base]}
    identities = launch.look_at_data(search.as_grid(loaded, list(cells.values())), options, console)
    known = _Plan.of(loaded, grid_dir, options, identities)
    refuse_conflicts(known.planned)
    _show(loaded, known, grid_dir, console)
    jobs = _jobs(loaded, known, grid_dir, identities, options)
    scheduler = RayTuneScheduler(
        max_concurrent=options.max_concurrent,
        num_gpus_per_worker=options.num_gpus_per_worker,
        address=options.address,
    )
    scheduler.check(jobs)
    begun = search.as_grid(loaded, [item.cell for item in known.planned.items])
    launch_dir = make_folders(begun, grid_dir, known.planned)
    mirror, mark = launch.begin_mirror(
        begun, grid_dir, known.planned, launch_dir, options, console, _Mirrored(grid_dir)
    )
    mirror.start()
    is_due = len(jobs) > 1 or len(known.points) < loaded.settings.num_samples
    stopped = False
    try:
        stopped = is_due and launch.work(
            partial(scheduler.search, jobs, launch_dir),
            _Items(loaded, grid_dir, known.base),
            known.planned.max_concurrent,
            launch_dir,
            mark,
            console,
        )
    finally:
        cells_now = search.cells_of(loaded, grid_dir)
        written = finish(loaded, grid_dir, console)
        launch.end_mirror(search.as_grid(loaded, cells_now), grid_dir, mirror, [written], console)
    return _ended(loaded, grid_dir, stopped=stopped, console=console)


def _jobs(
    loaded: Search, known: _Plan, grid_dir: Path, identities: Mapping[str, DataIdentity], options: Options
) -> list[CellJob]:
    """Return what stands for the search, then the points to go on with."""
    base = replace(known.planned, items=[replace(known.base, action=plan.Action.SUBMIT)])
    of_base = launch.cell_jobs(base, search.as_grid(loaded, [known.base.cell]), grid_dir, identities, options)
    due = search.as_grid(loaded, [item.cell for item in known.planned.items])
    whole = replace(of_base[0], cell_dir=of_base[0].cell_dir.with_name(JOB))
    return [whole, *launch.cell_jobs(known.planned, due, grid_dir, identities, options)]


def _ended(loaded: Search, grid_dir: Path, *, stopped: bool, console: Console) -> int:
    points = [point for _, point in _history(loaded, grid_dir)]
    if stopped:
        console.print("Stopped. The same command goes on from the newest checkpoints.")
        return 130
    if len(points) < loaded.settings.num_samples:
        console.print("The spaces hold no more points that differ.")
    return 0 if all(point.status in SETTLED and point.status != search_table.FAILED for point in points) else 1


@dataclass(frozen=True, slots=True)
class _Mirrored:
    """The points of a search as MLflow shows them, as many as there are by now."""

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
            self._cells = {cell.signature: cell for cell in search.cells_of(self._loaded, self._grid_dir)}
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
    files.replace(grid_dir / REPORT, search_table.to_markdown(loaded.name, *said))
    return grid_dir / REPORT


def _history(loaded: Search, grid_dir: Path) -> list[tuple[dict[str, Value], Point]]:
    cells = search.cells_of(loaded, grid_dir)
    found = run_folders(search.as_grid(loaded, cells), grid_dir)
    return [(loaded.values(cell), search.point_of(cell, found[cell.signature])) for cell in cells]

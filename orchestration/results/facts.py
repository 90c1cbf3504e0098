"""The facts of a methods section in words: settings of finished runs, and the resources they used."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.grids.cells import Cell
from orchestration.planning import costs
from orchestration.results import presets
from orchestration.results.run_table import collect
from orchestration.results.wording import BACKBONES, MAX_VALUES, counted, listed, worded
from orchestration.runs import made_with, origin, steps_left_out
from orchestration.runs.run_folder import RunFolder, folders
from orchestration.tables.consistency import BETWEEN
from rankmatch.config import NumericsConfig
from rankmatch.methods import METHODS

UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run."""

    axes: Mapping[str, str]
    numerics: NumericsConfig
    record: Mapping[str, Any]
    """Its row in `run_table`."""
    provenance: Mapping[str, Any]
    num_labels: int | None = None
    """How many images of its split are labeled, if the lists are here or published."""


def finished_runs(grid_dir: Path, cells: Sequence[Cell]) -> list[Run]:
    """Return the finished runs among a grid's cells, in grid order."""
    found, records = folders(grid_dir), collect(grid_dir, cells).to_pylist()
    return [
        Run(cell.axes, cell.config.numerics, record, _provenance(found[cell.signature]), num_labels(cell))
        for cell, record in zip(cells, records, strict=True)
        if record["status"] == "done"
    ]


def _provenance(folder: RunFolder) -> Mapping[str, Any]:
    return origin.known(folder, folder.state().provenance)


def num_labels(cell: Cell) -> int | None:
    """Return how many images of a cell's split are labeled; None if its lists cannot be read and are not published."""
    try:
        size = costs.split_size(cell.config)
    except (ValueError, OSError):  # a run that has ended is described whatever became of its lists
        return None
    return size.num_labeled if size else None


def settings(runs: Sequence[Run], begun: Sequence[Run] | None = None) -> dict[str, str]:
    """Return the settings of the runs by name; if rows differ, each value with its rows.

    Args:
        runs: The runs to describe.
        begun: Those of them whose number of steps is known; None: all.
    """
    told: dict[str, tuple[Callable[[NumericsConfig], str], str]] = {
        "network": (lambda one: f"DeepLabV3+ on {backbone(one)}", "backbone"),
        "backbone starts from": (_start, ""),
        "data set": (lambda one: f"{one.dataset.name} ({one.dataset.num_classes} classes)", "dataset"),
        "split": (lambda one: one.split, "split"),
        "method": (lambda one: METHODS[one.method.name].title, "method"),
        "optimizer": (optimizer, ""),
        "schedule": (lambda one: f"polynomial, power {one.trainer.poly_power:g}", ""),
        "learning rate of the backbone": (lambda one: rate(one), "trainer.learning_rate"),
        "learning rate of other layers": (lambda one: rate(one, one.trainer.head_lr_multiplier), ""),
        "crop": (crop, "augment.crop_size"),
        "images a step": (batch, ""),
        "epochs": (lambda one: str(one.trainer.epochs), "trainer.epochs"),
    }
    found = {name: by_rows(runs, of, own) for name, (of, own) in told.items()}
    known = {"steps": steps(begun)} if (begun := runs if begun is None else begun) else {}
    missed = {f"left out ({steps_left_out.SETTING}=leave_out)": words} if (words := left_out(begun)) else {}
    return found | known | missed | {"seeds": seeds(runs)}


def totals(runs: Sequence[Run]) -> dict[str, str]:
    """Return the resources that the runs used, by name."""
    gpu, wall = summed(runs, "gpu_duration_s"), summed(runs, "duration_s")
    return {
        "runs": str(len(runs)),
        "hours": UNKNOWN if wall is None else hours(wall),
        "GPU-hours": UNKNOWN if gpu is None else hours(gpu),
        "hardware": by_records(runs, hardware_of) or UNKNOWN,
    }


def by_rows(runs: Sequence[Run], of: Callable[[NumericsConfig], str], own: str = "") -> str:
    """Word a setting of the runs; see `wording.worded`."""
    return worded([run.axes for run in runs], [of(run.numerics) for run in runs], own)


def by_records(runs: Sequence[Run], of: Callable[[Run], str]) -> str:
    """Word a value from the runs' records; see `wording.worded`."""
    return worded([run.axes for run in runs], [of(run) for run in runs])


def backbone(numerics: NumericsConfig) -> str:
    """Name the backbone, with its output stride, and its width if that is not 1."""
    chosen = numerics.backbone
    width = "" if chosen.width == 1 else f"width {chosen.width:g}, "
    return f"{BACKBONES[chosen.name]} ({width}output stride {chosen.output_stride})"


def optimizer(numerics: NumericsConfig) -> str:
    """Name the optimizer and its settings."""
    return f"SGD with momentum {numerics.trainer.momentum:g} and weight decay {numerics.trainer.weight_decay:g}"


def rate(numerics: NumericsConfig, factor: float = 1.0) -> str:
    """Return the initial learning rate, after scaling to the batch."""
    return f"{factor * numerics.trainer.scaled_rate:.6g}"


def crop(numerics: NumericsConfig) -> str:
    """Word the size of a crop."""
    return f"{numerics.augment.crop_size} × {numerics.augment.crop_size} pixels"


def batch(numerics: NumericsConfig) -> str:
    """Word the images of a step."""
    labeled, unlabeled = numerics.trainer.labeled_batch_size, numerics.trainer.unlabeled_batch_size
    if not METHODS[numerics.method.name].sees_unlabeled:
        return counted(labeled, "labeled image")
    return f"{labeled} labeled and {counted(unlabeled, 'unlabeled image')}"


def agents(numerics: NumericsConfig) -> str:
    """Word the number of agents, which says nothing where every pixel of the features is one."""
    return "all pixels as agents" if numerics.method.selection == "all" else f"{numerics.method.num_agents} agents"


def presets_of(runs: Sequence[Run]) -> str:
    """Word the nearest preset of the runs, with the fields that differ from it."""
    return worded([run.axes for run in runs], presets.in_words([run.numerics for run in runs]), "preset")


def steps(runs: Sequence[Run]) -> str:
    """Word the steps of a run."""
    return by_records(runs, lambda run: counted(run.record["num_steps"], "step"))


def left_out(runs: Sequence[Run]) -> str:
    """Word how many steps the runs left out as not finite; empty if none of them would leave out any."""
    if all(run.numerics.trainer.when_not_finite == "stop" for run in runs):
        return ""
    return by_records(runs, _left_out_of)


def _left_out_of(run: Run) -> str:
    missed = len(run.record.get(steps_left_out.NAME) or ())
    return f"{missed:,} of {counted(run.record['num_steps'], 'step')}" if missed else "no step"


def seeds(runs: Sequence[Run]) -> str:
    """Word the seeds with which each setting was trained."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in runs:
        point = tuple((axis, value) for axis, value in run.axes.items() if axis != "seed")
        groups.setdefault(point, []).append(str(run.numerics.seed))
    return worded([dict(point) for point in groups], [_random_seeds(found) for found in groups.values()])


def hardware_of(run: Run) -> str:
    """Name the devices of a run; empty if not recorded."""
    devices = listed(made_with.values(run.provenance, "device"), "and then")
    number = run.provenance.get("num_gpus")
    if not devices or number is None:
        return devices
    return f"{devices}, {counted(number, 'GPU')} a run" if number else f"{devices}, without a GPU"


def code_of(run: Run) -> str:
    """Name the commit of a run, and uncommitted changes if any; empty if no commit is known."""
    commits = [code for code in (run.record["code"] or "").split(BETWEEN) if code]
    changed = [f"{one.partition('+')[0][:12]}{' with uncommitted changes' if '+' in one else ''}" for one in commits]
    return listed(list(dict.fromkeys(changed)), "and then")


def imported(runs: Sequence[Run]) -> list[str]:
    """Say of each place from which runs were imported how many, one line each."""
    places = Counter(str(run.provenance[origin.NAME]) for run in runs if origin.NAME in run.provenance)
    return [f"{counted(num, 'run')} imported from {place}" for place, num in places.items()]


def hours(seconds: float) -> str:
    """Format a duration in hours, with at least two significant digits."""
    value = seconds / 3600
    if 0 < value < 0.001:
        return "<0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Format a duration in a suitable unit."""
    if seconds >= 7200:
        return f"{hours(seconds)} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def _random_seeds(found: Sequence[str]) -> str:
    if len(found) > MAX_VALUES:
        return f"{len(found)} random seeds"
    return f"the random seed{'s' if len(found) > 1 else ''} {listed(found)}"


def _start(numerics: NumericsConfig) -> str:
    return "pretrained weights" if numerics.backbone.pretrained else "random weights"


def summed(runs: Sequence[Run], name: str) -> float | None:
    """Add up a field of the records; None if one of them lacks it."""
    values = [run.record[name] for run in runs]
    return None if any(value is None for value in values) else sum(values)

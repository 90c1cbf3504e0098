"""Use a trained model: score it on a validation list, or run it over images."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from orchestration.grids.cells import changed, compose_untrained, from_yaml
from orchestration.grids.values import read_settings
from orchestration.machine import files
from orchestration.runs.folder_above import cell_above
from rankmatch.config import TrainConfig
from rankmatch.run_files import STATE

if TYPE_CHECKING:
    import torch

    from rankmatch.evaluation import Evaluation
    from rankmatch.models import DeepLabV3Plus


@dataclass(frozen=True, slots=True)
class Source:
    """The model to use."""

    checkpoint: Path
    """A file of parameters, or a folder `step_<k>`."""
    dataset: str = ""
    """A choice of conf/dataset; empty: that of the checkpoint's run folder."""
    settings: Sequence[str] = ()
    """Changes to its configuration, `key=value`."""
    device: str = "auto"
    nest: str = ""
    """Which of several state dicts in the checkpoint to use; empty: the only one."""


def configuration(source: Source) -> TrainConfig:
    """Return the configuration of a model: from its run folder, else composed from the data set and the settings.

    Raises:
        ValueError: There is no such checkpoint, its data set is unknown, or a setting is not allowed.
    """
    if not _parameters(source.checkpoint).is_file():
        raise ValueError(f"--checkpoint must be a file or a folder step_<k>; got {str(source.checkpoint)!r}")
    settings = read_settings(source.settings)
    cell = cell_above(source.checkpoint)
    if cell is None:
        if not source.dataset:
            raise ValueError(f"--dataset must be given, because {source.checkpoint} is in no run folder; got nothing")
        return compose_untrained(source.dataset, settings)
    config = from_yaml(cell.config_file.read_text(encoding="utf-8"))
    return changed(_on(config, source.dataset) if source.dataset else config, settings)


def evaluate(source: Source, console: Console, json_file: Path | None = None) -> None:
    """Score a model on the validation list; print a table, and return the same numbers for JSON.

    Raises:
        ValueError: Bad settings, a checkpoint of another architecture, or bad data.
    """
    numbers = score(source, console)
    console.print(_table(numbers))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        files.replace(json_file, json.dumps(numbers, indent=1) + "\n")


def score(source: Source, console: Console, *, as_trained: bool = False) -> dict[str, Any]:
    """Score a model on the validation list, in float32, or with `as_trained` in the precision of its training.

    Raises:
        ValueError: Bad settings, a checkpoint of another architecture, or bad data.
    """
    import torch

    from rankmatch import evaluation
    from rankmatch.data.catalog import open_dataset
    from rankmatch.data.loaders import val_loader
    from rankmatch.data.splits import Splits, read_val

    config = configuration(source)
    model, device = _load(source, config)
    val = read_val(config, partial(console.print, highlight=False, markup=False, soft_wrap=True))
    loader = val_loader(Splits([], [], val), open_dataset(config))
    is_half = as_trained and config.numerics.trainer.precision == "bfloat16"
    with (
        Progress(console=console, transient=True) as progress,
        torch.autocast(device.type, torch.bfloat16, enabled=is_half),
    ):
        scored = evaluation.evaluate(
            model,
            _shown(progress, loader, len(val)),
            num_classes=config.numerics.dataset.num_classes,
            device=device,
            mode=config.numerics.evaluation.mode,
            crop_size=config.numerics.augment.crop_size,
            absent_classes=config.numerics.evaluation.absent_classes,
        )
    return _numbers(config, scored, len(val))


def predict(
    source: Source,
    images: Sequence[Path],
    out: Path,
    console: Console,
    *,
    batch_size: int,
    overlays: bool,
    overwrite: bool,
    probabilities: bool = False,
    original_values: bool = False,
) -> None:
    """Write label PNGs, overlays and probabilities of images; labels optionally in the data set's own values.

    Raises:
        ValueError: Bad settings or inputs; or an image cannot be read (raised after all others are done).
    """
    from rankmatch.data import catalog
    from rankmatch.predict import find_jobs, predict_files

    config = configuration(source)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    jobs = find_jobs(
        images,
        out,
        overlays=overlays,
        probabilities=probabilities,
        overwrite=overwrite,
        say=say,
    )
    written_as, notes = catalog.original_values(config.numerics.dataset) if original_values else (None, [])
    for note in notes:
        say(note)
    model, device = _load(source, config)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("images", total=len(jobs))
        faults = predict_files(
            model,
            jobs,
            device=device,
            image_bits=config.numerics.dataset.image_bits,
            mode=config.numerics.evaluation.mode,
            crop_size=config.numerics.augment.crop_size,
            batch_size=batch_size,
            written_as=written_as,
            done=lambda _: progress.advance(task),
        )
    console.print(f"{len(jobs) - len(faults)} of {len(jobs)} images: {out / 'labels'}", soft_wrap=True)
    if faults:
        raise ValueError("\n".join(faults))


def _parameters(checkpoint: Path) -> Path:
    return checkpoint / STATE if checkpoint.is_dir() else checkpoint


def _on(config: TrainConfig, dataset: str) -> TrainConfig:
    """Return a model's configuration with another data set to score it on."""
    other = compose_untrained(dataset, {})
    if other.numerics.dataset.num_classes != config.numerics.dataset.num_classes:
        raise ValueError(
            f"--dataset must have {config.numerics.dataset.num_classes} classes, as the model has; "
            f"{dataset} has {other.numerics.dataset.num_classes}"
        )
    config.numerics.dataset, config.numerics.evaluation = other.numerics.dataset, other.numerics.evaluation
    config.execution.class_names = other.execution.class_names
    config.execution.data_root = config.execution.split_root = ""
    return config


def _load(source: Source, config: TrainConfig) -> tuple["DeepLabV3Plus", "torch.device"]:
    import torch

    from rankmatch.models import build_model
    from rankmatch.models.weights import load_checkpoint
    from rankmatch.trainer import choose_device

    device = choose_device(source.device)
    model = build_model(config.numerics.model, torch.Generator().manual_seed(0))
    load_checkpoint(model, _parameters(source.checkpoint), source.nest)
    return model.to(device).to(memory_format=torch.channels_last), device


def _shown(progress: Progress, loader: Iterable[Any], total: int) -> Iterator[Any]:
    yield from progress.track(loader, total=total, description="images")


def _numbers(config: TrainConfig, scored: "Evaluation", num_images: int) -> dict[str, Any]:
    names = config.execution.class_names or [str(number) for number in range(config.numerics.dataset.num_classes)]
    ious = [None if iou != iou else iou for iou in scored.class_iou.tolist()]
    numbers = {
        "miou": scored.miou(),
        "num_classes_present": int(scored.present.sum()),
        "num_images": num_images,
        "mode": config.numerics.evaluation.mode,
        "class_iou": dict(zip(names, ious, strict=True)),
        "class_pixels": dict(zip(names, scored.confusion.sum(dim=1).tolist(), strict=True)),
    }
    return numbers | ({"jaccard": ious[1]} if len(names) == 2 else {})


def _table(numbers: dict[str, Any]) -> Table:
    foot = f"mIoU over {numbers['num_classes_present']} classes, {numbers['num_images']} images, {numbers['mode']}"
    table = Table(caption=foot)
    table.add_column("class")
    for column in ("IoU, %", "pixels"):
        table.add_column(column, justify="right")
    for name, iou in numbers["class_iou"].items():
        table.add_row(name, "-" if iou is None else f"{100 * iou:.1f}", f"{numbers['class_pixels'][name]:,}")
    table.add_section()
    table.add_row("mIoU", f"{100 * numbers['miou']:.1f}", f"{sum(numbers['class_pixels'].values()):,}")
    if numbers.get("jaccard") is not None:
        foreground = list(numbers["class_iou"])[1]
        table.add_row(f"Jaccard of {foreground}", f"{100 * numbers['jaccard']:.1f}", "")
    return table

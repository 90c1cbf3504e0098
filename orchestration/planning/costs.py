"""Estimate a cell's number of steps, duration, memory and disk use, without opening an image.

The estimates are rough: the figures come from other people's logs and one CPU; expect errors up to a factor of two. If
cells of the same grid have been measured, their pace is used instead.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from orchestration.grids import kept_lists
from orchestration.grids.cells import experiments_folder
from rankmatch.config import NumericsConfig, TrainConfig
from rankmatch.methods import METHODS
from rankmatch.unused import counts_unlabeled

ANCHOR_CROP = 321
VAL_PIXELS = 180_000
"""Size of an image of PASCAL VOC 2012; drawn scenes have their own size."""
FORWARD = 1 / 3
"""The work of a forward pass, as a share of a forward and backward pass."""
ANCHOR_IMAGES = 8 * (1 + 3 + FORWARD)
"""A step of UniMatch with 8 + 8 images, in forward and backward passes of one image."""

SECONDS_PER_ANCHOR_STEP = {
    # One GPU, mixed precision, ResNet-101: "0.37 s a step" (paper/published_costs.csv, PrevMatch PASCAL crop 321). By
    # area that makes 27 hours at crop 513, where the same logs say 23 to 29.
    "cuda": 0.37,
    # One core of a server (AMD EPYC), float32: from MobileNetV2 cells at crop 193 (width 1: 3.9 s a step of 4 + 4
    # images) and 129 (width 0.25: 0.40 s), measured 2026-11-23, evaluation included.
    "cpu": 125.0,
}

BACKBONE_FACTORS = {"resnet101": 1.0, "resnet50": 0.8, "xception": 0.8, "mobilenet_v2": 0.16}
"""Time relative to ResNet-101. ResNet-50: 7.6-12.6 and 22-24 hours against 13-22.6 and 23-29 (PrevMatch logs).

Xception-65 on COCO at crop 513: 50 to 103 hours of 4 GPUs of no stated type (UniMatch logs), which settles no factor:
it has about the multiply-adds of ResNet-50 and is given its factor.
"""


NUM_PARAMETERS = {"resnet101": 59.6e6, "resnet50": 40.5e6, "xception": 54.9e6, "mobilenet_v2": 3.5e6}
"""Parameters of the whole network with 21 classes, including buffers (`build_model`)."""

SAVED_BYTES_PER_PIXEL = {"resnet101": 4420, "resnet50": 3530, "xception": 6490, "mobilenet_v2": 2350}
"""Bytes that autograd keeps for the backward pass, in float32 at output stride 16 with the perturbed head: the
storages that `torch.autograd.graph.saved_tensors_hooks` sees at crop 321, 2026-11-24; twice as much at stride 8. Not
measured on a GPU: the memory of cuDNN itself comes on top."""
GPU_CONTEXT_GB = 0.5
"""Overhead of each process on a GPU: assumed, not measured."""

CHECKPOINT_BYTES_PER_S = 125e6
"""477 MB, the state of ResNet-101, in 3.8 s: written, synced and hashed by `checkpoint.save` on two busy cores of an
AMD EPYC server with a local disk, 2026-11-24."""


@dataclass(frozen=True, slots=True)
class SplitSize:
    """How many images a split has; None where it is not known here."""

    num_labeled: int
    num_unlabeled: int | None
    num_val: int | None = None


def split_size(config: TrainConfig) -> SplitSize | None:
    """Return the size of a cell's split: of drawn scenes, or of its lists if they can be read, else as published.

    Held-out images count as validation images, as if every image had a label.
    """
    size, settings = _whole_split_size(config), config.numerics.evaluation
    if size is None or not settings.held_out:
        return size
    if settings.held_out_from == "labeled":
        num = settings.num_held_out(size.num_labeled)
        return SplitSize(size.num_labeled - num, size.num_unlabeled, num)
    if size.num_unlabeled is None:
        return SplitSize(size.num_labeled, None)
    num = settings.num_held_out(size.num_unlabeled)
    return SplitSize(size.num_labeled, size.num_unlabeled - num, num)


def _whole_split_size(config: TrainConfig) -> SplitSize | None:
    numerics = config.numerics
    if numerics.dataset.name == "synthetic":
        return _scene_split_size(numerics)
    for root in kept_lists.split_roots(config):
        if (root / numerics.split / "labeled.txt").is_file():
            return _read_split_size(root / numerics.split)
    return _published_split_sizes(experiments_folder() / "paper").get(f"{numerics.dataset.name}/{numerics.split}")


def num_steps(config: TrainConfig, size: SplitSize | None = None) -> int | None:
    """Return a cell's number of training steps; None if its split is not known here.

    Raises:
        ValueError: If an epoch would have no steps, or there are fewer drawn scenes than the split says.
    """
    size = size or split_size(config)
    numerics = config.numerics
    kind = "unlabeled" if counts_unlabeled(numerics) else "labeled"
    count: int | None = None if size is None else getattr(size, f"num_{kind}")
    if count is None:
        return None
    batch_size: int = getattr(numerics.trainer, f"{kind}_batch_size")
    if count < batch_size:
        raise ValueError(
            f"trainer.{kind}_batch_size must be at most {count}, the {kind} images of split {numerics.split}; "
            f"got {batch_size}"
        )
    return count // batch_size * numerics.trainer.epochs


def training_bytes(config: TrainConfig) -> float:
    """Return the maximum disk use of a cell during its training, however many attempts that takes.

    A checkpoint has weights, momentum and the best weights; while one is written, there is one more than are kept.
    """
    return (config.execution.trainer.num_checkpoints + 1) * 3 * _file_bytes(config)


def finished_bytes(config: TrainConfig) -> float:
    """Return the disk use of a finished cell: the best weights, and the checkpoints that are kept."""
    return (config.execution.trainer.keep_checkpoints * 3 + 1) * _file_bytes(config)


def _file_bytes(config: TrainConfig) -> float:
    """Return the size of a file of the network's weights; torch adds some 320 bytes for each of up to 850 tensors."""
    return 4 * _num_parameters(config) + 3e5


def gpu_memory_gb(config: TrainConfig) -> float:
    """Return roughly the GPU memory that each worker of a cell needs: activations, weights, gradients and momentum."""
    numerics = config.numerics
    images = _images_with_gradient(numerics) / config.execution.trainer.num_workers
    size = 0.5 if numerics.trainer.precision == "bfloat16" else 1.0
    stride = 2 if numerics.backbone.output_stride == 8 else 1
    saved = SAVED_BYTES_PER_PIXEL[numerics.backbone.name] * numerics.augment.crop_size**2 * size * stride
    return (images * saved + 3 * 4 * _num_parameters(config)) / 1e9 + GPU_CONTEXT_GB


def checkpoint_s(config: TrainConfig) -> float:
    """Return roughly how long a checkpoint interrupts the training."""
    return 2 * 4 * _num_parameters(config) / CHECKPOINT_BYTES_PER_S


def _num_parameters(config: TrainConfig) -> float:
    width = config.numerics.backbone.width
    return NUM_PARAMETERS[config.numerics.backbone.name] * (0.94 * width**2 + 0.06 * width)  # MobileNetV2's, to 2 %


def seconds_per_step(config: TrainConfig, device: str, measured: Mapping[str, float] | None = None) -> float:
    """Return roughly how long a step takes on `cpu` or `cuda`, including its share of the epoch's evaluation.

    Args:
        config: The cell's configuration.
        device: Kind of device of each worker.
        measured: Measured seconds per step in the same grid, by method.
    """
    numerics = config.numerics
    if measured and numerics.method.name in measured:
        return measured[numerics.method.name]
    pixels = _images_per_step(numerics) * numerics.augment.crop_size**2 + _val_pixels_per_step(config)
    factor = (
        BACKBONE_FACTORS[numerics.backbone.name]
        * numerics.backbone.width
        * (4 if numerics.backbone.output_stride == 8 else 1)
    )
    pace = SECONDS_PER_ANCHOR_STEP[device] / (ANCHOR_IMAGES * ANCHOR_CROP**2)
    return pace * pixels * factor / config.execution.trainer.num_workers


def _val_pixels_per_step(config: TrainConfig) -> float:
    size, numerics = split_size(config), config.numerics
    if size is None or size.num_val is None or not (steps := num_steps(config, size)):
        return 0.0
    is_drawn = numerics.dataset.name == "synthetic"
    pixels = numerics.dataset.scenes.size**2 if is_drawn else VAL_PIXELS
    return FORWARD * size.num_val * pixels * numerics.trainer.epochs / steps


def _images_per_step(numerics: NumericsConfig) -> float:
    sees_unlabeled = METHODS[numerics.method.name].sees_unlabeled
    partners = FORWARD * numerics.trainer.unlabeled_batch_size if sees_unlabeled else 0
    return _images_with_gradient(numerics) + partners


def _images_with_gradient(numerics: NumericsConfig) -> int:
    method = METHODS[numerics.method.name]
    num_views = method.num_strong_views + method.sees_unlabeled
    return numerics.trainer.labeled_batch_size + num_views * numerics.trainer.unlabeled_batch_size


def _scene_split_size(numerics: NumericsConfig) -> SplitSize:
    scenes = numerics.dataset.scenes
    num_labeled = scenes.num_labeled(numerics.split)
    return SplitSize(num_labeled, scenes.num_train - num_labeled, scenes.num_val)


@cache
def _read_split_size(folder: Path) -> SplitSize:
    num_labeled, num_unlabeled = _count_images(folder / "labeled.txt"), _count_images(folder / "unlabeled.txt")
    num_train = _count_images(folder.parent / "train.txt")
    if num_unlabeled is None and num_train is not None:
        num_unlabeled = num_train - (num_labeled or 0)
    return SplitSize(num_labeled or 0, num_unlabeled, _count_images(folder.parent / "val.txt"))


def _count_images(path: Path) -> int | None:
    if not path.is_file():
        return None
    from rankmatch.data.lists import frames_of, list_lines, words_of

    return sum(len(frames_of(words_of(line)[0])) for line in list_lines(path) if line.strip())


@cache
def _published_split_sizes(paper: Path) -> dict[str, SplitSize]:
    with (paper / "splits_manifest.csv").open(encoding="utf-8", newline="") as file:
        counts = {row["path"]: int(row["num_samples"]) for row in csv.DictReader(file)}
    sizes = {}
    for path in [path for path in counts if path.endswith("/labeled.txt")]:
        name = path.removesuffix("/labeled.txt")
        num_val = counts.get(f"{name.partition('/')[0]}/val.txt")
        sizes[name] = SplitSize(counts[path], counts.get(f"{name}/unlabeled.txt"), num_val)
    return sizes

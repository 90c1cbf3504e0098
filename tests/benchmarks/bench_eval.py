"""Evaluation with DeepLabV3+ on ResNet-50: whole images of PASCAL's sizes, and sliding windows over 2048x1024."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks import bench_step, reference
from benchmarks.harness import Row, Settings, compare
from rankmatch.evaluation import evaluate
from rankmatch.trainer import choose_device

PASCAL_SIZES = ((366, 500), (375, 500), (500, 375), (333, 500))
CITYSCAPES_SIZE, CITYSCAPES_CROP = (1024, 2048), 801
Pairs = list[tuple[Tensor, Tensor]]


def rows(settings: Settings) -> Iterator[Row]:
    """Measure both ways of evaluation, a row each, in seconds an image."""
    sizes, wide, crop = PASCAL_SIZES, CITYSCAPES_SIZE, CITYSCAPES_CROP
    if settings.tiny:
        sizes, wide, crop = ((65, 97), (97, 65)), (97, 129), 65
    yield _compared("eval_whole", make_pairs(sizes), None, settings)
    yield _compared("eval_sliding", make_pairs((wide,)), crop, settings)


def _compared(name: str, pairs: Pairs, crop: int | None, settings: Settings) -> Row:
    run, against = ours(pairs, crop), theirs(pairs, crop)
    row = compare(name, run, against, settings.repeats, per=len(pairs))
    differs = (run() - against()).abs().sum() / 2
    return replace(row, note=f"{int(differs)} of {int(against().sum())} pixels differ")


def make_pairs(sizes: tuple[tuple[int, int], ...]) -> Pairs:
    """Draw images and labels, one a batch as the loader gives them."""
    draws = torch.Generator().manual_seed(0)
    return [
        (
            reference.upsample(torch.randn(1, 3, 9, 9, generator=draws), size),
            torch.randint(bench_step.NUM_CLASSES, (1, *size), generator=draws, dtype=torch.uint8),
        )
        for size in sizes
    ]


def ours(pairs: Pairs, crop: int | None) -> Callable[[], Tensor]:
    """Evaluate as the trainer does; returns the confusion matrix."""
    device = choose_device("auto")
    network = bench_step.make_ours(device)
    mode = "whole" if crop is None else "sliding"
    return lambda: (
        evaluate(network, pairs, num_classes=bench_step.NUM_CLASSES, device=device, mode=mode, crop_size=crop).confusion
    )


def theirs(pairs: Pairs, crop: int | None) -> Callable[[], Tensor]:
    """Evaluate the textbook way."""
    network = bench_step.make_theirs(choose_device("auto")).eval()
    num_classes = bench_step.NUM_CLASSES

    def run() -> Tensor:
        total = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        for images, labels in pairs:
            if crop is None:
                prediction = reference.predict(network, images[0])
            else:
                prediction = reference.predict_sliding(network, images[0], crop, num_classes)
            total += reference.confusion(prediction, labels[0], num_classes)
        return total

    return run

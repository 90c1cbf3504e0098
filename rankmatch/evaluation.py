"""Confusion matrix, IoU and mIoU; prediction of whole images and by sliding windows."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor, nn

from rankmatch.agents import widen
from rankmatch.checks import one_of
from rankmatch.config import IGNORE_INDEX

BATCHES_PER_VOTE = 4
"""So often several workers ask each other whether to stop: each time they wait for the slowest."""
MAX_WINDOWS = 8
"""How many windows of an image pass the network together, so that memory does not grow with the image."""


_Batch = tuple[Tensor, Tensor]


class EvaluationStopped(Exception):  # noqa: N818 (nothing went wrong)
    """An evaluation was told to end before its end; nothing of it counts."""


@dataclass(frozen=True)
class Evaluation:
    """What a model got right on a validation set.

    Attributes:
        confusion: Number of pixels, by true class (row) and predicted class (column), on the CPU.
        absent_classes: What `miou` does by default with classes that no label has.
    """

    confusion: Int64[Tensor, "classes classes"]
    absent_classes: str = "skip"

    @property
    def present(self) -> Bool[Tensor, " classes"]:
        """Which classes occur in the labels."""
        return self.confusion.sum(dim=1) > 0

    @property
    def class_iou(self) -> Float64[Tensor, " classes"]:
        """Intersection over union of each class, NaN for those that no label has, predicted or not."""
        confusion = self.confusion.double()
        union = confusion.sum(dim=0) + confusion.sum(dim=1) - confusion.diag()
        return (confusion.diag() / union).where(self.present, torch.nan)

    def miou(self, absent: str | None = None) -> float:
        """Return the mean of `class_iou`, between 0 and 1.

        Args:
            absent: `skip` leaves absent classes out; `zero` counts them as 0, as the authors do.

        Raises:
            ValueError: An unknown `absent`.
        """
        absent = self.absent_classes if absent is None else absent
        one_of("absent_classes", absent, ("skip", "zero"))
        mean = self.class_iou.nanmean() if absent == "skip" else self.class_iou.nan_to_num(0.0).mean()
        return mean.item()


def confusion_matrix(
    prediction: Integer[Tensor, "*pixels"], label: Integer[Tensor, "*pixels"], num_classes: int
) -> Int64[Tensor, "classes classes"]:
    """Count the labeled pixels by true class (row) and predicted class (column).

    Raises:
        ValueError: A label that is neither a class nor 255.
    """
    valid = label != IGNORE_INDEX
    pairs = label[valid].long() * num_classes + prediction[valid].long()
    counts = pairs.bincount(minlength=num_classes**2)
    if counts.numel() > num_classes**2:
        highest = label[valid].max().item()
        raise ValueError(f"labels must be below {num_classes}, the number of classes, or {IGNORE_INDEX}; got {highest}")
    return counts.reshape(num_classes, num_classes)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Iterable[_Batch],
    *,
    num_classes: int,
    device: torch.device | str,
    mode: str = "whole",
    crop_size: int | None = None,
    absent_classes: str = "skip",
    reduce: Callable[[Tensor], Tensor] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Evaluation:
    """Compare a model's predictions with the labels at one scale, each image that the loader gives counted once.

    The model is left in the modes, training or not, that its parts had.

    Args:
        model: Images to (logits at the images' size, ...).
        loader: Normalised images [B,3,H,W] and labels [B,H,W], 255 where a pixel does not count.
        num_classes: Of the logits.
        device: Where the model is.
        mode: `whole` image, or `sliding` windows of `crop_size` (ALGORITHM section 6).
        crop_size: Pixels; used by `sliding` alone.
        absent_classes: See `Evaluation.miou`.
        reduce: Adds up a tensor of all workers; None: there is one.
        should_stop: Asked now and then; what one worker is told, all do.

    Raises:
        EvaluationStopped: `should_stop` said so.
        ValueError: A bad setting, a label out of range, or no labeled pixel at all.
    """
    _check(mode, crop_size)
    one_of("absent_classes", absent_classes, ("skip", "zero"))
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    with _evaluating(model):
        for images, labels in _watched(loader, should_stop, reduce, device):
            prediction = predict(model, images.to(device, non_blocking=True), mode=mode, crop_size=crop_size)
            confusion += confusion_matrix(prediction, labels.to(device, non_blocking=True), num_classes)
    confusion = confusion if reduce is None else reduce(confusion)
    if not confusion.any():
        raise ValueError("the validation labels must have a pixel that counts; got none")
    return Evaluation(confusion.cpu(), absent_classes)


def _watched(
    loader: Iterable[_Batch],
    should_stop: Callable[[], bool] | None,
    reduce: Callable[[Tensor], Tensor] | None,
    device: torch.device | str,
) -> Iterator[_Batch]:
    """Go through a loader until told to stop; several workers vote, each as often, whatever its number of batches."""
    if should_stop is None:
        yield from loader
    elif reduce is None:
        for batch in loader:
            if should_stop():
                raise EvaluationStopped
            yield batch
    else:
        batches, is_left = iter(loader), True
        while _vote(reduce, should_stop, is_left=is_left, device=device):
            for _ in range(BATCHES_PER_VOTE):
                if (next_batch := next(batches, None)) is None:
                    is_left = False
                    break
                yield next_batch


def _vote(
    reduce: Callable[[Tensor], Tensor],
    should_stop: Callable[[], bool],
    *,
    is_left: bool,
    device: torch.device | str,
) -> bool:
    """Tell whether a worker has batches left, unless one is told to stop."""
    stops, left = reduce(torch.tensor([should_stop(), is_left], dtype=torch.int64, device=device)).tolist()
    if stops:
        raise EvaluationStopped
    return bool(left)


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Float[Tensor, "batch 3 height width"],
    *,
    mode: str = "whole",
    crop_size: int | None = None,
) -> Int64[Tensor, "batch height width"]:
    """Return the most probable class of each pixel, in the mode (training or not) that the model is in.

    Raises:
        ValueError: An unknown mode, or `sliding` without a crop size.
    """
    _check(mode, crop_size)
    if mode == "whole":
        return _logits(model, images).argmax(dim=1)
    assert crop_size is not None, "checked above"
    return sliding_window_probabilities(model, images, crop_size).argmax(dim=1)


@torch.no_grad()
def predict_with_probabilities(
    model: nn.Module,
    images: Float[Tensor, "batch 3 height width"],
    *,
    mode: str = "whole",
    crop_size: int | None = None,
) -> tuple[Int64[Tensor, "batch height width"], Float[Tensor, "batch classes height width"]]:
    """Return what `predict` does, and the probability of each class; of windows the mean over those that see a pixel.

    Raises:
        ValueError: As `predict` does.
    """
    _check(mode, crop_size)
    if mode == "whole":
        logits = _logits(model, images)
        return logits.argmax(dim=1), widen(logits).softmax(dim=1)
    assert crop_size is not None, "checked above"
    total = sliding_window_probabilities(model, images, crop_size)
    return total.argmax(dim=1), total / total.sum(dim=1, keepdim=True)


@torch.no_grad()
def sliding_window_probabilities(
    model: nn.Module, images: Float[Tensor, "batch 3 height width"], crop_size: int
) -> Float[Tensor, "batch classes height width"]:
    """Return the softmax summed over the windows that see a pixel; windows of one size pass the network together."""
    total: Tensor | None = None
    height, width = images.shape[2:]
    for windows in _windows(height, width, crop_size):
        crops = torch.cat([images[:, :, rows, columns] for rows, columns in windows])
        probabilities = widen(_logits(model, crops)).softmax(dim=1)
        if total is None:
            total = probabilities.new_zeros(len(images), probabilities.shape[1], height, width)
        for (rows, columns), part in zip(windows, probabilities.chunk(len(windows)), strict=True):
            total[:, :, rows, columns] += part
    assert total is not None, "an image has a window"
    return total


def _windows(height: int, width: int, crop_size: int) -> Iterator[list[tuple[slice, slice]]]:
    """Return the windows in batches of one size; those at the border are cut (ALGORITHM section 6)."""
    step = int(crop_size * 2 / 3)
    groups: dict[tuple[int, int], list[tuple[slice, slice]]] = defaultdict(list)
    for top in range(0, height, step):
        for left in range(0, width, step):
            bottom, right = min(top + crop_size, height), min(left + crop_size, width)
            groups[bottom - top, right - left].append((slice(top, bottom), slice(left, right)))
    for windows in groups.values():
        for first in range(0, len(windows), MAX_WINDOWS):
            yield windows[first : first + MAX_WINDOWS]


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = model(images)[0]
    assert logits.shape[2:] == images.shape[2:], "the network upsamples its logits to the images' size"
    return logits


def _check(mode: str, crop_size: int | None) -> None:
    one_of("mode", mode, ("whole", "sliding"))
    if mode == "sliding" and (crop_size is None or crop_size < 2):
        raise ValueError(f"crop_size must be at least 2 for sliding windows; got {crop_size}")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

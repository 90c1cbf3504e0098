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
"""How often several workers agree on whether to stop; each time they wait for the slowest."""
NUM_BINS = 20
"""Parts of the range of confidence."""
MAX_WINDOWS = 8
"""How many windows of an image pass the network together, so that memory does not grow with the image."""


_Batch = tuple[Tensor, Tensor]


class EvaluationStopped(Exception):  # noqa: N818 (nothing went wrong)
    """An evaluation was stopped early; its counts are discarded."""


@dataclass(frozen=True)
class Evaluation:
    """The counts of an evaluation on a validation set.

    Attributes:
        confusion: Number of pixels, by true class (row) and predicted class (column), on the CPU.
        absent_classes: How `miou` treats classes without labels by default.
        calibration: Number of labeled pixels that are wrong and right, by the confidence of the prediction in
            `NUM_BINS` equal parts of 0 to 1, on the CPU.
    """

    confusion: Int64[Tensor, "classes classes"]
    absent_classes: str = "skip"
    calibration: Int64[Tensor, "bins 2"] | None = None

    @property
    def present(self) -> Bool[Tensor, " classes"]:
        """Which classes occur in the labels."""
        return self.confusion.sum(dim=1) > 0

    @property
    def class_iou(self) -> Float64[Tensor, " classes"]:
        """Intersection over union of each class; NaN for classes without labels, predicted or not."""
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


def calibration_counts(
    prediction: Integer[Tensor, "*pixels"], confidence: Float[Tensor, "*pixels"], label: Integer[Tensor, "*pixels"]
) -> Int64[Tensor, "bins 2"]:
    """Count the labeled pixels that are wrong and right by the confidence of the prediction."""
    valid = label != IGNORE_INDEX
    bins = (confidence[valid] * NUM_BINS).long().clamp(0, NUM_BINS - 1)
    right = (prediction[valid] == label[valid]).long()
    return (2 * bins + right).bincount(minlength=2 * NUM_BINS).reshape(NUM_BINS, 2)


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
    """Compare a model's predictions with the labels at one scale; each image from the loader counts once.

    Afterwards, all parts of the model are in the same mode (training or not) as before.

    Args:
        model: Images to (logits at the images' size, ...).
        loader: Normalised images [B,3,H,W] and labels [B,H,W], 255 where a pixel does not count.
        num_classes: Of the logits.
        device: Where the model is.
        mode: `whole` image, or `sliding` windows of `crop_size` (ALGORITHM section 6).
        crop_size: Pixels; used by `sliding` alone.
        absent_classes: See `Evaluation.miou`.
        reduce: Adds up a tensor over all workers; None: there is only one.
        should_stop: Polled at intervals; if one worker is told to stop, all stop.

    Raises:
        EvaluationStopped: `should_stop` returned true.
        ValueError: A bad setting, a label out of range, or no labeled pixel at all.
    """
    _check(mode, crop_size)
    one_of("absent_classes", absent_classes, ("skip", "zero"))
    # One vector, so that workers add up everything at once.
    counts = torch.zeros(num_classes**2 + 2 * NUM_BINS, dtype=torch.int64, device=device)
    confusion, calibration = counts[: num_classes**2].view(num_classes, -1), counts[num_classes**2 :].view(NUM_BINS, 2)
    with _evaluating(model):
        for images, labels in _watched(loader, should_stop, reduce, device):
            prediction, confidence = _predict_with_confidence(
                model, images.to(device, non_blocking=True), mode, crop_size
            )
            labels = labels.to(device, non_blocking=True)
            confusion += confusion_matrix(prediction, labels, num_classes)
            calibration += calibration_counts(prediction, confidence, labels)
    counts = (counts if reduce is None else reduce(counts)).cpu()
    confusion, calibration = counts[: num_classes**2].view(num_classes, -1), counts[num_classes**2 :].view(NUM_BINS, 2)
    if not confusion.any():
        raise ValueError("the validation labels must have a pixel that counts; got none")
    return Evaluation(confusion, absent_classes, calibration)


def _watched(
    loader: Iterable[_Batch],
    should_stop: Callable[[], bool] | None,
    reduce: Callable[[Tensor], Tensor] | None,
    device: torch.device | str,
) -> Iterator[_Batch]:
    """Iterate over a loader until told to stop; all workers vote equally often, whatever their number of batches."""
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
    """Return whether any worker has batches left, unless one was told to stop."""
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
    """Return the most probable class of each pixel, in the model's current mode (training or not).

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
    """Return what `predict` does, and the probability of each class (with windows, the mean over those with the pixel).

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


def _predict_with_confidence(
    model: nn.Module, images: Float[Tensor, "batch 3 height width"], mode: str, crop_size: int | None
) -> tuple[Int64[Tensor, "batch height width"], Float[Tensor, "batch height width"]]:
    """Return what `predict` does, and the probability of that class."""
    if mode == "whole":
        logits = _logits(model, images)
        prediction = logits.argmax(dim=1)
        wide = widen(logits)
        return prediction, (_of_class(wide, prediction) - wide.logsumexp(dim=1)).exp()
    assert crop_size is not None, "checked by evaluate"
    total = sliding_window_probabilities(model, images, crop_size)
    prediction = total.argmax(dim=1)
    return prediction, _of_class(total, prediction) / total.sum(dim=1)


def _of_class(
    values: Float[Tensor, "batch classes height width"], classes: Int64[Tensor, "batch height width"]
) -> Float[Tensor, "batch height width"]:
    return values.gather(1, classes[:, None])[:, 0]


@torch.no_grad()
def sliding_window_probabilities(
    model: nn.Module, images: Float[Tensor, "batch 3 height width"], crop_size: int
) -> Float[Tensor, "batch classes height width"]:
    """Return the softmax summed over the windows with a pixel; windows of the same size pass the network together."""
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
    """Yield the windows in batches of equal size; those at the border are cut (ALGORITHM section 6)."""
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

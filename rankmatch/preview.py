"""Draw what a step of a training shows the network: crops, labels and views, in one picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from rankmatch import sheet
from rankmatch.config import TrainConfig
from rankmatch.data.catalog import open_dataset
from rankmatch.data.loaders import TrainLoader
from rankmatch.data.splits import read_splits
from rankmatch.data.transforms import MEAN, STD
from rankmatch.data.views import StrongView, UnlabeledViews, ViewMaker, Views
from rankmatch.predict import in_palette, save_png
from rankmatch.samples import legend

BOX = (255, 230, 0)
"""The colour around what CutMix pastes."""
LABELED = ("labeled crop", "its label")
UNLABELED = ("unlabeled crop, weak view", "its label, for figures only")

Pictures = list[Image.Image]


def draw(config: TrainConfig, path: Path, num_rows: int, step: int = 0) -> int:
    """Draw the images of a step as the training sees them, over all workers, one row each; return the number of rows.

    Raises:
        ValueError: Bad data or settings, or a run without this step.
    """
    numerics = config.numerics
    loader = TrainLoader(config, read_splits(config), open_dataset(config))
    epoch, place = divmod(step, loader.steps_per_epoch)
    if not 0 <= epoch < numerics.trainer.epochs:
        num_steps = numerics.trainer.epochs * loader.steps_per_epoch
        raise ValueError(f"the step must be one of 0 to {num_steps - 1}, which the run has; got {step}")
    views = ViewMaker(numerics, (1, 1), torch.device("cpu")).make(next(iter(loader.epoch(epoch, place))), epoch)
    seen = loader.images(epoch, place)
    labeled, unlabeled = ([*seen[kind].values()][:num_rows] for kind in ("labeled", "unlabeled"))
    number = max(len(labeled), len(unlabeled))
    which = f"step {step}" if step else "first step"
    rows = [sheet.Row(_caption(labeled, unlabeled, place), _pictures(views, place)) for place in range(number)]
    heading = (
        f"{numerics.dataset.name}, split {numerics.split}, seed {numerics.seed}: {which} of {numerics.method.name}"
    )
    marks = [("outline: pasted by CutMix", BOX)] if views.unlabeled else []
    names = [*legend(_values(views, number), config.execution.class_names), *marks]
    save_png(sheet.draw(heading, _titles(views), rows, names).image, path)
    return number


def _titles(views: Views) -> list[str]:
    if views.unlabeled is None:
        return [*LABELED]
    return [*LABELED, *UNLABELED, *(f"strong view {place + 1}" for place in range(len(views.unlabeled.strong)))]


def _caption(labeled: Sequence[str], unlabeled: Sequence[str], place: int) -> str:
    lists = (("labeled", labeled), ("unlabeled", unlabeled))
    return "    ".join(f"{kind}: {names[place]}" for kind, names in lists if place < len(names))


def _values(views: Views, number: int) -> set[int]:
    maps = [views.labels, *([views.unlabeled.truth] if views.unlabeled else [])]
    return {int(value) for part in maps for value in np.unique(part[:number].numpy())}


def _pictures(views: Views, place: int) -> Pictures:
    """Return the pictures of a row; white where a list has no more images."""
    is_labeled = place < len(views.labels)
    found = [_image(views.labeled[place]), _label(views.labels[place])] if is_labeled else _white(views, len(LABELED))
    if views.unlabeled is None:
        return found
    if place < len(views.unlabeled.truth):
        return found + _unlabeled(views.unlabeled, place)
    return found + _white(views, len(UNLABELED) + len(views.unlabeled.strong))


def _unlabeled(views: UnlabeledViews, place: int) -> Pictures:
    weak = [_image(views.weak[place]), _label(views.truth[place])]
    return weak + [_outlined(strong, place) for strong in views.strong]


def _outlined(strong: StrongView, place: int) -> Image.Image:
    image, where = _image(strong.images[place]), strong.box[place].nonzero()
    if len(where):
        (top, left), (bottom, right) = where.amin(0).tolist(), where.amax(0).tolist()
        ImageDraw.Draw(image).rectangle((left, top, right, bottom), outline=BOX, width=max(1, image.width // 128))
    return image


def _image(normalised: Tensor) -> Image.Image:
    mean, std = (normalised.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    pixels = (normalised * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _label(label: Tensor) -> Image.Image:
    return in_palette(label.numpy())


def _white(views: Views, number: int) -> Pictures:
    return [Image.new("RGB", (views.labels.shape[2], views.labels.shape[1]), sheet.WHITE)] * number

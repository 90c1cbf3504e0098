"""A few validation images with their labels and what the trained network says, in one picture."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from rankmatch.config import TrainConfig
from rankmatch.data.catalog import Dataset, labeled_pair
from rankmatch.data.splits import Splits
from rankmatch.data.transforms import eval_image
from rankmatch.distributed import Purpose, generator
from rankmatch.durable import sync_file, sync_folder
from rankmatch.evaluation import predict
from rankmatch.predict import in_palette, save_png

FILE = "samples.png"
MAX_SIDE = 256
"""Pixels; larger images are drawn smaller."""
GAP = 4
WHITE = (255, 255, 255)


def choose(num_val: int, num_samples: int, seed: int) -> list[int]:
    """Choose places of the validation list; all where it is short."""
    order = torch.randperm(num_val, generator=generator(seed, 0, 0, Purpose.SAMPLES))
    return sorted(order[:num_samples].tolist())


def draw(
    path: Path, config: TrainConfig, network: nn.Module, splits: Splits, dataset: Dataset, device: torch.device
) -> None:
    """Write image, label and prediction of some validation images side by side, a row each; none if none are wanted.

    The network is left in evaluation mode.
    """
    numerics, num = config.numerics, config.execution.tracking.num_samples
    network.eval()
    rows = []
    for place in choose(len(splits.val), num, numerics.seed):
        image, label = labeled_pair(dataset, splits.val[place])
        images = eval_image(image)[None].to(device)
        found = predict(network, images, mode=numerics.evaluation.mode, crop_size=numerics.augment.crop_size)
        prediction = found[0].to(torch.uint8).cpu().numpy()
        rows.append(_side_by_side([image, in_palette(np.asarray(label)), in_palette(prediction)]))
    if rows:
        save_png(_stacked(rows), path)
        sync_file(path)  # nobody can draw it again once the checkpoints are gone
        sync_folder(path.parent)


def _side_by_side(parts: list[Image.Image]) -> Image.Image:
    factor = min(1.0, MAX_SIDE / max(parts[0].size))
    width, height = (max(1, round(side * factor)) for side in parts[0].size)
    row = Image.new("RGB", (3 * width + 2 * GAP, height), WHITE)
    for place, part in enumerate(parts):
        small = part.resize((width, height), Image.Resampling.BILINEAR if part.mode == "RGB" else None)
        row.paste(small.convert("RGB"), (place * (width + GAP), 0))
    return row


def _stacked(rows: list[Image.Image]) -> Image.Image:
    height = sum(row.height for row in rows) + GAP * (len(rows) - 1)
    picture = Image.new("RGB", (max(row.width for row in rows), height), WHITE)
    top = 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height + GAP
    return picture

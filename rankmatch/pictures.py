"""Small pictures of a finished run, in separate files with an index: its predictions, and what its method does."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import nn

from rankmatch import rank_pictures
from rankmatch.config import IGNORE_INDEX, TrainConfig
from rankmatch.drawn import DIFFERENCE, IGNORED, RIGHT, WRONG
from rankmatch.durable import sync_file, sync_folder
from rankmatch.methods import METHODS, Kind
from rankmatch.predict import in_palette
from rankmatch.run_files import INDEX, PICTURES

SCHEMA = 1
MAX_IMAGES = 3
"""How many of the images in `samples.png`; a run of a large grid must not leave hundreds of files."""
MAX_SIDE, QUALITY = 256, 85

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Predicted:
    """A validation image with its label and prediction."""

    place: int
    """Its index in the validation list."""
    name: str
    image: Image.Image
    label: Labels
    prediction: Labels


def write(run_dir: Path, config: TrainConfig, network: nn.Module, shown: Sequence[Predicted], what: str) -> None:
    """Write the pictures of some validation images, and for the first one those of the rank term.

    Args:
        run_dir: Receives the folder `pictures`.
        config: The run.
        network: In evaluation mode, with the weights that made the predictions.
        shown: The images.
        what: Which weights these are, in words.
    """
    if not shown:
        return
    folder = run_dir / PICTURES
    folder.mkdir(exist_ok=True)
    images = [_write_image(folder, number, one) for number, one in enumerate(shown[:MAX_IMAGES])]
    index: dict[str, Any] = {"schema": SCHEMA, "of": what, "images": images}
    if METHODS[config.numerics.method.name].has(Kind.RANK):
        device = next(network.parameters()).device
        index["ranks"] = rank_pictures.write(folder, config.numerics, network, shown[0].image, shown[0].place, device)
        index["ranks"]["name"] = shown[0].name
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    for path in folder.iterdir():  # they cannot be drawn again once the checkpoints are gone
        sync_file(path)
    sync_folder(folder)
    sync_folder(run_dir)


def _write_image(folder: Path, number: int, shown: Predicted) -> dict[str, Any]:
    """Write four pictures of equal size for one image; return their entry in the index."""
    difference = _difference(shown)
    counts = np.bincount(difference.ravel(), minlength=len(DIFFERENCE)).tolist()
    labeled = counts[RIGHT] + counts[WRONG]
    marked = Image.fromarray(difference)
    marked.putpalette(bytes(part for colour in DIFFERENCE for part in colour))
    pictures = {
        "image": shown.image,
        "label": in_palette(shown.label),
        "prediction": in_palette(shown.prediction),
        "difference": marked,
    }
    names = {}
    for kind, picture in pictures.items():
        is_photo = kind == "image"
        names[kind] = f"{number}-{kind}.{'jpg' if is_photo else 'png'}"
        small = _smaller(picture, Image.Resampling.BILINEAR if is_photo else Image.Resampling.NEAREST)
        if is_photo:
            small.save(folder / names[kind], "JPEG", quality=QUALITY)
        else:
            small.save(folder / names[kind], "PNG", optimize=True)
    classes = [int(value) for value in np.unique(np.concatenate([shown.label.ravel(), shown.prediction.ravel()]))]
    return {"name": shown.name, "place": shown.place, **names, "classes": classes,
            "right": counts[RIGHT] / labeled if labeled else None}  # fmt: skip


def _smaller(picture: Image.Image, method: Image.Resampling) -> Image.Image:
    """Return a picture whose longer side is at most `MAX_SIDE`."""
    factor = MAX_SIDE / max(picture.size)
    if factor >= 1:
        return picture
    return picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), method)


def _difference(shown: Predicted) -> Labels:
    found = np.where(shown.label == shown.prediction, RIGHT, WRONG)
    return np.where(shown.label == IGNORE_INDEX, IGNORED, found).astype(np.uint8)

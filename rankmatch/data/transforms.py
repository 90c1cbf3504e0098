"""Geometry and CutMix boxes (ALGORITHM section 2); every function draws from the generator passed to it.

Each always draws the same number of values, so that changing one probability shifts no other draw.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from rankmatch.config import IGNORE_INDEX, AugmentConfig

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def crop_view(
    image: Image.Image, label: Image.Image | None, augment: AugmentConfig, generator: torch.Generator
) -> tuple[UInt8[Tensor, "3 size size"], UInt8[Tensor, "size size"], Bool[Tensor, "size size"]]:
    """Resize, pad right and bottom, crop and flip; `valid` is false where the crop shows padding.

    Without a label the second tensor is 255 throughout.
    """
    size = augment.crop_size
    scale, left_share, top_share, flip = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    factor = augment.min_scale + scale * (augment.max_scale - augment.min_scale)
    width, height = (max(1, round(side * factor)) for side in image.size)
    left = int(left_share * (max(width, size) - size + 1))
    top = int(top_share * (max(height, size) - size + 1))
    box = (left, top, min(width, left + size), min(height, top + size))

    pixels = torch.zeros(3, size, size, dtype=torch.uint8)
    classes = torch.full((size, size), IGNORE_INDEX, dtype=torch.uint8)
    valid = torch.zeros(size, size, dtype=torch.bool)
    rows, columns = slice(box[3] - top), slice(box[2] - left)
    pixels[:, rows, columns] = _image_tensor(_resized_part(image, (width, height), box))
    valid[rows, columns] = True
    if label is not None:
        classes[rows, columns] = torch.from_numpy(_nearest_part(np.asarray(label), (width, height), box))
    if flip < augment.flip_probability:
        return pixels.flip(-1), classes.flip(-1), valid.flip(-1)
    return pixels, classes, valid


def draw_box(size: int, augment: AugmentConfig, generator: torch.Generator) -> tuple[slice, slice] | None:
    """Draw rows and columns that the partner is pasted into; None with probability 1 - `cutmix_probability`.

    The area is uniform, the aspect ratio (height / width) uniform in [a, 1 / a], the corner uniform in the crop, given
    that the box lies inside: shapes with more places to lie are more frequent, as when boxes that stick out are
    drawn again.
    """
    paste, area_share, top_share, left_share = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    if paste >= augment.cutmix_probability:
        return None
    area = (augment.min_box_area + area_share * (augment.max_box_area - augment.min_box_area)) * size**2
    ratios = _aspects(augment.min_box_aspect)
    heights, widths = (area * ratios).sqrt().int(), (area / ratios).sqrt().int()
    num_places = (size - heights + 1).clamp(min=0) * (size - widths + 1).clamp(min=0)
    shape = torch.multinomial(num_places.double(), 1, generator=generator).item()
    height, width = heights[shape].item(), widths[shape].item()
    top, left = int(top_share * (size - height + 1)), int(left_share * (size - width + 1))
    return slice(top, top + height), slice(left, left + width)


@lru_cache(maxsize=4)
def _aspects(smallest: float) -> Float[Tensor, " shapes"]:
    square = torch.ones(1, dtype=torch.float64)  # always fits
    return torch.cat([square, torch.linspace(smallest, 1 / smallest, 1024, dtype=torch.float64)])


def normalise(image: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """Subtract ImageNet's mean from images in [0, 1] and divide by its standard deviation."""
    return normalise_(image.clone())


def normalise_(image: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """Normalise in place; see `normalise`."""
    mean, std = (image.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return image.sub_(mean).div_(std)


def eval_view(
    image: Image.Image, label: Image.Image
) -> tuple[Float[Tensor, "3 height width"], UInt8[Tensor, "height width"]]:
    """Return the whole image, normalised, and its label."""
    return eval_image(image), _tensor(label)


def eval_image(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """Return the whole image, normalised."""
    return normalise_(unit_image(image))


def unit_image(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """Return the whole image, its values in [0, 1]."""
    return _image_tensor(image).to(torch.get_default_dtype()).div_(255)


def _resized_part(image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """Resize an image to (width, height) and cut out a box, computing only that part; the same up to rounding."""
    across, down = image.width / size[0], image.height / size[1]
    source = (box[0] * across, box[1] * down, min(box[2] * across, image.width), min(box[3] * down, image.height))
    return image.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR, box=source)


def _nearest_part(
    label: npt.NDArray[np.uint8], size: tuple[int, int], box: tuple[int, int, int, int]
) -> npt.NDArray[np.uint8]:
    """Resize a label to (width, height) by PIL's nearest pixels and cut out a box, computing only that part."""
    columns = _nearest(label.shape[1], size[0])[box[0] : box[2]]
    rows = _nearest(label.shape[0], size[1])[box[1] : box[3]]
    part: npt.NDArray[np.uint8] = label[rows].take(columns, axis=1)
    return part


def _nearest(length: int, resized: int) -> npt.NDArray[np.int32]:
    """Return the source positions that PIL uses when it resizes a row of pixels by nearest neighbour."""
    places = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    taken: npt.NDArray[np.int32] = np.asarray(places.resize((resized, 1), Image.Resampling.NEAREST))[0]
    return taken


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


def _image_tensor(image: Image.Image) -> UInt8[Tensor, "3 height width"]:
    bands = b"".join(image.tobytes("raw", band) for band in image.mode)  # in half the time of a transposed array
    return torch.frombuffer(bytearray(bands), dtype=torch.uint8).view(3, image.height, image.width)

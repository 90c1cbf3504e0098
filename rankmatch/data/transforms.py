"""Geometry, strong views and CutMix boxes (ALGORITHM section 2); every function draws from the generator it is given.

Each draws the same number of values whatever comes of them, so that changing one probability shifts no other draw.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F  # noqa: N812

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
        classes[rows, columns] = _tensor(label.resize((width, height), Image.Resampling.NEAREST).crop(box))
    if flip < augment.flip_probability:
        return pixels.flip(-1), classes.flip(-1), valid.flip(-1)
    return pixels, classes, valid


@dataclass(frozen=True, slots=True)
class ViewDraw:
    """What was drawn for one strong view."""

    jitter: bool
    factors: tuple[float, float, float, float]
    """Brightness, contrast, saturation (1: unchanged) and hue (0: unchanged)."""
    order: tuple[int, ...]
    """The places in `factors`, as they are applied."""
    gray: bool
    blur: bool
    sigma: float


def draw_view(augment: AugmentConfig, generator: torch.Generator) -> ViewDraw:
    """Draw the parameters of a strong view."""
    order = torch.randperm(4, generator=generator).tolist()
    jitter, brightness, contrast, saturation, hue, gray, blur, sigma = torch.rand(
        8, generator=generator, dtype=torch.float64
    ).tolist()
    return ViewDraw(
        jitter=jitter < augment.jitter_probability,
        factors=(
            1 + augment.brightness * (2 * brightness - 1),  # never below 0: the strengths are at most 1
            1 + augment.contrast * (2 * contrast - 1),
            1 + augment.saturation * (2 * saturation - 1),
            augment.hue * (2 * hue - 1),
        ),
        order=tuple(order),
        gray=gray < augment.gray_probability,
        blur=blur < augment.blur_probability,
        sigma=augment.min_sigma + sigma * (augment.max_sigma - augment.min_sigma),
    )


def strong_view(
    image: Float[Tensor, "3 height width"], augment: AugmentConfig, generator: torch.Generator
) -> Float[Tensor, "3 height width"]:
    """Distort the colours of an image in [0, 1] and blur it, on the device where it lies.

    The generator is a CPU one, so the draws do not depend on the device.
    """
    return apply_view(image, draw_view(augment, generator))


def apply_view(image: Float[Tensor, "3 height width"], draw: ViewDraw) -> Float[Tensor, "3 height width"]:
    """Apply what was drawn to an image in [0, 1]: colour jitter, grayscale, true Gaussian blur."""
    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    if draw.jitter:
        for place in draw.order:
            image = adjust[place](image, draw.factors[place])
    if draw.gray:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    return _blurred(image, draw.sigma) if draw.blur else image


def cutmix_box(size: int, augment: AugmentConfig, generator: torch.Generator) -> Bool[Tensor, "size size"]:
    """Draw the box that the partner is pasted into; all false with probability 1 - `cutmix_probability`.

    The area is uniform, the aspect ratio (height / width) uniform in [a, 1 / a], the corner uniform in the crop, given
    that the box lies inside: shapes with more places to lie are more frequent, as when boxes that stick out are
    drawn again.
    """
    paste, area_share, top_share, left_share = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    area = (augment.min_box_area + area_share * (augment.max_box_area - augment.min_box_area)) * size**2
    square = torch.ones(1, dtype=torch.float64)  # always fits
    grid = torch.linspace(augment.min_box_aspect, 1 / augment.min_box_aspect, 1024, dtype=torch.float64)
    ratios = torch.cat([square, grid])
    heights, widths = (area * ratios).sqrt().int(), (area / ratios).sqrt().int()
    num_places = (size - heights + 1).clamp(min=0) * (size - widths + 1).clamp(min=0)
    shape = torch.multinomial(num_places.double(), 1, generator=generator).item()
    height, width = heights[shape].item(), widths[shape].item()
    top, left = int(top_share * (size - height + 1)), int(left_share * (size - width + 1))
    box = torch.zeros(size, size, dtype=torch.bool)
    if paste < augment.cutmix_probability:
        box[top : top + height, left : left + width] = True
    return box


def normalise(image: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """Subtract ImageNet's mean from images in [0, 1] and divide by its standard deviation."""
    mean, std = (image.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (image - mean) / std


def eval_view(
    image: Image.Image, label: Image.Image
) -> tuple[Float[Tensor, "3 height width"], UInt8[Tensor, "height width"]]:
    """Return the whole image, normalised, and its label."""
    return eval_image(image), _tensor(label)


def eval_image(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """Return the whole image, normalised."""
    return normalise(_image_tensor(image).to(torch.get_default_dtype()) / 255)


def _resized_part(image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """Resize an image to (width, height) and cut out a box, without making the rest: the same up to rounding."""
    across, down = image.width / size[0], image.height / size[1]
    source = (box[0] * across, box[1] * down, min(box[2] * across, image.width), min(box[3] * down, image.height))
    return image.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR, box=source)


def _blurred(image: Float[Tensor, "3 height width"], sigma: float) -> Float[Tensor, "3 height width"]:
    """Blur with a true Gaussian, cut at 3 sigma; beyond the border the edge repeats, as in PIL's blur."""
    reach = math.ceil(3 * sigma)
    width = 2 * reach + 1
    blurred: Tensor = F.pad(image, [reach], padding_mode="edge")
    for kernel in ([width, 1], [1, width]):  # one axis after the other: the same blur in half the time
        blurred = F.gaussian_blur(blurred, kernel, [sigma, sigma])
    return blurred[:, reach:-reach, reach:-reach]


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


def _image_tensor(image: Image.Image) -> Tensor:
    return _tensor(image).permute(2, 0, 1).contiguous()

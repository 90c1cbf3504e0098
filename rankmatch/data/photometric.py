"""Colour jitter, grayscale and blur of strong views, for many images at once, each with its own draws.

They are defined by `torchvision.transforms.v2.functional` on one image at a time, and equal it up to rounding, except
that blur repeats the edge of an image beyond its border, as PIL does, where torchvision reflects the image. For speed,
one call here serves all images with the same treatment, hue turns without a detour through HSV, and blur adds
shifted images, one axis after the other. A CPU works on one image at a time, in strips that fit its cache.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rankmatch.config import AugmentConfig

STRIP_PIXELS = 2**17
"""How many pixels a CPU processes at a time: fewer waste calls, more leave the cache."""
LUMA = (0.2989, 0.587, 0.114)
_CONTRAST = 1
"""Its place in `ViewDraw.factors`."""

Images = Float[Tensor, "batch 3 height width"]
Values = Float[Tensor, " batch"]
"""One number an image, on the host, in float64."""
Window = tuple[slice, slice]
"""Rows and columns of an image."""


@dataclass(frozen=True, slots=True)
class ViewDraw:
    """The random draws of one strong view."""

    jitter: bool
    factors: tuple[float, float, float, float]
    """Brightness, contrast, saturation (1: unchanged) and hue (0: unchanged)."""
    order: tuple[int, ...]
    """The places in `factors`, in the order in which they are applied."""
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


def distort(images: Images, draws: Sequence[ViewDraw], windows: Sequence[Window] | None = None) -> None:
    """Apply its draws to each image in [0, 1], in place: colour jitter, grayscale, true Gaussian blur.

    The draws are numbers on the host, so they do not depend on the images' device. If windows are given, one per
    image, only the pixels inside them are guaranteed to be finished.
    """
    if images.device.type != "cpu":
        _distort(images, draws, None)
        return
    for place, draw in enumerate(draws):
        _distort(images[place : place + 1], [draw], windows[place] if windows is not None else None)


def _distort(images: Images, draws: Sequence[ViewDraw], window: Window | None) -> None:
    """Apply the draws with one call per group of images with the same treatment; a window is that of one image."""
    for place in range(4):
        if window is not None and _sees_window_alone(draws[0], place):
            images, window = images[(..., *_grown(window, draws[0]))], None
        for kind, adjust in enumerate((_brighten, _contrast, _saturate, _turn_hue)):
            chosen = {
                n: draw.factors[kind] for n, draw in enumerate(draws) if draw.jitter and draw.order[place] == kind
            }
            _on_chosen(images, chosen, adjust)
    if window is not None:  # contrast was last
        images = images[(..., *_grown(window, draws[0]))]
    _on_chosen(images, {n: 0.0 for n, draw in enumerate(draws) if draw.gray}, _saturate)
    _on_chosen(images, {n: draw.sigma for n, draw in enumerate(draws) if draw.blur}, _blur)


def _sees_window_alone(draw: ViewDraw, place: int) -> bool:
    """Return whether pixels outside a window no longer matter: contrast, which uses the image's mean, is done."""
    return not draw.jitter or _CONTRAST in draw.order[:place]


def _grown(window: Window, draw: ViewDraw) -> Window:
    """Return the window extended by the neighbours that its blur needs."""
    reach = math.ceil(3 * draw.sigma) if draw.blur else 0
    rows, columns = (slice(max(0, part.start - reach), part.stop + reach) for part in window)
    return rows, columns


def _on_chosen(images: Images, chosen: Mapping[int, float], change: Callable[[Images, Values], None]) -> None:
    """Change some images in place; keys are their indices, values the arguments of `change`."""
    if not chosen:
        return
    values = torch.tensor(list(chosen.values()), dtype=torch.float64)
    if len(chosen) == len(images):
        change(images, values)
        return
    places = torch.tensor(list(chosen)).to(images.device, non_blocking=True)
    part = images.index_select(0, places)
    change(part, values)
    images[places] = part


def _beside(values: Values, images: Images) -> Float[Tensor, "batch 1 1 1"]:
    return values.to(images, non_blocking=True)[:, None, None, None]


def _strips(images: Images) -> tuple[Tensor, ...]:
    """Cut between rows into parts that fit a CPU's cache; a GPU takes all rows at once."""
    height, width = images.shape[-2:]
    return torch.split(images, max(1, STRIP_PIXELS // width) if images.device.type == "cpu" else height, dim=-2)


def _brighten(images: Images, values: Values) -> None:
    factors = _beside(values, images)
    for strip in _strips(images):
        strip.mul_(factors).clamp_(0, 1)


def _contrast(images: Images, values: Values) -> None:
    factors = _beside(values, images)
    means = _luma(images.mean((2, 3), keepdim=True)).mul_(1 - factors)
    for strip in _strips(images):
        strip.mul_(factors).add_(means).clamp_(0, 1)


def _saturate(images: Images, values: Values) -> None:
    factors = _beside(values, images)
    for strip in _strips(images):
        luma = _luma(strip).mul_(1 - factors)
        strip.mul_(factors).add_(luma).clamp_(0, 1)


def _luma(images: Images) -> Float[Tensor, "batch 1 height width"]:
    red, green, blue = torch.split(images, 1, dim=1)
    return red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _turn_hue(images: Images, values: Values) -> None:
    shifts = _beside(values, images)[:, 0]
    for strip in _strips(images):
        _turn_hue_of(strip, shifts)


def _turn_hue_of(strip: Images, shifts: Float[Tensor, "batch 1 1"]) -> None:
    """Turn the hue by a share of the circle; the largest and the smallest channel of a pixel keep their values.

    The circle is counted in sixths from cyan, -3 to 3: there red is smallest, green is largest at -1, blue at 1. With
    channels stretched to 0..1, the distance from cyan is 2 + red - green - blue.
    """
    red, green, blue = strip.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    sixths = torch.add(red, high, alpha=2).sub_(low).sub_(green).sub_(blue)
    sixths.div_(chroma.clamp_min(torch.finfo(chroma.dtype).tiny)).copysign_(blue - green)
    sixths = torch.add(shifts + 1.5, sixths, alpha=1 / 6).frac_().sub_(0.5).mul_(6)
    rising, falling = low - chroma, torch.add(low, chroma, alpha=2)
    torch.addcmul(rising, chroma, sixths.abs(), out=red).clamp_(low, high)
    torch.addcmul(falling, chroma, (sixths + 1).abs_(), value=-1, out=green).clamp_(low, high)
    torch.addcmul(falling, chroma, sixths.sub_(1).abs_(), value=-1, out=blue).clamp_(low, high)


def _blur(images: Images, values: Values) -> None:
    """Blur with true Gaussians, each cut at 3 sigma; beyond the border the edge repeats, as in PIL's blur."""
    taps = _gaussians(values).to(images, non_blocking=True)[..., None, None, None].unbind(1)
    reach = len(taps) // 2
    padded, first = F.pad(images, [reach] * 4, mode="replicate"), 0
    for strip in _strips(images):
        source = padded[:, :, first : first + strip.shape[2] + 2 * reach]
        strip.copy_(_convolved(_convolved(source, taps, 3), taps, 2))
        first += strip.shape[2]


def _gaussians(sigmas: Values) -> Float[Tensor, "batch taps"]:
    """Return the kernels of the widths ceil(3 sigma), zeros beside the narrower ones."""
    reaches = (3 * sigmas).ceil()[:, None]
    steps = torch.arange(-int(reaches.max()), int(reaches.max()) + 1)
    kernels = torch.where(steps.abs() <= reaches, (-0.5 * (steps / sigmas[:, None]) ** 2).exp(), 0)
    return kernels / kernels.sum(1, keepdim=True)


def _convolved(images: Images, taps: Sequence[Float[Tensor, "batch 1 1 1"]], dim: int) -> Tensor:
    size = images.shape[dim] - len(taps) + 1
    total = images.narrow(dim, 0, size) * taps[0]
    for place, tap in enumerate(taps[1:], 1):
        total.addcmul_(images.narrow(dim, place, size), tap)
    return total

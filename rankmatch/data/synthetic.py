"""Drawn scenes: the embedded data set, which needs no download and no disk.

Five objects lie on a mottled ground and occlude one another. A class is recognised by its lightness against the ground
and by its pattern: striped and dark, dotted and bright, checkered, plain and dark, plain and bright. Everything else
varies from scene to scene and carries no information: hue and saturation, size, shape and orientation, the light of the
scene, noise and blur. A few labeled scenes do not show that variety; the strong views and the unlabeled scenes do.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Array = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

CLASS_NAMES = ("ground", "stripes", "dots", "checker", "dark", "bright")
LIGHTNESS = (0.5, 0.27, 0.75, 0.5, 0.22, 0.8)
"""Mean lightness of each class before the light of the scene."""
PERIODS = (0.0, 9.0, 12.0, 13.0, 0.0, 0.0)
"""Pixels from one repetition of a class's pattern to the next, in a scene of 160 pixels; 0: plain."""
RADII = (26.0, 46.0)
"""Smallest and largest half-axis of an object, in pixels of a scene of 160 pixels."""
REFERENCE_SIZE = 160
SATURATIONS = (0.1, 0.4)
BLUR_PROBABILITY = 0.1
MAX_CAST, MAX_CONTRAST, MAX_BRIGHTNESS = 0.1, 0.2, 0.05
"""How far the light of a scene goes from 1, 1 and 0."""


def draw_scene(index: int, *, seed: int, size: int) -> tuple[Bytes, Bytes]:
    """Draw scene `index` as an image [size, size, 3] and its label [size, size], a pure function of the arguments.

    Args:
        index: Number of the scene, at least 0; train and validation scenes have different numbers.
        seed: Of the whole data set, at least 0.
        size: Height and width in pixels; objects and patterns scale with it.
    """
    rng = np.random.default_rng([seed, index])
    image = _ground(rng, size)
    label = np.zeros((size, size), np.uint8)
    for kind in 1 + rng.permutation(len(CLASS_NAMES) - 1):
        _add_object(rng, image, label, int(kind))
    lit = Image.fromarray((_light(rng, image) * 255).astype(np.uint8))
    if rng.random() < BLUR_PROBABILITY:
        lit = lit.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    return np.asarray(lit), label


def _ground(rng: np.random.Generator, size: int) -> Array:
    """Paint a ground of one colour under cloudy shade."""
    cells = int(rng.integers(3, 12))
    clouds = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    shade: Array = np.asarray(clouds.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    colour = _colour(rng, rng.uniform(0.05, 0.4), rng.uniform(0.4, 0.6))
    return (np.float32(0.8) + np.float32(0.4) * shade[..., None]) * colour


def _add_object(rng: np.random.Generator, image: Array, label: Bytes, kind: int) -> None:
    """Paint one object of a class over image and label, in place."""
    size = len(label)
    scale = size / REFERENCE_SIZE
    centre_y, centre_x = rng.uniform(0, size, 2)
    radii = scale * rng.uniform(*RADII, 2)
    reach = int(1.2 * radii.max()) + 2  # the corners of a rounded box lie outside the largest half-axis
    rows = slice(max(0, int(centre_y) - reach), min(size, int(centre_y) + reach))
    columns = slice(max(0, int(centre_x) - reach), min(size, int(centre_x) + reach))
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(centre_y)
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None] - np.float32(centre_x)
    inside = _shape(rng, y, x, radii)
    lightness = np.clip(LIGHTNESS[kind] + rng.normal(0, 0.05), 0.1, 0.95)
    contrast = np.float32(0.3 * rng.uniform(0.6, 1.0))
    paint = _colour(rng, rng.uniform(*SATURATIONS), lightness) + contrast * _pattern(rng, y, x, kind, scale)[..., None]
    image[rows, columns][inside] = paint[inside]
    label[rows, columns][inside] = kind


def _shape(rng: np.random.Generator, y: Array, x: Array, radii: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return where a turned ellipse or a rounded box lies, whatever the class."""
    along, across = _turned(y, x, rng.uniform(0, np.pi))
    u, v = (along / np.float32(radii[0])) ** 2, (across / np.float32(radii[1])) ** 2
    return u + v < 1 if rng.random() < 0.5 else u * u + v * v < 1


def _pattern(rng: np.random.Generator, y: Array, x: Array, kind: int, scale: float) -> Array:
    """Return the pattern of a class, from -1 to 1, at a random angle, period and phase."""
    if not PERIODS[kind]:
        return np.zeros(np.broadcast_shapes(y.shape, x.shape), np.float32)
    along, across = _turned(y, x, rng.uniform(0, np.pi))
    frequency = np.float32(2 * np.pi / (scale * PERIODS[kind] * rng.uniform(0.85, 1.2)))
    phases = rng.uniform(0, 2 * np.pi, 2).astype(np.float32)
    u, v = along * frequency + phases[0], across * frequency + phases[1]
    wave: Array
    if CLASS_NAMES[kind] == "stripes":
        wave = 3 * np.sin(u)
    elif CLASS_NAMES[kind] == "dots":
        wave = 2.7 - 3 * (np.cos(u) + np.cos(v))
    else:
        wave = 4 * np.sin(u) * np.sin(v)
    return wave.clip(-1, 1)


def _turned(y: Array, x: Array, angle: float) -> tuple[Array, Array]:
    """Return the coordinates along and across an axis at an angle in radians."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def _colour(rng: np.random.Generator, saturation: float, value: float) -> Array:
    """Return a colour of random hue as RGB, the HSV cone's formula."""
    wheel = (np.array([5.0, 3.0, 1.0]) + 6 * rng.random()) % 6
    return (value - value * saturation * np.clip(np.minimum(wheel, 4 - wheel), 0, 1)).astype(np.float32)


def _light(rng: np.random.Generator, image: Array) -> Array:
    """Return the image under a scene's light and a camera's noise, from 0 to 1."""
    cast = 1 + MAX_CAST * rng.uniform(-1, 1, 3).astype(np.float32)
    contrast = np.float32(1 + MAX_CONTRAST * rng.uniform(-1, 1))
    brightness = np.float32(MAX_BRIGHTNESS * rng.uniform(-1, 1))
    noise = rng.random(image.shape, dtype=np.float32) - np.float32(0.5)
    lit = (image * cast - np.float32(0.5)) * contrast + (np.float32(0.5) + brightness)
    noisy: Array = lit + noise * np.float32(0.04 * rng.random())
    return noisy.clip(0, 1)

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional

from rankmatch.config import AugmentConfig
from rankmatch.data import photometric
from rankmatch.data.photometric import ViewDraw, distort, draw_view
from rankmatch.data.synthetic import draw_scene
from rankmatch.distributed import Purpose, generator

AUGMENT = AugmentConfig(crop_size=65)
STILL = ViewDraw(jitter=False, factors=(1.0, 1.0, 1.0, 0.0), order=(0, 1, 2, 3), gray=False, blur=False, sigma=1.0)
ADJUST = [getattr(functional, f"adjust_{name}") for name in ("brightness", "contrast", "saturation", "hue")]


def draws(position: int = 0) -> torch.Generator:
    return generator(0, 0, position, Purpose.VIEW_1)


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


@pytest.fixture
def scene() -> Image.Image:
    """A picture with shade, edges and patterns, of the size of a photograph."""
    return Image.fromarray(draw_scene(2, seed=0, size=400)[0]).crop((0, 0, 400, 300))


def noise(*size: int) -> torch.Tensor:
    """Noise in which every twentieth pixel or so has no hue, or two largest channels."""
    image = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0)).float() / 255
    grey, tied = image[..., :1, :, :] < 0.05, image[..., 1:2, :, :] < 0.05
    image = torch.where(grey, image[..., 2:, :, :], image)
    return torch.where(tied, image.maximum(image.flip(-3)), image)


def applied(image: torch.Tensor, draw: ViewDraw) -> torch.Tensor:
    images = image[None].clone()
    distort(images, [draw])
    return images[0]


def defined(image: torch.Tensor, draw: ViewDraw) -> torch.Tensor:
    """The strong view as it is defined."""
    if draw.jitter:
        for place in draw.order:
            image = ADJUST[place](image, draw.factors[place])
    if draw.gray:
        image = functional.rgb_to_grayscale(image, num_output_channels=3)
    if not draw.blur:
        return image
    reach = int(np.ceil(3 * draw.sigma))
    padded = functional.pad(image, [reach], padding_mode="edge")
    blurred = functional.gaussian_blur(padded, [2 * reach + 1] * 2, [draw.sigma] * 2)
    return blurred[:, reach:-reach, reach:-reach]


@pytest.mark.parametrize("together", [False, True])
def test_strong_views_are_torchvisions(together: bool, monkeypatch: pytest.MonkeyPatch):
    """Together as on a GPU, by one call for many images, or as on a CPU, each alone and here in strips of 3 rows."""
    images, views = noise(120, 3, 33, 41), [draw_view(AUGMENT, draws(position)) for position in range(120)]
    monkeypatch.setattr(photometric, "STRIP_PIXELS", 130)
    expected = torch.stack([defined(image, view) for image, view in zip(images, views, strict=True)])
    ours = images.clone()
    if together:
        photometric._distort(ours, views, None)
    else:
        distort(ours, views)
    torch.testing.assert_close(ours, expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("shift", [-0.5, -0.25, 0.0, 0.1, 0.5])
def test_hue_is_torchvisions(shift: float):
    image = noise(3, 65, 65)
    turned = applied(image, replace(STILL, jitter=True, factors=(1.0, 1.0, 1.0, shift)))
    torch.testing.assert_close(turned, functional.adjust_hue(image, shift), atol=3e-6, rtol=0)


def test_inside_a_window_the_view_is_the_same():
    images, views = noise(200, 3, 33, 41), [draw_view(AUGMENT, draws(position)) for position in range(200)]
    places = torch.randint(0, 20, (200, 2), generator=torch.Generator().manual_seed(1)).tolist()
    windows = [(slice(top, top + 13), slice(left, left + 21)) for top, left in places]
    whole, parts = images.clone(), images.clone()
    distort(whole, views)
    distort(parts, views, windows)
    assert not torch.equal(whole, parts)
    for one, other, window in zip(whole, parts, windows, strict=True):
        torch.testing.assert_close(other[(..., *window)], one[(..., *window)], atol=1e-6, rtol=0)


def test_strong_view_is_a_function_of_its_generator():
    image = noise(3, 65, 65)
    first, again, other = (applied(image, draw_view(AUGMENT, draws(position))) for position in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1


def test_one_probability_shifts_no_other_draw():
    never = replace(AUGMENT, jitter_probability=0, gray_probability=0, blur_probability=0)
    always = replace(AUGMENT, jitter_probability=1, gray_probability=1, blur_probability=1)
    first, second = draw_view(never, draws()), draw_view(always, draws())
    assert (first.jitter, first.gray, first.blur) == (False, False, False)
    assert second == replace(first, jitter=True, gray=True, blur=True)


def test_draws_have_the_configured_shares_and_ranges():
    views = [draw_view(AUGMENT, draws(position)) for position in range(2000)]
    for name, share in (("jitter", 0.8), ("gray", 0.2), ("blur", 0.5)):
        assert np.mean([getattr(view, name) for view in views]) == pytest.approx(share, abs=0.04)
    lows, highs = zip(
        *((min(values), max(values)) for values in zip(*(view.factors for view in views), strict=True)), strict=True
    )
    assert lows == pytest.approx((0.5, 0.5, 0.5, -0.25), abs=0.01)
    assert highs == pytest.approx((1.5, 1.5, 1.5, 0.25), abs=0.01)
    assert len({view.order for view in views}) == 24
    assert 0.1 <= min(view.sigma for view in views) <= max(view.sigma for view in views) <= 2.0


def test_factors_are_applied_in_the_drawn_order():
    image = noise(3, 65, 65)
    draw = replace(STILL, jitter=True, factors=(1.4, 0.6, 1.3, 0.2), order=(3, 1, 0, 2))
    expected = functional.adjust_contrast(functional.adjust_hue(image, 0.2), 0.6)
    expected = functional.adjust_saturation(functional.adjust_brightness(expected, 1.4), 1.3)
    torch.testing.assert_close(applied(image, draw), expected, atol=3e-6, rtol=0)


def test_nothing_drawn_changes_nothing():
    image = noise(3, 65, 65)
    assert torch.equal(applied(image, STILL), image)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_true_gaussian(sigma: float):
    image = torch.zeros(3, 65, 65)
    image[:, 32, 32] = 1
    blurred = applied(image, replace(STILL, blur=True, sigma=sigma))
    distance = torch.arange(65) - 32.0
    kernel = torch.exp(-(distance**2) / (2 * sigma**2))
    torch.testing.assert_close(blurred[0], torch.outer(kernel, kernel) / kernel.sum() ** 2, atol=2e-3, rtol=0)
    assert blurred.sum((1, 2)).tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_blur_is_torchvisions_except_at_the_border_where_it_repeats_the_edge_and_does_not_reflect():
    image, reach = noise(3, 65, 65), 6
    ours = applied(image, replace(STILL, blur=True, sigma=2.0))
    theirs = functional.gaussian_blur(image, [2 * reach + 1] * 2, [2.0] * 2)
    inside = (slice(None), slice(reach, -reach), slice(reach, -reach))
    torch.testing.assert_close(ours[inside], theirs[inside], atol=3e-6, rtol=0)
    assert (ours - theirs).abs().max() > 0.05


SIGMAS = [tenths / 10 for tenths in range(1, 21)]


@pytest.mark.parametrize("sigma", SIGMAS)
def test_blur_agrees_with_pil(scene: Image.Image, sigma: float):
    assert_blur_close_to_pil(scene, sigma)


def photos(shared: Path) -> list[Image.Image]:
    files = sorted((shared / "data" / "voc2012_animals_mini").rglob("*.jpg"))[:60:4]
    assert len(files) == 15
    return [image.crop((0, 0, *[min(321, *image.size)] * 2)) for image in map(Image.open, files)]


@pytest.mark.shared
@pytest.mark.long
def test_blur_and_chains_of_photographs_agree_with_pil(shared: Path):
    for number, photo in enumerate(photos(shared)):
        for sigma in SIGMAS:
            assert_blur_close_to_pil(photo, sigma)
        for position in range(20 * number, 20 * number + 20):
            draw = draw_view(AUGMENT, draws(position))
            assert_close_to_pil(applied(tensor(photo), draw), by_pil(photo, draw), *CHAIN)


@pytest.mark.parametrize(
    ("place", "factor"), [(0, 0.5), (0, 1.5), (1, 0.5), (1, 1.5), (2, 0.5), (2, 1.5), (3, -0.25), (3, 0.1), (3, 0.25)]
)
def test_jitter_agrees_with_pil(scene: Image.Image, place: int, factor: float):
    draw = replace(STILL, jitter=True, factors=tuple(factor if n == place else STILL.factors[n] for n in range(4)))
    assert_close_to_pil(applied(tensor(scene), draw), ADJUST[place](scene, factor), *COLOURS)


def test_gray_agrees_with_pil(scene: Image.Image):
    grey = applied(tensor(scene), replace(STILL, gray=True))
    assert_close_to_pil(grey, scene.convert("L").convert("RGB"), *COLOURS)


def by_pil(image: Image.Image, draw: ViewDraw) -> Image.Image:
    """The strong view of a program that keeps 8 bits from one operation to the next."""
    for place in draw.order if draw.jitter else ():
        image = ADJUST[place](image, draw.factors[place])
    image = image.convert("L").convert("RGB") if draw.gray else image
    return image.filter(ImageFilter.GaussianBlur(draw.sigma)) if draw.blur else image


def test_chain_of_operations_agrees_with_pil(scene: Image.Image):
    for position in range(40):
        draw = draw_view(AUGMENT, draws(position))
        assert_close_to_pil(applied(tensor(scene), draw), by_pil(scene, draw), *CHAIN)


COLOURS, NARROW_BLUR, BLUR, BLUR_INSIDE, CHAIN = (0.8, 16), (2.1, 31), (1.4, 26), (1.4, 14), (3.5, 40)
"""The largest means and single differences, of 255, that docs/algorithm.md states."""


def assert_blur_close_to_pil(image: Image.Image, sigma: float) -> None:
    """PIL's blur, three box filters, is another one: for narrow Gaussians, and on the border itself."""
    ours, theirs = applied(tensor(image), replace(STILL, blur=True, sigma=sigma)), ImageFilter.GaussianBlur(sigma)
    if sigma < 0.5:
        assert_close_to_pil(ours, image.filter(theirs), *NARROW_BLUR)
        return
    assert_close_to_pil(ours, image.filter(theirs), *BLUR)
    inside = image.filter(theirs).crop((1, 1, image.width - 1, image.height - 1))
    assert_close_to_pil(ours[:, 1:-1, 1:-1], inside, *BLUR_INSIDE)


def assert_close_to_pil(ours: torch.Tensor, theirs: Image.Image, mean: float, largest: float) -> None:
    difference = (ours - tensor(theirs)).abs() * 255
    assert difference.mean() <= mean
    assert difference.max() <= largest

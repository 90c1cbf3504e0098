from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional

from rankmatch.config import AugmentConfig
from rankmatch.data.transforms import (
    ViewDraw,
    apply_view,
    crop_view,
    cutmix_box,
    draw_view,
    eval_view,
    normalise,
    strong_view,
)
from rankmatch.distributed import Purpose, generator

AUGMENT = AugmentConfig(crop_size=65)
STILL = ViewDraw(jitter=False, factors=(1.0, 1.0, 1.0, 0.0), order=(0, 1, 2, 3), gray=False, blur=False, sigma=1.0)


def draws(position: int = 0) -> torch.Generator:
    return generator(0, 0, position, Purpose.GEOMETRY)


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(values.squeeze(-1) if channels == 1 else values)


def fixed(scale: float, flip: float = 0.0) -> AugmentConfig:
    return replace(AUGMENT, min_scale=scale, max_scale=scale, flip_probability=flip)


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("scale", [0.53, 1.0, 1.7])
def test_crop_is_a_window_of_the_resized_image_and_of_its_label(scale: float):
    image, label = noise(150, 130), noise(150, 130, 1)
    crop, classes, valid = crop_view(image, label, fixed(scale), draws())
    size = (round(150 * scale), round(130 * scale))
    whole = torch.from_numpy(np.array(label.resize(size, Image.Resampling.NEAREST)))
    patches = whole.unfold(0, 5, 1).unfold(1, 5, 1)
    top, left = (patches == classes[:5, :5]).all(3).all(2).nonzero()[0].tolist()
    assert torch.equal(classes, whole[top : top + 65, left : left + 65])
    resized = torch.from_numpy(np.array(image.resize(size, Image.Resampling.BILINEAR))).permute(2, 0, 1)
    difference = crop.int() - resized[:, top : top + 65, left : left + 65].int()
    assert difference.abs().max() <= 2
    assert difference.abs().float().mean() < 0.1
    assert valid.all()


def test_padding_is_right_and_below_black_ignored_and_not_valid():
    image = Image.new("RGB", (40, 30), (255, 255, 255))
    crop, classes, valid = crop_view(image, Image.new("L", (40, 30), 2), fixed(1.0), draws())
    inside = torch.zeros(65, 65, dtype=torch.bool)
    inside[:30, :40] = True
    assert torch.equal(valid, inside)
    assert torch.equal(crop, (inside * 255).byte().expand(3, -1, -1))
    assert torch.equal(classes, torch.where(inside, 2, 255).byte())


def test_flip_mirrors_image_label_and_valid():
    image, label = noise(40, 90), noise(40, 90, 1)
    straight, mirrored = (crop_view(image, label, fixed(1.0, flip), draws()) for flip in (0.0, 1.0))
    for before, after in zip(straight, mirrored, strict=True):
        assert torch.equal(before.flip(-1), after)


def test_unlabeled_crop_is_the_labeled_one_with_everything_ignored():
    image = noise(90, 50)
    labeled = crop_view(image, Image.new("L", image.size), AUGMENT, draws())
    unlabeled = crop_view(image, None, AUGMENT, draws())
    assert torch.equal(labeled[0], unlabeled[0])
    assert torch.equal(labeled[2], unlabeled[2])
    assert (unlabeled[1] == 255).all()


def test_crops_cover_the_image_and_the_scales():
    image = Image.fromarray(np.tile(np.arange(130, dtype=np.uint8), (130, 1))).convert("RGB")
    lefts = [crop_view(image, None, fixed(1.0), draws(n))[0][0, 0, 0].item() for n in range(600)]
    assert set(lefts) == set(range(130 - 65 + 1))
    small = Image.new("RGB", (32, 32))
    widths = [crop_view(small, None, AUGMENT, draws(n))[2][0].sum().item() for n in range(600)]
    assert (min(widths), max(widths)) == (16, 64)
    assert np.mean(widths) == pytest.approx(40, abs=2)


def test_strong_view_is_a_function_of_its_generator():
    image = tensor(noise(65, 65))
    first, again, other = (strong_view(image, AUGMENT, draws(position)) for position in (3, 3, 4))
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
    image = tensor(noise(65, 65))
    draw = replace(STILL, jitter=True, factors=(1.4, 0.6, 1.3, 0.2), order=(3, 1, 0, 2))
    expected = functional.adjust_contrast(functional.adjust_hue(image, 0.2), 0.6)
    expected = functional.adjust_saturation(functional.adjust_brightness(expected, 1.4), 1.3)
    assert torch.equal(apply_view(image, draw), expected)


def test_nothing_drawn_changes_nothing():
    image = tensor(noise(65, 65))
    assert torch.equal(apply_view(image, STILL), image)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_true_gaussian(sigma: float):
    image = torch.zeros(3, 65, 65)
    image[:, 32, 32] = 1
    blurred = apply_view(image, replace(STILL, blur=True, sigma=sigma))
    distance = torch.arange(65) - 32.0
    kernel = torch.exp(-(distance**2) / (2 * sigma**2))
    torch.testing.assert_close(blurred[0], torch.outer(kernel, kernel) / kernel.sum() ** 2, atol=2e-3, rtol=0)
    assert blurred.sum((1, 2)).tolist() == pytest.approx([1, 1, 1], abs=1e-5)


@pytest.mark.shared
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.5, 2.0])
def test_blur_agrees_with_pil(shared: Path, sigma: float):
    image = Image.open(shared / "data/voc2012_animals_mini/JPEGImages/2007_000799.jpg")
    blurred = apply_view(tensor(image), replace(STILL, blur=True, sigma=sigma))
    assert_close_to_pil(blurred, image.filter(ImageFilter.GaussianBlur(sigma)))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("place", "factor"), [(0, 0.5), (0, 1.5), (1, 0.5), (1, 1.5), (2, 0.5), (2, 1.5), (3, -0.25), (3, 0.1), (3, 0.25)]
)
def test_jitter_agrees_with_pil(shared: Path, place: int, factor: float):
    image = Image.open(shared / "data/voc2012_animals_mini/JPEGImages/2007_000799.jpg")
    adjust = [getattr(functional, f"adjust_{name}") for name in ("brightness", "contrast", "saturation", "hue")][place]
    draw = replace(STILL, jitter=True, factors=tuple(factor if n == place else STILL.factors[n] for n in range(4)))
    assert_close_to_pil(apply_view(tensor(image), draw), adjust(image, factor))


@pytest.mark.shared
def test_gray_agrees_with_pil(shared: Path):
    image = Image.open(shared / "data/voc2012_animals_mini/JPEGImages/2007_000799.jpg")
    assert_close_to_pil(apply_view(tensor(image), replace(STILL, gray=True)), image.convert("L").convert("RGB"))


def assert_close_to_pil(ours: torch.Tensor, theirs: Image.Image) -> None:
    difference = (ours - tensor(theirs)).abs() * 255
    assert difference.mean() <= 1
    assert difference[:, 1:-1, 1:-1].max() <= 20  # PIL's blur, three box filters, is another one on the border itself


def test_boxes_have_the_configured_areas_and_aspects():
    always = replace(AUGMENT, cutmix_probability=1)
    boxes = torch.stack([cutmix_box(321, always, draws(position)) for position in range(400)])
    heights, widths = boxes.any(2).sum(1), boxes.any(1).sum(1)
    assert torch.equal(boxes.sum((1, 2)), heights * widths)  # one rectangle
    areas = heights * widths / 321**2
    assert 0.019 <= areas.min() <= 0.03
    assert 0.38 <= areas.max() <= 0.4
    assert areas.mean() == pytest.approx(0.21, abs=0.02)
    aspects = heights / widths
    assert aspects.min() >= 0.29
    assert aspects.max() <= 1 / 0.29


def test_boxes_are_pasted_with_their_probability_and_stay_in_place():
    some = [cutmix_box(65, AUGMENT, draws(position)) for position in range(1000)]
    all_ = [cutmix_box(65, replace(AUGMENT, cutmix_probability=1), draws(position)) for position in range(1000)]
    assert np.mean([box.any().item() for box in some]) == pytest.approx(0.5, abs=0.05)
    assert all(not box.any() or torch.equal(box, same) for box, same in zip(some, all_, strict=True))


def test_box_of_the_whole_crop_can_be_drawn():
    whole = replace(AUGMENT, cutmix_probability=1, min_box_area=1, max_box_area=1)
    assert cutmix_box(65, whole, draws()).sum() >= 64 * 65


def test_boxes_reach_every_side():
    boxes = torch.stack([cutmix_box(65, AUGMENT, draws(position)) for position in range(1000)])
    assert all(side.any() for side in (boxes[:, 0], boxes[:, -1], boxes[..., 0], boxes[..., -1]))


def test_normalise_uses_the_statistics_of_imagenet():
    batch = torch.tensor([0.485, 0.456, 0.406])[:, None, None].expand(2, 3, 4, 5)
    assert normalise(batch).abs().max() == 0
    torch.testing.assert_close(
        normalise(torch.ones(3, 1, 1)).flatten(), torch.tensor([2.2489, 2.4286, 2.64]), atol=1e-4, rtol=0
    )


def test_eval_view_is_the_whole_image():
    image, label = noise(50, 30), noise(50, 30, 1)
    view, classes = eval_view(image, label)
    assert torch.equal(view, normalise(tensor(image)))
    assert np.array_equal(classes.numpy(), np.asarray(label))

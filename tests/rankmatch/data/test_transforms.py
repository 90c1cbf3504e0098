from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rankmatch.config import AugmentConfig
from rankmatch.data.transforms import crop_view, draw_box, eval_view, normalise
from rankmatch.distributed import Purpose, generator

AUGMENT = AugmentConfig(crop_size=65)


def draws(position: int = 0) -> torch.Generator:
    return generator(0, 0, position, Purpose.GEOMETRY)


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(values.squeeze(-1) if channels == 1 else values)


def box_of(size: int, augment: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    box = torch.zeros(size, size, dtype=torch.bool)
    window = draw_box(size, augment, generator)
    if window is not None:
        box[window] = True
    return box


def fixed(scale: float, flip: float = 0.0) -> AugmentConfig:
    return replace(AUGMENT, min_scale=scale, max_scale=scale, flip_probability=flip)


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def test_crop_is_a_window_of_the_resized_image_and_of_its_label():
    """PIL rounds after each of two passes, so where only a part is made one value in millions is two steps off."""
    random = np.random.default_rng(0)
    differences = []
    for position in range(60):
        width, height = random.integers(40, 300, 2).tolist()
        image, label = noise(width, height), noise(width, height, 1)
        crop, classes, valid = crop_view(image, label, replace(AUGMENT, flip_probability=0.0), draws(position))
        size, box = geometry(image.size, draws(position))
        rows, columns = slice(box[3] - box[1]), slice(box[2] - box[0])
        resized = label.resize(size, Image.Resampling.NEAREST).crop(box)
        assert np.array_equal(classes[rows, columns], resized)
        whole = np.asarray(image.resize(size, Image.Resampling.BILINEAR).crop(box), dtype=int)
        differences.append(np.abs(crop[:, rows, columns].permute(1, 2, 0).numpy() - whole).flatten())
        assert valid.sum() == valid[rows, columns].numel() == whole.size // 3
    all_ = np.concatenate(differences)
    assert all_.max() <= 2
    assert (all_ == 2).sum() <= 2
    assert all_.mean() < 0.1


def geometry(size: tuple[int, int], generator: torch.Generator) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """The resized image and the box in it, by the draws of `crop_view`."""
    scale, left_share, top_share, _ = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    width, height = (max(1, round(side * (0.5 + 1.5 * scale))) for side in size)
    left, top = int(left_share * (max(width, 65) - 64)), int(top_share * (max(height, 65) - 64))
    return (width, height), (left, top, min(width, left + 65), min(height, top + 65))


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


def test_boxes_have_the_configured_areas_and_aspects():
    always = replace(AUGMENT, cutmix_probability=1)
    boxes = torch.stack([box_of(321, always, draws(position)) for position in range(400)])
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
    some = [box_of(65, AUGMENT, draws(position)) for position in range(1000)]
    all_ = [box_of(65, replace(AUGMENT, cutmix_probability=1), draws(position)) for position in range(1000)]
    assert np.mean([box.any().item() for box in some]) == pytest.approx(0.5, abs=0.05)
    assert all(not box.any() or torch.equal(box, same) for box, same in zip(some, all_, strict=True))


def test_box_of_the_whole_crop_can_be_drawn():
    whole = replace(AUGMENT, cutmix_probability=1, min_box_area=1, max_box_area=1)
    assert box_of(65, whole, draws()).sum() >= 64 * 65


def test_boxes_reach_every_side():
    boxes = torch.stack([box_of(65, AUGMENT, draws(position)) for position in range(1000)])
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

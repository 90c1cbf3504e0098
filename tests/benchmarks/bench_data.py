"""Samples of one core: geometry, strong views and boxes; the reference makes one image at a time through PIL.

A CutMix partner is an unlabeled sample too: so many positions of a step are twice as many samples. Ours makes the
strong views as tensors, here on the CPU, and those of a partner only where a box shows it.
"""

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms.v2 import functional as F

from benchmarks.harness import Row, Settings, compare
from rankmatch.config import AugmentConfig, DatasetConfig, NumericsConfig, TrainConfig
from rankmatch.data import store
from rankmatch.data.catalog import open_dataset, pack_keys
from rankmatch.data.loaders import _collate, _Crops, _Key
from rankmatch.data.splits import read_splits
from rankmatch.data.transforms import MEAN, STD
from rankmatch.data.views import ViewMaker
from rankmatch.distributed import Purpose
from rankmatch.execution import ExecutionConfig


@dataclass(frozen=True)
class Case:
    """A data set like PASCAL or Cityscapes, and a crop."""

    crop_size: int
    image_size: tuple[int, int]
    suffix: str
    num_images: int
    num_positions: int


CASES = (
    Case(321, (500, 375), "jpg", 24, 24),
    Case(513, (500, 375), "jpg", 24, 16),
    Case(801, (2048, 1024), "png", 6, 6),
)


def rows(settings: Settings) -> Iterator[Row]:
    """Measure both kinds of samples from a decoded store, and those of PASCAL's size from its files too."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="rankmatch-bench-"))
    try:
        for case in CASES:
            small = replace(case, num_images=4, num_positions=2) if settings.tiny else case
            yield from _rows_of(small, folder / str(case.crop_size), settings)
    finally:
        torch.set_num_threads(num_threads)
        shutil.rmtree(folder)


def _rows_of(case: Case, root: Path, settings: Settings) -> Iterator[Row]:
    _make_files(case, root)
    files = _config(case, root, packed=False)
    samples = list(read_splits(files))
    store.pack(root / "packed", root, pack_keys(samples, root), store.Properties("decoded", []))
    packed = _config(case, root, packed=True)
    augment, positions = files.numerics.augment, range(case.num_positions)
    splits = read_splits(files)
    images = [root / splits.unlabeled[n % len(splits.unlabeled)].image for n in positions]
    pairs = [splits.labeled[n % len(splits.labeled)] for n in positions]

    def textbook_unlabeled() -> None:
        draws = random.Random(0)
        for path in [*images, *images]:  # of every position the image and its partner
            unlabeled_sample(path, augment, draws)

    def textbook_labeled() -> None:
        draws = random.Random(0)
        for pair in pairs:
            labeled_sample(root / pair.image, root / str(pair.label), augment, draws)

    for suffix, config in (("", packed), ("_files", files)):
        for kind, ours, textbook, num_each in (
            ("unlabeled", _our_unlabeled(config, case), textbook_unlabeled, 2),
            ("labeled", _our_labeled(config, case), textbook_labeled, 1),
        ):
            row = compare(
                f"data_{kind}_{case.crop_size}{suffix}",
                ours,
                textbook,
                settings.repeats,
                per=num_each * case.num_positions,
                unit="ms",
            )
            yield replace(row, note="a sample, one thread, " + ("from files" if suffix else "from a decoded store"))


def _config(case: Case, root: Path, *, packed: bool) -> TrainConfig:
    return TrainConfig(
        numerics=NumericsConfig(
            split="few",
            dataset=DatasetConfig(name="bench", num_classes=21),
            augment=AugmentConfig(crop_size=case.crop_size),
        ),
        execution=ExecutionConfig(data_root=str(root), data_store=str(root / "packed") if packed else ""),
    )


def _make_files(case: Case, root: Path) -> None:
    """Draw images as smooth and as noisy as photographs, so that decoding takes as long."""
    (root / "splits" / "few").mkdir(parents=True)
    width, height = case.image_size
    for number in range(case.num_images):
        draws = torch.Generator().manual_seed(number)
        picture = torch.zeros(3, height, width)
        for size in (4, 8, 16, 32, 64, 128):
            octave = torch.rand(1, 3, size, size, generator=draws)
            picture += torch.nn.functional.interpolate(octave, (height, width), mode="bilinear")[0] / size**0.7
        picture = picture / picture.amax() + 0.01 * torch.randn(3, height, width, generator=draws)
        pixels = (255 * picture).clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(root / f"{number}.{case.suffix}", quality=92)
        classes = torch.nn.functional.interpolate(torch.rand(1, 1, 12, 16, generator=draws), (height, width))[0, 0]
        Image.fromarray((21 * classes).byte().numpy()).save(root / f"{number}_label.png")
    half = case.num_images // 2
    pairs = [f"{number}.{case.suffix} {number}_label.png\n" for number in range(case.num_images)]
    lists = {"few/labeled": pairs[:half], "val": pairs[half:]}
    lists["few/unlabeled"] = [f"{pair.split()[0]}\n" for pair in pairs]
    for name, lines in lists.items():
        (root / "splits" / f"{name}.txt").write_text("".join(lines))


def _our_unlabeled(config: TrainConfig, case: Case) -> Callable[[], object]:
    splits = read_splits(config)
    crops = _Crops(config, splits, open_dataset(config))
    views = ViewMaker(config.numerics, (1, 1), torch.device("cpu"))
    places = [n % len(splits.unlabeled) for n in range(case.num_positions)]
    labeled = crops.__getitems__([_Key(Purpose.LABELED_GEOMETRY, 0, 0, 0)])  # a batch has one
    purposes = (Purpose.GEOMETRY, Purpose.PARTNER_GEOMETRY)

    def run() -> None:
        for first in range(0, case.num_positions, 2):
            pair = range(first, min(first + 2, case.num_positions))
            keys = [_Key(purpose, 0, position, places[position]) for purpose in purposes for position in pair]
            views._unlabeled(_collate([*labeled, *crops.__getitems__(keys)]), 0, 2)

    return run


def _our_labeled(config: TrainConfig, case: Case) -> Callable[[], object]:
    splits = read_splits(config)
    crops = _Crops(config, splits, open_dataset(config))
    views = ViewMaker(config.numerics, (1, 1), torch.device("cpu"))

    def run() -> None:
        for position in range(case.num_positions):
            key = _Key(Purpose.LABELED_GEOMETRY, 0, position, position % len(splits.labeled))
            batch = _collate(crops.__getitems__([key]))
            views._normalised(batch.labeled)

    return run


def labeled_sample(image: Path, label: Path, augment: AugmentConfig, draws: random.Random) -> Any:
    """Make a labeled sample as a textbook does."""
    picture, classes = _geometry(Image.open(image).convert("RGB"), Image.open(label), augment, draws)
    return _normalised(picture), torch.from_numpy(np.array(classes)).long()


def unlabeled_sample(image: Path, augment: AugmentConfig, draws: random.Random) -> Any:
    """Make an unlabeled sample as a textbook does: weak view, two strong views, two boxes, what is padding."""
    picture = Image.open(image).convert("RGB")
    weak, ignored = _geometry(picture, Image.new("L", picture.size), augment, draws)
    strong = [_normalised(_distorted(weak, augment, draws)) for _ in range(2)]
    boxes = [_box(augment, draws) for _ in range(2)]
    return _normalised(weak), strong, boxes, torch.from_numpy(np.array(ignored)) == 255


def _geometry(
    image: Image.Image, label: Image.Image, augment: AugmentConfig, draws: random.Random
) -> Sequence[Image.Image]:
    factor = draws.uniform(augment.min_scale, augment.max_scale)
    size = (round(image.width * factor), round(image.height * factor))
    image, label = image.resize(size, Image.Resampling.BILINEAR), label.resize(size, Image.Resampling.NEAREST)
    crop = augment.crop_size
    padding = (0, 0, max(0, crop - size[0]), max(0, crop - size[1]))
    image, label = ImageOps.expand(image, padding, 0), ImageOps.expand(label, padding, 255)
    left, top = draws.randint(0, image.width - crop), draws.randint(0, image.height - crop)
    window = (left, top, left + crop, top + crop)
    image, label = image.crop(window), label.crop(window)
    if draws.random() < augment.flip_probability:
        return ImageOps.mirror(image), ImageOps.mirror(label)
    return image, label


def _distorted(image: Image.Image, augment: AugmentConfig, draws: random.Random) -> Image.Image:
    if draws.random() < augment.jitter_probability:
        steps = [
            (F.adjust_brightness, 1, augment.brightness),
            (F.adjust_contrast, 1, augment.contrast),
            (F.adjust_saturation, 1, augment.saturation),
            (F.adjust_hue, 0, augment.hue),
        ]
        draws.shuffle(steps)
        for adjust, middle, strength in steps:
            image = adjust(image, draws.uniform(middle - strength, middle + strength))
    if draws.random() < augment.gray_probability:
        image = image.convert("L").convert("RGB")
    if draws.random() < augment.blur_probability:
        image = image.filter(ImageFilter.GaussianBlur(draws.uniform(augment.min_sigma, augment.max_sigma)))
    return image


def _normalised(image: Image.Image) -> torch.Tensor:
    return F.normalize(F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True), MEAN, STD)


def _box(augment: AugmentConfig, draws: random.Random) -> torch.Tensor:
    size = augment.crop_size
    box = torch.zeros(size, size)
    if draws.random() >= augment.cutmix_probability:
        return box
    area = draws.uniform(augment.min_box_area, augment.max_box_area) * size**2
    while True:
        ratio = draws.uniform(augment.min_box_aspect, 1 / augment.min_box_aspect)
        height, width = int((area * ratio) ** 0.5), int((area / ratio) ** 0.5)
        top, left = draws.randrange(size), draws.randrange(size)
        if top + height <= size and left + width <= size:
            box[top : top + height, left : left + width] = 1
            return box

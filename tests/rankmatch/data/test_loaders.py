import os
import signal
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rankmatch.config import (
    AugmentConfig,
    DatasetConfig,
    MethodConfig,
    NumericsConfig,
    OptimisationConfig,
    SceneConfig,
    TrainConfig,
)
from rankmatch.data.catalog import Sample, labeled_pair, open_dataset
from rankmatch.data.loaders import Batch, TrainLoader, _StepKeys, val_loader
from rankmatch.data.splits import read_splits
from rankmatch.data.synthetic import draw_scene
from rankmatch.data.transforms import crop_view
from rankmatch.distributed import Purpose, generator
from rankmatch.execution import ExecutionConfig, TrainerExecution

NUM_TRAIN, NUM_LABELED = 18, 5


def config(num_data_workers: int = 0, method: str = "unimatch", **settings: object) -> TrainConfig:
    partner, steps = settings.pop("partner", "same_image"), settings.pop("supervised_steps", "authors")
    numerics = NumericsConfig(
        split=str(NUM_LABELED),
        dataset=DatasetConfig(scenes=SceneConfig(num_train=NUM_TRAIN, num_val=5, size=48)),
        method=MethodConfig(name=method, supervised_steps=steps),
        augment=AugmentConfig(crop_size=33, cutmix_partner=partner),
        trainer=OptimisationConfig(**{"labeled_batch_size": 2, "unlabeled_batch_size": 4} | settings),
    )
    return TrainConfig(
        numerics=numerics, execution=ExecutionConfig(trainer=TrainerExecution(num_data_workers=num_data_workers))
    )


def loader(config: TrainConfig, **share: int) -> TrainLoader:
    return TrainLoader(config, read_splits(config), open_dataset(config), **share)


def same(first: Batch, second: Batch) -> bool:
    pairs = [(getattr(first, part.name), getattr(second, part.name)) for part in fields(Batch)]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def joined(shares: list[Batch]) -> Batch:
    columns = {part.name: [getattr(share, part.name) for share in shares] for part in fields(Batch)}
    return Batch(
        **{
            name: torch.cat(parts) if isinstance(parts[0], Tensor) else [place for part in parts for place in part]
            for name, parts in columns.items()
        }
    )


@pytest.mark.parametrize("num_data_workers", [1, 2])
def test_data_workers_change_no_batch(num_data_workers: int):
    alone, helped = loader(config()), loader(config(num_data_workers))
    for epoch in (0, 1):
        pairs = list(zip(alone.epoch(epoch), helped.epoch(epoch), strict=True))
        assert len(pairs) == 3
        assert all(same(first, second) for first, second in pairs)


@pytest.mark.parametrize("num_data_workers", [0, 1])
def test_epoch_can_begin_at_any_step(num_data_workers: int):
    train = loader(config(num_data_workers))
    whole = list(train.epoch(2))
    for first_step in range(4):
        rest = list(train.epoch(2, first_step))
        assert len(rest) == 3 - first_step
        assert all(same(first, second) for first, second in zip(whole[first_step:], rest, strict=True))


@pytest.mark.parametrize("num_data_workers", [0, 1])
def test_epoch_left_open_does_not_disturb_the_next(num_data_workers: int):
    train = loader(config(num_data_workers))
    next(train.epoch(0))
    assert same(next(train.epoch(1)), next(loader(config()).epoch(1)))


def test_shares_of_all_workers_are_the_global_batch():
    whole = loader(config())
    shares = [loader(config(), rank=rank, world_size=2) for rank in range(2)]
    for batch, *parts in zip(whole.epoch(0), *(share.epoch(0) for share in shares), strict=True):
        assert same(batch, joined(parts))


def test_batches_have_the_declared_shapes_and_positions():
    batches = list(loader(config()).epoch(0))
    assert [batch.positions for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert [batch.labeled_positions for batch in batches] == [[0, 1], [2, 3], [4, 5]]
    batch = batches[0]
    assert (batch.labeled.shape, batch.labels.shape) == ((2, 3, 33, 33), (2, 33, 33))
    assert batch.weak is not None
    assert batch.valid is not None
    assert (batch.weak.shape, batch.valid.shape, batch.valid.dtype) == ((4, 3, 33, 33), (4, 33, 33), torch.bool)


def test_loading_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    train = loader(config())
    list(train.epoch(0))
    list(val_loader(read_splits(config()), open_dataset(config())))
    assert torch.equal(torch.get_rng_state(), before)


def step_keys(config: TrainConfig, epoch: int = 0) -> list[list[int]]:
    keys = _StepKeys(config.numerics, read_splits(config), 3, 0, 1)
    keys.epoch = epoch
    return [[key.place for step in keys for key in step if key.purpose.name == name] for name in PURPOSES]


PURPOSES = ("LABELED_GEOMETRY", "GEOMETRY", "PARTNER_GEOMETRY")


def test_epoch_passes_once_over_the_unlabeled_list_and_repeats_the_labeled_one():
    labeled, unlabeled, partner = step_keys(config())
    assert len(set(unlabeled)) == len(unlabeled) == 12
    assert partner == unlabeled
    assert sorted(labeled[:NUM_LABELED]) == list(range(NUM_LABELED))
    assert step_keys(config(), epoch=1) != [labeled, unlabeled, partner]


def test_partner_of_another_image_has_an_order_of_its_own():
    _, unlabeled, partner = step_keys(config(partner="other_image"))
    assert unlabeled == step_keys(config())[1]
    assert partner != unlabeled
    assert len(set(partner)) == 12


def test_partner_of_the_same_image_is_another_crop():
    batch = next(loader(config()).epoch(0))
    assert batch.weak is not None
    assert batch.partner is not None
    assert all(not torch.equal(crop, other) for crop, other in zip(batch.weak, batch.partner, strict=True))


@pytest.mark.parametrize(("supervised_steps", "num_steps"), [("authors", 2), ("equal", 3)])
def test_supervised_run_loads_no_unlabeled_image(supervised_steps: str, num_steps: int):
    train = loader(config(method="supervised", supervised_steps=supervised_steps))
    batches = list(train.epoch(0))
    assert train.steps_per_epoch == len(batches) == num_steps
    assert batches[0].weak is batches[0].partner is batches[0].valid is None
    assert batches[0].positions == []


def test_epoch_without_a_step_is_refused():
    with pytest.raises(
        ValueError, match="unlabeled_batch_size must be at most 13, the unlabeled images of split 5; got 14"
    ):
        loader(config(unlabeled_batch_size=14))
    with pytest.raises(ValueError, match="labeled_batch_size must be at most 5, the labeled images of split 5; got 6"):
        loader(config(method="supervised", labeled_batch_size=6))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_every_validation_image_comes_once_over_all_workers(world_size: int):
    splits, dataset = read_splits(config()), open_dataset(config())
    whole = list(val_loader(splits, dataset))
    assert [tuple(image.shape) for image, _ in whole] == [(1, 3, 48, 48)] * 5
    shares = [list(val_loader(splits, dataset, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert sum(map(len, shares)) == 5
    for rank, share in enumerate(shares):
        for (image, label), (expected, expected_label) in zip(share, whole[rank::world_size], strict=True):
            assert torch.equal(image, expected)
            assert torch.equal(label, expected_label)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2])
def test_data_worker_ignores_the_signals_of_the_scheduler_and_of_a_terminal(number: signal.Signals):
    train = loader(config(num_data_workers=1))
    batches = train.epoch(0)
    expected = list(loader(config()).epoch(0))
    first = next(batches)
    os.kill(batches.worker_pids[0], number)
    time.sleep(0.1)
    assert all(same(a, b) for a, b in zip([first, *batches], expected, strict=True))
    assert same(next(train.epoch(1)), next(loader(config()).epoch(1)))


@pytest.fixture
def like_pascal(tmp_path: Path) -> Path:
    """Two hundred pairs by name and six by content: photographs, and labels with a palette and an edge of 255."""
    for number in range(6):
        image, label = draw_scene(number, seed=0, size=320)
        edges = np.stack(np.gradient(label.astype(float))).any(0)
        palette = Image.fromarray(np.where(edges, 255, label * 4).astype(np.uint8), "P")
        palette.putpalette([value * 7 % 256 for value in range(768)])
        palette.crop((0, 0, 320, 300 - number)).save(tmp_path / f"{number}.png")
        Image.fromarray(image).crop((0, 0, 320, 300 - number)).save(tmp_path / f"{number}.jpg")
    lines = []
    for number in range(200):
        for folder, kind in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{number}.{kind}").hardlink_to(tmp_path / f"{number % 6}.{kind}")
        lines.append(f"JPEGImages/{number}.jpg SegmentationClass/{number}.png\n")
    (tmp_path / "splits" / "20").mkdir(parents=True)
    (tmp_path / "splits" / "20" / "labeled.txt").write_text("".join(lines[:20]))
    (tmp_path / "splits" / "train.txt").write_text("".join(lines))
    (tmp_path / "splits" / "val.txt").write_text("other.jpg other.png\n")
    return tmp_path


def test_crops_of_photographs_show_classes_and_ignored_pixels_only(like_pascal: Path):
    numerics = NumericsConfig(
        split="20",
        dataset=DatasetConfig(name="pascal_animals", num_classes=21),
        trainer=OptimisationConfig(labeled_batch_size=20),
    )
    execution = ExecutionConfig(data_root=str(like_pascal))
    train = loader(TrainConfig(numerics=numerics, execution=execution))
    batch = next(train.epoch(0))
    assert train.steps_per_epoch == 180 // 8
    values = batch.labels.unique()
    assert set(values.tolist()) <= {*range(21), 255}
    assert len(values) > 5 and 255 in values


def test_true_labels_are_cropped_like_the_weak_view():
    run = config()
    splits, dataset = read_splits(run), open_dataset(run)
    batch = next(loader(run).epoch(0))
    keys = [key for key in next(iter(_StepKeys(run.numerics, splits, 3, 0, 1))) if key.purpose is Purpose.GEOMETRY]
    for number, key in enumerate(keys):
        sample = splits.unlabeled[key.place]
        pair = labeled_pair(dataset, Sample(sample.image, sample.image))
        image, truth, valid = crop_view(*pair, run.numerics.augment, generator(0, 0, key.position, key.purpose))
        assert torch.equal(batch.weak[number], image)
        assert torch.equal(batch.truth[number], truth)
        assert (batch.truth[number][~valid] == 255).all()
    assert batch.truth.unique().numel() > 2


def test_true_labels_that_are_not_wanted_are_not_read():
    run = config()
    run.execution.trainer.pseudo_label_accuracy = False
    batch, with_truth = next(loader(run).epoch(0)), next(loader(config()).epoch(0))
    assert (batch.truth == 255).all()
    assert torch.equal(batch.weak, with_truth.weak)


def unlabeled_batch(root: Path, run: TrainConfig) -> Batch:
    run.numerics.dataset = DatasetConfig(name="mine")
    run.numerics.split = "1"
    run.execution.data_root = str(root)
    return next(loader(run).epoch(0))


def test_true_labels_that_are_missing_or_unfit_stop_no_run(tmp_path: Path):
    (tmp_path / "splits" / "1").mkdir(parents=True)
    lines = ["a.png a_label.png\n", "b.png missing.png\n", "c.png\n", "d.png d.png\n", "e.png small.png\n"]
    for name in "abcde":
        Image.new("RGB", (48, 48)).save(tmp_path / f"{name}.png")
    Image.new("L", (48, 48), 3).save(tmp_path / "a_label.png")
    Image.new("L", (9, 9), 3).save(tmp_path / "small.png")
    (tmp_path / "splits" / "val.txt").write_text("a.png a_label.png\n")
    (tmp_path / "splits" / "1" / "labeled.txt").write_text("x.png a_label.png\n")
    Image.new("RGB", (48, 48)).save(tmp_path / "x.png")

    listed = tmp_path / "splits" / "1" / "unlabeled.txt"
    listed.write_text("".join(lines[:3]))
    batch = unlabeled_batch(tmp_path, config(unlabeled_batch_size=3))
    assert sorted(int((truth == 3).any()) for truth in batch.truth) == [0, 0, 1]
    listed.write_text("".join(lines[3:]))
    with pytest.warns(UserWarning, match=r"unlabeled.txt:\d: label .* must have .*; pseudo_label_accuracy") as said:
        batch = unlabeled_batch(tmp_path, config(unlabeled_batch_size=2))
    assert len(said) == 1
    assert (batch.truth == 255).all()

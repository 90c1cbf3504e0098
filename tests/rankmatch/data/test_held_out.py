"""A part of a training list in place of the validation list: scored on, never trained on."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rankmatch import fit
from rankmatch.config import (
    AugmentConfig,
    BackboneConfig,
    DatasetConfig,
    EvaluationConfig,
    MethodConfig,
    NumericsConfig,
    OptimisationConfig,
    SceneConfig,
    TrainConfig,
)
from rankmatch.data import loaders
from rankmatch.data.catalog import FolderDataset
from rankmatch.data.splits import read_splits, read_val
from rankmatch.execution import ExecutionConfig, TrainerExecution


def config(root: Path | None, seed: int = 0, num_classes: int = 3, **evaluation) -> TrainConfig:
    dataset = DatasetConfig(name="tiny" if root else "synthetic", num_classes=num_classes if root else 6)
    dataset.scenes = SceneConfig(num_train=12, num_val=2, size=32)
    return TrainConfig(
        numerics=NumericsConfig(
            seed=seed,
            split="2",
            dataset=dataset,
            backbone=BackboneConfig(name="mobilenet_v2", width=0.25, pretrained=False),
            method=MethodConfig(name="fixmatch"),
            augment=AugmentConfig(crop_size=33),
            trainer=OptimisationConfig(epochs=2, labeled_batch_size=2, unlabeled_batch_size=2),
            evaluation=EvaluationConfig(**{"held_out": 0.3} | evaluation),
        ),
        execution=ExecutionConfig(data_root=str(root or ""), trainer=TrainerExecution(device="cpu", num_threads=1)),
    )


@pytest.fixture
def without_val(tiny_root: Path, tmp_path: Path) -> Path:
    """The tiny data set without its validation list and the files of it: who opens one fails."""
    root = tmp_path / "tiny"
    shutil.copytree(tiny_root, root)
    for line in (root / "splits" / "val.txt").read_text().splitlines():
        for name in line.split():
            (root / name).unlink()
    (root / "splits" / "val.txt").unlink()
    return root


def images(samples) -> set[str]:
    return {sample.image for sample in samples}


def test_no_held_out_image_is_trained_on_and_no_file_of_the_val_list_is_opened(without_val, tmp_path, monkeypatch):
    splits = read_splits(config(without_val))
    trained, scored, read, crop_view, eval_view = [], [], FolderDataset.image, loaders.crop_view, loaders.eval_view

    def image(self, sample):
        found = read(self, sample)
        found.info["name"] = sample.image
        return found

    def crop(image, *others):
        trained.append(image.info["name"])
        return crop_view(image, *others)

    def score(image, label):
        scored.append(image.info["name"])
        return eval_view(image, label)

    monkeypatch.setattr(FolderDataset, "image", image)
    monkeypatch.setattr(loaders, "crop_view", crop)
    monkeypatch.setattr(loaders, "eval_view", score)
    result = fit(config(without_val), tmp_path / "run", lambda step, row: None)
    assert result.finished and result.best_miou > 0
    assert set(scored) == images(splits.val) and len(splits.val) == 3
    assert set(trained) <= images(splits.labeled) | images(splits.unlabeled)
    assert not set(trained) & set(scored) and len(set(trained)) >= 8


def test_training_lists_lose_what_is_held_out_and_nothing_else(tiny_root):
    whole, held = read_splits(config(tiny_root, held_out=0.0)), read_splits(config(tiny_root))
    assert held.labeled == whole.labeled
    assert images(held.unlabeled) | images(held.val) == images(whole.unlabeled)
    assert not images(held.unlabeled) & images(held.val)
    assert all(sample.label == sample.image.replace(".png", "_label.png") for sample in held.val)
    assert read_val(config(tiny_root)) == held.val


def test_held_out_part_depends_on_seed_and_share_alone(tiny_root):
    parts = {seed: images(read_splits(config(tiny_root, seed=seed)).val) for seed in range(4)}
    assert images(read_splits(config(tiny_root, seed=1, held_out_from="unlabeled")).val) == parts[1]
    assert len({frozenset(part) for part in parts.values()}) > 1
    assert [len(read_splits(config(tiny_root, held_out=share)).val) for share in (0.01, 0.25, 0.9)] == [1, 2, 9]


def test_labeled_images_can_be_held_out_and_then_are_nowhere(tiny_root, tmp_path):
    root = tmp_path / "tiny"
    shutil.copytree(tiny_root, root)
    lists = root / "splits" / "2"
    with (lists / "unlabeled.txt").open("a") as file:
        file.write((lists / "labeled.txt").read_text())  # as some lists do
    held = read_splits(config(root, held_out=0.5, held_out_from="labeled"))
    assert (len(held.labeled), len(held.val)) == (1, 1)
    assert not images(held.val) & (images(held.labeled) | images(held.unlabeled))
    of_unlabeled = read_splits(config(root, held_out=0.9))
    assert not images(of_unlabeled.val) & images(of_unlabeled.labeled)


def test_image_without_a_label_is_trained_on_and_never_held_out(tiny_root, tmp_path):
    root = tmp_path / "tiny"
    shutil.copytree(tiny_root, root)
    gone = {f"{number:02}_label.png" for number in range(2, 8)}
    for name in gone:
        (root / name).unlink()
    held = read_splits(config(root, held_out=0.75))
    assert len(held.val) == 3 and not {sample.label for sample in held.val} & gone
    for path in root.glob("*_label.png"):
        path.unlink()
    with pytest.raises(ValueError, match="evaluation.held_out_from must be labeled where no image of the unlabeled"):
        read_splits(config(root))


def test_drawn_scenes_are_held_out_too():
    held = read_splits(config(None))
    assert len(held.val) == 3 and len(held.unlabeled) == 7
    assert all(sample.label == sample.image and ":train:" in sample.image for sample in held.val)
    assert not images(held.val) & (images(held.labeled) | images(held.unlabeled))


@pytest.mark.parametrize(("held_out", "source"), [(0.99, "unlabeled"), (0.9, "labeled")])
def test_an_image_must_be_left_to_train_on(tiny_root, held_out, source):
    with pytest.raises(ValueError, match=rf"evaluation.held_out must leave an image of the {source} list to train on"):
        read_splits(config(tiny_root, held_out=held_out, held_out_from=source))


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_share_is_checked(value):
    with pytest.raises(ValueError, match="evaluation.held_out must be at least 0 and below 1"):
        EvaluationConfig(held_out=value)
    with pytest.raises(ValueError, match="evaluation.held_out_from must be one of unlabeled, labeled"):
        replace(EvaluationConfig(), held_out_from="train")

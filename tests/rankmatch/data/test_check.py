import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rankmatch.config import DatasetConfig, NumericsConfig, SceneConfig, TrainConfig
from rankmatch.data.check import check_data, state_of_files
from rankmatch.data.splits import read_splits
from rankmatch.execution import ExecutionConfig

NAMES = ("labeled", "unlabeled", "val")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lists = tmp_path / "splits" / "1"
    lists.mkdir(parents=True)
    for value, name in enumerate(NAMES):
        noise = np.random.default_rng(value).integers(0, 256, (32, 40, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
        Image.fromarray(np.full((32, 40), value, np.uint8)).save(tmp_path / f"{name}_label.png")
    (tmp_path / "splits" / "val.txt").write_text("val.png val_label.png\n")
    (lists / "labeled.txt").write_text("labeled.png labeled_label.png\n")
    (lists / "unlabeled.txt").write_text("unlabeled.png unlabeled_label.png\n")
    return tmp_path


def config(root: Path, **dataset: object) -> TrainConfig:
    settings = {"name": "mine", "num_classes": 3} | dataset
    numerics = NumericsConfig(split="1", dataset=DatasetConfig(**settings))
    return TrainConfig(numerics=numerics, execution=ExecutionConfig(data_root=str(root)))


def test_sound_data_has_no_fault_and_its_pixels_are_counted(root: Path):
    seen = []
    report = check_data(config(root), progress=lambda done, total: seen.append((done, total)))
    assert report.faults == []
    assert (report.num_images, seen) == (3, [(1, 3), (2, 3), (3, 3)])
    assert report.labeled_class_counts == [1280, 0, 0]
    assert report.val_class_counts == [0, 0, 1280]
    assert report.present_classes == [2]


def test_every_fault_is_listed_with_its_line(root: Path):
    (root / "labeled.png").unlink()
    (root / "unlabeled.png").write_bytes((root / "unlabeled.png").read_bytes()[:-2000])
    Image.new("L", (40, 31)).save(root / "val_label.png")
    missing, truncated, sizes = check_data(config(root)).faults
    assert missing == f"{root}/splits/1/labeled.txt:1: image labeled.png is missing"
    assert truncated.startswith(f"{root}/splits/1/unlabeled.txt:1: image unlabeled.png cannot be decoded: ")
    assert sizes.endswith("val.txt:1: label val_label.png must have the size of image val.png, 40x32; got 40x31")


def test_label_value_that_is_no_class_is_a_fault(root: Path):
    assert check_data(config(root, num_classes=2)).faults == [
        f"{root}/splits/val.txt:1: label val_label.png holds 2, which is no class; allowed are 0..1 and 255"
    ]
    mapped = check_data(config(root, num_classes=2, label_map={2: 255}))
    assert (mapped.faults, mapped.present_classes) == ([], [])


def test_label_of_an_unlabeled_image_is_never_opened(root: Path):
    (root / "unlabeled_label.png").unlink()
    assert check_data(config(root)).faults == []


def test_fingerprint_follows_the_content_alone(root: Path):
    first = check_data(config(root)).fingerprint
    os.utime(root / "val.png", ns=(0, 0))
    assert check_data(config(root)).fingerprint == first
    Image.new("RGB", (40, 32)).save(root / "val.png")
    assert check_data(config(root)).fingerprint != first


def test_state_of_files_follows_sizes_and_times(root: Path):
    splits = read_splits(config(root))
    first = state_of_files(config(root), splits)
    assert state_of_files(config(root), splits) == first
    os.utime(root / "val.png", ns=(0, 0))
    assert state_of_files(config(root), splits) != first


def test_drawn_scenes_are_sound():
    dataset = DatasetConfig(scenes=SceneConfig(num_train=6, num_val=8, size=64))
    report = check_data(TrainConfig(numerics=NumericsConfig(split="2", dataset=dataset)))
    assert (report.faults, report.num_images) == ([], 14)
    assert sum(report.val_class_counts) == 8 * 64 * 64
    assert report.present_classes == [0, 1, 2, 3, 4, 5]


def test_unlabelled_class_as_camvid_has_one_is_a_fault_until_it_is_mapped(root: Path):
    for name in ("labeled", "val"):
        Image.fromarray(np.arange(32 * 40).reshape(32, 40).astype(np.uint8) % 12).save(root / f"{name}_label.png")

    def report(label_map: dict[int, int]):
        return check_data(config(root, name="camvid", num_classes=11, label_map=label_map))

    assert any("holds 11, which is no class; allowed are 0..10 and 255" in fault for fault in report({}).faults)
    assert report({11: 255}).faults == []
    assert report({11: 255}).present_classes == list(range(11))

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rankmatch.config import DatasetConfig, NumericsConfig, SceneConfig, TrainConfig
from rankmatch.data.catalog import FolderDataset, Sample, labeled_pair, open_dataset
from rankmatch.data.synthetic import draw_scene
from rankmatch.execution import ExecutionConfig


def folder(root: Path, **settings: object) -> FolderDataset:
    return FolderDataset(root, DatasetConfig(**{"num_classes": 3} | settings))


def save(path: Path, values: object, mode: str | None = None) -> Path:
    image = Image.fromarray(np.asarray(values, np.uint8))
    if mode == "P":
        image = image.copy()
        image.putpalette([255 - value // 3 for value in range(768)])
    image.save(path)
    return path


def test_palette_index_is_the_label_value(tmp_path: Path):
    save(tmp_path / "a.png", [[0, 1], [2, 255]], mode="P")
    label = folder(tmp_path).label(Sample("a.jpg", "a.png"))
    assert label.mode == "L"
    assert np.asarray(label).tolist() == [[0, 1], [2, 255]]


def test_label_map_is_applied_before_the_values_are_checked(tmp_path: Path):
    save(tmp_path / "a.png", [[0, 11], [2, 7]])
    label = folder(tmp_path, label_map={11: 255, 7: 0}).label(Sample("a.jpg", "a.png"))
    assert np.asarray(label).tolist() == [[0, 255], [2, 0]]


def test_label_value_that_is_no_class_is_refused(tmp_path: Path):
    save(tmp_path / "a.png", [[0, 3], [2, 254]])
    with pytest.raises(ValueError, match=r"label a.png holds 3, 254, which is no class; allowed are 0\.\.2 and 255"):
        folder(tmp_path).label(Sample("a.jpg", "a.png"))


def test_label_with_three_channels_is_refused(tmp_path: Path):
    save(tmp_path / "a.png", np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="a.png must have one 8-bit channel .* got mode RGB"):
        folder(tmp_path).label(Sample("a.jpg", "a.png"))


def test_gray_image_becomes_rgb(tmp_path: Path):
    save(tmp_path / "a.png", [[0, 90]])
    assert np.asarray(folder(tmp_path).image(Sample("a.png", None))).tolist() == [[[0] * 3, [90] * 3]]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_image_names_its_file(tmp_path: Path, suffix: str):
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    path = save(tmp_path / f"a.{suffix}", values)
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(ValueError, match=f"image a.{suffix} cannot be decoded: .*truncated"):
        folder(tmp_path).image(Sample(path.name, None))


def test_missing_image_names_its_file(tmp_path: Path):
    with pytest.raises(ValueError, match="image a.jpg is missing"):
        folder(tmp_path).image(Sample("a.jpg", None))


def test_pair_of_different_sizes_is_refused(tmp_path: Path):
    save(tmp_path / "a.png", np.zeros((4, 6)))
    save(tmp_path / "b.png", np.zeros((4, 5)))
    with pytest.raises(ValueError, match="label b.png must have the size of image a.png, 6x4; got 5x4"):
        labeled_pair(folder(tmp_path), Sample("a.png", "b.png"))


@pytest.mark.parametrize("root", ["", "nowhere"])
def test_data_root_that_is_not_there_is_refused(root: str):
    config = TrainConfig(
        numerics=NumericsConfig(dataset=DatasetConfig(name="pascal")), execution=ExecutionConfig(data_root=root)
    )
    with pytest.raises(ValueError, match=f"data_root must be the folder of the data set 'pascal'; got '{root}'"):
        open_dataset(config)


def test_scenes_of_train_and_val_differ_and_are_drawn_alike_every_time():
    scenes = SceneConfig(size=48, seed=3)
    dataset = open_dataset(TrainConfig(numerics=NumericsConfig(dataset=DatasetConfig(scenes=scenes))))
    train, val = Sample("scene:train:5", "scene:train:5"), Sample("scene:val:5", "scene:val:5")
    image, label = draw_scene(5, seed=3, size=48)
    for _ in range(2):
        assert np.array_equal(dataset.image(train), image)
        assert np.array_equal(dataset.label(train), label)
    assert not np.array_equal(dataset.image(val), image)


def test_scenes_refuse_a_number_of_classes_that_is_too_small():
    config = TrainConfig(numerics=NumericsConfig(dataset=DatasetConfig(num_classes=2)))
    with pytest.raises(ValueError, match=r"label scene:train:0 holds .* allowed are 0\.\.1 and 255"):
        open_dataset(config).label(Sample("scene:train:0", "scene:train:0"))

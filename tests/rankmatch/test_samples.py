import numpy as np
import torch
from PIL import Image
from torch import nn

from rankmatch import samples
from rankmatch.config import AugmentConfig, DatasetConfig, MethodConfig, NumericsConfig, TrainConfig
from rankmatch.data.catalog import open_dataset
from rankmatch.data.splits import read_splits
from rankmatch.execution import ExecutionConfig, TrackingExecution
from rankmatch.predict import colour_map


class SaysTwo(nn.Module):
    def forward(self, images):
        logits = torch.zeros(len(images), 3, *images.shape[2:])
        logits[:, 2] = 1
        return logits, None


def drawn(tiny_root, path, num_samples):
    config = TrainConfig(
        numerics=NumericsConfig(
            split="2",
            dataset=DatasetConfig(name="tiny", num_classes=3),
            augment=AugmentConfig(crop_size=33),
            method=MethodConfig(num_agents=4),
        ),
        execution=ExecutionConfig(data_root=str(tiny_root), tracking=TrackingExecution(num_samples=num_samples)),
    )
    samples.draw(path, config, SaysTwo(), read_splits(config), open_dataset(config), torch.device("cpu"))
    return config


def test_picture_shows_image_label_and_prediction(tiny_root, tmp_path):
    path = tmp_path / samples.FILE
    drawn(tiny_root, path, 2)
    picture = np.asarray(Image.open(path))
    height, width, gap = 40, 48, samples.GAP
    assert picture.shape == (2 * height + gap, 3 * width + 2 * gap, 3)
    places = samples.choose(3, 2, seed=0)
    for row, place in enumerate(places):
        top = row * (height + gap)
        label = np.asarray(Image.open(tiny_root / f"{12 + place}_label.png"))
        image = np.asarray(Image.open(tiny_root / f"{12 + place}.png"))
        assert np.array_equal(picture[top : top + height, :width], image)
        assert np.array_equal(picture[top : top + height, width + gap : 2 * width + gap], colour_map()[label])
        assert (picture[top : top + height, 2 * (width + gap) :] == colour_map()[2]).all()


def test_choice_is_counted_and_takes_all_of_a_short_list():
    assert samples.choose(100, 4, seed=1) == samples.choose(100, 4, seed=1)
    assert samples.choose(100, 4, seed=1) != samples.choose(100, 4, seed=2)
    assert samples.choose(3, 4, seed=1) == [0, 1, 2]


def test_no_picture_where_none_is_wanted(tiny_root, tmp_path):
    drawn(tiny_root, tmp_path / samples.FILE, 0)
    assert list(tmp_path.iterdir()) == []


def test_settings_of_tracking_are_not_part_of_the_identity():
    from orchestration.cells import Cell

    plain = Cell(config=TrainConfig(), axes={})
    other = TrainConfig(execution=ExecutionConfig(tracking=TrackingExecution(num_samples=0, model="copy")))
    assert Cell(config=other, axes={}).signature == plain.signature

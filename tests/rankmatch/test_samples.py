import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rankmatch import run_files, samples, sheet
from rankmatch.config import AugmentConfig, BackboneConfig, DatasetConfig, MethodConfig, NumericsConfig, TrainConfig
from rankmatch.data.catalog import open_dataset
from rankmatch.data.splits import read_splits
from rankmatch.drawn import colour_map
from rankmatch.execution import ExecutionConfig, TrackingExecution
from rankmatch.models import build_model


class SaysTwo(nn.Module):
    def forward(self, images):
        logits = torch.zeros(len(images), 3, *images.shape[2:])
        logits[:, 2] = 1
        return logits, None


def tiny(tiny_root, num_samples=2):
    return TrainConfig(
        numerics=NumericsConfig(
            split="2",
            dataset=DatasetConfig(name="tiny", num_classes=3),
            augment=AugmentConfig(crop_size=33),
            method=MethodConfig(num_agents=4),
        ),
        execution=ExecutionConfig(
            data_root=str(tiny_root),
            class_names=["sky", "road", "tree"],
            tracking=TrackingExecution(num_samples=num_samples),
        ),
    )


def drawn(path, config, network=None, best=None):
    device = torch.device("cpu")
    samples.draw(path, config, network or SaysTwo(), read_splits(config), open_dataset(config), device, best)


@pytest.fixture
def told(monkeypatch):
    """What goes into the picture, and where: its text cannot be read back."""
    calls = []

    def draw(*arguments):
        calls.append((*arguments, made(*arguments)))
        return calls[-1][-1]

    made = sheet.draw
    monkeypatch.setattr(samples.sheet, "draw", draw)
    return calls


def test_picture_shows_image_label_and_prediction(tiny_root, tmp_path, told):
    path = tmp_path / run_files.SAMPLES
    drawn(path, tiny(tiny_root))
    picture, [(heading, titles, rows, legend, whole)] = np.asarray(Image.open(path)), told
    assert (heading, titles) == ("after the last epoch", ("image", "label", "prediction"))
    names = [f"{12 + place}.png" for place in samples.choose(3, 2, seed=0)]
    assert [row.caption for row in rows] == names
    assert legend == [(name, tuple(colour_map()[value])) for value, name in enumerate(["sky", "road", "tree"])]
    for name, places in zip(names, whole.places, strict=True):
        label = colour_map()[np.asarray(Image.open(tiny_root / name.replace(".png", "_label.png")))]
        expected = [np.asarray(Image.open(tiny_root / name)), label, np.broadcast_to(colour_map()[2], label.shape)]
        for (left, top), pixels in zip(places, expected, strict=True):
            larger = pixels.repeat(3, 0).repeat(3, 1)  # so that small images can be seen
            assert np.array_equal(picture[top : top + 120, left : left + 144], larger)


def test_picture_is_of_the_best_epoch(tiny_root, tmp_path, told):
    config = tiny(tiny_root, 1)
    config.numerics.backbone = BackboneConfig(name="mobilenet_v2", width=0.25, pretrained=False)
    networks = [build_model(config.numerics.model, torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    best = tmp_path / "best.pt"
    torch.save({"model": networks[0].state_dict(), "epoch": 3, "step": 9, "miou": 0.4567}, best)
    drawn(tmp_path / "best.png", config, networks[1], best)
    drawn(tmp_path / "same.png", config, networks[0])
    assert told[0][0] == "best epoch: 3, mIoU 45.7 %"
    for ours, theirs in zip(told[0][2][0].pictures, told[1][2][0].pictures, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_legend_names_what_is_ignored_and_classes_without_a_name():
    legend = samples.legend({0, 255, 7}, ["sky"])
    assert legend == [("sky", (0, 0, 0)), ("class 7", (128, 128, 128)), ("ignored", (224, 224, 192))]


def test_choice_is_counted_and_takes_all_of_a_short_list():
    assert samples.choose(100, 4, seed=1) == samples.choose(100, 4, seed=1)
    assert samples.choose(100, 4, seed=1) != samples.choose(100, 4, seed=2)
    assert samples.choose(3, 4, seed=1) == [0, 1, 2]


def test_no_picture_where_none_is_wanted(tiny_root, tmp_path):
    drawn(tmp_path / run_files.SAMPLES, tiny(tiny_root, 0))
    assert list(tmp_path.iterdir()) == []


def test_settings_of_tracking_are_not_part_of_the_identity():
    from orchestration.grids.cells import Cell

    plain = Cell(config=TrainConfig(), axes={})
    other = TrainConfig(execution=ExecutionConfig(tracking=TrackingExecution(num_samples=0, model="copy")))
    assert Cell(config=other, axes={}).signature == plain.signature

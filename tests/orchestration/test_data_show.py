import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.grids.cells import compose_untrained
from orchestration.grids.values import read_settings
from rankmatch import preview, sheet
from rankmatch.data.catalog import open_dataset
from rankmatch.data.loaders import TrainLoader
from rankmatch.data.splits import read_splits
from rankmatch.drawn import colour_map

SETTINGS = ["trainer.labeled_batch_size=2", "trainer.unlabeled_batch_size=4", "augment.cutmix_probability=1"]


@pytest.fixture
def tiny(tiny_root, tmp_path):
    path = tmp_path / "tiny.yaml"
    small = "numerics: {split: 2, dataset: {name: tiny, num_classes: 3}, augment: {crop_size: 33}}\n"
    path.write_text(f"{small}execution: {{data_root: {tiny_root}, class_names: [sky, road, tree]}}\n")
    return path


@pytest.fixture
def told(monkeypatch):
    """What goes into the picture, and where: its text cannot be read back."""
    calls, made = [], sheet.draw

    def draw(*arguments):
        calls.append((*arguments, made(*arguments)))
        return calls[-1][-1]

    monkeypatch.setattr(preview.sheet, "draw", draw)
    return calls


def show(*words):
    return CliRunner().invoke(app, ["data", "show", *map(str, words)])


def first_batch(tiny, *settings):
    config = compose_untrained(str(tiny), {"method": "unimatch", **read_settings(settings)})
    return next(iter(TrainLoader(config, read_splits(config), open_dataset(config)).epoch(0)))


def pixels(tensor):
    return tensor.permute(1, 2, 0).numpy()


def test_picture_holds_what_the_first_step_is_trained_on(tiny, tmp_path, told):
    done = show(tiny, *SETTINGS, "-o", tmp_path / "views.png", "--count", 3)
    assert done.exit_code == 0, done.exception
    assert f"{tmp_path}/views.png: crops and views of 3 images" in done.stdout
    [(heading, titles, rows, legend, whole)], batch = told, first_batch(tiny, *SETTINGS)
    assert heading == "tiny, split 2, seed 0: first step of unimatch"
    assert titles[0] == "labeled crop" and titles[-2:] == ["strong view 1", "strong view 2"] and len(titles) == 6
    assert [name for name, _ in legend[:3]] == ["sky", "road", "tree"] and "CutMix" in legend[-1][0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "views.png")), np.asarray(whole.image))
    for place in (0, 1):
        crop, label, weak, truth, *strong = map(np.asarray, (one.convert("RGB") for one in rows[place].pictures))
        assert np.abs(crop.astype(int) - pixels(batch.labeled[place])).max() <= 1
        assert np.array_equal(label, colour_map()[batch.labels[place].numpy()])
        assert np.abs(weak.astype(int) - pixels(batch.weak[place])).max() <= 1
        assert np.array_equal(truth, colour_map()[batch.truth[place].numpy()])
        assert all((view == preview.BOX).all(-1).sum() >= 4 for view in strong)
    blank = rows[2].pictures[0]  # two labeled images, four unlabeled ones
    assert (np.asarray(blank) == 255).all() and rows[2].caption.startswith("unlabeled: ")


def test_names_are_those_of_the_pictures(tiny, tiny_root, tmp_path, told):
    weak = ["augment.min_scale=1", "augment.max_scale=1", "augment.flip_probability=0"]
    assert show(tiny, *SETTINGS, *weak, "-o", tmp_path / "a.png").exit_code == 0
    [(_, _, rows, _, _)] = told
    for row in rows[:2]:
        name = row.caption.split()[1]
        crop, image = np.asarray(row.pictures[0]).astype(int), np.asarray(Image.open(tiny_root / name)).astype(int)
        offsets = [(y, x) for y in range(40 - 33 + 1) for x in range(48 - 33 + 1)]
        assert min(np.abs(image[y : y + 33, x : x + 33] - crop).max() for y, x in offsets) <= 1


def test_supervised_step_shows_labeled_images_alone(tiny, tmp_path, monkeypatch, told):
    monkeypatch.chdir(tmp_path)
    assert show(tiny, "method=supervised", *SETTINGS[:1]).exit_code == 0
    [(_, titles, rows, legend, _)] = told
    assert titles == ["labeled crop", "its label"] and len(rows) == 2 and len(legend) in (3, 4)
    assert (tmp_path / "tiny-2.png").is_file()


def test_batch_that_no_step_could_take_is_refused(tiny, tmp_path):
    done = show(tiny, "trainer.unlabeled_batch_size=99", "-o", tmp_path / "a.png")
    assert "trainer.unlabeled_batch_size must be at most 10" in str(done.exception)
    assert not (tmp_path / "a.png").exists()

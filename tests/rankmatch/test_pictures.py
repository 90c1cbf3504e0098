import json

import numpy as np
import pytest
import torch
from PIL import Image

import rankmatch
from rankmatch import checkpoint, pictures, rank_pictures
from rankmatch.config import IGNORE_INDEX
from rankmatch.drawn import DIFFERENCE, IGNORED, RIGHT, WRONG
from rankmatch.pictures import Predicted
from rankmatch.run_files import EVALUATION, PICTURES


def found(run_dir):
    folder = run_dir / PICTURES
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def ignore(step, row):
    pass


def test_pictures_of_an_image_have_one_size_and_show_where_prediction_and_label_differ(tiny_config, tmp_path):
    label = np.zeros((200, 400), np.uint8)
    label[:, 200:] = IGNORE_INDEX
    prediction = np.ones_like(label)
    prediction[:150] = 0
    shown = Predicted(3, "a.png", Image.new("RGB", (400, 200), (10, 20, 30)), label, prediction)
    pictures.write(tmp_path, tiny_config("unimatch"), torch.nn.Identity(), [shown], "best epoch")
    index = json.loads((tmp_path / "pictures" / "pictures.json").read_text())
    (image,) = index["images"]
    assert (index["of"], image["name"], image["place"], image["right"]) == ("best epoch", "a.png", 3, 0.75)
    assert image["classes"] == [0, 1, IGNORE_INDEX] and "ranks" not in index
    opened = {kind: Image.open(tmp_path / "pictures" / image[kind]) for kind in ("image", "label", "difference")}
    assert {picture.size for picture in opened.values()} == {(256, 128)}
    colours = np.asarray(opened["difference"].convert("RGB"))
    for (y, x), kind in (((10, 10), RIGHT), ((120, 10), WRONG), ((10, 200), IGNORED)):
        assert tuple(colours[y, x]) == DIFFERENCE[kind]
    assert np.abs(np.asarray(opened["image"]).astype(int) - (10, 20, 30)).max() <= 3
    assert sorted(np.unique(np.asarray(opened["label"])).tolist()) == [0, IGNORE_INDEX]


def test_run_leaves_what_the_rank_term_sees_and_a_resumed_one_the_same(tiny_config, tmp_path):
    config = tiny_config("rankmatch", top_k=3)
    rankmatch.fit(config, tmp_path / "whole", ignore)
    asked = iter(range(10**6))
    rankmatch.fit(config, tmp_path / "first", ignore, should_stop=lambda: next(asked) >= 3)
    assert found(tmp_path / "first") == {}
    rankmatch.fit(config, tmp_path / "second", ignore, resume_from=checkpoint.newest(tmp_path / "first"))
    files = found(tmp_path / "whole")
    assert found(tmp_path / "second") == files
    index = json.loads(files["pictures.json"])
    named = [name for one in index["images"] for name in (one["image"], one["label"], one["prediction"])]
    ranks = index["ranks"]
    named += [one["difference"] for one in index["images"]] + [ranks["agents"], ranks["strong"]]
    named += [one[who] for one in ranks["maps"] for who in ("teacher", "student")]
    assert set(named) | {"pictures.json"} == set(files)
    assert len(index["images"]) == pictures.MAX_IMAGES and ranks["num_agents"] == 4
    assert [row["teacher_rank"] for row in ranks["top"]] == [1, 2, 3]
    weights = [row["teacher"] for row in ranks["top"]]
    assert weights == sorted(weights, reverse=True) and 0 < sum(weights) <= 1.001
    assert all(1 <= row["student_rank"] <= 4 and 0 <= row["student"] <= 1 for row in ranks["top"])
    assert sum(map(len, files.values())) < 200_000


def test_other_methods_leave_no_ranks_and_no_samples_leave_no_pictures(tiny_config, tmp_path):
    config = tiny_config("unimatch", epochs=1)
    rankmatch.fit(config, tmp_path / "some", ignore)
    assert "ranks" not in json.loads(found(tmp_path / "some")["pictures.json"])
    config.execution.tracking.num_samples = 0
    rankmatch.fit(config, tmp_path / "none", ignore)
    assert found(tmp_path / "none") == {}


@pytest.mark.parametrize("part", ["samples.draw", "pictures._write_image", "rank_pictures.write"])
def test_pictures_that_cannot_be_drawn_cost_no_result_and_are_told_of(part, tiny_config, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no font")

    monkeypatch.setattr(f"rankmatch.{part}", fail)
    said = r"the pictures in .* are missing or incomplete, the result is not affected: RuntimeError: no font"
    with pytest.warns(UserWarning, match=said):
        result = rankmatch.fit(tiny_config("rankmatch", epochs=1), tmp_path, ignore)
    assert result.finished and result.best_epoch == 1 and (tmp_path / EVALUATION).is_file()
    assert "pictures.json" not in found(tmp_path)


class Colours(torch.nn.Module):
    """Features that are the colours of every fourth pixel, so that agents are pixels of other colours."""

    def forward(self, images):
        return None, 10 * images[:, :, ::4, ::4]


def test_agents_and_maps_are_those_of_the_features_of_the_middle_of_the_image(tiny_config, tmp_path):
    numerics = tiny_config("rankmatch", num_agents=2, top_k=2).numerics
    for name in ("jitter", "gray", "blur"):
        setattr(numerics.augment, f"{name}_probability", 0.0)
    image = Image.new("RGB", (66, 33), (255, 0, 0))
    image.paste((0, 0, 255), (33, 0, 66, 33))
    told = rank_pictures.write(tmp_path, numerics, Colours(), image, 0, torch.device("cpu"))
    teacher, student = (Image.open(tmp_path / told["maps"][0][who]) for who in ("teacher", "student"))
    assert teacher.tobytes() == student.tobytes()  # nothing was changed for the strong view
    row = np.asarray(teacher)[teacher.height // 2]
    assert {int(row[0]), int(row[-1])} == {0, 255}  # an agent is one of the two colours, and its map that half
    assert [(one["teacher_rank"], one["student_rank"]) for one in told["top"]] == [(1, 1), (2, 2)]
    with Image.open(tmp_path / told["agents"]) as agents:
        assert agents.size == (rank_pictures.SIDE, rank_pictures.SIDE)


@pytest.mark.parametrize("size", [(20, 50), (50, 20), (33, 33), (100, 90)])
def test_image_of_any_size_gives_a_whole_crop(size):
    assert rank_pictures._middle(Image.new("RGB", size), 33).size == (33, 33)

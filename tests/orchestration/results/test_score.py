import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import rankmatch
from orchestration.commands.main import app
from orchestration.grids.cells import compose, to_yaml

SETTINGS = {
    "dataset": "synthetic",
    "dataset.scenes.num_train": 8,
    "dataset.scenes.num_val": 3,
    "dataset.scenes.size": 48,
    "split": "4",
    "backbone": "mobilenet_v2",
    "backbone.width": 0.25,
    "backbone.pretrained": False,
    "method": "supervised",
    "augment.crop_size": 33,
    "trainer.epochs": 2,
    "trainer.device": "cpu",
}
ARGUMENTS = [f"{key}={value}" for key, value in SETTINGS.items() if key not in ("dataset", "backbone.pretrained")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a trained model, and the rows that it reported."""
    folder, rows = tmp_path_factory.mktemp("runs") / "0123456789ab-cell", []
    config = compose(SETTINGS)
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(config))
    rankmatch.fit(config, folder / "attempts" / "1", lambda step, row: rows.append(dict(row)))
    return folder / "attempts" / "1", [row for row in rows if "epoch" in row]


def command(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def scored(tmp_path, *words):
    done = command("evaluate", *words, "--json", tmp_path / "numbers.json")
    assert done.exit_code == 0, done.exception
    return json.loads((tmp_path / "numbers.json").read_text()), done.stdout


def test_evaluate_gives_what_training_reported_for_best_and_last(run, tmp_path):
    folder, rows = run
    best, text = scored(tmp_path, "--checkpoint", folder / "best.pt")
    assert best["miou"] == pytest.approx(max(row["miou"] for row in rows), abs=1e-12)
    (last,) = folder.glob(f"checkpoints/step_{int(rows[-1]['num_steps'])}")
    assert scored(tmp_path, "--checkpoint", last)[0]["miou"] == pytest.approx(rows[-1]["miou"], abs=1e-12)
    assert best["num_images"] == 3 and f"{100 * best['miou']:.1f}" in text
    for number, iou in best["class_iou"].items():
        assert iou is None or 0 <= iou <= 1, number


def test_checkpoint_of_another_place_is_read_with_data_set_and_settings(run, tmp_path):
    published = {
        "model": {f"module.{k}": v for k, v in torch.load(run[0] / "best.pt", weights_only=True)["model"].items()}
    }
    torch.save(published, tmp_path / "published.pth")
    words = ["--checkpoint", tmp_path / "published.pth", "--dataset", "synthetic", *ARGUMENTS]
    own = scored(tmp_path, "--checkpoint", run[0] / "best.pt")[0]
    assert scored(tmp_path, *words)[0] == own
    both = {"ema": published["model"], "model": {name: 0 * value for name, value in published["model"].items()}}
    torch.save(both, tmp_path / "both.pth")
    words[1] = tmp_path / "both.pth"
    assert "hold several state dicts (ema, model); choose one: --nest NAME" in str(
        command("evaluate", *words).exception
    )
    assert scored(tmp_path, *words, "--nest", "ema")[0] == own
    done = command("evaluate", "--checkpoint", tmp_path / "published.pth")
    assert "--dataset must be given" in str(done.exception)


def test_setting_of_a_run_folder_can_be_changed_but_not_a_group(run, tmp_path):
    sliding = scored(tmp_path, "--checkpoint", run[0] / "best.pt", "evaluation.mode=sliding")[0]
    assert sliding["mode"] == "sliding"
    for word, message in (("backbone=resnet50", "backbone cannot be chosen"), ("x", "must be key=value; got 'x'")):
        done = command("evaluate", "--checkpoint", run[0] / "best.pt", word)
        assert message in str(done.exception)


@pytest.mark.parametrize("part", ["", "nothing.pt", "checkpoints"])
def test_place_without_a_model_is_refused(run, part):
    done = command("evaluate", "--checkpoint", run[0] / part)
    assert str(done.exception) == f"--checkpoint must be a file or a folder step_<k>; got {str(run[0] / part)!r}"


def test_model_is_not_scored_on_a_data_set_of_other_classes(run):
    done = command("evaluate", "--checkpoint", run[0] / "best.pt", "--dataset", "camvid")
    assert "--dataset must have 6 classes, as the model has; camvid has 11" in str(done.exception)


def test_binary_data_set_reports_the_jaccard_index_of_the_foreground():
    from orchestration.results.score import _numbers
    from rankmatch.evaluation import Evaluation

    config = compose({"dataset": "lucchi", "backbone.pretrained": False})
    numbers = _numbers(config, Evaluation(torch.tensor([[6, 2], [1, 3]])), 1)
    assert numbers["jaccard"] == pytest.approx(3 / 6) and numbers["miou"] == pytest.approx((6 / 9 + 3 / 6) / 2)


@pytest.mark.parametrize("mode", ["whole", "sliding"])
def test_predict_writes_probabilities_whose_largest_is_the_label(run, tmp_path, mode):
    (tmp_path / "in").mkdir()
    draws = np.random.default_rng(0)
    for name, size in (("a", (50, 40, 3)), ("b", (40, 50, 3)), ("c", (40, 50, 3))):
        Image.fromarray(draws.integers(0, 255, size, dtype=np.uint8)).save(tmp_path / "in" / f"{name}.png")
    words = ["--checkpoint", run[0] / "best.pt", tmp_path / "in", "--set", f"evaluation.mode={mode}"]
    assert command("predict", *words, "-o", tmp_path / "plain").exit_code == 0
    done = command("predict", *words, "-o", tmp_path / "out", "--probabilities")
    assert done.exit_code == 0, done.exception
    for name in "abc":
        label, plain = (np.asarray(Image.open(tmp_path / out / f"labels/{name}.png")) for out in ("out", "plain"))
        shares = np.load(tmp_path / f"out/probabilities/{name}.npy")
        assert shares.shape == (6, *label.shape) and shares.dtype == np.float16
        assert np.abs(shares.astype(float).sum(0) - 1).max() < 0.005
        assert (np.take_along_axis(shares, label[None].astype(int), 0)[0] == shares.max(0)).all()
        assert np.array_equal(label, plain)
    assert not (tmp_path / "plain" / "probabilities").exists()


def test_predict_writes_labels_as_the_data_set_has_them(run, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    words = ["--checkpoint", run[0] / "best.pt", tmp_path / "a.png"]
    assert command("predict", *words, "-o", tmp_path / "classes").exit_code == 0
    label_map = "dataset.label_map={" + ",".join(f"{200 + number}:{number}" for number in (0, 1, 2, 3, 5)) + ",50:3}"
    mapped = ["--original-values", "--set", label_map]
    done = command("predict", *words, "-o", tmp_path / "values", *mapped)
    assert done.exit_code == 0, done.exception
    assert "class 3 is written as 203; 50, 3 would mean it too" in done.stdout
    classes, values = (np.asarray(Image.open(tmp_path / out / "labels/a.png")) for out in ("classes", "values"))
    assert np.array_equal(values, np.array([200, 201, 202, 203, 4, 205])[classes])
    colours = "dataset.colours=[" + ",".join(f"[{number},9,9]" for number in range(206)) + "]"
    assert command("predict", *words, "-o", tmp_path / "colours", *mapped, "--set", colours).exit_code == 0
    coloured = np.asarray(Image.open(tmp_path / "colours/labels/a.png"))
    assert np.array_equal(coloured, np.stack([values, 0 * values + 9, 0 * values + 9], axis=2))
    overlays = [(tmp_path / out / "overlays/a.png").read_bytes() for out in ("classes", "values", "colours")]
    assert overlays[0] == overlays[1] == overlays[2]


def test_predict_writes_labels_and_overlays(run, tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("L", (30, 21), 90).save(tmp_path / "in" / "grey.png")
    done = command("predict", "--checkpoint", run[0] / "best.pt", tmp_path / "in", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.exception
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")) == [
        "labels/grey.png",
        "overlays/grey.png",
    ]
    (tmp_path / "in" / "bad.png").write_bytes(b"nothing")
    words = ["predict", "--checkpoint", run[0] / "best.pt", tmp_path / "in", "-o", tmp_path / "out", "--overwrite"]
    assert "bad.png cannot be decoded" in str(command(*words).exception)

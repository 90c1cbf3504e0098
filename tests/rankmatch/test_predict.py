import numpy as np
import pytest
import torch
from PIL import Image

from rankmatch.config import ModelConfig
from rankmatch.models import build_model
from rankmatch.predict import colour_map, find_jobs, predict_files

CONFIG = ModelConfig(backbone="mobilenet_v2", num_classes=5, width=0.25)


@pytest.fixture
def model():
    return build_model(CONFIG, torch.Generator().manual_seed(0)).eval()


def draw(path, width, height, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_colours_are_those_of_pascal():
    assert colour_map()[[0, 1, 2, 15, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [224, 224, 192],
    ]


@pytest.mark.parametrize("mode", ["whole", "sliding"])
def test_label_files_hold_the_most_probable_classes_at_any_size(model, mode, tmp_path):
    sizes = {"a": (40, 33), "b": (40, 33), "c": (17, 9), "d/e": (65, 50)}
    pixels = {
        name: draw(tmp_path / "in" / f"{name}.png", *size, seed) for seed, (name, size) in enumerate(sizes.items())
    }
    jobs = find_jobs([tmp_path / "in"], tmp_path / "out")
    assert predict_files(model, jobs, device="cpu", mode=mode, crop_size=200, batch_size=2) == []
    for name, image in pixels.items():
        with Image.open(tmp_path / "out" / "labels" / f"{name}.png") as label:
            assert label.mode == "P" and label.size == sizes[name]
            found = np.asarray(label)
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        normalised = torch.from_numpy(((image / 255 - mean) / std).astype(np.float32)).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = model(normalised)[0].argmax(1)[0].numpy()
        assert (found == expected).mean() > 0.999  # rounding may turn a tie
        with Image.open(tmp_path / "out" / "overlays" / f"{name}.png") as overlay:
            blended = (image.astype(int) + colour_map()[found]) / 2
            assert np.abs(np.asarray(overlay) - blended).max() <= 1


def test_image_that_cannot_be_read_is_named_and_the_others_are_done(model, tmp_path):
    draw(tmp_path / "in" / "good.png", 20, 20)
    whole = (tmp_path / "in" / "good.png").read_bytes()
    (tmp_path / "in" / "cut.png").write_bytes(whole[: len(whole) // 2])
    seen = []
    jobs = find_jobs([tmp_path / "in"], tmp_path / "out", overlays=False)
    faults = predict_files(model, jobs, device="cpu", done=seen.append)
    assert len(faults) == 1 and f"image {tmp_path / 'in' / 'cut.png'} cannot be decoded" in faults[0]
    assert len(seen) == 2
    assert [path.name for path in (tmp_path / "out").rglob("*.png")] == ["good.png"]


def test_outputs_that_are_there_are_refused_before_anything_is_written(tmp_path):
    draw(tmp_path / "a.png", 8, 8)
    draw(tmp_path / "out" / "labels" / "a.png", 8, 8)
    with pytest.raises(ValueError, match=r"outputs must not exist already; .*labels/a.png"):
        find_jobs([tmp_path / "a.png"], tmp_path / "out")
    assert len(find_jobs([tmp_path / "a.png"], tmp_path / "out", overwrite=True)) == 1


def test_images_behind_links_are_found_hidden_ones_are_not_and_outputs_are_no_inputs(model, tmp_path):
    draw(tmp_path / "disk" / "b.png", 20, 20)
    draw(tmp_path / "photos" / "a.png", 20, 20)
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "disk")
    for name in ("._a.png", "__MACOSX/a.png"):
        draw(tmp_path / "photos" / name, 20, 20)
    said = []
    for number in range(2):  # the second time the outputs of the first lie among the images
        jobs = find_jobs([tmp_path / "photos"], tmp_path / "photos/out", overwrite=number > 0, say=said.append)
        assert [str(job.label.relative_to(tmp_path)) for job in jobs] == [
            "photos/out/labels/a.png",
            "photos/out/labels/linked/b.png",
        ]
        assert predict_files(model, jobs, device="cpu") == []
    assert said[0] == f"skipped: 2 hidden (first {tmp_path}/photos/._a.png)"
    assert said[2] == f"skipped: 4 images in the output folder {tmp_path}/photos/out"


def test_wrong_sources_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("x/a.png", "y/a.jpg"):
        draw(tmp_path / name, 8, 8)
    with pytest.raises(ValueError, match="must hold an image .*it holds none"):
        find_jobs([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(ValueError, match="must be there; got '/nowhere'"):
        find_jobs([tmp_path.__class__("/nowhere")], tmp_path / "out")
    with pytest.raises(ValueError, match=r"x/a.png and .*y/a.jpg would both be .*labels/a.png"):
        find_jobs([tmp_path / "x", tmp_path / "y"], tmp_path / "out")


def test_grey_and_16_bit_images_are_read_as_colour(tmp_path):
    from rankmatch.data.pixels import read_image

    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "float.tif")
    for name in ("grey.png", "deep.png"):
        assert np.array_equal(np.asarray(read_image(tmp_path / name, name)), np.stack([grey] * 3, axis=2))
    with pytest.raises(
        ValueError, match="image float.tif must have 8 or 16 bits a channel, without a sign; got mode F"
    ):
        read_image(tmp_path / "float.tif", "float.tif")

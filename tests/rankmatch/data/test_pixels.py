from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rankmatch.data import pixels
from rankmatch.data.cityscapes import LABEL_IDS, convert
from rankmatch.data.lists import file_of
from rankmatch.data.pixels import read_image, read_label

COLOURS = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [255, 255, 255]]


def volume(path: Path, values: list[int]) -> Path:
    frames = [Image.new("L", (5, 4), value) for value in values]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def test_frames_of_a_volume_are_counted_from_0(tmp_path: Path):
    path = volume(tmp_path / "v.tif", [10, 20, 30])
    values = [np.asarray(read_image(path.with_name(f"v.tif#{number}"), "v")).flatten()[0] for number in (2, 0, 1)]
    assert values == [30, 10, 20]
    assert (read_label(path.with_name("v.tif#1"), "v") == 20).all()
    assert (file_of("a/v.tif#12"), file_of("a/v#1.tif")) == ("a/v.tif", "a/v#1.tif")


def test_frame_that_a_volume_has_not_and_volume_without_a_frame_are_refused(tmp_path: Path):
    path = volume(tmp_path / "v.tif", [1, 2])
    with pytest.raises(ValueError, match=r"image v.tif#2 is not there: the file has 2 frames, #0 to #1"):
        read_image(path.with_name("v.tif#2"), "v.tif#2")
    with pytest.raises(ValueError, match=r"label v.tif has 2 frames; its list must name one, #0 to #1"):
        read_label(path, "v.tif")
    assert np.asarray(read_image(volume(tmp_path / "one.tif", [7]), "one.tif")).max() == 7


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp"])
def test_broken_file_is_named_however_it_is_cut(suffix: str, tmp_path: Path):
    draws, path = np.random.default_rng(0), tmp_path / f"a.{suffix}"
    Image.fromarray(draws.integers(0, 255, (8, 9, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole) // 2, max(1, len(whole) // 80)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"^image a.{suffix} cannot be decoded: "):
            read_image(path, f"a.{suffix}")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
def test_volume_that_is_cut_anywhere_is_named_or_whole_so_far(tmp_path: Path):
    path = volume(tmp_path / "v.tif", [10, 20, 30])
    whole, outcomes = path.read_bytes(), set()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            outcomes.add(int(np.asarray(read_image(path.with_name("v.tif#1"), "v.tif#1")).max()))
        except ValueError as error:
            outcomes.add(" ".join(str(error).split()[:3]))
    assert {20, "image v.tif#1 cannot"} <= outcomes <= {20, "image v.tif#1 cannot", "image v.tif#1 is"}


def test_image_that_claims_too_many_pixels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("L", (50, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(pixels, "MAX_PIXELS", 1999)
    with pytest.raises(ValueError, match="image a.png must have at most 1,999 pixels; got 50x40: cut it into tiles"):
        read_image(tmp_path / "a.png", "a.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_a_label_are_their_places(mode: str, tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 4, (6, 7))
    image = Image.fromarray(np.array(COLOURS, np.uint8)[values])
    (image.quantize(4) if mode == "P" else image.convert(mode)).save(tmp_path / "a.png")
    assert (read_label(tmp_path / "a.png", "a.png", COLOURS) == values).all()


def test_colour_that_is_not_given_is_refused_and_named(tmp_path: Path):
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match=r"label a.png shows the colours \(1, 2, 3\), which are not in dataset.colours"
    ):
        read_label(tmp_path / "a.png", "a.png", COLOURS)
    with pytest.raises(ValueError, match=r"or dataset.colours must say what its colours mean; got mode RGB"):
        read_label(tmp_path / "a.png", "a.png")


def test_cityscapes_label_ids_become_train_ids_and_files_that_are_there_stay(tmp_path: Path):
    folder = tmp_path / "gtFine" / "val" / "ulm"
    folder.mkdir(parents=True)
    Image.fromarray(np.arange(34, dtype=np.uint8)[None]).save(folder / "a_gtFine_labelIds.png")
    Image.fromarray(np.zeros((1, 2), np.uint8)).save(folder / "b_gtFine_labelIds.png")
    Image.fromarray(np.full((1, 2), 5, np.uint8)).save(folder / "b_gtFine_labelTrainIds.png")
    seen = []
    assert convert(tmp_path, lambda done, total: seen.append((done, total))) == 1
    made = read_label(folder / "a_gtFine_labelTrainIds.png", "a")[0].tolist()
    assert {number: made[number] for number in LABEL_IDS} == dict(zip(LABEL_IDS, range(19), strict=True))
    assert made.count(255) == 34 - 19
    assert (read_label(folder / "b_gtFine_labelTrainIds.png", "b") == 5).all()
    assert seen == [(1, 2), (2, 2)]
    assert sorted(path.name[0] for path in folder.iterdir()) == ["a", "a", "b", "b"]


def test_folder_without_label_ids_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"must hold \*_labelIds.png files"):
        convert(tmp_path)

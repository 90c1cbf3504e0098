"""Files that are something else than they seem: read right, refused, or said with their count; the same everywhere."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from torch import nn

from rankmatch.config import DatasetConfig, MethodConfig, NumericsConfig, TrainConfig
from rankmatch.data import check, store
from rankmatch.data.catalog import open_dataset, pack_keys
from rankmatch.data.check import check_data, state_of_files
from rankmatch.data.loaders import val_loader
from rankmatch.data.splits import read_splits
from rankmatch.execution import ExecutionConfig
from rankmatch.predict import find_jobs, predict_files

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SIZE = (40, 40)


def config(root: Path, packed: str = "", **dataset: object) -> TrainConfig:
    numerics = NumericsConfig(
        split="1",
        dataset=DatasetConfig(**{"name": "mine", "num_classes": 3} | dataset),
        method=MethodConfig(name="supervised"),
    )
    return TrainConfig(numerics=numerics, execution=ExecutionConfig(data_root=str(root), data_store=packed))


def data_set(root: Path, image: bytes, suffix: str, label: bytes | None = None) -> Path:
    """A labeled image of noise, and one for validation that a test gives, with a label of the classes 0 to 2."""
    (root / "splits" / "1").mkdir(parents=True)
    Image.fromarray(noise(1)).save(root / "a.png")
    classes = np.random.default_rng(2).integers(0, 3, SIZE, np.uint8)
    Image.fromarray(classes).save(root / "label.png")
    (root / f"b.{suffix}").write_bytes(image)
    (root / "b_label.png").write_bytes(label or (root / "label.png").read_bytes())
    (root / "splits/1/labeled.txt").write_text("a.png label.png\n")
    (root / "splits/val.txt").write_text(f"b.{suffix} b_label.png\n")
    return root


def noise(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def saved(image: Image.Image, kind: str, **settings: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def seen_by_the_evaluation(config: TrainConfig) -> np.ndarray:
    """The pixels of the validation image, as the loader of a run gives them."""
    ((image, _),) = val_loader(read_splits(config), open_dataset(config))
    return np.rint((image[0].permute(1, 2, 0).numpy() * STD + MEAN) * 255).astype(np.uint8)


class Brightness(nn.Module):
    """Says class 1 where an image is bright in red, class 0 elsewhere."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.stack([-images[:, 0], images[:, 0]], dim=1),)


def packed(config: TrainConfig, folder: Path, kind: str) -> str:
    root, dataset = Path(config.execution.data_root), config.numerics.dataset
    keys = pack_keys(read_splits(config), root)
    done = store.pack(folder, root, keys, store.Properties(kind, dataset.colours, dataset.image_bits))
    assert not done.faults
    return str(folder)


def is_read_alike(root: Path, folder: Path, **dataset: object) -> np.ndarray:
    """Return what evaluation sees of an image, after training, prediction and both kinds of stores saw the same."""
    plain = config(root, **dataset)
    pixels, report = seen_by_the_evaluation(plain), check_data(plain)
    assert report.faults == []
    for kind in store.KINDS:
        stored = config(root, packed(plain, folder / kind, kind), **dataset)
        assert np.array_equal(seen_by_the_evaluation(stored), pixels)
        assert check_data(stored) == report
    image = next(root.glob("b.*"))
    jobs = find_jobs([image], folder / "out", overlays=False)
    assert predict_files(Brightness(), jobs, device="cpu", image_bits=plain.numerics.dataset.image_bits) == []
    predicted = np.asarray(Image.open(folder / "out/labels/b.png"))
    assert np.array_equal(predicted, pixels[..., 0] / 255 > MEAN[0])
    return pixels


def png(values: np.ndarray, num_bits: int) -> bytes:
    """A grey PNG of so many bits, which PIL reads but does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b""
    for row in values:
        bits = "".join(f"{value:0{num_bits}b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], num_bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_of_12_bits(values: np.ndarray) -> bytes:
    """A grey TIFF that says of itself that it has 12 bits."""
    bits = "".join(f"{value:012b}" for value in values.flatten())
    pixels = int(bits, 2).to_bytes(len(bits) // 8, "big")
    height, width = values.shape
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_turned_as_its_exif_orientation_says(kind: str, orientation: int, tmp_path: Path):
    upright = noise(0)
    lying = {  # what has to be done to the upright image so that the orientation puts it right
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright, 1), 7: np.rot90(upright.swapaxes(0, 1), 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    content = saved(Image.fromarray(np.ascontiguousarray(lying)), kind, exif=exif, **settings)
    root = data_set(tmp_path / "data", content, kind.lower())
    pixels = is_read_alike(root, tmp_path)
    assert np.abs(pixels.astype(int) - upright).mean() < (3 if kind == "JPEG" else 0.01)
    kinds, earlier = "turned upright, as their EXIF orientation says", "; an earlier version read them differently"
    if kind == "TIFF":  # PIL turned these before this project did
        kinds, earlier = "TIFFs turned upright, as their orientation says", ""
    assert check_data(config(root)).notes == (
        [f"1 of 4 files are {kinds}, first b.{kind.lower()}{earlier}"] if orientation > 1 else []
    )


def test_turned_image_changes_the_fingerprint_and_data_found_good_before_are_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    exif = Image.Exif()
    exif[0x0112] = 6
    root = data_set(tmp_path / "data", saved(Image.fromarray(noise(0)), "PNG", exif=exif), "png")
    run = config(root)
    now, state = check_data(run).fingerprint, state_of_files(run, read_splits(run))
    monkeypatch.setattr(check, "READ_OTHERWISE", ())
    monkeypatch.setattr(check, "READING", 1)
    assert check_data(run).fingerprint != now
    assert state_of_files(run, read_splits(run)) != state


def test_label_of_an_image_that_was_turned_must_be_turned_too(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    flat = Image.new("L", (40, 30))
    root = data_set(tmp_path, saved(Image.new("RGB", (40, 30)), "PNG", exif=exif), "png", saved(flat, "PNG"))
    (fault,) = check_data(config(root)).faults
    assert fault.endswith(
        "label b_label.png must have the size of image b.png, 30x40, as its EXIF orientation turns it: turn the label "
        "too, or take the tag out; got 40x30"
    )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_metadata_that_nobody_can_read_say_nothing(tmp_path: Path):
    pixels = noise(0)
    content = saved(Image.fromarray(pixels), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff")
    assert np.array_equal(seen_by_the_evaluation(config(data_set(tmp_path, content, "png"))), pixels)


@pytest.mark.parametrize(("num_bits", "levels"), [(10, 4), (12, 16), (14, 64)])
def test_few_bits_in_16_are_refused_until_their_number_is_given(num_bits: int, levels: int, tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 2**num_bits, SIZE, np.uint16)
    values[0, 0] = 2**num_bits - 1
    root = data_set(tmp_path / "data", saved(Image.fromarray(values), "PNG"), "png")
    (fault,) = check_data(config(root)).faults
    assert fault == (
        f"the 1 images of 16 bits a channel have no value above {2**num_bits - 1}, and their upper 8 bits are read: "
        f"{levels} levels are left. dataset.image_bits={num_bits} reads the upper 8 of {num_bits} bits, "
        "dataset.image_bits=16 leaves them as they are"
    )
    pixels = is_read_alike(root, tmp_path, image_bits=num_bits)
    assert np.array_equal(pixels[..., 0], values >> (num_bits - 8))
    assert check_data(config(root, image_bits=16)).faults == []
    assert seen_by_the_evaluation(config(root, image_bits=16)).max() == levels - 1


def test_value_beyond_the_given_bits_is_refused(tmp_path: Path):
    root = data_set(tmp_path, saved(Image.new("I;16", SIZE, 4096), "PNG"), "png")
    (fault,) = check_data(config(root, image_bits=12)).faults
    assert "image b.png must have values below 4096, as dataset.image_bits is 12; got 4096" in fault


def test_whole_16_bits_are_read_by_their_upper_8(tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 2**16, SIZE, np.uint16)
    root = data_set(tmp_path / "data", saved(Image.fromarray(values), "PNG"), "png")
    assert np.array_equal(is_read_alike(root, tmp_path)[..., 0], values >> 8)


@pytest.mark.parametrize(("largest", "shift"), [(65535, 8), (4095, 4)])
def test_pgm_of_more_than_8_bits_is_read_by_the_upper_8_of_those_it_says(largest: int, shift: int, tmp_path: Path):
    values = np.random.default_rng(0).integers(0, largest + 1, SIZE)
    values[0, 0] = largest
    root = data_set(tmp_path / "data", b"P5 40 40 %d\n" % largest + values.astype(">u2").tobytes(), "pgm")
    assert np.array_equal(is_read_alike(root, tmp_path)[..., 0], values >> shift)


def test_dark_colours_of_16_bits_are_not_taken_for_bright_by_their_alpha(tmp_path: Path):
    values = np.zeros((*SIZE, 2), np.uint16) + np.array([4095, 65535], np.uint16)
    flat = png(values.reshape(SIZE[0], -1), 16)
    header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 16, 4, 0, 0, 0)
    content = flat[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + flat[33:]
    (fault,) = check_data(config(data_set(tmp_path, content, "png"))).faults
    assert "no value above 4095" in fault


def test_tiff_that_says_12_bits_is_read_by_their_upper_8(tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 2**12, SIZE)
    root = data_set(tmp_path / "data", tiff_of_12_bits(values), "tif")
    assert np.array_equal(is_read_alike(root, tmp_path)[..., 0], values >> 4)
    assert "1 of 4 files are grey of 12 bits, of which the upper 8 are read" in check_data(config(root)).notes[0]


def colours_of_16_bits(values: np.ndarray) -> bytes:
    """A colour PNG of 16 bits a channel."""
    flat = png(values.reshape(SIZE[0], -1), 16)
    header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 16, 2, 0, 0, 0)
    return (
        flat[:8]
        + struct.pack(">I", 13)
        + b"IHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        + flat[33:]
    )


def test_colours_of_16_bits_are_read_by_their_upper_8_and_refused_where_they_use_fewer(tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 2**16, (*SIZE, 3))
    whole = data_set(tmp_path / "whole", colours_of_16_bits(values), "png")
    assert np.array_equal(is_read_alike(whole, tmp_path), values >> 8)
    dark = data_set(tmp_path / "dark", colours_of_16_bits(values >> 4), "png")
    assert "no value above 4095" in check_data(config(dark)).faults[0]
    (fault,) = check_data(config(dark, image_bits=12)).faults
    assert "of 16-bit colours the upper 8 bits alone can be read; got mode RGB" in fault


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_file_of_several_frames_needs_the_name_of_one(kind: str, tmp_path: Path):
    frames = [Image.fromarray(noise(seed)) for seed in range(3)]
    settings = (
        {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": "4:4:4"} if kind == "AVIF" else {}
    )
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **settings)
    root = data_set(tmp_path / "data", content, kind.lower())
    name = f"b.{kind.lower()}"
    (fault,) = check_data(config(root)).faults
    assert f"image {name} has 3 frames; its list must name one, #0 to #2" in fault
    for number in (0, 2):
        (root / "splits/val.txt").write_text(f"{name}#{number} b_label.png\n")
        assert check_data(config(root)).faults == []
        pixels = seen_by_the_evaluation(config(root))
        assert np.abs(pixels.astype(int) - noise(number)).mean() < {"GIF": 40, "AVIF": 6}.get(kind, 0.01)


def test_file_of_one_frame_needs_no_name_and_the_previews_of_a_camera_are_no_frames(tmp_path: Path):
    picture, preview = Image.fromarray(noise(0)), Image.new("RGB", (8, 8))
    camera = saved(picture, "MPO", save_all=True, append_images=[preview], quality=100, subsampling=0)
    root = data_set(tmp_path / "camera", camera, "jpg")
    assert np.abs(is_read_alike(root, tmp_path).astype(int) - noise(0)).mean() < 3
    one = data_set(tmp_path / "one", saved(picture.convert("P"), "GIF"), "gif")
    assert check_data(config(one)).faults == []


def test_frame_of_a_gif_is_no_label_where_it_is_stored_as_a_change_of_the_one_before(tmp_path: Path):
    frames = [Image.fromarray(np.random.default_rng(seed).integers(0, 3, SIZE, np.uint8)) for seed in range(2)]
    for frame in frames:
        frame.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    root = data_set(tmp_path, saved(Image.fromarray(noise(0)), "PNG"), "png")
    (root / "l.gif").write_bytes(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    (root / "splits/val.txt").write_text("b.png l.gif#1\n")
    assert "label l.gif#1 must have one 8-bit channel" in check_data(config(root)).faults[0]


def test_long_texts_of_a_png_are_no_reason_to_refuse_it(tmp_path: Path):
    texts, pixels = PngImagePlugin.PngInfo(), noise(0)
    texts.add_text("history", "x" * 3_000_000, zip=True)
    content = saved(Image.fromarray(pixels), "PNG", pnginfo=texts)
    assert np.array_equal(is_read_alike(data_set(tmp_path / "data", content, "png"), tmp_path), pixels)


def test_image_beyond_the_bound_of_pil_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """180 million pixels, of one bit each so that the test is small: PIL's own bound was 179 million."""
    wide = saved(Image.new("1", (18_000, 10_000)), "PNG")
    root = data_set(tmp_path, wide, "png")
    (fault,) = check_data(config(root)).faults
    assert "label b_label.png must have the size of image b.png, 18000x10000; got 40x40" in fault


def test_transparent_pixels_and_printing_inks_are_said_with_their_count(tmp_path: Path):
    pixels = np.dstack([noise(0), np.full(SIZE, 255, np.uint8)])
    solid = data_set(tmp_path / "solid", saved(Image.fromarray(pixels), "PNG"), "png")
    assert np.array_equal(is_read_alike(solid, tmp_path), noise(0))
    assert check_data(config(solid)).notes == []
    pixels[3, 4, 3] = 0
    holed = data_set(tmp_path / "holed", saved(Image.fromarray(pixels), "PNG"), "png")
    assert np.array_equal(seen_by_the_evaluation(config(holed)), noise(0))
    assert check_data(config(holed)).notes == [
        "1 of 4 files are transparent in places, where the colours behind are read, first b.png"
    ]
    inks = Image.fromarray(noise(0)).convert("CMYK")
    printed = data_set(tmp_path / "printed", saved(inks, "TIFF"), "tif")
    assert np.array_equal(is_read_alike(printed, tmp_path / "inks"), noise(0))
    assert "made of printing inks (CMYK)" in check_data(config(printed)).notes[0]


def test_one_bit_is_black_and_white_in_an_image_and_0_and_1_in_a_label(tmp_path: Path):
    bits = np.random.default_rng(0).integers(0, 2, SIZE, np.uint8)
    content = saved(Image.fromarray(bits * 255).convert("1"), "PNG")
    root = data_set(tmp_path / "data", content, "png", content)
    assert np.array_equal(is_read_alike(root, tmp_path)[..., 0], bits * 255)
    assert check_data(config(root)).val_class_counts == [int((bits == 0).sum()), int(bits.sum()), 0]


@pytest.mark.parametrize("num_bits", [2, 4])
def test_label_of_2_or_4_bits_is_read_as_it_is_stored(num_bits: int, tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 3, SIZE)
    root = data_set(tmp_path / "data", saved(Image.fromarray(noise(0)), "PNG"), "png", png(values, num_bits))
    is_read_alike(root, tmp_path)
    report = check_data(config(root))
    assert report.val_class_counts == np.bincount(values.flatten()).tolist()
    assert "1 of 4 files are grey of 2 or 4 bits, read as the values 0, 1, 2, ... that they hold" in report.notes[0]


def test_label_in_jpeg_is_said_and_refused_where_its_values_have_changed(tmp_path: Path):
    flat, drawn = Image.new("L", SIZE, 1), Image.fromarray(np.random.default_rng(0).integers(0, 3, SIZE, np.uint8))
    root = data_set(tmp_path, saved(Image.fromarray(noise(0)), "PNG"), "png")
    (root / "splits/val.txt").write_text("b.png l.jpg\n")
    (root / "l.jpg").write_bytes(saved(flat, "JPEG"))
    report = check_data(config(root))
    assert report.faults == []
    assert report.notes == ["1 of 4 files are labels in JPEG, which does not keep values, first l.jpg"]
    (root / "l.jpg").write_bytes(saved(drawn.point(lambda value: value * 2), "JPEG"))
    assert "which is no class; allowed are 0..2 and 255; JPEG does not keep values: save labels as PNG" in " ".join(
        check_data(config(root)).faults
    )


@pytest.mark.parametrize(("content", "why"), [
    (b"", "it is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "it is a pointer of Git LFS; `git lfs"),
    (b"<!DOCTYPE html><html>Sign in</html>", "it is a web page; the download did not bring the file itself"),
    (b"something else", "cannot identify image file"),
])  # fmt: skip
def test_file_that_is_no_image_is_called_what_it_is(content: bytes, why: str, tmp_path: Path):
    (fault,) = check_data(config(data_set(tmp_path, content, "png"))).faults
    assert f"val.txt:1: image b.png cannot be decoded: {why}" in fault


@pytest.mark.parametrize(("label", "why"), [
    (Image.new("RGB", SIZE, (1, 1, 1)), "got mode RGB; its three channels are equal: save one of them alone"),
    (Image.new("RGB", SIZE, (1, 2, 1)), "got mode RGB"),
    (Image.new("I;16", SIZE, 2), "got mode I;16, of which 8 bits are used: save it with 8 bits"),
])  # fmt: skip
def test_label_of_several_channels_or_more_bits_is_refused_with_what_mends_it(
    label: Image.Image, why: str, tmp_path: Path
):
    root = data_set(tmp_path, saved(Image.fromarray(noise(0)), "PNG"), "png", saved(label, "PNG"))
    (fault,) = check_data(config(root)).faults
    assert fault.endswith(why)


def test_image_that_the_system_cannot_read_now_is_no_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = data_set(tmp_path, saved(Image.fromarray(noise(0)), "PNG"), "png")

    def stale(*_: object) -> None:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(Image, "open", stale)
    with pytest.raises(OSError, match=r"\[Errno 116\] image b.png cannot be read: Stale file handle"):
        seen_by_the_evaluation(config(root))
    assert "image b.png cannot be read: Stale file handle" in check_data(config(root)).faults[1]

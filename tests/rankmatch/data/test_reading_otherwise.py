"""TIFFs and PPMs that Pillow reads otherwise than they are meant: read right or refused, from a path as from bytes."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rankmatch.config import DatasetConfig, MethodConfig, NumericsConfig, TrainConfig
from rankmatch.data import check
from rankmatch.data.check import DataReport, check_data, state_of_files
from rankmatch.data.pixels import LYING_TIFF, TURNED_TIFF, Facts, label_with_facts, read_image
from rankmatch.data.splits import read_splits
from rankmatch.execution import ExecutionConfig

HEIGHT, WIDTH = 24, 40
LYING = {  # what has to be done to an upright image so that the orientation puts it right
    1: lambda upright: upright, 2: lambda upright: upright[:, ::-1], 3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1], 5: lambda upright: upright.swapaxes(0, 1), 6: np.rot90,
    7: lambda upright: np.rot90(upright.swapaxes(0, 1), 2), 8: lambda upright: np.rot90(upright, -1),
}  # fmt: skip


def noise(limit: int = 256, channels: tuple[int, ...] = (), width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(0).integers(0, limit, (HEIGHT, width, *channels))


def tiff(strips: list[bytes], shape: tuple[int, ...], **tags: int) -> bytes:
    """An uncompressed TIFF of these strips, one for each plane; `tags` as t258=16."""
    height, width, channels = (*shape, 1)[:3]
    meant: dict[int, list[int]] = {256: [width], 257: [height], 258: [8] * channels, 259: [1], 277: [channels]}
    meant |= {262: [1 if channels == 1 else 2], 278: [height], 279: [len(strip) for strip in strips]}
    meant |= {int(tag[1:]): [value] * (channels if tag == "t258" else 1) for tag, value in tags.items()}
    ends = np.cumsum([8, *meant[279]]).tolist()
    meant[273] = ends[:-1]
    entries, outside, after = b"", b"", ends[-1]
    for tag, values in sorted(meant.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            outside, packed = outside + packed, struct.pack("<I", after + len(outside))
        entries += struct.pack("<HHI", tag, 4, len(values)) + packed
    directory = struct.pack("<H", len(meant)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", after + len(outside)) + b"".join(strips) + outside + directory


def tiff_of(values: np.ndarray, **tags: int) -> bytes:
    """One strip of pixels, or one for each channel where the planes are separate."""
    planes = np.moveaxis(values, -1, 0) if tags.get("t284") == 2 and values.ndim == 3 else [values]
    return tiff([plane.tobytes() for plane in planes], values.shape, **tags)


def turned(mode: str, upright: np.ndarray, orientation: int) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(LYING[orientation](upright)))
    if mode == "P":
        image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    exif, file = Image.Exif(), BytesIO()
    exif[0x0112] = orientation
    image.save(file, "TIFF", exif=exif)
    assert Image.open(file).mode == mode
    return file.getvalue()


def written(folder: Path, content: bytes, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def report_of(
    root: Path, content: bytes, name: str, *, size: tuple[int, int] = (HEIGHT, WIDTH), bits: int = 0
) -> DataReport:
    """Check data whose one validation image this is."""
    return check_data(run_of(root, content, name, size=size, bits=bits))


def run_of(
    root: Path, content: bytes, name: str, *, size: tuple[int, int] = (HEIGHT, WIDTH), bits: int = 0
) -> TrainConfig:
    written(root, content, name)
    (root / "splits/1").mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(channels=(3,)).astype(np.uint8)).save(root / "a.png")
    Image.fromarray(noise(3).astype(np.uint8)).save(root / "a_label.png")
    Image.new("L", size[::-1], 1).save(root / "label.png")
    (root / "splits/1/labeled.txt").write_text("a.png a_label.png\n")
    (root / "splits/val.txt").write_text(f"{name} label.png\n")
    dataset = DatasetConfig(name="mine", num_classes=3, image_bits=bits)
    numerics = NumericsConfig(split="1", dataset=dataset, method=MethodConfig(name="supervised"))
    return TrainConfig(numerics=numerics, execution=ExecutionConfig(data_root=str(root)))


@pytest.mark.parametrize("orientation", LYING)
@pytest.mark.parametrize("mode", ["L", "P", "I;16", "RGBA", "CMYK"])
def test_uncompressed_tiff_on_its_side_is_read_from_its_path_as_from_its_bytes(
    mode: str, orientation: int, tmp_path: Path
):
    channels = {"RGBA": (4,), "CMYK": (4,)}.get(mode, ())
    upright = noise(2**16 if mode == "I;16" else 256, channels).astype(np.uint16 if mode == "I;16" else np.uint8)
    if mode == "RGBA":
        upright[..., 3] = 255
    if mode == "CMYK":  # four channels that are inks
        content = tiff_of(np.ascontiguousarray(LYING[orientation](upright)), t262=5, t274=orientation)
        colours = np.asarray(Image.fromarray(upright, "CMYK").convert("RGB"))
    else:
        content = turned(mode, upright, orientation)
        colours = {
            "L": np.dstack([upright] * 3), "P": np.dstack([upright, 255 - upright, upright * 0 + 7]),
            "I;16": np.dstack([upright >> 8] * 3), "RGBA": upright[..., :3],
        }[mode]  # fmt: skip
    path = written(tmp_path, content, "b.tif")
    by_path, by_content = read_image(path, "b.tif"), read_image(path, "b.tif", content)
    assert np.array_equal(np.asarray(by_path), colours)
    assert np.array_equal(np.asarray(by_content), colours)
    notes = [note for note in Facts.of(by_path).notes if note in (LYING_TIFF, TURNED_TIFF)]
    assert notes == ([] if orientation == 1 else [TURNED_TIFF] if orientation < 5 else [LYING_TIFF])
    assert Facts.of(by_path) == Facts.of(by_content)
    if mode in ("L", "P"):
        assert np.array_equal(label_with_facts(path, "b.tif")[0], upright)


def test_tiff_that_was_scrambled_has_another_fingerprint_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    content = turned("L", noise().astype(np.uint8), 6)
    run = run_of(tmp_path, content, "b.tif")
    now, state = check_data(run), state_of_files(run, read_splits(run))
    assert now.faults == []
    assert now.notes == [
        "1 of 4 files are uncompressed TIFFs turned upright from their side, as their orientation says, first b.tif; "
        "an earlier version read them differently"
    ]
    monkeypatch.setattr(check, "READ_OTHERWISE", ("turned", "deep", "shallow"))
    monkeypatch.setattr(check, "READING", 2)
    assert check_data(run).fingerprint != now.fingerprint
    assert state_of_files(run, read_splits(run)) != state


@pytest.mark.parametrize("kind", ["square", "compressed", "upside down"])
def test_turned_tiff_that_was_read_right_is_counted_and_keeps_its_fingerprint(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    upright = noise(width=HEIGHT if kind == "square" else WIDTH).astype(np.uint8)
    content = turned("L", upright, 3 if kind == "upside down" else 6)
    if kind == "compressed":
        exif, file = Image.Exif(), BytesIO()
        exif[0x0112] = 6
        Image.fromarray(np.ascontiguousarray(LYING[6](upright))).save(file, "TIFF", exif=exif, compression="tiff_lzw")
        content = file.getvalue()
    run = run_of(tmp_path, content, "b.tif", size=upright.shape)
    now = check_data(run)
    assert now.faults == []
    assert now.notes == ["1 of 4 files are TIFFs turned upright, as their orientation says, first b.tif"]
    monkeypatch.setattr(check, "READ_OTHERWISE", ())
    assert check_data(run).fingerprint == now.fingerprint


def test_label_of_a_turned_tiff_must_be_turned_too(tmp_path: Path):
    (fault,) = report_of(tmp_path, turned("L", noise().astype(np.uint8), 6), "b.tif", size=(WIDTH, HEIGHT)).faults
    assert "as its EXIF orientation turns it: turn the label too, or take the tag out; got 24x40" in fault


def test_colours_of_16_bits_in_separate_planes_are_refused_with_what_mends_it(tmp_path: Path):
    content = tiff_of(noise(2**16, (3,)).astype("<u2"), t258=16, t284=2)
    (fault,) = report_of(tmp_path, content, "b.tif").faults
    assert fault.endswith(
        "image b.tif must not be an uncompressed TIFF of separate planes (planar configuration 2) with 16 bits a "
        "channel, which would be read wrong: save it with planar configuration 1, or compressed"
    )


@pytest.mark.parametrize(
    ("tags", "what"), [({"t262": 0}, "0 for white"), ({"t266": 2}, "bits in reverse order"), ({}, "")]
)
def test_grey_of_separate_planes_is_refused_where_pillow_leaves_out_how_it_lies(
    tags: dict[str, int], what: str, tmp_path: Path
):
    values = noise().astype(np.uint8)
    path = written(tmp_path, tiff_of(values, t284=2, **tags), "b.tif")
    if what:
        with pytest.raises(ValueError, match=rf"label b.tif must not be .* with {what}, which would be read wrong"):
            label_with_facts(path, "b.tif")
    else:
        assert np.array_equal(label_with_facts(path, "b.tif")[0], values)


def test_other_planes_and_colours_of_16_bits_side_by_side_are_read_as_before(tmp_path: Path):
    values = noise(channels=(3,)).astype(np.uint8)
    planes = written(tmp_path, tiff_of(values, t284=2), "b.tif")
    assert np.array_equal(np.asarray(read_image(planes, "b.tif")), values)
    deep = noise(2**16, (3,)).astype("<u2")
    chunky = written(tmp_path, tiff_of(deep, t258=16), "c.tif")
    assert np.array_equal(np.asarray(read_image(chunky, "c.tif")), deep >> 8)


def test_grey_of_16_bits_with_0_for_white_is_refused_and_of_8_bits_is_read(tmp_path: Path):
    deep = tiff_of(noise(2**16).astype("<u2"), t258=16, t262=0)
    (fault,) = report_of(tmp_path, deep, "b.tif").faults
    assert fault.endswith(
        "image b.tif must have 0 for black; as a TIFF of 16 bits whose photometric interpretation is 0 (WhiteIsZero) "
        "it would be read as a negative: save it with 1 (BlackIsZero)"
    )
    values = noise().astype(np.uint8)
    shallow = written(tmp_path, tiff_of(values, t262=0), "c.tif")
    assert np.array_equal(np.asarray(read_image(shallow, "c.tif"))[..., 0], 255 - values)


def ppm(values: np.ndarray, largest: int, *, is_plain: bool) -> bytes:
    pixels = " ".join(map(str, values.flatten())).encode() if is_plain else values.astype(">u2").tobytes()
    return b"P%d %d %d %d\n" % (3 if is_plain else 6, WIDTH, HEIGHT, largest) + pixels


@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize("num_bits", [10, 12, 14])
def test_colour_ppm_of_few_bits_in_16_is_refused_as_a_png_is(num_bits: int, is_plain: bool, tmp_path: Path):
    values = noise(2**num_bits, (3,))
    values[0, 0] = 2**num_bits - 1
    content = ppm(values, 2**16 - 1, is_plain=is_plain)
    (fault,) = report_of(tmp_path, content, "b.ppm").faults
    assert f"no value above {2**num_bits - 1}, and their upper 8 bits are read" in fault
    (fault,) = report_of(tmp_path, content, "b.ppm", bits=num_bits).faults
    assert "of 16-bit colours the upper 8 bits alone can be read; got mode RGB" in fault
    assert report_of(tmp_path, content, "b.ppm", bits=16).faults == []


@pytest.mark.parametrize(("largest", "bits"), [(255, 0), (255, 12), (2**16 - 1, 0), (2**12 - 1, 0), (2**12 - 1, 12)])
def test_colour_ppm_that_uses_the_range_that_it_says_is_read_as_before(largest: int, bits: int, tmp_path: Path):
    values = noise(largest + 1, (3,))
    values[0, 0] = largest
    content = ppm(values, largest, is_plain=True)
    assert report_of(tmp_path, content, "b.ppm", bits=bits).faults == []
    found = np.asarray(read_image(tmp_path / "b.ppm", "b.ppm", image_bits=bits))
    assert np.array_equal(found, np.rint(values / largest * 255))

"""Image and label files as pixels, and how split lists name them."""

import re
import struct
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rankmatch.checks import MissingFileError

FRAME = re.compile(r"#(\d+)$")
FRAMES = re.compile(r"(.+#)(\d+)-(\d+)")
# What PIL raises for broken files, seen by cutting and changing files of eight kinds; SyntaxError is a PNG's chunk.
UNDECODABLE = (OSError, SyntaxError, TypeError, LookupError, ValueError, EOFError, struct.error,
               Image.DecompressionBombError)  # fmt: skip


def list_lines(path: Path) -> list[str]:
    """Return the lines of a split list.

    Raises:
        ValueError: It is no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"split list {path} must be text in UTF-8: {error}") from error


def file_of(name: str) -> str:
    """Return the file that a name of a split list is in: `volume.tif` of `volume.tif#12`, its frame 12 from 0."""
    return FRAME.sub("", name)


def frames_of(name: str) -> list[str]:
    """Return what a name of a split list stands for: itself, or the frames from first to last of `volume.tif#0-164`."""
    found = FRAMES.fullmatch(name)
    return [f"{found[1]}{number}" for number in range(int(found[2]), int(found[3]) + 1)] if found else [name]


def read_image(path: Path, name: str, content: bytes | memoryview | None = None) -> Image.Image:
    """Read a grey or colour image of 8 or 16 bits, in mode RGB; of 16 bits the upper 8 are kept.

    Args:
        path: May end with the frame of a volume, `#12`.
        name: The file in messages.
        content: What the file holds, if that is at hand; else it is opened.

    Raises:
        ValueError: The file is missing, cannot be decoded, or holds other numbers than these.
    """
    image = _decoded(path, f"image {name}", content)
    if image.mode.startswith("I;16"):  # PIL would cut everything above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"image {name} must have 8 or 16 bits a channel; got mode {image.mode}")
    return image.convert("RGB")


def read_label(
    path: Path, name: str, colours: Sequence[Sequence[int]] = (), content: bytes | memoryview | None = None
) -> npt.NDArray[np.uint8]:
    """Read the values of a label: the indices of a palette file, or the places of its pixels' colours in `colours`.

    Raises:
        ValueError: The file is missing, cannot be decoded, has more than one channel though no colours are given, or
            shows a colour that is not given.
    """
    label = _decoded(path, f"label {name}", content)
    if colours:
        return _places(np.asarray(label.convert("RGB")), colours, name)
    if label.mode not in ("L", "P", "1"):
        raise ValueError(
            f"label {name} must have one 8-bit channel (mode L, P or 1), or dataset.colours must say what its "
            f"colours mean; got mode {label.mode}"
        )
    return np.asarray(label, dtype=np.uint8)


def _places(pixels: npt.NDArray[np.uint8], colours: Sequence[Sequence[int]], name: str) -> npt.NDArray[np.uint8]:
    known, codes = _codes(np.array(colours)), _codes(pixels)
    order = np.argsort(known)
    places = order[np.searchsorted(known, codes, sorter=order).clip(max=len(known) - 1)]
    wrong = known[places] != codes
    if wrong.any():
        found = ", ".join(str(tuple(colour.tolist())) for colour in np.unique(pixels[wrong], axis=0)[:8])
        raise ValueError(f"label {name} shows the colours {found}, which are not in dataset.colours")
    values: npt.NDArray[np.uint8] = places.astype(np.uint8)
    return values


def _codes(colours: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    codes: npt.NDArray[np.int64] = colours.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return codes


def _decoded(path: Path, what: str, content: bytes | memoryview | None) -> Image.Image:
    found = FRAME.search(path.name)
    frame = int(found[1]) if found else None
    try:
        with Image.open(path.with_name(file_of(path.name)) if content is None else BytesIO(content)) as image:
            fault = _fault_of_frame(image, frame)
            if not fault:
                image.seek(frame or 0)
                image.load()
    except FileNotFoundError:
        raise MissingFileError(f"{what} is missing") from None
    except UNDECODABLE as error:
        raise ValueError(f"{what} cannot be decoded: {error}") from error
    if fault:
        raise ValueError(f"{what} {fault}")
    return image


def _fault_of_frame(image: Image.Image, frame: int | None) -> str:
    """Say what is wrong with a frame; a volume without one is refused, as its first slice would be read for all."""
    count = getattr(image, "n_frames", 1) if frame is not None or image.format == "TIFF" else 1
    if frame is None and count > 1:
        return f"has {count} frames; its list must name one, #0 to #{count - 1}"
    if frame is not None and frame >= count:
        return f"is not there: the file has {count} frames, #0 to #{count - 1}"
    return ""

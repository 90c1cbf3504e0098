"""Image and label files as pixels, by one rule for each kind of file, listed in docs/data.md.

Training, evaluation, prediction, `data pack` and `data check` all read files here. If a file may not be what was
meant, its `Facts` say so, and the check of the data reports how many there are.
"""

import errno
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin, TiffImagePlugin

from rankmatch.checks import MissingFileError
from rankmatch.data.hints import of_label_mode, of_undecodable
from rankmatch.data.lists import file_of, frame_of

READING = 3
"""Raised when some files are read otherwise than before: what was packed or found good by another one is not taken."""
MAX_PIXELS = 2**30
"""Larger images are refused: in colour they would take more than 3 GB in each process that reads them."""
UNDECODABLE = (OSError, SyntaxError, TypeError, LookupError, ValueError, EOFError, NotImplementedError, struct.error,
               Image.DecompressionBombError)  # fmt: skip
"""PIL's exceptions for broken files, found by cutting and changing files of 20 kinds; SyntaxError: a PNG's chunk."""
FACTS = "rankmatch.facts"
"""Key of a file's facts in `Image.info`."""

TURNED, DEEP, SHALLOW, LYING_TIFF = "turned", "deep", "shallow", "lying tiff"
"""Notes of files that an earlier version read otherwise."""
TRANSPARENT, CMYK, LOSSY, TURNED_TIFF = "transparent", "cmyk", "lossy", "turned tiff"
READ_OTHERWISE = (TURNED, DEEP, SHALLOW, LYING_TIFF)
TURNED_SOMEHOW = frozenset({TURNED, LYING_TIFF, TURNED_TIFF})

_WITH_PREVIEWS = ("MPO", "PSD")
"""Formats whose first frame is the picture; the others are previews, depth or layers of it."""
_METADATA = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE = 2**16 - 1
_BITS_OF_SAMPLES, _PHOTOMETRIC, _FILL_ORDER, _PLANES = 258, 262, 266, 284
"""Tags of a TIFF."""
_MAPPED = ("L", "P", "RGBX", "RGBA", "CMYK", "I;16", "I;16L", "I;16B")
"""Modes in which PIL maps an uncompressed file into memory where it is given a path."""
_STEP_OF_GREY = {"L;2": 85, "L;4": 17}
"""Factors by which PIL multiplies greys of 2 and 4 bits."""

# Long texts and colour profiles are no reason to refuse an image, and MAX_PIXELS stands in for PIL's own bound.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Properties of a file that suggest it may not be what was meant."""

    notes: tuple[str, ...] = ()
    """Notes, from those above."""
    used_bits: int = 0
    """For an image of 16 bits per channel, how many of them its largest value needs."""

    @classmethod
    def of(cls, image: Image.Image) -> "Facts":
        """Return the facts of an image that was read here; a drawn image has none."""
        found = image.info.get(FACTS)
        return found if isinstance(found, cls) else cls()

    def on(self, image: Image.Image) -> Image.Image:
        """Attach the facts to an image, in place of its file's own metadata."""
        image.info = {FACTS: self}
        return image


@dataclass(slots=True)
class _Decoded:
    image: Image.Image
    """Upright."""
    format: str | None
    raw_mode: str
    """PIL's name for the pixel layout in the file: `I;16B`, `RGB;16L`, `L;2`, ..."""
    notes: list[str]
    largest: int = 0
    """The value that a PPM says of itself is white; 0: it says none, or is another kind of file."""


def read_image(path: Path, name: str, content: bytes | memoryview | None = None, *, image_bits: int = 0) -> Image.Image:
    """Read a grey or colour image of 8 or 16 bits, in mode RGB, upright; `Facts.of` returns its facts.

    Args:
        path: May end with a frame of a volume, `#12`.
        name: The file's name in messages.
        content: The file's bytes, if they are already in memory; otherwise the file is opened.
        image_bits: How many of 16 bits carry values; the upper 8 of them are kept; 0: all 16.

    Raises:
        ValueError: The file is missing, cannot be decoded, or holds numbers of another kind.
        OSError: The system cannot read it now, but may later.
    """
    decoded = _decoded(path, f"image {name}", content)
    image, notes, used_bits = _grey_of_16_bits(decoded), decoded.notes, 0
    if image.mode.startswith("I;16"):  # PIL would cut everything above 255
        is_deep = decoded.raw_mode == "I;12"
        is_scaled = decoded.format == "PPM" and decoded.raw_mode != "I;16B"  # to its own largest value
        num_bits = 12 if is_deep else 16 if is_scaled else image_bits or 16
        image, used_bits = _upper_bits(image, name, num_bits)
        if is_deep:
            notes, used_bits = [*notes, DEEP], 0
    elif ";16" in decoded.raw_mode or decoded.largest > 255:
        is_scaled = decoded.largest not in (0, _WHITE)  # to its own largest value
        used_bits = _used_bits_of_colour(image, name, 0 if is_scaled else image_bits, is_rounded=decoded.largest > 0)
    if image.mode in ("I", "F"):
        raise ValueError(
            f"image {name} must have 8 or 16 bits a channel, without a sign; got mode {image.mode}: scale it first"
        )
    notes += [CMYK] if image.mode == "CMYK" else []
    notes += [TRANSPARENT] if _is_transparent(image) else []
    return Facts(tuple(notes), used_bits).on(_in_colour(image, f"image {name}"))


def read_label(
    path: Path, name: str, colours: Sequence[Sequence[int]] = (), content: bytes | memoryview | None = None
) -> npt.NDArray[np.uint8]:
    """Read the values of a label; see `label_with_facts`."""
    return label_with_facts(path, name, colours, content)[0]


def label_with_facts(
    path: Path, name: str, colours: Sequence[Sequence[int]] = (), content: bytes | memoryview | None = None
) -> tuple[npt.NDArray[np.uint8], Facts]:
    """Read the values of a label: palette indices, or the index of each pixel's colour in `colours`.

    Raises:
        ValueError: The file is missing, cannot be decoded, has several channels without `colours`, or shows a colour
            that is not in `colours`.
        OSError: The system cannot read it now, but may later.
    """
    decoded = _decoded(path, f"label {name}", content)
    label, notes = decoded.image, decoded.notes
    notes += [LOSSY] if decoded.format in ("JPEG", "MPO") else []
    if colours:
        values = _places(np.asarray(_in_colour(label, f"label {name}")), colours, name)
    elif label.mode not in ("L", "P", "1"):
        raise ValueError(
            f"label {name} must have one 8-bit channel (mode L, P or 1), or dataset.colours must say what its "
            f"colours mean; got mode {label.mode}{of_label_mode(label, name)}"
        )
    else:
        values = np.asarray(label, dtype=np.uint8)
        if step := _STEP_OF_GREY.get(decoded.raw_mode):
            values, notes = values // np.uint8(step), [*notes, SHALLOW]
    return values, Facts(tuple(notes))


def _grey_of_16_bits(decoded: _Decoded) -> Image.Image:
    """Return a grey 16-bit PGM like other 16-bit files; PIL reads it as 32 bits."""
    image = decoded.image
    if decoded.format == "PPM" and image.mode == "I":
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    return image


def _upper_bits(image: Image.Image, name: str, num_bits: int) -> tuple[Image.Image, int]:
    """Return the upper 8 of the bits that carry a grey image's values, and how many bits the largest value needs."""
    values = np.asarray(image)
    used_bits = int(values.max()).bit_length()
    if used_bits > num_bits:
        raise ValueError(
            f"image {name} must have values below {1 << num_bits}, as dataset.image_bits is {num_bits}; "
            f"got {values.max()}"
        )
    return Image.fromarray((values >> (num_bits - 8)).astype(np.uint8)), used_bits


def _used_bits_of_colour(image: Image.Image, name: str, image_bits: int, *, is_rounded: bool) -> int:
    """Return how many of 16 bits a colour image needs; PIL has already cut or rounded it to 8."""
    if image_bits not in (0, 16):
        raise ValueError(
            f"image {name} must be grey or have 8 bits a channel where dataset.image_bits is {image_bits}: of 16-bit "
            f"colours the upper 8 bits alone can be read; got mode {image.mode}"
        )
    largest = max(high for _, high in _extrema(image.convert("RGB")))
    if is_rounded:  # the smallest value that becomes this one: 4095 of 65535 is rounded up to 16, and needs 12 bits
        return max(8, (257 * largest - 128).bit_length() if largest else 0)
    return 8 + largest.bit_length()


def _extrema(image: Image.Image) -> Iterable[tuple[int, int]]:
    found: Any = image.getextrema()
    return found if isinstance(found[0], tuple) else [found]


def _is_transparent(image: Image.Image) -> bool:
    """Return whether a pixel is transparent, however the file stores that."""
    return image.has_transparency_data and next(iter(_extrema(image.convert("RGBA").getchannel("A"))))[0] < 255


def _in_colour(image: Image.Image, what: str) -> Image.Image:
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise ValueError(f"{what} cannot be read as colours: {error}") from error


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


def _decoded(path: Path, what: str, content: bytes | memoryview | None) -> _Decoded:
    frame, file = frame_of(path.name), path.with_name(file_of(path.name))
    try:
        # Given a path, PIL maps some files into memory, those that lie on their side in the wrong width.
        with file.open("rb") if content is None else BytesIO(content) as opened, Image.open(opened) as image:
            fault = _fault_of_frame(image, frame)
            if not fault and frame is not None:
                image.seek(frame)
            fault = fault or _fault_of_size(image) or _fault_of_tiff(image)
            raw_mode, largest, notes = _raw_mode(image), _largest(image), _notes_of_tiff(image)
            if not fault:
                image.load()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"{what} is missing") from None
    except IsADirectoryError:
        raise ValueError(f"{what} must be a file; it is a folder") from None
    except UNDECODABLE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # told to seek before a file's begin
            raise OSError(error.errno, f"{what} cannot be read: {error.strerror}") from error
        raise ValueError(f"{what} cannot be decoded: {of_undecodable(file, content) or error}") from error
    if fault:
        raise ValueError(f"{what} {fault}")
    method = _UPRIGHT.get(_orientation(image))
    upright = image if method is None else image.transpose(method)
    return _Decoded(upright, image.format, raw_mode, notes if method is None else [TURNED], largest)


def _arguments(image: Image.Image) -> tuple[Any, ...]:
    """Return the arguments that PIL gives to the decoder of a file that is opened but not loaded."""
    tiles: list[Any] = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _raw_mode(image: Image.Image) -> str:
    """Return the pixel layout of a file that is opened but not loaded."""
    first = next(iter(_arguments(image)), "")
    return first if isinstance(first, str) else ""


def _largest(image: Image.Image) -> int:
    """Return the value that means white in a PPM that is opened but not loaded, if it is not 255."""
    found = _arguments(image)
    return found[1] if image.format == "PPM" and len(found) == 2 else 0


def _notes_of_tiff(image: Image.Image) -> list[str]:
    """Note that an opened TIFF will be turned when loaded; earlier versions scrambled it if PIL mapped it."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return []
    orientation = image.tag_v2.get(_ORIENTATION, 1)
    if orientation not in _UPRIGHT:
        return []
    is_mapped = len(image.tile) == 1 and image.tile[0][0] == "raw" and _raw_mode(image) == image.mode in _MAPPED
    is_lying = orientation >= 5 and image.width != image.height
    return [LYING_TIFF if is_mapped and is_lying else TURNED_TIFF]


def _orientation(image: Image.Image) -> int:
    """Return the orientation of a loaded image, 1 for upright; PIL itself turns TIFFs."""
    if image.format == "TIFF" or not any(key in image.info for key in _METADATA):
        return 1
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except UNDECODABLE:  # unreadable metadata are ignored: the pixels are fine
        return 1
    return found if isinstance(found, int) else 1


def _fault_of_size(image: Image.Image) -> str:
    if image.width * image.height > MAX_PIXELS:
        return f"must have at most {MAX_PIXELS:,} pixels; got {image.width}x{image.height}: cut it into tiles"
    return ""


def _fault_of_tiff(image: Image.Image) -> str:
    """Say why PIL would misread the values of a TIFF."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return ""
    tags = image.tag_v2
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0:
        return (
            "must have 0 for black; as a TIFF of 16 bits whose photometric interpretation is 0 (WhiteIsZero) it would "
            "be read as a negative: save it with 1 (BlackIsZero)"
        )
    if tags.get(_PLANES, 1) != 2 or image.tile[0][0] != "raw":
        return ""
    bits = max(tags.get(_BITS_OF_SAMPLES, (1,)))
    lost = (
        (bits != 8 and image.mode != "1", f"{bits} bits a channel"),
        (tags.get(_PHOTOMETRIC) == 0, "0 for white"),
        (tags.get(_FILL_ORDER, 1) != 1, "bits in reverse order"),
    )
    found = [what for is_lost, what in lost if is_lost]
    if not found:
        return ""
    return (
        f"must not be an uncompressed TIFF of separate planes (planar configuration 2) with {' and '.join(found)}, "
        "which would be read wrong: save it with planar configuration 1, or compressed"
    )


def _fault_of_frame(image: Image.Image, frame: int | None) -> str:
    """Say what is wrong with a frame. A file of several is refused without one: only its first would be read."""
    if frame is None and image.format in _WITH_PREVIEWS:
        return ""
    count = getattr(image, "n_frames", 1)
    if frame is None and count > 1:
        return f"has {count} frames; its list must name one, #0 to #{count - 1}"
    if frame is not None and frame >= count:
        return f"is not there: the file has {count} frames, #0 to #{count - 1}"
    return ""

"""Likely causes of a fault in a file, and their fixes; each is a clause to end a message with, or empty."""

import os
import unicodedata
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

_POINTER = b"version https://git-lfs"


def of_undecodable(file: Path, content: bytes | memoryview | None) -> str:
    """Say what a file that is no image is instead."""
    start = _start_of(file) if content is None else bytes(content[:256])
    if not start:
        return "it is empty"
    if start.startswith(_POINTER):
        return "it is a pointer of Git LFS; `git lfs pull` fetches the file itself"
    if start.lstrip()[:9].lower() in (b"<!doctype", b"<html>") or start.lstrip()[:5].lower() == b"<html":
        return "it is a web page; the download did not bring the file itself"
    return ""


def _start_of(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(256)
    except (OSError, ValueError):  # a name that no file can have
        return b"?"


def of_label_mode(label: Image.Image, name: str) -> str:
    """Say why a label may have the wrong mode."""
    if name.endswith(("_color.png", "_instanceIds.png")):
        return "; Cityscapes' labels are the files *_labelTrainIds.png, which `rankmatch data convert` writes"
    if label.mode in ("RGB", "RGBA"):
        red, green, blue = (np.asarray(label.getchannel(part)) for part in "RGB")
        if (red == green).all() and (red == blue).all():
            return "; its three channels are equal: save one of them alone"
    if label.mode.startswith("I") and np.asarray(label).max() < 256:
        return ", of which 8 bits are used: save it with 8 bits"
    return ""


def of_value(label: npt.NDArray[np.uint8], name: str, wrong: npt.NDArray[np.uint8], num_classes: int) -> str:
    """Say why a label may hold values that are no classes."""
    values = np.unique(label).tolist()
    if "_labelIds" in name:
        return "; lists must name *_labelTrainIds.png, which `rankmatch data convert cityscapes` writes"
    if name.lower().endswith((".jpg", ".jpeg")):
        return "; JPEG does not keep values: save labels as PNG"
    if len(values) == 2 and values[0] == 0:
        return f"; for masks of 0 and {values[1]}, the data set's file says `label_map: {{{values[1]}: 1}}`"
    if values[0] == 1 and wrong.tolist() == [num_classes]:
        return "; where classes are counted from 1, the data set's file says `label_map: {1: 0, 2: 1, ...}`"
    return ""


def of_line(line: str, num_words: int) -> str:
    """Say why a line of a list may have the wrong number of names."""
    if num_words > 2:
        return "; a name with spaces stands in double quotes"
    return "; commas separate no names" if "," in line else ""


def of_missing(root: Path, name: str) -> str:
    """Suggest where a file may be that is not at `root / name`."""
    if name.startswith("/"):
        inside = name.lstrip("/")
        there = f"; {inside} is there" if (root / inside).exists() else ""
        return f": paths are relative to data_root, without a leading /{there}"
    slashes = name.replace("\\", "/")
    if slashes != name and (root / slashes).exists():
        return f": / separates folders, not \\; {slashes} is there"
    if (root.parent / name).exists():
        return f"; it is there below {root.parent}, which data_root should be then"
    below = next((folder for folder in _folders(root) if (folder / name).exists()), None)
    if below is not None:
        return f"; it is there below {below}, which data_root should be then"
    found = _similar(root / name)
    return f"; there is {found!r}" + (", which needs double quotes in a list" if " " in found else "") if found else ""


def _similar(path: Path) -> str:
    """Return a similar name in the same folder: another case, suffix, or way to write an accent."""
    by_name, by_stem = _names(path.parent)
    alike = by_name.get(_plain(path.name)) or by_stem.get(_plain(path.stem))
    return alike or next((name for name in by_name.values() if name.startswith(f"{path.name} ")), "")


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@lru_cache(maxsize=4)  # one folder mostly, and thousands of names that are not in it
def _names(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names in a folder by how they read, with and without their suffix."""
    try:
        names = sorted(os.listdir(folder), reverse=True)  # noqa: PTH208 (names alone)
    except OSError:
        names = []
    return {_plain(name): name for name in names}, {_plain(Path(name).stem): name for name in names}


@lru_cache(maxsize=4)
def _folders(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if path.is_dir()))

"""What a file is that is not what its name says: a page, a pointer, an archive, told by its first bytes."""

from pathlib import Path

_LONGEST_START = 512
_STARTS = (
    (b"version https://git-lfs.github.com/spec", "is a Git LFS pointer: `git lfs pull` brings the file"),
    (b"/annex/objects/", "is a git-annex pointer: `git annex get` brings the file"),
    (b"<!doctype html", "is an HTML page, as a download link that wants a login or a click gives it"),
    (b"<html", "is an HTML page, as a download link that wants a login or a click gives it"),
    (b"<?xml", "is an XML text, as a store answers that refuses a download"),
    (b'{"', "is a JSON text, as a server answers that refuses a download"),
    (b"\x1f\x8b", "is packed by gzip: unpack it"),
    (b"BZh", "is packed by bzip2: unpack it"),
    (b"\xfd7zXZ\x00", "is packed by xz: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it"),
    (b"\x89HDF\r\n", "is an HDF5 file, as Keras writes weights"),
    (b"%pdf-", "is a PDF"),
)
"""How a file begins, in lower case where it is text."""


def describe(path: Path) -> str:
    """Return in words what a file is, as the end of a sentence; empty where its first bytes say nothing."""
    try:
        with path.open("rb") as file:
            start = file.read(_LONGEST_START)
    except OSError:
        return ""  # whoever reads it says what is wrong
    if not start:
        return "is empty"
    if not start.strip(b"\x00"):
        return "begins with zeros alone, as a download leaves it that was cut off"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for mark, words in _STARTS:
        if start.startswith(mark) or text.lower().startswith(mark):
            return words
    if start[8:10] == b'{"' and int.from_bytes(start[:8], "little") < 1 << 32:
        return "is a safetensors file"
    return ""

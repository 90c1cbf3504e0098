"""Recognise by its first bytes what a file really is when its name is wrong: a web page, a pointer, an archive."""

from pathlib import Path

_LONGEST_START = 512
_STARTS = (
    (b"version https://git-lfs.github.com/spec", "is a Git LFS pointer: `git lfs pull` fetches the file"),
    (b"/annex/objects/", "is a git-annex pointer: `git annex get` fetches the file"),
    (b"<!doctype html", "is an HTML page, which a download link returns if it needs a login or a click"),
    (b"<html", "is an HTML page, which a download link returns if it needs a login or a click"),
    (b"<?xml", "is an XML text, which a store returns when it refuses a download"),
    (b'{"', "is a JSON text, which a server returns when it refuses a download"),
    (b"\x1f\x8b", "is packed by gzip: unpack it"),
    (b"BZh", "is packed by bzip2: unpack it"),
    (b"\xfd7zXZ\x00", "is packed by xz: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it"),
    (b"\x89HDF\r\n", "is an HDF5 file, as Keras writes weights"),
    (b"%pdf-", "is a PDF"),
)
"""First bytes of files, in lower case for text, with their descriptions."""


def describe(path: Path) -> str:
    """Describe what a file is, as the end of a sentence; empty if its first bytes do not show it."""
    try:
        with path.open("rb") as file:
            start = file.read(_LONGEST_START)
    except OSError:
        return ""  # whoever reads it says what is wrong
    if not start:
        return "is empty"
    if not start.strip(b"\x00"):
        return "begins with zeros only, like an interrupted download"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for mark, words in _STARTS:
        if start.startswith(mark) or text.lower().startswith(mark):
            return words
    if start[8:10] == b'{"' and int.from_bytes(start[:8], "little") < 1 << 32:
        return "is a safetensors file"
    return ""

"""The text of split lists: their lines, the names on them, and when two names mean the same image.

A line is `<image> <label>`, or one name. A name with a space in it stands in double quotes (a quote within them is
doubled), or the names are separated by tabs. `volume.tif#3` is a frame of a volume, counted from 0, and
`volume.tif#0-164` stands for its frames 0 to 164.
"""

import os.path
import re
from pathlib import Path

FRAME = re.compile(r"#(\d+)$")
FRAMES = re.compile(r"(.+#)(\d+)-(\d+)")
MAX_FRAMES = 10**6
_WORD = re.compile(r'"(?:[^"]|"")+"(?=\s|$)|\S+')
_IN_QUOTES = re.compile(r'"((?:[^"]|"")+)"')


def list_lines(path: Path) -> list[str]:
    """Return the lines of a split list.

    Raises:
        ValueError: It is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"split list {path} must be text in UTF-8: {error}") from error


def words_of(line: str) -> list[str]:
    """Return the names on a line; only tabs separate them if spaces would give more than two."""
    words = [_unquoted(word) for word in _WORD.findall(line)]
    columns = [column for column in map(str.strip, line.split("\t")) if column]
    return columns if len(words) > 2 and len(columns) == 2 else words


def line_of(*names: str) -> str:
    """Return the line that yields these names when read, without its line end.

    Raises:
        ValueError: No line can give one of them.
    """
    line = " ".join(name if words_of(name) == [name] else _quoted(name) for name in names)
    for name in names:
        if line.splitlines() != [line] or frames_of(name) != [name] or not _is_text(name):
            raise ValueError(f"no line of a split list can name {name!r}: rename the file")
    if words_of(line) != list(names):  # an empty name, or a space at an edge
        raise ValueError(f"no line of a split list can name {' and '.join(map(repr, names))}: rename the file")
    return line


def file_of(name: str) -> str:
    """Return the file part of a name in a split list: `volume.tif` of `volume.tif#12` (frame 12, counted from 0)."""
    return FRAME.sub("", name)


def frame_of(name: str) -> int | None:
    """Return the frame part of a name in a split list."""
    found = FRAME.search(name)
    return int(found[1]) if found else None


def frames_of(name: str) -> list[str]:
    """Return the names that a name in a split list stands for: itself, or all frames of `volume.tif#0-164`.

    Raises:
        ValueError: They are more than a volume has.
    """
    found = FRAMES.fullmatch(name)
    if found and int(found[3][:20]) - int(found[2][:20]) >= MAX_FRAMES:
        raise ValueError(f"{name[:80]!r} must name at most {MAX_FRAMES:,} frames of a volume")
    return [f"{found[1]}{number}" for number in range(int(found[2]), int(found[3]) + 1)] if found else [name]


def leads_out(name: str, root: Path) -> bool:
    """Return whether a name leads to a file outside the folder from which it starts; links may lead anywhere."""
    frames = FRAMES.fullmatch(name)
    file = frames[1].removesuffix("#") if frames else file_of(name)
    path = Path(os.path.abspath(root / file))  # noqa: PTH100 (without following links)
    return (root / file).exists() and not any(
        path.is_relative_to(place)
        for place in (os.path.abspath(root), root.resolve())  # noqa: PTH100
    )


def same_image(name: str) -> str:
    """Return a key that is equal for all spellings of a name: `4.png` and `./4.png`, `v.tif` and `v.tif#0`."""
    return f"{os.path.normpath(file_of(name))}#{frame_of(name) or 0}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _unquoted(word: str) -> str:
    found = _IN_QUOTES.fullmatch(word)
    return found[1].replace('""', '"') if found else word


def _is_text(name: str) -> bool:
    """Return whether a name can be written in UTF-8; file systems allow others too."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True

"""The one reader of YAML that people write: every value stays text until the type of its field reads it.

YAML itself takes `1_16` for 116, `1:30:00` for 5400, `no` for false and `010` for 8, each without a word.
"""

from pathlib import Path
from typing import Any

import yaml

_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # in C it is ten times as fast
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"\xef\xbb\xbf", "UTF-8 with a byte order mark"),
)
_UNSEEN = {"\xa0", "\u200b", "\u2007", "\u202f", "\ufeff"}
"""What looks like a space or like nothing, and is neither to YAML."""


class _TextLoader(_LOADER):  # type: ignore[misc]  # chosen above
    """Makes text, lists and mappings only, and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {line}: a key must be a word; got a list or a mapping")
            if set(key.value) & _UNSEEN:
                raise ValueError(f"line {line}: {key.value!r} holds a space that is none, as copied from a page")
            if key.value in first:
                raise ValueError(f"line {line}: {key.value!r} stands twice, first in line {first[key.value]}")
            first[key.value] = line
        return dict(super().construct_mapping(node, deep=True))


def read(path: Path) -> Any:  # noqa: ANN401 (what the file holds)
    """Read a file as text, lists and mappings; an empty one is an empty mapping.

    Raises:
        ValueError: In one line with file and line: another encoding, a tab that indents, a key that stands twice, or
            something else that is no YAML.
    """
    try:
        return parse(_decoded(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse(text: str) -> Any:  # noqa: ANN401 (what the text holds)
    """Read YAML as text, lists and mappings; nothing is an empty mapping.

    Raises:
        ValueError: It is no YAML, or a key stands twice; with the line.
    """
    try:
        content = yaml.load(text, _TextLoader)  # noqa: S506 (makes text only)
    except yaml.YAMLError as error:
        raise ValueError(_fault(error, text)) from error
    return {} if content is None else content


def _decoded(content: bytes) -> str:
    for mark, name in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            raise ValueError(f"line 1: must be UTF-8 without a byte order mark; it is {name}")
    if b"\x00" in content:
        raise ValueError(f"line {_line_at(content, content.index(0))}: must be text in UTF-8; it holds a zero byte")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        byte = f"byte 0x{content[error.start]:02x} is none"
        raise ValueError(f"line {_line_at(content, error.start)}: must be text in UTF-8; {byte}") from error


def _line_at(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1


def _fault(error: yaml.YAMLError, text: str) -> str:
    """Say in a line what the parser minds; the usual cause, a tab, it calls a character."""
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        number = text.count("\n", 0, getattr(error, "position", 0)) + 1
        return f"line {number}: cannot be read as YAML: {problem}"
    line = dict(enumerate(text.splitlines())).get(mark.line, "")
    indent = line[: len(line) - len(line.lstrip())]
    if "\t" in indent or line[mark.column : mark.column + 1] == "\t":
        problem = "a tab stands where YAML wants spaces"
    return f"line {mark.line + 1}: cannot be read as YAML: {problem}"

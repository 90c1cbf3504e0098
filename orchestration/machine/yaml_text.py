"""The one reader of user-written YAML: every value stays text until the type of its field reads it.

YAML itself silently reads `1_16` as 116, `1:30:00` as 5400, `no` as false and `010` as 8.
"""

from pathlib import Path
from typing import Any

import yaml

_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # the C version is ten times as fast
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"\xef\xbb\xbf", "UTF-8 with a byte order mark"),
)
_UNSEEN = {"\xa0", "\u200b", "\u2007", "\u202f", "\ufeff"}
"""Characters that look like a space or like nothing, but are neither for YAML."""
_PLAIN_TAGS = {"!"} | {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("str", "seq", "map", "bool", "int", "float", "null", "timestamp", "value", "merge")
}
"""YAML's own, which the parser gives to values by their look; all of them stay text."""
MAX_BYTES, MAX_VALUES = 2**23, 100_000
MAX_DEPTH = 100
"""The C parser has no limit of its own: some thousands of levels overflow the stack and kill the process."""


class _TextLoader(_LOADER):  # type: ignore[misc]  # chosen above
    """A loader that makes only text, lists and mappings, and refuses duplicate keys and tags."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401 (what the node holds)
        if node.tag not in _PLAIN_TAGS:
            shown = node.tag.replace("tag:yaml.org,2002:", "!!")
            line = node.start_mark.line + 1
            raise ValueError(f"line {line}: the tag {shown} says nothing here; write the value without it")
        return super().construct_object(node, deep=deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {line}: a key must be a word; got a list or a mapping")
            if set(key.value) & _UNSEEN:
                raise ValueError(f"line {line}: {key.value!r} holds a space that is none, as copied from a page")
            if key.value in first:
                raise ValueError(f"line {line}: {key.value!r} occurs twice, first in line {first[key.value]}")
            first[key.value] = line
        return dict(super().construct_mapping(node, deep=True))


def read(path: Path) -> Any:  # noqa: ANN401 (what the file holds)
    """Read a file as text, lists and mappings; an empty one is an empty mapping.

    Raises:
        ValueError: Another encoding, a tab as indentation, a duplicate key, or other invalid YAML; the message is
            one line with file and line.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"must have at most {MAX_BYTES:,} bytes to be read as YAML; it has {size:,}")
        return parse(_decoded(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse(text: str) -> Any:  # noqa: ANN401 (what the text holds)
    """Read YAML as text, lists and mappings; empty text is an empty mapping.

    Raises:
        ValueError: It is not valid YAML, a key occurs twice, or it is nested too deeply; the message has the line.
    """
    try:
        _check_depth(text)
        content = yaml.load(text, _TextLoader)  # noqa: S506 (makes text only)
    except yaml.YAMLError as error:
        raise ValueError(_fault(error, text)) from error
    except RecursionError:
        raise ValueError("its lists and mappings are nested too deeply") from None
    if "*" in text:
        _check_aliases(content)
    return {} if content is None else content


def _check_aliases(content: object) -> None:
    """Refuse aliases that stand for themselves or for more than anybody writes: who walks through them never ends."""
    left, num_values = [content], 0
    while left:
        one = left.pop()
        inner = one if isinstance(one, list) else one.values() if isinstance(one, dict) else ()
        left += inner
        num_values += len(inner)
        if num_values > MAX_VALUES:
            raise ValueError(f"its aliases (*name) must stand for at most {MAX_VALUES:,} values; write them out")


def _check_depth(text: str) -> None:
    if sum(map(text.count, "[{-?")) <= MAX_DEPTH:  # what begins a level; indentation alone takes a megabyte for 1,000
        return
    depth = 0
    for event in yaml.parse(text, _LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            where = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
            raise ValueError(f"{where}lists and mappings must be nested at most {MAX_DEPTH} deep")


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
    """Describe a parser error in one line; for the usual cause, a tab, the parser itself only says "character"."""
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

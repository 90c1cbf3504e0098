"""From text to values: the grammar of `key=value` on the command line, and reading values by their fields' types.

Hydra's grammar and YAML both read `1_16` as the integer 116. Here text stays text until the type of its field decides.
"""

import difflib
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

from rankmatch.config import TrainConfig, short_names

GROUPS = ("dataset", "backbone", "method", "preset")
PATH_KEYS = frozenset({"data_root", "split_root", "data_store", "backbone.weights"})
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
FILLED_IN = "backbone.weights_sha256"

Node: TypeAlias = "str | list[Node] | dict[str, Node]"
Value: TypeAlias = Any


@cache
def key_types() -> dict[str, Any]:
    """Return every key that a user may set, with its type; a group's key is text."""
    types = _leaf_types(TrainConfig, "")
    known = {short: types[full] for short, full in short_names().items() if short != FILLED_IN}
    return dict.fromkeys(GROUPS, str) | known


def _leaf_types(section: Any, prefix: str) -> dict[str, Any]:  # noqa: ANN401 (dataclasses have no common type)
    types: dict[str, Any] = {}
    for name, kind in get_type_hints(section).items():
        types |= _leaf_types(kind, f"{prefix}{name}.") if is_dataclass(kind) else {prefix + name: kind}
    return types


def check_key(key: str) -> None:
    """Refuse a key that is neither a field nor a group.

    Raises:
        ValueError: The key is unknown; the message names the nearest keys.
    """
    if key == FILLED_IN:
        raise ValueError(f"{key} cannot be set: it is read from the file backbone.weights")
    known = key_types()
    if key not in known:
        within = [
            name for name in known if name.startswith(f"{key}.") or key in (f"numerics.{name}", f"execution.{name}")
        ]
        near = within[:3] or near_matches(key, known)
        section = key.rpartition(".")[0]
        beside = [name for name in known if section and name.rpartition(".")[0] == section] or known
        hint = f"did you mean {' or '.join(near)}?" if near else f"keys are {', '.join(beside)}"
        raise ValueError(f"unknown key {key!r}; {hint}")


def near_matches(word: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names that end in the word, have its letters as initials, or resemble it."""
    names, (section, _, last) = list(known), word.rpartition(".")
    same_end = [name for name in names if name.endswith(f".{last}")]
    initials = [name for name in names if len(last) > 1 and _initials(name) == last]
    initials.sort(key=lambda name: name.rpartition(".")[0] != section)
    return same_end[:3] or initials[:1] or difflib.get_close_matches(word, names, n=3, cutoff=0.84)


def _initials(name: str) -> str:
    return "".join(part[:1] for part in name.rpartition(".")[2].split("_"))


def parse(key: str, text: str) -> Node:
    """Split a command-line value into scalars, lists `[a,b]` or `a,b`, and mappings `{a: b}`; all scalars stay text.

    Raises:
        ValueError: If a bracket or a quote is not closed, or text follows a closed one.
    """
    reader = _Reader(key, text)
    try:
        items = [reader.item("")]
        while reader.take(","):
            items.append(reader.item(""))
        if reader.rest():
            raise ValueError(f"{key}: {reader.rest()!r} follows a closed bracket or quote in {text!r}")
    except ValueError as error:
        hint = _in_quotes(key, text) if key_types().get(key) is str else ""
        raise ValueError(f"{error}{hint}") from None
    return items if len(items) > 1 else items[0]


def comma_hint(key: str, text: str) -> str:
    """Say how to give a text with commas as one value, if its commas made several of it; otherwise nothing."""
    is_several = "," in text and not text.lstrip().startswith(("[", "{", "'", '"'))
    return f"; {key} has {text.count(',') + 1} values here{_in_quotes(key, text)}" if is_several else ""


def _in_quotes(key: str, text: str) -> str:
    """Say how to quote a text with marks of the grammar as one value, also for the shell."""
    if text.lstrip().startswith(("'", '"')):
        return ""
    return "; to give it as one text, quote it: " + shlex.quote(f'{key}="{text}"')


class _Reader:
    """A cursor over the characters of one value."""

    def __init__(self, key: str, text: str) -> None:
        self.key, self.text, self.place = key, text, 0

    def rest(self) -> str:
        return self.text[self.place :].strip()

    def take(self, mark: str) -> bool:
        while self.text[self.place : self.place + 1].isspace():
            self.place += 1
        found = self.text.startswith(mark, self.place)
        self.place += len(mark) if found else 0
        return found

    def item(self, stops: str) -> Node:
        if self.take("["):
            return [] if self.take("]") else self._list()
        if self.take("{"):
            return {} if self.take("}") else self._mapping()
        return self._scalar(stops)

    def _list(self) -> list[Node]:
        items = [self.item("]")]
        while self.take(","):
            items.append(self.item("]"))
        self._close("]")
        return items

    def _mapping(self) -> dict[str, Node]:
        pairs: dict[str, Node] = {}
        while not pairs or self.take(","):
            name = self._scalar(":}")
            self._close(":")
            if name in pairs:
                raise ValueError(f"{self.key}: {name!r} occurs twice in {self.text!r}")
            pairs[name] = self.item("}")
        self._close("}")
        return pairs

    def _close(self, mark: str) -> None:
        if not self.take(mark):
            raise ValueError(f"{self.key}: {mark!r} is missing in {self.text!r}")

    def _scalar(self, stops: str) -> str:
        for quote in ("'", '"'):
            if self.take(quote):
                end = self.text.find(quote, self.place)
                if end < 0:
                    raise ValueError(f"{self.key}: {quote} is not closed in {self.text!r}")
                start, self.place = self.place, end + 1
                return self.text[start:end]
        start = self.place
        while self.place < len(self.text) and self.text[self.place] not in f",{stops}":
            self.place += 1
        return self.text[start : self.place].strip()


def read_settings(settings: Iterable[str]) -> dict[str, Value]:
    """Read `key=value` words of one value each.

    Raises:
        ValueError: A word has another form, a key is unknown or given twice, or a value is not of its field's type.
    """
    values: dict[str, Value] = {}
    for setting in settings:
        key, mark, text = setting.partition("=")
        if not mark:
            raise ValueError(f"a setting must be key=value; got {setting!r}")
        check_key(key)
        if key in values:
            raise ValueError(f"{key} must be given once; it is given twice")
        values[key] = read_value(key, parse(key, text))
    return values


def is_axis(key: str, node: Node) -> bool:
    """Return whether a command-line value has several values for its key."""
    return _depth(node) > _depth_of_kind(key_types()[key])


def _depth(node: Node) -> int:
    """Return how many lists enclose every scalar of a value."""
    return 1 + min(map(_depth, node), default=0) if isinstance(node, list) else 0


def _depth_of_kind(kind: Any) -> int:  # noqa: ANN401 (a type's annotation)
    return 1 + _depth_of_kind(get_args(kind)[0]) if get_origin(kind) is list else 0


def read_axis(key: str, nodes: Sequence[Node], folder: Path | None = None) -> list[Value]:
    """Read the values of an axis; `folder` is that of `read_value`.

    Raises:
        ValueError: If there is none, one cannot be read, or one is repeated.
    """
    if not nodes:
        raise ValueError(f"{key} must have at least one value; got []")
    values = [read_value(key, node, folder) for node in nodes]
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ValueError(f"{key} must not repeat a value; got {format_value(value)} twice")
    return values


def user_path(text: str) -> Path:
    """Return a path as somebody typed it, with `~` for a home folder.

    Raises:
        ValueError: It begins with the home folder of nobody.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{text!r} must be a path; there is no user {text.partition('/')[0].lstrip('~')!r} here"
        ) from None


def read_value(key: str, node: Node, folder: Path | None = None) -> Value:
    """Read one value by the type of its field; paths become absolute, relative to a folder or the current directory.

    Raises:
        ValueError: The value is not allowed; the message names the key, what is allowed and the value.
    """
    value = _read(key, key_types()[key], node)
    if key not in PATH_KEYS or not value:
        return value
    path = user_path(str(value))
    return str((folder / path if folder else path).absolute())


def _read(key: str, kind: Any, node: Node) -> Value:  # noqa: ANN401 (a type's annotation)
    if get_origin(kind) is list:
        return [_read(key, get_args(kind)[0], item) for item in (node if isinstance(node, list) else [node])]
    if get_origin(kind) is dict:
        if not isinstance(node, dict):
            raise ValueError(f"{key} must be a mapping such as {{11: 255}}; got {node!r}")
        names, targets = get_args(kind)
        pairs = [(read_scalar(key, names, name), read_scalar(key, targets, target)) for name, target in node.items()]
        if len(dict(pairs)) < len(pairs):
            raise ValueError(f"{key} must name each value once; got {', '.join(node)}")
        return dict(pairs)
    return read_scalar(key, kind, node)


def read_scalar(key: str, kind: type, node: Node) -> bool | int | float | str:
    """Read one value of a type.

    Raises:
        ValueError: The value is not allowed; the message names the key, what is allowed and the value.
    """
    if not isinstance(node, str):
        is_text = kind is str and isinstance(node, list) and all(isinstance(item, str) for item in node)
        hint = _in_quotes(key, ",".join(map(str, node))) if is_text else ""
        raise ValueError(f"{key} must be one value of type {kind.__name__}; got {node!r}{hint}")
    if kind is str:
        return node
    if kind is bool and node.lower() in _BOOLS:
        return _BOOLS[node.lower()]
    if kind is int and re.fullmatch(r"[+-]?[0-9]+", node):
        return int(node)
    if kind is float and re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", node):
        number = float(node)
        if math.isfinite(number):
            return number
    allowed = {bool: "true or false", int: "a whole number", float: "a finite number"}[kind]
    raise ValueError(f"{key} must be {allowed}; got {node!r}")


def format_value(value: Value) -> str:
    """Write a value as a user would type it; equal values give equal text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{format_value(target)}" for name, target in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(format_value, value)) + "]"
    return str(value)


def as_shown(key: str, text: str) -> str:
    """Shorten the hash of the weights for names and tables; any other value stays as it is."""
    return (text[:8] or "none") if key == FILLED_IN else text


def flatten(tree: Mapping[str, Any], section: Any = TrainConfig, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401
    """Return the leaves of a nested mapping by their full dotted names; a mapping that is a leaf stays whole."""
    sections = {part.name: part.default_factory for part in fields(section) if is_dataclass(part.default_factory)}
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        inner = sections.get(name)
        nested = inner is not None and isinstance(value, Mapping)
        flat |= flatten(value, inner, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat

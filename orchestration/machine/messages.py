"""What processes leave for each other in files: dataclasses that are written as JSON and read with every field checked.

A field's annotation says what the file must hold. One with a default may be missing, as in files of earlier versions;
fields that the dataclass lacks, of newer versions, are ignored.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

from orchestration.machine import files
from orchestration.machine.damage import DamagedFileError
from orchestration.machine.fields import ANYTHING, COUNT, FLAG, NUMBER, TEXT, TEXTS, Fields, Kind

KIND = "kind"
"""In the metadata of a field: the `Kind` that it must hold, where its annotation does not say it all."""
NEEDED = "needed"
"""In the metadata of a field with a default: a file must have it all the same."""
_ROW = Kind("names with values", lambda value: isinstance(value, dict))
_LISTS = (list, tuple, Sequence)
_OF = {str: TEXT, int: COUNT, float: NUMBER, bool: FLAG, dict[str, str]: TEXTS, Any: ANYTHING}


class Message:
    """What a dataclass inherits that travels between processes."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, "Field[Any]"]]
    ADVICE: ClassVar[str] = ""
    """What a user can do where a file of it is damaged."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return {part.name: _as_json(getattr(self, part.name)) for part in fields(self)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Take it from what a file holds, once `fault` has found nothing."""
        known: Any = cls  # mypy takes a class for what its instances are, and these may have no hash
        typed = _types_of(known)
        return cls(
            **{name: value if (one := typed[name]) is None or value is None else one(value)
               for name, value in row.items() if name in typed}
        )  # fmt: skip

    @classmethod
    def fields(cls) -> Fields:
        """Return what a file of it must hold."""
        known: Any = cls
        return _fields_of(known)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read it from a file.

        Raises:
            FileNotFoundError: There is none.
            DamagedFileError: The file holds no JSON, lacks a field, or one holds what it cannot.
        """
        return cls.from_content(path, files.read_bytes(str(path)))

    @classmethod
    def from_content(cls, path: Path, content: bytes) -> Self:
        """Take it from what was read of a file.

        Raises:
            DamagedFileError: As `from_file`.
        """
        row = files.json_of(path, content, cls.fields(), cls.ADVICE)
        try:
            return cls.from_json(row)
        except ValueError as error:
            raise DamagedFileError(path, str(error), cls.ADVICE) from None

    def to_file(self, path: Path, *, sync: bool = True, mode: int = 0o666) -> None:
        """Write it to a file that others read meanwhile."""
        files.replace(path, files.to_text(self.to_json()), sync=sync, mode=mode)


def _as_json(value: object) -> object:
    if isinstance(value, Message):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: _as_json(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _as_json(inner) for key, inner in value.items()}
    return [_as_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def _typed(hint: Any) -> Callable[[Any], Any] | None:  # noqa: ANN401 (an annotation)
    """Return what gives a value of a file the type of its field; None: JSON has it. Only lists are made anew."""
    hint = _without_none(hint)
    if hint is Path or (isinstance(hint, type) and issubclass(hint, StrEnum)):
        return hint
    if isinstance(hint, type) and issubclass(hint, Message):
        return hint.from_json
    if get_origin(hint) not in _LISTS:
        return None
    made, of_one = list if get_origin(hint) is list else tuple, _typed(get_args(hint)[0])
    if of_one is None:
        return made
    return lambda values: made(None if value is None else of_one(value) for value in values)


@cache
def _types_of(message: "type[Any]") -> dict[str, Callable[[Any], Any] | None]:
    annotated: Any = message
    hints = _hints_of(annotated)
    return {part.name: _typed(hints[part.name]) for part in fields(message)}


@cache
def _hints_of(message: "type[Any]") -> dict[str, Any]:
    return get_type_hints(message)


@cache
def _fields_of(message: "type[Any]") -> Fields:
    annotated: Any = message
    hints = _hints_of(annotated)
    kinds = {part.name: (part, part.metadata.get(KIND) or _kind(hints[part.name])) for part in fields(message)}
    needed = {name: kind for name, (part, kind) in kinds.items() if _is_needed(part)}
    return Fields(needed, {name: kind for name, (_, kind) in kinds.items() if name not in needed})


def _is_needed(part: "Field[Any]") -> bool:
    has_default = part.default is not MISSING or part.default_factory is not MISSING
    return bool(part.metadata.get(NEEDED)) or not has_default


def _kind(hint: Any) -> Kind:  # noqa: ANN401 (an annotation)
    """Return what JSON must hold for an annotation."""
    if (inner := _without_none(hint)) is not hint:
        return _kind(inner).or_null()
    if hint in _OF:
        return _OF[hint]
    if hint is Path:
        return TEXT
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return Kind(f"one of {', '.join(hint)}", lambda value: value in set(hint))
    if isinstance(hint, type) and issubclass(hint, Message):
        return hint.fields().kind(f"the fields of {hint.__name__}")
    if get_origin(hint) in _LISTS:
        return _kind(get_args(hint)[0]).listed()
    if get_origin(hint) in (dict, Mapping):
        return _ROW
    raise TypeError(f"a field of a message must be of a kind that JSON has; got {hint}")


def _without_none(hint: Any) -> Any:  # noqa: ANN401 (an annotation)
    if get_origin(hint) not in (Union, UnionType):
        return hint
    rest = [one for one in get_args(hint) if one is not NoneType]
    return rest[0] if len(rest) == 1 else hint

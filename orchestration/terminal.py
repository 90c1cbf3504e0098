"""Output that no encoding of a terminal, a pipe or a job's log can break off."""

import codecs
import sys
import unicodedata
from io import TextIOWrapper
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a tenth of a second to import
    from rich.console import Console

FILE_WIDTH = 160
"""Characters of a line in a file or a pipe, which have no width of their own; 80 would cut names."""

_PLAIN = {
    "±": "+-",
    "—": "-",
    "–": "-",
    "…": "...",
    "¹": "^1",
    "²": "^2",
    "†": "#",
    "‡": "##",
    "§": "&",
    "×": "x",
    "•": "*",
    "━": "-",
    "─": "-",
    "│": "|",
}
_PLAIN |= dict(zip("▁▂▃▄▅▆▇█", "_.,:-=+#", strict=True))  # the bars of a curve
_HANDLER = "rankmatch.plain"


def console() -> "Console":
    """Return what a command prints to."""
    from rich.console import Console

    made = Console()
    if not made.is_terminal:
        made.width = max(made.width, FILE_WIDTH)
    return made


def take_any_character() -> None:
    """Have stdout and stderr write what their encoding lacks another way: `±` as `+-`, else as an escape."""
    codecs.register_error(_HANDLER, _in_plain_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a notebook's or a test's is none, and takes all
            stream.reconfigure(errors=_HANDLER)


def _in_plain_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("ascii", "backslashreplace").decode()

"""Output that works with any encoding of a terminal, a pipe or a job's log."""

import codecs
import sys
import unicodedata
from io import TextIOWrapper
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # takes a tenth of a second to import
    from rich.console import Console

FILE_WIDTH = 160
"""Characters per line in a file or a pipe, which have no width of their own; 80 would cut names."""

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


def console(*, stderr: bool = False) -> "Console":
    """Return the console for a command's output, or for its remarks where stdout holds an answer for programs."""
    from rich.console import Console

    made = Console(stderr=stderr)
    if not made.is_terminal:
        made.width = max(made.width, FILE_WIDTH)
    return made


def take_any_character() -> None:
    """Let stdout and stderr replace characters that their encoding lacks: `±` by `+-`, others by escapes."""
    codecs.register_error(_HANDLER, _in_plain_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # streams of notebooks and tests have no encoding problem
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

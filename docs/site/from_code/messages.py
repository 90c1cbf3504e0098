"""Every text that the program may print about a fault, as its sources have it.

No list of messages is kept: a sentence in the code is one that a person may meet. So the page holds each text of three
or more words that is neither a docstring nor the help of an option, with `…` for what is filled in. A raised text is
held however short it is.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILLED_IN = "…"
PACKAGES = ("rankmatch", "orchestration", "dashboards")
_FEWEST_WORDS = 3


@dataclass(frozen=True, slots=True)
class Message:
    """A text of the program and where it stands."""

    text: str
    path: str
    line: int
    is_raised: bool


def messages(root: Path) -> list[Message]:
    """Return the texts of all packages below `root`, in the order of the sources."""
    files = (path for package in PACKAGES for path in sorted((root / package).rglob("*.py")))
    return [message for path in files for message in _in_file(path, root)]


def as_markdown(root: Path) -> str:
    """Return the page's list: a heading for each folder of sources, and below it each text once."""
    rooms: dict[str, dict[str, set[str]]] = {}
    for message in messages(root):
        place = Path(message.path)
        rooms.setdefault(place.parent.as_posix(), {}).setdefault(message.text, set()).add(place.name)
    parts = []
    for room, texts in rooms.items():
        lines = [f"- ``{_in_code(text)}`` (`{'`, `'.join(sorted(files))}`)" for text, files in sorted(texts.items())]
        parts.append(f"### {room}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _in_code(text: str) -> str:
    return f" {text} " if "`" in text else text


def _in_file(path: Path, root: Path) -> Iterator[Message]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    raised = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Raise) for part in ast.walk(node)}
    skipped = set(_ids_without_messages(tree))
    for node in ast.walk(tree):
        if id(node) in skipped or not isinstance(node, ast.Constant | ast.JoinedStr):
            continue
        text = " ".join(_text(node).split())
        words = [word for word in text.split() if any(map(str.isalpha, word))]
        fewest = 1 if id(node) in raised else _FEWEST_WORDS
        if len(words) >= fewest and not _is_markup(text):
            yield Message(text, path.relative_to(root).as_posix(), node.lineno, id(node) in raised)


def _is_markup(text: str) -> bool:
    """Return whether a text is one for machines: HTML, SVG, SQL, CSS, a regular expression."""
    return bool(
        re.match(r"<\w|M\d|SELECT ", text) or re.search(r"\w=\"|</|-src |\\[\\bdsw()\[]|\w\|\w.*\||[{] [\w-]+:", text)
    )


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return FILLED_IN


def _ids_without_messages(tree: ast.AST) -> Iterator[int]:
    """Yield what is no message: docstrings, the words of options, and the parts of texts that are taken as a whole."""
    for node in ast.walk(tree):
        inside: list[ast.AST] = []
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inside = [node.value]
        elif isinstance(node, ast.Subscript):  # a tensor's shape, the place of a table
            inside = list(ast.walk(node.slice))
        elif isinstance(node, ast.JoinedStr):
            inside = [part for value in node.values for part in ast.walk(value) if isinstance(value, ast.Constant)]
            inside += [
                part.format_spec
                for part in node.values
                if isinstance(part, ast.FormattedValue) and part.format_spec is not None
            ]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("typer.Option", "typer.Argument", "typer.Typer"):
            inside = list(ast.walk(node))
        yield from map(id, inside)

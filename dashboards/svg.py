"""matplotlib's SVG -> SVG for a page: with names for screen readers, in the page's colours, and small."""

import html
import re

from dashboards import palette

_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_PATH = re.compile(r'\b(d|x|y|transform)="([^"]*)"')


def for_page(text: str, key: str, title: str, description: str) -> str:
    """Make inline SVG from a complete SVG file.

    Args:
        text: The file as matplotlib writes it.
        key: Prefix of every id, since a page may have each id once only.
        title: The name for assistive technology.
        description: What it shows, in words.
    """
    body = text[text.index("<svg") :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.S)
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = re.sub(r'(url\(#|xlink:href="#)', rf"\1{key}-", body)
    for hexed, name in _colours():
        body = body.replace(hexed, f"var(--{name},{hexed})")
    body = _PATH.sub(lambda found: f'{found[1]}="{_NUMBER.sub(_shorter, found[2])}"', body)
    body = re.sub(r"\n\s*", "\n", body)
    return _named(body, key, title, description)


def as_file(text: str, key: str, title: str, description: str) -> str:
    """Return an SVG file of its own with title and description, in its own colours."""
    head, start, body = text.partition("<svg")
    return head + _named(start + body, key, title, description)


def _named(body: str, key: str, title: str, description: str) -> str:
    end = body.index(">")
    named = (
        f' role="img" aria-labelledby="{key}-title {key}-desc">\n<title id="{key}-title">{html.escape(title)}</title>\n'
        f'<desc id="{key}-desc">{html.escape(description)}</desc>'
    )
    return body[:end] + named + body[end + 1 :]


def _colours() -> list[tuple[str, str]]:
    series = [(hexed, f"s{place}") for place, hexed in enumerate(palette.SERIES)]
    return [*series, (palette.INK, "ink"), (palette.GRID, "grid")]


def _shorter(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")

"""Colours that people with any colour vision can distinguish, on light and dark; each has a mark of its own."""

from collections.abc import Sequence
from typing import Literal

INK, GRID = "#1f2328", "#d0d3d8"
"""Of text and axes, and of what lies behind the data; a page has others of its own in the dark."""
SERIES = ("#0068a8", "#b84300", "#00755a", "#8f3f86", "#6b5b00", "#3d5a80", "#a32040", "#4d4d4d")
DARK_SERIES = ("#5db8f0", "#ff9a5c", "#3fd0a5", "#e08fd6", "#dcc64a", "#a9c1e8", "#ff8fa3", "#c8c8c8")
"""Contrast with the ground is at least 4.5 : 1, on white and on the dark page."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
Dash = Literal["-"] | tuple[float, Sequence[float]]
DASHES: tuple[Dash, ...] = (
    "-",
    (0, (6, 1.5)),
    (0, (3, 1.2)),
    (0, (7, 1.5, 1.5, 1.5)),
    (0, (1.5, 1.2)),
    "-",
    (0, (6, 1.5)),
    (0, (3, 1.2)),
)
LEGEND_MARKERS = (
    "M17 2.4a3.6 3.6 0 1 0 .01 0z",
    "M13.6 2.6h6.8v6.8h-6.8z",
    "M17 2l4 7.4h-8z",
    "M17 1.6l4.2 4.4-4.2 4.4-4.2-4.4z",
    "M17 10l4-7.4h-8z",
    "M15.6 2h2.8v2.6H21v2.8h-2.6V10h-2.8V7.4H13V4.6h2.6z",
    "M13.4 4.2l1.8-1.8L17 4.2l1.8-1.8 1.8 1.8L18.8 6l1.8 1.8-1.8 1.8L17 7.8l-1.8 1.8-1.8-1.8L15.2 6z",
    "M17 1.4l1.3 2.9 3.1.3-2.4 2.1.7 3.1-2.7-1.6-2.7 1.6.7-3.1-2.4-2.1 3.1-.3z",
)
"""The same marks as paths in a legend of 34 by 12."""
PUBLISHED_DASH: Dash = (0, (1, 1.6))
STATES = {
    "done": ("#0068a9", "#ffffff", "D"),
    "running": ("#8fd0f5", "#000000", "R"),
    "interrupted": ("#e8a33d", "#000000", "I"),
    "failed": ("#b02a00", "#ffffff", "F"),
    "damaged": ("#d58ac6", "#000000", "!"),
    "missing": ("#e4e6ea", "#000000", "·"),
}
"""For each state its colour, that of the letter on it, and the letter."""
SEQUENCE = "cividis"


def css() -> str:
    """Return the colours as variables of a page, for light, dark and print, and the states' colours as classes."""
    light = "".join(f"--s{place}:{hexed};" for place, hexed in enumerate(SERIES))
    dark = "".join(f"--s{place}:{hexed};" for place, hexed in enumerate(DARK_SERIES))
    states = "".join(f".is-{name}{{background:{back};color:{ink}}}" for name, (back, ink, _) in STATES.items())
    print_too = f"@media print{{:root{{{light}}}}}"
    return f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}{print_too}{states}"


def marker_of(style: int) -> int:
    """Return the index of a line's mark: after the last colour, colours repeat with other marks."""
    return (style + style // len(SERIES)) % len(MARKERS)


def other_style(number: int) -> int:
    """Return the style of other people's lines: one colour for eight of them, distinguished by their marks."""
    round_, place = divmod(number, len(MARKERS))
    colour = (7, 5)[round_ % 2]
    return colour + len(SERIES) * place

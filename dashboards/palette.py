"""Colours that people with any colour vision tell apart, on light and dark; each goes with another kind of mark."""

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

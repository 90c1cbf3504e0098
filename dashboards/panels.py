"""The numbers of a figure: the drawing, the alternative text and the table below it are all made from them."""

from collections.abc import Sequence
from dataclasses import dataclass

DASH = "—"
MOST_SAID = 12
"""Lines whose ends a description names."""


@dataclass(frozen=True, slots=True)
class Line:
    """A curve with its band; None marks an unknown number."""

    label: str
    style: int
    """The place of its colour, marker and dashes among those of the palette."""
    x: list[float]
    mean: list[float | None]
    spread: list[float | None]
    """Standard deviation of a sample; None for a single number."""
    n: list[int]
    is_published: bool = False


@dataclass(frozen=True, slots=True)
class Lines:
    """A panel of curves."""

    key: str
    """Tells it from all others of a page."""
    title: str
    x_title: str
    y_title: str
    lines: list[Line]
    ticks: list[tuple[float, str]]
    """Where the x axis is labelled; empty: anywhere, by whole numbers."""
    is_log: bool = False
    has_bars: bool = False
    """Spread as error bars instead of a band: few points, each of its own."""
    digits: int = 1

    @property
    def description(self) -> str:
        """Describe the drawing in words, with the end of each curve."""
        said = [f"{line.label} {self._text(line, -1)}" for line in self.lines if line.x]
        if len(said) > MOST_SAID:
            said = [*said[:MOST_SAID], f"and {len(said) - MOST_SAID} more"]
        spread = "bars" if self.has_bars else "bands"
        return (
            f"{self.y_title} against {self.x_title}; {spread} are one standard deviation. At the right end: "
            f"{'; '.join(said) or 'nothing yet'}."
        )

    @property
    def header(self) -> list[str]:
        """The header of the table of the same numbers."""
        return [self.x_title, *(line.label for line in self.lines)]

    def rows(self, most: int | None = None) -> list[list[str]]:
        """Return the table of the same numbers; of many x, the first, the last and some between."""
        named = dict(self.ticks)
        every = sorted({x for line in self.lines for x in line.x})
        return [[named.get(x, f"{x:g}"), *(self._at(line, x) for line in self.lines)] for x in evenly(every, most)]

    def ends(self) -> list[list[str]]:
        """Return a row for each line: its label, its last x, and its number there."""
        return [[line.label, f"{line.x[-1]:g}", self._text(line, -1).partition(" (")[0]] for line in self.lines]

    def _at(self, line: Line, x: float) -> str:
        return self._text(line, line.x.index(x)) if x in line.x else DASH

    def _text(self, line: Line, place: int) -> str:
        mean, spread, n = line.mean[place], line.spread[place], line.n[place]
        if mean is None:
            return DASH
        known = "" if spread is None else f" ± {spread:.{self.digits}f}"
        return f"{mean:.{self.digits}f}{known}" + ("" if line.is_published else f" ({n})")


@dataclass(frozen=True, slots=True)
class Heat:
    """A panel of coloured squares; `values` are fractions by row and column, or names of `palette.STATES`."""

    key: str
    title: str
    x_title: str
    y_title: str
    x_names: list[str]
    y_names: list[str]
    values: list[list[float | str | None]]

    @property
    def description(self) -> str:
        """Describe the drawing in words."""
        shape = f"{len(self.y_names)} rows ({self.y_title}), {len(self.x_names)} columns ({self.x_title})"
        known = [value for row in self.values for value in row if value is not None]
        words = [value for value in known if isinstance(value, str)]
        if words:
            counts = "; ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
            return f"State of the cells: {shape}. {counts}."
        numbers = [100 * value for value in known if isinstance(value, float)]
        return f"{shape}, in percent" + (f" from {min(numbers):.1f} to {max(numbers):.1f}." if numbers else ".")

    @property
    def header(self) -> list[str]:
        """The header of the table of the same numbers."""
        return [self.y_title, *self.x_names]

    def rows(self, most: int | None = None) -> list[list[str]]:
        """Return the table of the same numbers."""
        pairs = zip(self.y_names, self.values, strict=True)
        return [[name, *map(text_of, row)] for name, row in list(pairs)[:most]]


Panel = Lines | Heat


def text_of(value: float | str | None) -> str:
    """Return the text in a square."""
    if value is None:
        return DASH
    return value if isinstance(value, str) else f"{100 * value:.1f}"


def evenly(values: Sequence[float], most: int | None) -> list[float]:
    """Choose at most so many values, with the first and the last."""
    if most is None or len(values) <= most:
        return list(values)
    places = {round(number * (len(values) - 1) / (most - 1)) for number in range(most)}
    return [values[place] for place in sorted(places)]

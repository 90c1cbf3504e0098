"""Panels and tables as a page shows them: inline SVG with the numbers below, legends, rows of text."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dashboards import drawing, palette, svg
from dashboards.panels import Lines, Panel

MOST_EPOCHS = 12


@dataclass(frozen=True, slots=True)
class Rows:
    """A table: the first column names the rows."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    links: dict[tuple[int, int], str] = field(default_factory=dict)
    """Where a place, by row and column of `rows`, leads within the page."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure with the table of its numbers."""

    svg: str
    title: str
    table: Rows
    single: "Drawn | None" = None
    """The runs that it is the mean of."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures that share a legend."""

    title: str
    drawn: list[Drawn]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Named:
    """A line in a legend."""

    label: str
    colour: int
    mark: str
    """A path; empty where lines have none."""
    is_published: bool


def legend(panels: Sequence[Lines]) -> list[Named]:
    """Name the lines of some panels, each once."""
    found = {line.label: (line, panel.has_bars) for panel in panels for line in panel.lines}
    return [
        Named(
            line.label,
            line.style % len(palette.SERIES),
            palette.LEGEND_MARKERS[palette.marker_of(line.style)] if has_marks else "",
            line.is_published,
        )
        for line, has_marks in found.values()
    ]


def figures(title: str, panels: Sequence[Panel], most: int, singles: Sequence[Lines] = ()) -> Figures:
    """Draw at most so many panels.

    Args:
        title: The title of all figures.
        panels: Each becomes a figure.
        most: The panels after these are counted, not drawn.
        singles: The curves that a panel of the same title averages.
    """
    shown = panels[:most]
    by_title = {panel.title: panel for panel in singles}
    return Figures(title, [drawn(title, panel, by_title.get(panel.title)) for panel in shown], len(panels) - len(shown))


def drawn(title: str, panel: Panel, single: Lines | None = None) -> Drawn:
    """Draw a panel."""
    text = drawing.to_svg_text(drawing.figure_of([panel], has_legend=False))
    name = f"{title}: {panel.title}"
    inline = svg.for_page(text, panel.key, name, panel.description)
    most = MOST_EPOCHS if isinstance(panel, Lines) and not panel.has_bars else None
    table = Rows(name, panel.header, panel.rows(most))
    return Drawn(inline, panel.title, table, _of_runs(title, single) if single else None)


def _of_runs(title: str, panel: Lines) -> Drawn:
    text = drawing.to_svg_text(drawing.figure_of([panel], has_legend=False))
    name = f"{title} of single runs: {panel.title}"
    header = ["run", "last epoch", f"{panel.y_title} there"]
    return Drawn(svg.for_page(text, panel.key, name, panel.description), panel.title, Rows(name, header, panel.ends()))

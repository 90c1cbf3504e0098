"""Panels -> matplotlib figures, and figures -> files: the only module that draws."""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashboards import palette, svg
from dashboards.panels import Heat, Line, Lines, Panel, text_of
from orchestration.machine import files

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

KINDS = ("svg", "pdf", "png")
PANEL = (3.5, 2.6)
"""Width and height in inches."""
MAX_LETTERS = 400
"""A panel of more squares has colours alone."""
_STYLE: Any = {
    "font.size": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "rankmatch",
    "pdf.fonttype": 42,
    "text.parse_math": False,
    "text.color": palette.INK,
    "axes.facecolor": "none",
    "axes.edgecolor": palette.INK,
    "axes.labelcolor": palette.INK,
    "xtick.color": palette.INK,
    "ytick.color": palette.INK,
    "grid.color": palette.GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the project's style."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def figure_of(panels: Sequence[Panel], *, has_legend: bool = True) -> "Figure":
    """Draw panels side by side, in rows of three, with one legend; without panels, an empty figure.

    Args:
        panels: Panels of one kind.
        has_legend: Name the lines, or the colours of the states, in the figure; a page does so once for many figures.
    """
    from matplotlib.figure import Figure

    with style():
        columns = max(1, min(3, len(panels)))
        lines = max(1, math.ceil(len(panels) / columns))
        sizes = [_size(panel) for panel in panels] or [PANEL]
        width, height = (max(size[side] for size in sizes) for side in (0, 1))
        handles = _handles(panels) if has_legend else []
        longest = max((len(handle.get_label()) for handle in handles), default=0)
        across = max(1, int(columns * width / (0.6 + 0.075 * longest)))
        below = 0.25 + 0.19 * math.ceil(len(handles) / across) if handles else 0.0
        figure = Figure(
            figsize=(columns * width, lines * height + below),
            layout=None if _is_plain(panels, has_legend) else "constrained",
        )
        if _is_plain(panels, has_legend):
            figure.subplots_adjust(left=0.185, right=0.975, top=0.965, bottom=0.195)
        figure.patch.set_alpha(0)
        grid = figure.subplots(lines, columns, squeeze=False)
        places = [axes for row in grid for axes in row]
        for axes, panel in zip(places, panels, strict=False):
            _draw(axes, panel)
            if len(panels) > 1:
                axes.set_title(panel.title, fontsize=9, parse_math=False)
        for axes in places[len(panels) :]:
            axes.set_axis_off()
        if handles:
            legend = figure.legend(handles=handles, loc="outside lower center", ncols=across, frameon=False)
            for text in legend.get_texts():
                text.set_parse_math(False)
    return figure


def check_kind(path: Path) -> str:
    """Return the kind of a figure's file, given its ending.

    Raises:
        ValueError: There is no such kind of figure.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in KINDS:
        raise ValueError(f"--output must end with {', '.join('.' + name for name in KINDS)}; got {path.name!r}")
    return kind


def save(panels: Sequence[Panel], path: Path) -> None:
    """Write panels as one figure: svg, pdf or png, by the path's ending; the same panels give the same bytes.

    Raises:
        ValueError: The path has another ending.
    """
    kind, figure = check_kind(path), figure_of(panels)
    figure.patch.set_alpha(1)  # it may lie on any background
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "svg":
        said = " ".join(f"{panel.title}: {panel.description}" for panel in panels)
        name = panels[0].y_title + " by " + panels[0].x_title if panels else "nothing yet"
        files.replace(path, svg.as_file(to_svg_text(figure), "figure", name, said))
        return
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=kind, dpi=160, metadata={"CreationDate": None} if kind == "pdf" else {})
    files.replace(path, buffer.getvalue(), sync=False)


def save_picture(picture: "Image.Image", path: Path) -> None:
    """Write a picture as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    files.replace(path, buffer.getvalue(), sync=False)


def to_svg_text(figure: "Figure") -> str:
    """Return a figure as matplotlib's SVG."""
    buffer = io.StringIO()
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's browser has other fonts
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _size(panel: Panel) -> tuple[float, float]:
    if isinstance(panel, Lines):
        return PANEL
    names = 0.075 * max((len(name) for name in panel.y_names), default=0)
    below = 0.06 * max((len(name) for name in panel.x_names), default=0)
    width = min(7.2, max(2.6, 0.7 + names + 0.34 * len(panel.x_names)))
    return width, min(9.0, max(1.1, 0.6 + below + 0.2 * len(panel.y_names)))


def _draw(axes: "Axes", panel: Panel) -> None:
    if isinstance(panel, Heat):
        _draw_heat(axes, panel)
        return
    axes.grid(axis="y", linewidth=0.6)
    axes.set_axisbelow(True)
    for line in panel.lines:
        _draw_line(axes, line, panel.has_bars)
    if panel.is_log:
        axes.set_xscale("log")
    if panel.ticks:
        axes.set_xticks([place for place, _ in panel.ticks], [name for _, name in panel.ticks], parse_math=False)
        axes.minorticks_off()
    else:
        axes.locator_params(axis="x", integer=True)
    axes.set_xlabel(panel.x_title, parse_math=False)
    axes.set_ylabel(panel.y_title, parse_math=False)


def _draw_line(axes: "Axes", line: Line, has_bars: bool) -> None:
    points = [point for point in zip(line.x, line.mean, line.spread, strict=True) if point[1] is not None]
    if not points:
        return
    x, mean = [point[0] for point in points], [point[1] or 0.0 for point in points]
    spread = [point[2] or 0.0 for point in points]
    place = line.style % len(palette.SERIES)
    look: dict[str, Any] = {
        "color": palette.SERIES[place],
        "linestyle": palette.PUBLISHED_DASH if line.is_published else palette.DASHES[place],
        "linewidth": 1.3,
    }
    if has_bars or len(points) == 1:
        filled = {"markerfacecolor": "none"} if line.is_published else {}
        look |= {"marker": palette.MARKERS[palette.marker_of(line.style)], "markersize": 4.5, **filled}
    if has_bars and any(spread):
        axes.errorbar(x, mean, spread, capsize=2.5, elinewidth=0.9, **look)
        return
    axes.plot(x, mean, **look)
    if any(spread) and not has_bars:
        low, high = ([m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=palette.SERIES[place], alpha=0.18, linewidth=0)


def _draw_heat(axes: "Axes", panel: Heat) -> None:
    from matplotlib import colormaps

    colours = colormaps[palette.SEQUENCE]
    small = len(panel.x_names) * len(panel.y_names) <= MAX_LETTERS
    for y, row in enumerate(panel.values):
        for x, value in enumerate(row):
            face, ink, text = _square(value, colours)
            axes.add_patch(_rectangle(x, y, face))
            if small and text:
                axes.text(x + 0.5, y + 0.5, text, color=ink, fontsize=6.5, ha="center", va="center", parse_math=False)
    axes.set_xlim(0, max(1, len(panel.x_names)))
    axes.set_ylim(max(1, len(panel.y_names)), 0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, labelsize=8)
    steps = max(1, math.ceil(len(panel.x_names) / 24))
    is_long = max((len(name) for name in panel.x_names), default=0) > 4
    axes.set_xticks(
        [x + 0.5 for x in range(0, len(panel.x_names), steps)],
        panel.x_names[::steps],
        rotation=90 if is_long else 0,
        parse_math=False,
    )
    every = max(1, math.ceil(len(panel.y_names) / 42))
    axes.set_yticks([y + 0.5 for y in range(0, len(panel.y_names), every)], panel.y_names[::every], parse_math=False)
    axes.set_xlabel(panel.x_title, parse_math=False)


def _square(value: float | str | None, colours: Any) -> tuple[str, str, str]:  # noqa: ANN401
    from matplotlib.colors import to_hex

    if value is None:
        return palette.STATES["missing"][0], "#000000", ""
    if isinstance(value, str):
        return palette.STATES.get(value, palette.STATES["missing"])
    red, green, blue, _ = colours(value)  # all panels share the scale of 0 to 100 %
    is_dark = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.18
    return to_hex((red, green, blue)), "#ffffff" if is_dark else "#000000", text_of(value).partition(".")[0]


def _rectangle(x: int, y: int, face: str) -> Any:  # noqa: ANN401 (matplotlib has no types)
    from matplotlib.patches import Rectangle

    return Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, facecolor=face, linewidth=0)


def _is_plain(panels: Sequence[Panel], has_legend: bool) -> bool:
    """Return whether fixed margins suffice; a layout that measures every text takes as long as everything else."""
    return not has_legend and len(panels) == 1 and isinstance(panels[0], Lines)


def _handles(panels: Sequence[Panel]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    lines = {line.label: line for panel in panels if isinstance(panel, Lines) for line in panel.lines}
    handles: list[Any] = []
    for line in lines.values():
        place = line.style % len(palette.SERIES)
        dashes = palette.PUBLISHED_DASH if line.is_published else palette.DASHES[place]
        has_bars = any(isinstance(panel, Lines) and panel.has_bars for panel in panels)
        handles.append(
            Line2D([], [], color=palette.SERIES[place], linestyle=dashes, linewidth=1.3, label=line.label,
                   marker=palette.MARKERS[palette.marker_of(line.style)] if has_bars else "", markersize=4.5,
                   markerfacecolor="none" if line.is_published else palette.SERIES[place])
        )  # fmt: skip
    states = {value for panel in panels if isinstance(panel, Heat) for row in panel.values for value in row}
    handles += [Patch(facecolor=palette.STATES[name][0], label=f"{palette.STATES[name][2]} {name}")
                for name in palette.STATES if name in states]  # fmt: skip
    return handles

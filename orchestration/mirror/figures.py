"""Rows -> figures: pure drawing, without a window and without matplotlib's global state."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {"miou": ("mIoU (%)", 100.0), "loss": ("loss", 1.0)}
PANEL_SIZE = (4.0, 3.0)
"""Width and height in inches."""
MARGIN = 0.1
"""Inches around panels and legend."""
MAX_PANELS = 6
"""Maximum number of panels beside each other; more begin another band below."""
MAX_TITLE = 36
"""Letters in a line of a panel's title."""
MAX_COLUMNS = 4
"""Maximum number of columns of the legend."""


def curves(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw mIoU and loss over epochs: a line for each cell, one colour for each label, bands of panels.

    Args:
        rows: With `panel`, `label`, `cell`, `epoch`, `miou` (a fraction) and `loss`; None where a figure is unknown.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = list(dict.fromkeys(row["panel"] for row in rows))
    labels = list(dict.fromkeys(row["label"] for row in rows))
    num_columns, num_bands = max(1, min(MAX_PANELS, len(panels))), max(1, math.ceil(len(panels) / MAX_PANELS))
    size = (PANEL_SIZE[0] * num_columns, PANEL_SIZE[1] * len(PANELS) * num_bands)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN))
    grid = figure.subplots(len(PANELS) * num_bands, num_columns, squeeze=False)
    for place, panel in enumerate(panels):
        band, column = divmod(place, MAX_PANELS)
        _draw_panel(
            [grid[len(PANELS) * band + line][column] for line in range(len(PANELS))],
            [row for row in rows if row["panel"] == panel],
            labels,
            panel,
            is_first=column == 0,
        )
    for place in range(len(panels), num_bands * num_columns):  # the last band may be shorter
        for line in range(len(PANELS)):
            grid[len(PANELS) * (place // num_columns) + line][place % num_columns].set_visible(False)
    if labels:
        _add_legend(
            figure, [grid[0][0].plot([], [], color=f"C{place % 10}")[0] for place in range(len(labels))], labels
        )
    return figure


def _draw_panel(
    column: "Sequence[Axes]", rows: Sequence[Mapping[str, Any]], labels: Sequence[str], title: str, *, is_first: bool
) -> None:
    """Draw what is shown of one place, below each other, over the same epochs."""
    for line, (axes, (field, (name, factor))) in enumerate(zip(column, PANELS.items(), strict=True)):
        _draw(axes, rows, labels, field, factor)
        axes.set_ylabel(name if is_first else "")
        axes.set_title("\n".join(textwrap.wrap(title, MAX_TITLE)) if line == 0 else "")
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.set_xlabel("epoch" if line == len(column) - 1 else "")
        if line:
            axes.sharex(column[0])
            column[0].tick_params(labelbottom=False)


def _add_legend(figure: "Figure", handles: Sequence["Artist"], labels: Sequence[str]) -> None:
    """Put the labels below the panels, in as many columns as fit; one that is too long widens the figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    for columns in range(min(MAX_COLUMNS, len(labels)), 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        box = legend.get_window_extent(renderer)
        needed = box.width / figure.dpi + 4 * MARGIN
        if needed <= figure.get_figwidth() or columns == 1:
            break
        legend.remove()
    figure.set_size_inches(max(needed, figure.get_figwidth()), figure.get_figheight() + box.height / figure.dpi)


def _draw(axes: "Axes", rows: Sequence[Mapping[str, Any]], labels: Sequence[str], field: str, factor: float) -> None:
    for cell in dict.fromkeys(row["cell"] for row in rows):
        points = [row for row in rows if row["cell"] == cell and row[field] is not None]
        if not points:
            continue
        place = labels.index(points[0]["label"])
        values = [factor * row[field] for row in points]
        marker = "o" if len(points) == 1 else ""
        axes.plot(
            [row["epoch"] for row in points], values, color=f"C{place % 10}", marker=marker, linewidth=1, alpha=0.8
        )

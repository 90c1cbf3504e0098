"""Rows -> figures: pure drawing, without a window and without matplotlib's global state."""

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
MAX_COLUMNS = 4
"""Maximum number of columns of the legend."""


def curves(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw mIoU and loss over epochs: a line for each cell, one colour for each label, a column for each panel.

    Args:
        rows: With `panel`, `label`, `cell`, `epoch`, `miou` (a fraction) and `loss`; None where a figure is unknown.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = list(dict.fromkeys(row["panel"] for row in rows))
    labels = list(dict.fromkeys(row["label"] for row in rows))
    width, height = PANEL_SIZE
    size = (width * max(1, len(panels)), height * len(PANELS))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN))
    grid = figure.subplots(len(PANELS), max(1, len(panels)), squeeze=False, sharex="col")
    for line, (field, (title, factor)) in enumerate(PANELS.items()):
        for column, panel in enumerate(panels):
            axes = grid[line][column]
            _draw(axes, [row for row in rows if row["panel"] == panel], labels, field, factor)
            axes.set_ylabel(title if column == 0 else "")
            axes.set_title(panel if line == 0 else "")
            axes.locator_params(axis="x", integer=True, min_n_ticks=1)
            axes.set_xlabel("epoch" if line == len(PANELS) - 1 else "")
    if labels:
        _add_legend(
            figure, [grid[0][0].plot([], [], color=f"C{place % 10}")[0] for place in range(len(labels))], labels
        )
    return figure


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

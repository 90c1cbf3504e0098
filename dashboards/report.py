"""`report.html` of a grid: one file with all that a person wants to see, which needs no network."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from dashboards import counts, drawing, figures, page, pictures, rendering
from dashboards.gathered import Gathered, gather_tables, num_labeled
from dashboards.page import Limits
from dashboards.panels import Panel
from orchestration.grids.grid import Grid
from orchestration.machine import files
from orchestration.runs.folders import GridFolder

MAX_PANELS = 12
"""Of a figure in a file of its own."""
MAX_BYTES = 6_000_000
_LIMITS = (
    Limits(),
    Limits(panels=6, pictures=3, points=10_000),
    Limits(panels=2, pictures=0, metrics=2, points=0),
    Limits(0, 0, 0, 0),
)
"""Tried in this order until the page is small enough: less is drawn, no table is cut."""


def write(loaded: Grid, grid_dir: Path) -> Path:
    """Write the page of a grid; return its path."""
    return _write_page(gather_tables(loaded, grid_dir), grid_dir)


def write_all(loaded: Grid, grid_dir: Path) -> list[Path]:
    """Write the page and the main figures of each table as files of their own; return their paths, the page first."""
    tables = gather_tables(loaded, grid_dir)
    written = [_write_page(tables, grid_dir)]
    for one in tables:
        for name, panels in standing(one).items():
            if panels:
                file = f"{one.loaded.name}-{name}" if one.is_part else name
                written.append(GridFolder(grid_dir).figure_file(file))
                drawing.save(panels[:MAX_PANELS], written[-1])
    return written


def standing(gathered: Gathered) -> dict[str, Sequence[Panel]]:
    """Return a table's figures that the grid's folder and MLflow hold, by name; one that shows nothing is empty."""
    layout, counted = gathered.loaded.table, counts.entries(gathered)
    labels = figures.labels(gathered.table("best_miou"), num_labeled(gathered.runs.to_pylist()))
    curves = {metric: figures.curves(gathered.places, gathered.epochs, layout, metric) for metric in ("miou", "loss")}
    return {
        "states": figures.states(gathered.points, layout, list(gathered.loaded.axes)),
        "labels": labels if any(panel.lines for panel in labels) else [],
        **{f"curves-{metric}": panels for metric, panels in curves.items()},
        "classes": figures.classes(gathered.places, layout, gathered.class_names),
        "calibration": counts.calibration(counted),
    }


def render(*tables: Gathered) -> str:
    """Return the page of a grid, given what is read for each of its tables."""
    whole = page.whole(tables[0].grid_dir.name, tables)
    for limits in _LIMITS:
        parts, style = [page.build(one, limits) for one in tables], Markup(rendering.css())
        text = rendering.render("report.html", whole=whole, parts=parts, css=style, limits=limits, colours=pictures)
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def _write_page(tables: Sequence[Gathered], grid_dir: Path) -> Path:
    file = GridFolder(grid_dir).page_file
    files.replace(file, render(*tables))
    return file

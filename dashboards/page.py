"""The contents of a grid's page, section by section, as plain data for its template."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards import attempts, counts, figures, palette, pictures, settings, shown
from dashboards.attempts import Story
from dashboards.gathered import Gathered, num_labeled
from dashboards.panels import DASH, Lines
from dashboards.pictures import Column
from dashboards.settings import Pairs
from dashboards.shown import Figures, Named, Rows
from orchestration.results.report import cells_left_out
from orchestration.runs import unpredicted
from orchestration.runs.folders import GridFolder
from orchestration.tables.consistency import BETWEEN
from orchestration.tables.differences import sections
from orchestration.tables.lines import lines, notes
from orchestration.tables.table import METRICS, Key, Table

MIN_POINTS, MAX_POINTS = 8, 60
"""Epochs of a curve of a single run."""
MAX_PICTURES, MAX_TOLD = 8, 3
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is drawn; tables are always complete."""

    panels: int = 12
    pictures: int = MAX_PICTURES
    metrics: int = 16
    points: int = 30_000
    """Of the curves of single runs."""


@dataclass(frozen=True, slots=True)
class Whole:
    """What the template shows of a grid as a whole."""

    name: str
    summary: str
    counts: list[tuple[str, int, str]]
    """State, number of cells, letter."""
    left_out: list[str]
    """What launches have left out, and what trains it."""


@dataclass(slots=True)
class Page:
    """All that the template shows of one table of a grid."""

    title: str
    named: str
    """The words of a command line that name its grid, and it."""
    summary: str
    labels_legend: list[Named]
    curves_legend: list[Named]
    states: Figures
    tables: list[dict[str, Any]]
    statistics: list[Rows]
    labels: Figures
    curves: list[Figures]
    classes: Figures
    calibration: Figures
    calibration_legend: list[Named]
    confusion: Figures
    counted: list[Rows]
    """Tables of calibration and confusion."""
    pictures: list[Column]
    sheets: list[dict[str, str]]
    """Of runs of earlier versions, which left nothing else to look at."""
    costs: Rows
    failures: list[dict[str, Any]]
    retries: list[dict[str, Any]]
    damaged: list[dict[str, str]]
    warnings: list[dict[str, str]]
    settings: Pairs
    paragraph: str
    advice: str
    provenance: Rows
    groups: list[dict[str, Any]]
    axes: list[str]
    total: Pairs
    has_energy: bool


def whole(name: str, gathered: Sequence[Gathered]) -> Whole:
    """Sum up the cells of a grid; those of several tables count once."""
    records = {row["signature"]: row for one in gathered for row in one.runs.to_pylist()}
    statuses = [row["status"] for row in records.values()]
    counts = [(state, statuses.count(state), palette.STATES[state][2]) for state in palette.STATES if state in statuses]
    left_out = [line.replace("`", "") for line in cells_left_out(gathered[0].grid_dir, [*records.values()])]
    return Whole(name, _summary(statuses), counts, left_out)


def build(gathered: Gathered, limits: Limits | None = None) -> Page:
    """Build what the page shows of a table."""
    limits = limits or Limits()
    records = gathered.runs.to_pylist()
    stories = {record["signature"]: attempts.story(gathered.grid_dir, record) for record in records}
    best = gathered.table("best_miou")
    axes, layout = list(gathered.loaded.axes), gathered.loaded.table
    curves = [(metric, figures.curves(gathered.places, gathered.epochs, layout, metric))
              for metric in _metrics(gathered)[: limits.metrics]]  # fmt: skip
    labels = figures.labels(best, num_labeled(records))
    statuses = [record["status"] for record in records]
    counted = counts.entries(gathered)
    calibration = counts.calibration(counted)
    columns = pictures.columns(gathered, limits.pictures)
    runs = settings.runs_of(gathered, stories)
    return Page(
        title=gathered.loaded.title,
        named=shlex.join(gathered.words),
        summary=_summary(statuses),
        labels_legend=shown.legend(labels),
        curves_legend=shown.legend([panel for _, panels in curves for panel in panels]),
        states=shown.figures("State of every cell", figures.states(gathered.points, layout, axes), limits.panels),
        tables=[_table(table) for table in (best, gathered.table("last_miou"))],
        statistics=[Rows(title, rows[0], rows[1:]) for title, rows in sections(best)],
        labels=shown.figures(
            "mIoU against the number of labels", labels if any(one.lines for one in labels) else [], limits.panels
        ),
        curves=_curves(gathered, curves, limits),
        classes=shown.figures(
            "IoU of each class", figures.classes(gathered.places, layout, gathered.class_names), limits.panels
        ),
        calibration=shown.figures("Calibration", calibration, limits.panels),
        calibration_legend=shown.legend(calibration),
        confusion=shown.figures("Confusion", counts.confusion(counted, gathered.class_names), limits.panels),
        counted=_counted(counted, gathered),
        pictures=columns,
        sheets=[] if columns else _sheets(gathered, records, limits.pictures),
        costs=_costs(best, gathered.places.to_pylist(), stories),
        failures=_failures(records, stories, axes),
        retries=_retries(records, stories, axes),
        damaged=_damaged(gathered, records, axes),
        warnings=settings.warnings(gathered, stories),
        settings=settings.settings(runs),
        paragraph=settings.methods_paragraph(runs, layout.adaptive),
        advice=unpredicted.ADVICE,
        provenance=Rows("What the cells were made with", ["of", "value", "cells"], settings.provenance(stories)),
        groups=_groups(gathered, best, stories, axes),
        axes=axes,
        total=settings.totals(runs, stories),
        has_energy=settings.summed_energy(stories.values()) is not None,
    )


def entry_id(row: int, column: int) -> str:
    """Return the id of the place in the page that lists the runs of an entry."""
    return f"runs-{row}-{column}"


def _metrics(gathered: Gathered) -> list[str]:
    """Return the metrics that make a curve: a single epoch does not."""
    if gathered.epochs.num_rows == 0 or max(gathered.epochs["epoch"].to_pylist()) < 2:
        return []
    return figures.metrics_of(gathered.epochs)


def _curves(gathered: Gathered, curves: Sequence[tuple[str, list[Lines]]], limits: Limits) -> list[Figures]:
    """Draw the curves, with those of single runs unless these have too many points."""
    layout, num_runs = gathered.loaded.table, gathered.points.num_rows
    over = [axis for axis in gathered.loaded.axes if axis not in (*layout.rows, *figures.column_axes(layout))]
    drawn, left = [], limits.points
    for place, (metric, panels) in enumerate(curves):
        most = min(MAX_POINTS, left // (num_runs * (len(curves) - place))) if num_runs else 0
        most = most if most >= MIN_POINTS else min(MIN_POINTS, left // max(1, num_runs))
        single: list[Lines] = []
        if panels and most >= MIN_POINTS:
            single = figures.singles(gathered.places, gathered.epochs, layout, metric, over, most)
            left -= sum(len(line.x) for panel in single for line in panel.lines)
        if panels:
            drawn.append(shown.figures(figures.title_of(metric)[0], panels, limits.panels, single))
    return drawn


def _counted(counted: Sequence[counts.Entry], gathered: Gathered) -> list[Rows]:
    if not counted:
        return []
    header, *errors = counts.errors(counted)
    named, *pairs = counts.confused(counted, gathered.class_names)
    return [Rows("Expected calibration error (%)", header, errors), Rows("Most confused classes", named, pairs)]


def _summary(statuses: Sequence[str]) -> str:
    return f"{statuses.count('done')} of {len(statuses)} cells are done."


def _table(table: Table) -> dict[str, Any]:
    """Format a table as `formats` does, with a link from each entry to its runs."""
    with_n = table.repeats is None
    said = notes(table, best="bold:", second="underlined:", significant="*:", odd="!:", with_n=with_n)
    columns = [column for _, block in table.blocks for column in block]
    width = len(table.row_axes or [""])
    rows, number = [], -1
    for line in lines(table, columns, with_n=with_n):
        number += line.kind == "ours"
        links = [_link(table, number, column) if line.kind == "ours" else "" for column in columns]
        rows.append({"kind": line.kind, "titles": line.titles, "places": list(zip(line.places, links, strict=True))})
    return {
        "title": METRICS[table.metric].capitalize(),
        "blocks": [(table.block_title(block), len(inside)) for block, inside in table.blocks if block],
        "names": table.titles(columns)[:width],
        "columns": table.titles(columns)[width:],
        "rows": rows,
        "notes": said,
    }


def _link(table: Table, row: int, column: Key) -> str:
    place = table.rows[row], column
    return entry_id(row, table.columns.index(column)) if place in table.entries else ""


def _sheets(gathered: Gathered, records: Sequence[Record], most: int) -> list[dict[str, str]]:
    best: dict[str, Record] = {}
    for record in records:
        known = best.get(record["method"])
        if record["best_miou"] is not None and (known is None or record["best_miou"] > known["best_miou"]):
            best[record["method"]] = record
    found = []
    for method, record in list(best.items())[:most]:
        if uri := attempts.picture_of(gathered.grid_dir, record):
            where = _axes_text(record, list(gathered.loaded.axes))
            found.append({"method": method, "uri": uri, "where": where, "signature": record["signature"],
                          "miou": f"{100 * record['best_miou']:.1f}"})  # fmt: skip
    return found


def _costs(table: Table, points: Sequence[Record], stories: Mapping[str, Story]) -> Rows:
    """Sum the time of each row of the table and of each of its columns."""
    columns = table.columns
    names = [text or "all" for text in table.titles(columns)[len(table.row_axes or [""]) :]]
    taken: dict[tuple[Key, Key], dict[str, Story]] = {}
    for point in points:
        place = _of(point, table.row_axes), _of(point, table.column_axes)
        taken.setdefault(place, {})[point["signature"]] = stories[point["signature"]]
    blocks = [table.block_title(column[: table.num_block_axes]) for column in columns]
    header = [*(table.row_axes or ["grid"])[:1], *(f"{block} {name}".strip() for block, name in
              zip(blocks, names, strict=True)), "all", "GPU-hours", "kWh"]  # fmt: skip
    rows = []
    for row in table.rows:
        of_row: dict[str, Story] = {}
        for column in columns:
            of_row |= taken.get((row, column), {})
        name = ", ".join(table.name(axis, value) for axis, value in zip(table.row_axes, row, strict=True)) or "all"
        walls = [_wall(taken.get((row, column), {}).values()) for column in columns]
        rows.append([name, *map(_hours, walls), _hours(_wall(of_row.values())), _hours(_gpu(of_row.values())),
                     settings.kwh(settings.summed_energy(of_row.values()))])  # fmt: skip
    links = {(number, 1 + place): link for number in range(len(rows)) for place, column in enumerate(columns)
             if (link := _link(table, number, column))}  # fmt: skip
    return Rows("Hours of wall time by row and column, and GPU-hours and energy of each row", header, rows, links)


def _wall(stories: Any) -> float | None:  # noqa: ANN401 (any iterable of stories)
    known = [story.wall_s for story in stories if story.wall_s is not None]
    return sum(known) if known else None


def _gpu(stories: Any) -> float | None:  # noqa: ANN401
    known = [story.gpu_s for story in stories if story.gpu_s is not None]
    return sum(known) if known else None


def _hours(seconds: float | None) -> str:
    return DASH if seconds is None else f"{seconds / 3600:.3f}"


def _failures(records: Sequence[Record], stories: Mapping[str, Story], axes: Sequence[str]) -> list[dict[str, Any]]:
    """Group the failed cells by class, the most frequent first, with the logs of some."""
    groups: dict[str, list[dict[str, str]]] = {}
    for record in records:
        if record["status"] != "failed":
            continue
        ends = stories[record["signature"]].ends
        last = ends[-1] if ends else None
        kind = last.kind if last and last.kind else "unknown"
        groups.setdefault(kind, []).append(
            {"signature": record["signature"], "where": _axes_text(record, axes), "folder": record["folder"],
             "message": (last.message if last else "") or record["failure"] or "", "tail": last.tail if last else "",
             "attempt": str(last.number) if last else ""}
        )  # fmt: skip
    ordered = sorted(groups.items(), key=lambda pair: -len(pair[1]))
    return [{"kind": kind, "cells": cells, "told": cells[:MAX_TOLD]} for kind, cells in ordered]


def _retries(records: Sequence[Record], stories: Mapping[str, Story], axes: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for record in records:
        if record["num_attempts"] > 1:
            ends = stories[record["signature"]].ends
            words = [f"{end.number}: {end.kind or 'no word of its end'}" + (f" on {end.node}" if end.node else "")
                     for end in ends[:-1]]  # fmt: skip
            found.append({"signature": record["signature"], "where": _axes_text(record, axes),
                          "attempts": str(record["num_attempts"]), "ends": "; ".join(words),
                          "status": record["status"]})  # fmt: skip
    return found


def _damaged(gathered: Gathered, records: Sequence[Record], axes: Sequence[str]) -> list[dict[str, str]]:
    return [
        {"signature": record["signature"], "where": _axes_text(record, axes), "folder": record["folder"],
         "why": record["failure"] if record["status"] == "damaged" and record["failure"] else
         "lines of its epochs are no rows and are left out"}
        for record in records
        if record["status"] == "damaged" or record["folder"] in gathered.damaged_rows
    ]  # fmt: skip


def _groups(
    gathered: Gathered, table: Table, stories: Mapping[str, Story], axes: Sequence[str]
) -> list[dict[str, Any]]:
    """List the runs by the entry of the table that they belong to; each run once, its other entries refer to it."""
    rows, columns = table.rows, table.columns
    groups: dict[tuple[Key, Key], list[Record]] = {}
    for point in gathered.places.to_pylist():
        groups.setdefault((_of(point, table.row_axes), _of(point, table.column_axes)), []).append(point)
    found, seen = [], set()
    for (row, column), points in groups.items():
        titles = [*zip(table.row_axes, row, strict=True), *zip(table.column_axes, column, strict=True)]
        own = [point for point in points if point["signature"] not in seen]
        others = [point["signature"] for point in points if point["signature"] in seen]
        seen |= {point["signature"] for point in own}
        found.append(
            {
                "id": entry_id(rows.index(row), columns.index(column)),
                "title": ", ".join(f"{axis}={value}" for axis, value in titles) or "all cells",
                "runs": [_run(gathered, point, stories[point["signature"]], axes) for point in own],
                "others": others,
            }
        )
    return found


def _run(gathered: Gathered, record: Record, story: Story, axes: Sequence[str]) -> dict[str, Any]:
    words = [f"{axis}={record[axis]}" for axis in axes if record[axis] is not None]
    begun, runs = record["status"] != "missing", str(GridFolder(gathered.grid_dir).runs.path)
    return {
        "signature": record["signature"],
        "folder": f"{GridFolder.cells_dir.name}/{record['folder']}" if begun else "",
        "axes": [DASH if record[axis] is None else record[axis] for axis in axes],
        "status": record["status"],
        "letter": palette.STATES[record["status"]][2],
        "best": _percent(record["best_miou"]),
        "last": _percent(record["last_miou"]),
        "epochs": f"{record['epoch']}/{record['num_epochs']}" if record["num_epochs"] else DASH,
        "attempts": str(record["num_attempts"]),
        "wall": _hours(story.wall_s),
        "gpu": _hours(story.gpu_s),
        "energy": settings.kwh(story.energy_j),
        "commit": BETWEEN.join(word[:12] for word in (record["commit"] or "").split(BETWEEN)) or DASH,
        "command": shlex.join(["rankmatch", "launch", *gathered.words, "--runs", runs, *words]),
    }


def _percent(fraction: float | None) -> str:
    return DASH if fraction is None else f"{100 * fraction:.2f}"


def _axes_text(record: Record, axes: Sequence[str]) -> str:
    return " ".join(f"{axis}={record[axis]}" for axis in axes if record[axis] is not None) or "the one cell"


def _of(record: Record, axes: Sequence[str]) -> Key:
    return tuple(str(record[axis]) for axis in axes)

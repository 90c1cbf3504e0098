"""A grid's report: tables, cells, settings and provenance, as Markdown and CSV in the grid's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestration.grids.cells import Cell
from orchestration.grids.grid import Grid
from orchestration.machine import files
from orchestration.results import facts, paragraph, published, settings
from orchestration.results.run_table import collect
from orchestration.runs import made_with, unpredicted
from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import RunFolder, folders
from orchestration.tables import formats
from orchestration.tables.consistency import BETWEEN
from orchestration.tables.differences import sections
from orchestration.tables.layouts import Layout
from orchestration.tables.table import DASH, METRICS, Table, build

_CELL_COLUMNS = ("status", "best", "last", "best epoch", "epochs", "attempts", "hours", "commit")
_NOTE = (
    "mIoU in percent on the validation list: mean ± standard deviation of a sample (number of cells), over {over}. "
    "*Best epoch*: the highest of the values after each epoch, so chosen on the validation list itself. *Last epoch*: "
    f"the value after the last one. `{DASH}`: no cell is done."
)


_NOTHING = "Nothing is trained yet.\n"
_EXPECTED = ("commit", "lock_sha256", "device", "split_sha256", "data_fingerprint")
"""Provenance that every run should have recorded."""


def build_table(
    records: Sequence[Mapping[str, Any]],
    cells: Sequence[Cell],
    layout: Layout,
    metric: str = "best_miou",
    baseline: Mapping[str, str] | None = None,
) -> Table:
    """Build a table of the cells' records, with the published figures named in its layout."""
    points = _at_all_points(records, cells)
    figures = published.figures(layout, points)
    return build(points, layout, metric, baseline, figures, settings.describe(cells, records))


def _at_all_points(records: Sequence[Mapping[str, Any]], cells: Sequence[Cell]) -> list[Mapping[str, Any]]:
    """Repeat a cell's record at every grid point that it stands for, so that each column has its baseline."""
    also = {cell.signature: cell.also for cell in cells}
    return [{**record, **point} for record in records for point in ({}, *also.get(record["signature"], ()))]


def write(loaded: Grid, grid_dir: Path) -> list[Path]:
    """Rewrite a grid's report and table; return the files."""
    return [write_report(grid_dir, loaded.cells, loaded.table, loaded.baseline), GridFolder(grid_dir).table_file]


def write_report(
    grid_dir: Path, cells: Sequence[Cell], layout: Layout, baseline: Mapping[str, str] | None = None
) -> Path:
    """Write `report.md` and `table.csv`, replacing earlier ones; return the report's path.

    Args:
        grid_dir: Folder of the grid's runs.
        cells: The cells of the grid, in its order.
        layout: Axes of the tables' rows and columns.
        baseline: Axis values of the entries to compare others with.
    """
    records = collect(grid_dir, cells).to_pylist()
    built = [build_table(records, cells, layout, metric, baseline) for metric in METRICS]
    axes = list(dict.fromkeys(key for cell in cells for key in cell.axes))
    over = [axis for axis in axes if axis not in (*layout.rows, *layout.blocks, *layout.columns)]
    parts = [
        f"# {grid_dir.name}\n\n{_summary(records)}\n\n{_NOTE.format(over=_values_of(records, over))}\n",
        *map(_table_section, built),
        f"## Statistics of the {METRICS[built[0].metric]}\n\n{_statistics(built[0])}",
        f"## Cells\n\n{_cell_table(records, axes)}",
        *_warnings(grid_dir, cells),
        f"## Settings and totals\n\n{_settings_and_totals(grid_dir, cells)}",
        f"## Provenance\n\n{_provenance(grid_dir, records)}",
    ]
    folder = GridFolder(grid_dir)
    files.replace(folder.table_file, formats.to_csv(*built))
    files.replace(folder.report_file, "\n".join(parts))
    return folder.report_file


def _table_section(table: Table) -> str:
    title = METRICS[table.metric].capitalize()
    return f"## {title}\n\n{formats.to_markdown(table)}\n{formats.markdown_note(table)}"


def _statistics(table: Table) -> str:
    parts = [f"{title}:\n\n{_markdown_rows(rows)}" for title, rows in sections(table)]
    return "\n".join(parts) or _NOTHING


def _markdown_rows(rows: Sequence[Sequence[str]]) -> str:
    return formats.markdown_rows([rows[0], ["---"] * len(rows[0]), *rows[1:]])


def _summary(records: Sequence[Mapping[str, Any]]) -> str:
    statuses = [record["status"] for record in records]
    others = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses) if status != "done"]
    return (
        f"{statuses.count('done')} of {len(statuses)} cells are done"
        + (f", {', '.join(others)}" if others else "")
        + "."
    )


def _values_of(records: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> str:
    named = [f"{axis} {', '.join(dict.fromkeys(record[axis] for record in records))}" for axis in axes]
    return "; ".join(named) or "one cell each"


def _cell_table(records: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> str:
    header = ["signature", *axes, *_CELL_COLUMNS]
    return _markdown_rows([header, *(_cell_line(record, axes) for record in records)])


def _cell_line(record: Mapping[str, Any], axes: Sequence[str]) -> list[str]:
    fields = [
        f"{record['status']} ({record['failure']})" if record["failure"] else record["status"],
        _text(record["best_miou"], 100),
        _text(record["last_miou"], 100),
        DASH if record["best_epoch"] is None else str(record["best_epoch"]),
        f"{record['epoch']} of {record['num_epochs']}" if record["num_epochs"] else DASH,
        str(record["num_attempts"]),
        DASH if record["duration_s"] is None else facts.hours(record["duration_s"]),
        BETWEEN.join(commit[:12] for commit in (record["commit"] or "").split(BETWEEN)) or DASH,
    ]
    return [record["signature"], *(record[axis] for axis in axes), *fields]


def _text(value: float | None, factor: float) -> str:
    return DASH if value is None else f"{factor * value:.1f}"


def _settings_and_totals(grid_dir: Path, cells: Sequence[Cell]) -> str:
    """List settings and resources of the finished runs, and the methods paragraph."""
    runs = facts.finished_runs(grid_dir, cells)
    if not runs:
        return _NOTHING
    told = facts.settings(runs) | facts.totals(runs)
    lines = "".join(f"- {name}: {text}\n" for name, text in told.items())
    return f"{lines}\n{paragraph.methods_paragraph(runs)}\n"


def _warnings(grid_dir: Path, cells: Sequence[Cell]) -> list[str]:
    """List the cells that almost never predict a class, with advice; no section if there are none."""
    known = folders(grid_dir)
    lines = [
        f"- {cell.signature} ({cell.slug}) {unpredicted.in_words(classes, cell.config.execution.class_names)}\n"
        for cell in cells
        if cell.signature in known and (classes := known[cell.signature].state().unpredicted)
    ]
    return [f"## Warnings\n\n{''.join(lines)}\nIf that is not intended, {unpredicted.ADVICE}.\n"] if lines else []


def _provenance(grid_dir: Path, records: Sequence[Mapping[str, Any]]) -> str:
    """List all values of each provenance field with their numbers of cells, so that different values stand out."""
    known = folders(grid_dir)
    found: dict[str, dict[str, int]] = {}
    for record in records:
        folder = known.get(record["signature"])
        for name, text in made_with.flat(_provenance_of(folder) if folder else {}):
            if not text:
                continue
            values = found.setdefault(name, {})
            values[text] = values.get(text, 0) + 1
    _count_unknown(found, [record["signature"] for record in records if record["status"] == "done"], known)
    lines = [
        f"- {name}: " + "; ".join(f"{text} ({count})" for text, count in sorted(found[name].items()))
        for name in sorted(found)
    ]
    return "".join(line + "\n" for line in lines) or _NOTHING


def _provenance_of(folder: RunFolder) -> Mapping[str, Any]:
    """Return a cell's provenance; without a result, what its last attempt recorded."""
    provenance = folder.look().provenance
    if folder.has_result() or not (attempts := folder.attempts()):
        return provenance
    return {**provenance, **attempts[-1].environment()}


def _count_unknown(found: dict[str, dict[str, int]], finished: Sequence[str], known: Mapping[str, RunFolder]) -> None:
    """Add the number of finished runs without a field that each should have; for the commit, with the reason."""
    for signature in finished:
        provenance = known[signature].state().provenance
        for name in _EXPECTED:
            if not any(made_with.values(provenance, name)):
                why = provenance.get("commit_unknown") if name == made_with.COMMIT else ""
                text = f"not known: {why}" if why else "not known"
                found.setdefault(name, {})[text] = found.get(name, {}).get(text, 0) + 1

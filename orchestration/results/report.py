"""A grid's report: tables, cells, settings and provenance, as Markdown and CSV in the grid's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.grids import index
from orchestration.grids.cells import Cell
from orchestration.grids.grid import Grid
from orchestration.machine import files
from orchestration.planning import left_out
from orchestration.results import facts, missed_classes, paragraph, published, settings
from orchestration.results.run_table import collect
from orchestration.runs import made_with, origin, readable, steps_left_out, unpredicted
from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import RunFolder, folders
from orchestration.tables import formats
from orchestration.tables.consistency import BETWEEN
from orchestration.tables.differences import sections
from orchestration.tables.layouts import Layout
from orchestration.tables.table import DASH, METRICS, NEVER_BEGUN, NOT_RUN, Table, build

_CELL_COLUMNS = ("status", "best", "last", "best epoch", "epochs", "attempts", "hours", "commit")
_NOTE = (
    "mIoU in percent on the validation list: mean ± standard deviation of a sample (number of cells), over {over}. "
    "*Best epoch*: the highest of the values after each epoch, so chosen on the validation list itself. *Last epoch*: "
    f"the value after the last one. `{NOT_RUN}`: no cell has begun; `{DASH}`: none is done."
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
    points = at_all_points(records, cells)
    figures = published.figures(layout, points)
    lacking = [] if figures else published.lacking(layout, points)
    return build(points, layout, metric, baseline, figures, settings.describe(cells, records), lacking)


def at_all_points(records: Sequence[Mapping[str, Any]], cells: Sequence[Cell]) -> list[Mapping[str, Any]]:
    """Repeat a cell's record at every grid point that it stands for, so that each column has its baseline."""
    also = {cell.signature: cell.also for cell in cells}
    return [{**record, **point} for record in records for point in ({}, *also.get(record["signature"], ()))]


@dataclass(frozen=True, slots=True)
class _OfTable:
    """What a report says of one table of its grid."""

    grid_dir: Path
    cells: Sequence[Cell]
    built: list[Table]
    """With each metric."""
    records: list[dict[str, Any]]
    over: str
    """What its entries are means over."""
    first_seeds: int
    """As `methods_paragraph` takes it."""

    def head(self, title: str) -> str:
        """Return its title, and what its numbers are."""
        return f"{title}\n\n{_summary(self.records)}\n\n{_NOTE.format(over=self.over)}\n"

    def tables(self, level: str) -> list[str]:
        """Return sections of the tables, with headings of a level such as `##`."""
        best = self.built[0]
        titled = [(METRICS[table.metric].capitalize(), table) for table in self.built]
        return [
            *(f"{level} {title}\n\n{formats.to_markdown(one)}\n{formats.markdown_note(one)}" for title, one in titled),
            f"{level} Statistics of the {METRICS[best.metric]}\n\n{_statistics(best)}",
        ]

    def totals(self, level: str) -> str:
        """Return the section of settings and resources."""
        return f"{level} Settings and totals\n\n{_settings_and_totals(self.grid_dir, self.cells, self.first_seeds)}"


def write(loaded: Grid, grid_dir: Path) -> list[Path]:
    """Rewrite a grid's report and table; return the files."""
    folder = GridFolder(grid_dir)
    if not loaded.parts:
        return [write_report(grid_dir, loaded.cells, loaded.table, loaded.baseline), folder.table_file]
    made = [_of_table(grid_dir, one.cells, one.table, one.baseline) for one in loaded.parts]
    records, axes = collect(grid_dir, loaded.cells).to_pylist(), [*loaded.axes]
    parts = [f"# {grid_dir.name}\n\n{_summary(records)} A cell of several tables is trained once.\n"]
    for one, of in zip(loaded.parts, made, strict=True):
        parts += [of.head(f"## {one.title}"), *of.tables("###"), of.totals("###")]
    parts += [
        _cells_section(records, axes),
        *_cells_left_out(grid_dir, records),
        *_warnings(grid_dir, loaded.cells),
        _provenance_section(grid_dir, records),
    ]
    titled = [(one.name, table) for one, of in zip(loaded.parts, made, strict=True) for table in of.built]
    return _replace(folder, parts, formats.to_common_csv(titled))


def write_report(
    grid_dir: Path, cells: Sequence[Cell], layout: Layout, baseline: Mapping[str, str] | None = None
) -> Path:
    """Write `report.md` and `table.csv` of a grid with one table, replacing earlier ones; return the report's path.

    Args:
        grid_dir: Folder of the grid's runs.
        cells: The cells of the grid, in its order.
        layout: Axes of the tables' rows and columns.
        baseline: Axis values of the entries to compare others with.
    """
    of = _of_table(grid_dir, cells, layout, baseline)
    parts = [
        of.head(f"# {grid_dir.name}"),
        *of.tables("##"),
        _cells_section(of.records, _axes_of(cells)),
        *_cells_left_out(grid_dir, of.records),
        *_warnings(grid_dir, cells),
        of.totals("##"),
        _provenance_section(grid_dir, of.records),
    ]
    return _replace(GridFolder(grid_dir), parts, formats.to_csv(*of.built))[0]


def cells_left_out(grid_dir: Path, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how many cells launches have left out, why, and what trains them, by the records of `collect`."""
    open_ = {record["signature"] for record in records if _status(record) != "done"}
    why = [cell.left_out for cell in index.read_if_there(grid_dir) if cell.left_out and cell.signature in open_]
    return left_out.in_words(why, grid_dir)


def _of_table(grid_dir: Path, cells: Sequence[Cell], layout: Layout, baseline: Mapping[str, str] | None) -> _OfTable:
    records = collect(grid_dir, cells).to_pylist()
    built = [build_table(records, cells, layout, metric, baseline) for metric in METRICS]
    over = [axis for axis in _axes_of(cells) if axis not in (*layout.rows, *layout.blocks, *layout.columns)]
    return _OfTable(grid_dir, cells, built, records, _values_of(records, over), layout.adaptive)


def _axes_of(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(key for cell in cells for key in cell.axes))


def _replace(folder: GridFolder, parts: Sequence[str], table: str) -> list[Path]:
    files.replace(folder.table_file, table)
    files.replace(folder.report_file, "\n".join(parts))
    return [folder.report_file, folder.table_file]


def _cells_section(records: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> str:
    return f"## Cells\n\n{_cell_table(records, axes)}"


def _cells_left_out(grid_dir: Path, records: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = "".join(f"- {line}.\n" for line in cells_left_out(grid_dir, records))
    return [f"## Left out\n\n{lines}"] if lines else []


def _provenance_section(grid_dir: Path, records: Sequence[Mapping[str, Any]]) -> str:
    return f"## Provenance\n\n{_provenance(grid_dir, records)}"


def _statistics(table: Table) -> str:
    parts = [f"{title}:\n\n{_markdown_rows(rows)}" for title, rows in sections(table)]
    return "\n".join(parts) or _NOTHING


def _markdown_rows(rows: Sequence[Sequence[str]]) -> str:
    return formats.markdown_rows([rows[0], ["---"] * len(rows[0]), *rows[1:]])


def _summary(records: Sequence[Mapping[str, Any]]) -> str:
    statuses = [_status(record) for record in records]
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
        f"{_status(record)} ({record['failure']})" if record["failure"] else _status(record),
        _text(record["best_miou"], 100),
        _text(record["last_miou"], 100),
        DASH if record["best_epoch"] is None else str(record["best_epoch"]),
        f"{record['epoch']} of {record['num_epochs']}" if record["num_epochs"] else DASH,
        str(record["num_attempts"]),
        DASH if record["duration_s"] is None else facts.hours(record["duration_s"]),
        BETWEEN.join(commit[:12] for commit in (record["commit"] or "").split(BETWEEN)) or DASH,
    ]
    return [record["signature"], *(DASH if record[axis] is None else record[axis] for axis in axes), *fields]


def _status(record: Mapping[str, Any]) -> str:
    return NOT_RUN if record["status"] == NEVER_BEGUN else str(record["status"])


def _text(value: float | None, factor: float) -> str:
    return DASH if value is None else f"{factor * value:.1f}"


def _settings_and_totals(grid_dir: Path, cells: Sequence[Cell], first_seeds: int) -> str:
    """List settings and resources of the finished runs, and the methods paragraph."""
    runs = facts.finished_runs(grid_dir, cells)
    if not runs:
        return _NOTHING
    told = facts.settings(runs) | facts.totals(runs)
    lines = "".join(f"- {name}: {text}\n" for name, text in told.items())
    return f"{lines}\n{paragraph.methods_paragraph(runs, first_seeds=first_seeds)}\n"


def _warnings(grid_dir: Path, cells: Sequence[Cell]) -> list[str]:
    """List the cells that left out a step or almost never predict a class, with advice; no section if none did."""
    known = folders(grid_dir)
    there = [(cell, known[cell.signature]) for cell in cells if cell.signature in known]
    missed = [
        f"- {cell.signature} ({cell.slug}) {steps_left_out.in_words(steps)}\n"
        for cell, folder in there
        if (steps := folder.state().steps_left_out)
    ]
    lines = [
        f"- {cell.signature} ({cell.slug}) {unpredicted.in_words(classes, cell.config.execution.class_names)}\n"
        for cell, classes in missed_classes.of_cells(grid_dir, cells)
    ]
    advice = [f"\nIf that is not intended, {unpredicted.ADVICE}.\n"] if lines else []
    return [f"## Warnings\n\n{''.join([*missed, *lines, *advice])}"] if missed or lines else []


def _provenance(grid_dir: Path, records: Sequence[Mapping[str, Any]]) -> str:
    """List all values of each provenance field with their numbers of cells, so that different values stand out."""
    known = folders(grid_dir)
    found: dict[str, dict[str, int]] = {}
    there = {record["signature"]: known[record["signature"]] for record in records if record["signature"] in known}
    for provenance in readable.each(there, _provenance_of).values():
        for name, text in made_with.flat(provenance):
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
    provenance = origin.known(folder, folder.look().provenance)
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

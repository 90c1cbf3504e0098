"""The output of the commands `results`, `table` and `describe`."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from orchestration.grids.cells import NAMES
from orchestration.grids.grid import Grid
from orchestration.machine import announce, answers, files
from orchestration.results import citation, energy, facts, missed_classes, paragraph, report, run_table
from orchestration.runs import steps_left_out
from orchestration.runs.run_folder import RunFolder
from orchestration.tables import formats, layouts
from orchestration.tables.differences import sections
from orchestration.tables.table import DASH, Table
from rankmatch.methods import METHODS

MAX_SHOWN = 200
_NAMED = ("grid", *NAMES)


def show_results(
    root: Path,
    filters: Sequence[str],
    console: Console,
    kind: str,
    output: Path | None,
    *,
    with_epochs: bool = False,
    with_energy: bool = False,
) -> None:
    """Print the runs below a root, or write them or their epochs to a file, or as JSON to stdout.

    Raises:
        ValueError: A filter, a format or a file is not allowed, or there are no runs.
    """
    run_table.check_kind(kind or "json")
    if kind not in ("", "json") and output is None:
        raise ValueError(f"--output must name a file where --format is {kind}; got nothing")
    if output is not None and not kind:
        raise ValueError(f"--format must be one of {', '.join(run_table.KINDS)} where --output is given; got nothing")
    if with_epochs and not kind:
        raise ValueError(
            "--epochs must go with --format and --output, or with --format json: such rows are for programs"
        )
    if with_epochs and with_energy:
        raise ValueError("--energy must be left out with --epochs: it is known of whole runs")
    found = run_table.load(root.resolve(), with_epochs=with_epochs, say=lambda text: _say(console, text))
    runs = run_table.select(found.runs, filters)
    if with_energy:
        kwh = [energy.of_run(RunFolder(root.resolve() / run)) for run in runs["run"].to_pylist()]
        runs = run_table.with_column(runs, energy.KWH, kwh)
    if not kind:
        _print_runs(runs, console)
        return
    table = run_table.epochs_of(found, runs) if with_epochs else runs
    if kind == "json":
        table = run_table.with_column(table, "schema", [answers.SCHEMA] * table.num_rows, first=True)
    if output is None:
        sys.stdout.writelines(line.decode() for line in run_table.json_lines(table))
        return
    run_table.export(table, kind, output)
    _say(console, f"{table.num_rows} rows: {output}")


def show_table(
    loaded: Grid,
    grid_dir: Path,
    console: Console,
    *,
    metric: str,
    layout: Path | None,
    kind: str,
    output: Path | None,
    statistics: bool,
    with_energy: bool = False,
) -> None:
    """Print a grid's tables, or write them to a file in another format.

    Raises:
        ValueError: A metric, a layout, a format or a file is not allowed.
    """
    _check_format(kind, output, with_energy=with_energy)
    if layout and len(loaded.tables) > 1:
        raise ValueError(f"--layout must go with one table: --only chooses one of {loaded.name}")
    titled = []
    for one in loaded.tables:
        placed = layouts.read_file(layout, one.axes, one.added_axes) if layout else one.table
        placed = replace(placed, adaptive=one.table.adaptive)  # however it is laid out, its tests are of those looks
        records = run_table.collect(grid_dir, one.cells).to_pylist()
        table = report.build_table(records, one.cells, placed, metric, one.baseline)
        titled.append((one.title if loaded.parts else one.name, table))
        if not kind:
            _say_title(one.title if loaded.parts else "", console)
            formats.show(table, console)
            _say_missed_classes(grid_dir, one, console)
        if statistics and not kind:
            show_statistics(table, console)
        if with_energy:
            _show_rows(
                "energy of the GPUs", energy.of_rows(table, report.at_all_points(records, one.cells), grid_dir), console
            )
    if not kind:
        return
    text = formats.FORMATS[kind](titled)
    if output is None:
        sys.stdout.write(text)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    files.replace(output, text)
    _say(console, str(output))


def _check_format(kind: str, output: Path | None, *, with_energy: bool) -> None:
    if kind and kind not in formats.FORMATS:
        raise ValueError(f"--format must be one of {', '.join(formats.FORMATS)}; got {kind!r}")
    if output is not None and not kind:
        raise ValueError(f"--format must be one of {', '.join(formats.FORMATS)} where --output is given; got nothing")
    if with_energy and kind:
        raise ValueError(f"--energy must be left out with --format {kind}: it is printed below the table")


def show_grid(loaded: Grid, grid_dir: Path, console: Console) -> None:
    """Print each table of a grid."""
    for one in loaded.tables:
        _say_title(one.title if loaded.parts else "", console)
        records = run_table.collect(grid_dir, one.cells).to_pylist()
        formats.show(report.build_table(records, one.cells, one.table, baseline=one.baseline), console)
        _say_missed_classes(grid_dir, one, console)


def _say_missed_classes(grid_dir: Path, one: Grid, console: Console) -> None:
    for line in missed_classes.in_a_line(grid_dir, one.cells):
        _say(console, line)


def _say_title(title: str, console: Console) -> None:
    if title:
        console.print(Text(f"\n{title}", "bold"))


def show_description(loaded: Grid, grid_dir: Path) -> None:
    """Print the methods paragraph of the finished runs of each of a grid's tables, and on stderr what is missing in it.

    Raises:
        ValueError: No run is finished.
    """
    _finished(loaded, grid_dir)
    for one in loaded.tables:
        if not (runs := facts.finished_runs(grid_dir, one.cells)):
            continue
        title = f"{one.title}\n" if loaded.parts else ""
        text = paragraph.methods_paragraph(runs, first_seeds=one.table.adaptive)
        print(f"{title}{text}")  # noqa: T201 (a line of its own, however long)
        sys.stderr.writelines(f"not trained here: {line}\n" for line in facts.imported(runs))
        sys.stderr.writelines(
            f"not in the paragraph, because the runs did not record it: {line}\n" for line in paragraph.missing(runs)
        )


def show_citation(loaded: Grid, grid_dir: Path, *, last: bool) -> None:
    """Print what a paper says and cites of a grid's finished runs, and on stderr what is missing in it.

    Raises:
        ValueError: No run is finished.
    """
    runs = _finished(loaded, grid_dir)
    print(citation.citation(runs, last=last, first_seeds=max(one.table.adaptive for one in loaded.tables)), end="")  # noqa: T201 (for a file, as it is)
    sys.stderr.writelines(f"not known, so not printed: {line}\n" for line in citation.missing(runs))


def _finished(loaded: Grid, grid_dir: Path) -> list[facts.Run]:
    runs, num = facts.finished_runs(grid_dir, loaded.cells), len(loaded.cells)
    if not runs:
        raise ValueError(
            f"a finished run is needed to describe a grid; of the {num} cells of {loaded.name} none is done"
        )
    if len(runs) < num:
        sys.stderr.write(f"{len(runs)} of {num} cells are done; the paragraph describes these\n")
    return runs


def show_statistics(table: Table, console: Console) -> None:
    """Print intervals, paired comparisons and a summary of each row."""
    for title, rows in sections(table):
        _show_rows(title, rows, console)


def _show_rows(title: str, rows: Sequence[Sequence[str]], console: Console) -> None:
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, name in enumerate(rows[0]):
        drawn.add_column(Text(name), justify="left" if number == 0 or name in ("column", "says") else "right")
    for row in rows[1:]:
        drawn.add_row(*map(Text, row))
    console.print(Text(f"\n{title}", "bold"))
    console.print(drawn)


def _print_runs(runs: pa.Table, console: Console) -> None:
    """Print the columns in which runs differ, their states and their mIoU."""
    known = (*run_table.FIELDS, *_NAMED, "run", "signature", energy.KWH)
    axes = [name for name in runs.column_names if name not in known]
    varied = [name for name in (*_NAMED, *axes) if len(runs[name].unique()) > 1] or ["grid"]
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("signature", *varied, "status"):
        drawn.add_column(Text(name), no_wrap=name in ("signature", "status"))  # narrow columns must not shrink
    of_energy = ("kWh",) if energy.KWH in runs.column_names else ()
    missed = ("steps left out",) if any(runs[steps_left_out.NAME].to_pylist()) else ()
    for name in ("best", "last", "epoch", *missed, "hours", "GPU-hours", *of_energy, "learning rate", "crop", "batch"):
        drawn.add_column(name, justify="right")
    for row in runs.slice(0, MAX_SHOWN).to_pylist():
        numbers = [_number(row["best_miou"], 100), _number(row["last_miou"], 100)]
        numbers.append(f"{row['epoch']}/{row['num_epochs'] or '?'}")
        names = [Text(row[name] or DASH) for name in ("signature", *varied, "status")]
        numbers += [", ".join(map(str, row[steps_left_out.NAME] or ())) or DASH] if missed else []
        taken = [*map(_hours, (row["duration_s"], row["gpu_duration_s"]))]
        taken += [energy.in_words(row[energy.KWH]) for _ in of_energy]
        drawn.add_row(*names, *numbers, *taken, *_settings(row))
    console.print(drawn)
    fixed = [f"{name}={runs[name][0].as_py()}" for name in _NAMED if name not in varied and runs.num_rows]
    more = f", the first {MAX_SHOWN} are shown; --format csv -o FILE writes all" if runs.num_rows > MAX_SHOWN else ""
    _say(console, f"{runs.num_rows} runs{more}; mIoU in %, best and last epoch; all: {' '.join(fixed)}")


def _hours(seconds: float | None) -> str:
    return DASH if seconds is None else facts.hours(seconds)


def _settings(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Format learning rate, crop and images per step; a damaged run has none."""
    if row["learning_rate"] is None:
        return DASH, DASH, DASH
    labeled, unlabeled = row["batch_size"], row["unlabeled_batch_size"]
    sees_unlabeled = row["method"] not in METHODS or METHODS[row["method"]].sees_unlabeled
    return (
        f"{row['learning_rate']:g}",
        str(row["crop_size"]),
        f"{labeled}+{unlabeled}" if sees_unlabeled else str(labeled),
    )


def _number(value: float | None, factor: float) -> str:
    return DASH if value is None else f"{factor * value:.1f}"


def _say(console: Console, text: str) -> None:
    announce.say(console, text)

"""Published figures from experiments/paper, for the places of a table."""

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.grids.cells import experiments_folder
from orchestration.tables.layouts import Layout, Published

FIGURE, SOURCE, DATASET, BACKBONE, NOTE = "miou_percent", "source", "dataset", "backbone", "note"
Key = tuple[str, ...]
Place = tuple[Key, Key]


@dataclass(frozen=True, slots=True)
class Figure:
    """A published mIoU."""

    value: float
    """A fraction."""
    source: str
    crop: int | None = None
    """Crop size of its training; None if the file does not say."""
    note: str = ""
    """What the file says of it in the column `note`."""


def figures(layout: Layout, records: Sequence[Mapping[str, Any]]) -> dict[Place, Figure]:
    """Return the published figures of a table by row and column; none if the records are of another data set.

    There are also none if the table has an axis that the file lacks (the command line can add one), or if all cells
    have another backbone; a figure without a backbone fits any. If the file has crops, figures with our crop are
    preferred to those of the source in `where`.

    Raises:
        ValueError: The file, a column or a figure does not match the layout.
    """
    spec = layout.published
    if spec is None or any(record.get("dataset") != spec.dataset for record in records):
        return {}
    path = _find(spec.file)
    rows, header = _read(path, spec)
    if _lacking(layout, spec, header):
        return {}
    column_axes = [*layout.blocks, *layout.columns]
    by_axes = [_column_of(axis, spec) for axis in (*column_axes, *([] if spec.row else layout.rows))]
    backbone = _only(records, "backbone")
    if BACKBONE in header and BACKBONE not in by_axes and backbone:
        rows = [row for row in rows if row[BACKBONE] in ("", backbone)]

    def place_of(row: Mapping[str, str]) -> Place:
        return _row_key(row, layout, spec), tuple(row[_column_of(axis, spec)] for axis in column_axes)

    found = _asked_for([(place_of(row), row) for row in rows if _agrees(row, spec)], path, spec)
    ours = _only(records, "crop_size")
    of_our_crop = [row for row in rows if spec.crop and row[spec.crop] == str(ours)]
    for place, row in [(place_of(row), row) for row in of_our_crop]:
        if place not in found or found[place].crop != ours:
            found[place] = _figure(row, path, spec.crop)
    return found


def lacking(layout: Layout, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the axes for which a file of published figures has no column, so that `figures` returns none.

    Raises:
        ValueError: As `figures` does.
    """
    spec = layout.published
    if spec is None or any(record.get("dataset") != spec.dataset for record in records):
        return []
    return _lacking(layout, spec, _read(_find(spec.file), spec)[1])


def _lacking(layout: Layout, spec: Published, header: Sequence[str]) -> list[str]:
    named = min(map(len, spec.rows.values()), default=1)  # the axes that the file's own names of rows stand for
    axes = [*layout.blocks, *layout.columns, *(layout.rows[named:] if spec.row else layout.rows)]
    return [axis for axis in axes if _column_of(axis, spec) not in header]


def _read(path: Path, spec: Published) -> tuple[list[dict[str, str]], list[str]]:
    """Return the rows of the layout's data set that match `where`, whatever their source, and the columns."""
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
        reader = csv.DictReader(file)
        header = list(reader.fieldnames or ())
        if doubled := [name for name in header if header.count(name) > 1]:
            raise ValueError(f"{path} must have each column once; {doubled[0]!r} occurs twice")
        for name in (FIGURE, SOURCE, *spec.where, *spec.axes.values(), *filter(None, (spec.row, spec.crop))):
            if name not in header:
                raise ValueError(f"{path} must have a column {name!r}; it has {', '.join(header)}")
        of_dataset = [row for row in reader if row.get(DATASET, spec.dataset) == spec.dataset]
    if not any(_agrees(row, spec) for row in of_dataset):
        raise ValueError(f"{path} has no row where {', '.join('='.join(pair) for pair in spec.where.items())}")
    return [row for row in of_dataset if _agrees(row, spec, but=(SOURCE,))], header


def _asked_for(rows: Sequence[tuple[Place, Mapping[str, str]]], path: Path, spec: Published) -> dict[Place, Figure]:
    """Return the figures of the rows chosen by `where`, one for each place."""
    found: dict[Place, Figure] = {}
    for place, row in rows:
        if place in found:
            where = ", ".join("=".join(pair) for pair in spec.where.items()) or "any"
            raise ValueError(
                f"{path} must have one figure for {' '.join(itertools.chain(*place))} where {where}; it has two"
            )
        found[place] = _figure(row, path, spec.crop)
    return found


def _only(records: Sequence[Mapping[str, Any]], name: str) -> Any:  # noqa: ANN401 (a field's value)
    """Return the value of a field that all records share; None if they differ or lack it."""
    values = {record.get(name) for record in records}
    return values.pop() if len(values) == 1 else None


def _agrees(row: Mapping[str, str], spec: Published, but: Sequence[str] = ()) -> bool:
    return all(row[name] == text for name, text in spec.where.items() if name not in but)


def _find(name: str) -> Path:
    for path in (experiments_folder() / "paper" / name, Path(name)):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.name for path in (experiments_folder() / "paper").glob("paper_*.csv")))
    raise ValueError(f"published: file must be a CSV file, or one of {known}; got {name!r}")


def _column_of(axis: str, spec: Published) -> str:
    return spec.axes.get(axis, "partition" if axis == "split" else axis)


def _row_key(row: Mapping[str, str], layout: Layout, spec: Published) -> Key:
    if not spec.row:
        return tuple(row[_column_of(axis, spec)] for axis in layout.rows)
    name = row[spec.row]
    return tuple(spec.rows.get(name, [name, *[""] * (len(layout.rows) - 1)]))


def _figure(row: Mapping[str, str], path: Path, crop: str) -> Figure:
    size = row[crop] if crop else ""
    try:
        value, crop_size = round(float(row[FIGURE]) / 100, 10), int(size) if size else None
        return Figure(value, row[SOURCE], crop_size, row.get(NOTE) or "")
    except ValueError:
        raise ValueError(
            f"{path}: {FIGURE} and {crop or 'its crop'} must be numbers; got {row[FIGURE]!r}, {size!r}"
        ) from None

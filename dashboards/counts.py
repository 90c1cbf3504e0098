"""The counts of evaluations, summed over the cells of an entry: which classes are confused, and how surely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dashboards.figures import column_axes, label_of
from dashboards.gathered import Gathered
from dashboards.panels import Heat, Line, Lines
from orchestration.machine.damage import DamagedFileError
from orchestration.machine.json_values import parse
from orchestration.runs.run_folder import run_folder
from orchestration.tables.table import Key

if TYPE_CHECKING:
    import numpy.typing as npt

    Counts = npt.NDArray[np.int64]

MAX_CLASSES = 30
"""A confusion of more is not drawn: nobody could read it."""
MOST_PAIRS = 8
SURE = "as right as sure"
Record = Mapping[str, Any]


@dataclass(slots=True)
class Entry:
    """An entry of the table."""

    row: str
    place: int
    """Of the row among the rows."""
    column: str
    confusion: "Counts"
    calibration: "Counts"
    """[wrong, right] by confidence."""
    num: int
    """Cells that were added up."""

    @property
    def error(self) -> float:
        """The mean gap over pixels between confidence and share of right pixels (ECE), in percent."""
        totals, right, middles = _shares(self.calibration)
        kept = totals > 0
        apart = np.abs(right[kept] / totals[kept] - middles[kept])
        return 100 * float((totals[kept] * apart).sum() / totals.sum())


def entries(gathered: Gathered) -> list[Entry]:
    """Sum the counts of the finished cells; nothing if there are none."""
    layout = gathered.loaded.table
    axes, records = column_axes(layout), gathered.places.to_pylist()
    rows = list(dict.fromkeys(_key(record, layout.rows) for record in records))
    found: dict[tuple[Key, Key], Entry] = {}
    for record in records:
        counts = read(gathered.grid_dir, record) if record["status"] == "done" else None
        if counts is None:
            continue
        row, column = _key(record, layout.rows), _key(record, axes)
        known = found.get((row, column))
        if known is None:
            label = label_of(layout, layout.rows, row) or "all cells"
            title = label_of(layout, axes, column) or "all cells"
            found[row, column] = Entry(label, rows.index(row), title, *counts, 1)
        elif known.confusion.shape == counts[0].shape:
            known.confusion = known.confusion + counts[0]
            known.calibration = known.calibration + counts[1]
            known.num += 1
    return list(found.values())


def read(grid_dir: Path, record: Record) -> "tuple[Counts, Counts] | None":
    """Return confusion and calibration of a finished run; None if none can be read."""
    folder = run_folder(grid_dir, record["folder"])
    try:
        number = (folder.result() or {})["attempt"]
        content = parse(folder.attempt(number).evaluation_file.read_bytes())
        confusion, calibration = (np.array(content[name], np.int64) for name in ("confusion", "calibration"))
    except (DamagedFileError, OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    is_whole = confusion.ndim == 2 and confusion.shape[0] == confusion.shape[1] and calibration.shape[1:] == (2,)
    is_whole = is_whole and confusion.sum() > 0 and min(confusion.min(), calibration.min()) >= 0
    return (confusion, calibration) if is_whole and calibration.sum() else None


def calibration(found: Sequence[Entry]) -> list[Lines]:
    """Return how often the prediction is right by confidence: a panel for each column, a line for each row."""
    panels = []
    for number, (column, group) in enumerate(_by_column(found).items()):
        lines = []
        for entry in group:
            totals, right, middles = _shares(entry.calibration)
            x = [100 * float(middle) for middle in middles[totals > 0]]
            mean: list[float | None] = [100 * float(share) for share in (right[totals > 0] / totals[totals > 0])]
            lines.append(Line(entry.row, entry.place, x, mean, [None] * len(x), [entry.num] * len(x)))
        ends = sorted({0.0, 100.0})
        sure = Line(SURE, 7, ends, [*ends], [None] * 2, [1] * 2, is_published=True)
        panels.append(Lines(f"calibration-{number}", column, "confidence (%)", "right (%)", [*lines, sure], []))
    return panels


def errors(found: Sequence[Entry]) -> list[list[str]]:
    """Return the expected calibration error of each entry: a header, and a row for each row of the table."""
    columns = list(_by_column(found))
    known = {(entry.row, entry.column): f"{entry.error:.1f}" for entry in found}
    rows = list(dict.fromkeys(entry.row for entry in sorted(found, key=lambda entry: entry.place)))
    return [["", *columns], *([row, *(known.get((row, column), "—") for column in columns)] for row in rows)]


def confusion(found: Sequence[Entry], class_names: Sequence[str]) -> list[Heat]:
    """Return what the pixels of each class are taken for: a panel for each entry, none for very many classes."""
    panels = []
    for number, entry in enumerate(found):
        if len(entry.confusion) > MAX_CLASSES:
            continue
        totals = entry.confusion.sum(axis=1, keepdims=True)
        shares = entry.confusion / np.maximum(totals, 1)
        values: list[list[float | str | None]] = [
            [float(share) if total else None for share in row]
            for row, (total,) in zip(shares.tolist(), totals.tolist(), strict=True)
        ]
        names = names_of(len(shares), class_names)
        title = f"{entry.row}, {entry.column}"
        panels.append(Heat(f"confusion-{number}", title, "predicted", "true", names, names, values))
    return panels


def confused(found: Sequence[Entry], class_names: Sequence[str]) -> list[list[str]]:
    """Return the pairs of classes that each entry confuses most, by their share of the true class's pixels."""
    rows = [["entry", "true", "predicted", "share of true (%)"]]
    for entry in found:
        totals = entry.confusion.sum(axis=1, keepdims=True)
        shares = entry.confusion / np.maximum(totals, 1)
        np.fill_diagonal(shares, 0)
        names = names_of(len(shares), class_names)
        for flat in np.argsort(-shares, axis=None, kind="stable")[:MOST_PAIRS]:
            true, predicted = divmod(int(flat), len(shares))
            if shares[true, predicted] > 0:
                share = f"{100 * shares[true, predicted]:.1f}"
                rows.append([f"{entry.row}, {entry.column}", names[true], names[predicted], share])
    return rows


def names_of(num: int, class_names: Sequence[str]) -> list[str]:
    """Name so many classes, using numbers for those without a name."""
    return [class_names[place] if place < len(class_names) else str(place) for place in range(num)]


def _shares(counts: "Counts") -> tuple["npt.NDArray[Any]", "npt.NDArray[Any]", "npt.NDArray[Any]"]:
    """Return the number of pixels, of right ones, and the middle of each part of the confidence range."""
    return counts.sum(axis=1), counts[:, 1], (np.arange(len(counts)) + 0.5) / len(counts)


def _by_column(found: Sequence[Entry]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in found:
        groups.setdefault(entry.column, []).append(entry)
    return groups


def _key(record: Record, axes: Sequence[str]) -> Key:
    return tuple(str(record[axis]) for axis in axes)

"""Marks after the names of special rows: those with fewer steps, or trained on validation images."""

from collections.abc import Mapping, Sequence
from typing import Any

FEWER_STEPS, TRANSDUCTIVE = "‡", "§"
_WORDS = {FEWER_STEPS: "fewer steps", TRANSDUCTIVE: "trained on validation images"}
LEFT_OUT_WORDS = "a step left out"
"""What files and figures say of an entry one of whose cells did not make the update of a step."""
Key = tuple[str, ...]
Record = Mapping[str, Any]


def marks(records: Sequence[Record], rows: Sequence[str], columns: Sequence[str]) -> tuple[dict[Key, str], list[str]]:
    """Return the marks of special rows, and the meaning of each mark.

    Args:
        records: One for each cell, with `num_steps` and `transductive` if they are known. Only the steps of finished
            cells are compared.
        rows: Axes of the rows.
        columns: Axes of the columns, within which the rows are compared.
    """
    fewer, example = _fewer_steps(records, rows, columns)
    shared = {_key(record, rows): record["transductive"] for record in records if record.get("transductive")}
    found = {
        row: (FEWER_STEPS if row in fewer else "") + (TRANSDUCTIVE if row in shared else "")
        for row in dict.fromkeys([*fewer, *shared])
    }
    said = []
    if fewer:
        said.append(f"{FEWER_STEPS} takes fewer steps than another row of its column: {example}")
    if shared:
        most = max(shared.values())
        images = "validation image is" if most == 1 else "validation images are"
        said.append(f"{TRANSDUCTIVE} trained without their labels on what it is scored on: {most:,} {images} in the "
                    "unlabeled list")  # fmt: skip
    return found, said


def words(of_row: str) -> list[str]:
    """Say a row's marks in words, for files and figures, which have no note below them."""
    return [_WORDS[mark] for mark in of_row]


def _fewer_steps(
    records: Sequence[Record], rows: Sequence[str], columns: Sequence[str]
) -> tuple[dict[Key, float], str]:
    """Return the rows with fewer steps than the longest of a column, and the largest difference in words."""
    by_column: dict[Key, list[tuple[Key, int]]] = {}
    for record in records:
        if record.get("num_steps") and record.get("best_miou") is not None:
            by_column.setdefault(_key(record, columns), []).append((_key(record, rows), record["num_steps"]))
    found: dict[Key, float] = {}
    example = ""
    for taken in by_column.values():
        most = max(steps for _, steps in taken)
        for row, steps in taken:
            if steps < most and steps / most < min(found.values(), default=1):
                example = f"{steps:,} against {most:,}"
            if steps < most:
                found[row] = min(found.get(row, 1), steps / most)
    return found, example


def _key(record: Record, axes: Sequence[str]) -> Key:
    return tuple(str(record[axis]) for axis in axes)

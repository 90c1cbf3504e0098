"""The pictures that runs have left, as one PNG for a paper or a talk."""

import base64
import io
from collections.abc import Sequence

from PIL import Image

from dashboards.gathered import Gathered
from dashboards.pictures import DIFFERENCES, SHARES, Colour, Column, Picture, columns
from rankmatch import sheet

KINDS = ("pictures", "ranks")
MAX_ROWS = 2
"""Images of a figure."""
SIDE = 176
"""Pixels of views and maps."""


def draw(kind: str, gathered: Gathered) -> Image.Image:
    """Draw the pictures of the first column of the table that has some, or what the rank term of its first run sees.

    Raises:
        ValueError: No run has left what is to be drawn.
    """
    found = columns(gathered, len(gathered.runs))
    for column in found:
        if kind == "pictures":
            return _examples(column)
        if column.ranked:
            return _ranks(column)
    raise ValueError(f"a finished run of grid {gathered.loaded.name} must have left {kind}; none has")


def _examples(column: Column) -> Image.Image:
    first = column.examples[0]
    rows = []
    for example in column.examples[:MAX_ROWS]:
        image, label = map(_opened, (example.image, example.label))
        blank = Image.new("RGB", image.size, sheet.WHITE)
        rights = ", ".join(f"{one.label} {one.right} %" for one in example.said)
        rows.append(sheet.Row(example.name, [image, label, *(_opened(one.prediction) for one in example.said)]))
        differences = [_opened(one.difference) for one in example.said]
        rows.append(sheet.Row(f"right pixels: {rights}", [blank, blank, *differences]))
    titles = ["image", "label", *(one.label for one in first.said)]
    return sheet.draw(_heading(column), titles, rows, _colours([*column.classes, *DIFFERENCES])).image


def _ranks(column: Column) -> Image.Image:
    one = column.ranked[0]
    titles = ["all agents; ranked: numbers", *(f"agent {rank}" for rank, _, _ in one.maps)]
    ranks = ", ".join(row[2] for row in one.top)
    rows = [
        sheet.Row("teacher: weak view", [_square(one.agents), *(_square(teacher) for _, teacher, _ in one.maps)]),
        sheet.Row(f"student: strong view; the same agents have ranks {ranks} at the cross",
                  [_square(one.strong), *(_square(student) for _, _, student in one.maps)]),
    ]  # fmt: skip
    heading = f"{_heading(column)}: what the rank term of {one.label} sees in {one.name}"
    return sheet.draw(heading, titles, rows, _colours(SHARES)).image


def _heading(column: Column) -> str:
    return ", ".join(filter(None, (column.title, column.where)))


def _opened(picture: Picture) -> Image.Image:
    with Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))) as opened:
        opened.load()
        return opened.copy()


def _square(picture: Picture) -> Image.Image:
    opened = _opened(picture)
    method = Image.Resampling.NEAREST if opened.mode == "P" else Image.Resampling.LANCZOS
    return opened.resize((SIDE, SIDE), method).convert("RGB")


def _colours(named: Sequence[Colour]) -> list[tuple[str, sheet.Colour]]:
    return [(name, (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16))) for name, colour in named]

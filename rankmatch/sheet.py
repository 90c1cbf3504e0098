"""Pictures in rows and columns, with titles, captions and a legend, as one image that explains itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

MAX_SIDE, MIN_SIDE = 256, 128
"""Pixels; larger pictures are drawn smaller, and smaller ones larger, by a whole factor."""
GAP = 6
FONT_SIZE = 13
LINE = FONT_SIZE + 5
SWATCH = 12
"""Side of a legend's square of colour."""
WHITE, BLACK, GRAY = (255, 255, 255), (0, 0, 0), (110, 110, 110)

Colour = tuple[int, int, int]
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Row:
    """Pictures of the same thing, side by side."""

    caption: str
    pictures: Sequence[Image.Image]


@dataclass(frozen=True, slots=True)
class Sheet:
    """The whole image, and the left upper corner of each picture in it, by row and column."""

    image: Image.Image
    places: list[list[Place]]


def draw(heading: str, titles: Sequence[str], rows: Sequence[Row], legend: Sequence[tuple[str, Colour]]) -> Sheet:
    """Arrange pictures in rows and columns.

    Args:
        heading: Stands above all.
        titles: Of the columns.
        rows: A picture for each column.
        legend: Names and their colours.
    """
    drawn = [[_scaled(picture) for picture in row.pictures] for row in rows]
    widths = [max([_text_width(title), *(row[column].width for row in drawn)]) for column, title in enumerate(titles)]
    whole = [sum(widths) + GAP * (len(widths) - 1), _text_width(heading), *(_text_width(row.caption) for row in rows)]
    width = max([*whole, *(_entry_width(name) for name, _ in legend)]) + 2 * GAP
    lines = _legend_lines(legend, width)
    height = 2 * LINE + GAP * 2 + sum(LINE + GAP + max(part.height for part in row) for row in drawn)
    image = Image.new("RGB", (width, height + LINE * len(lines)), WHITE)
    pen = ImageDraw.Draw(image)
    _write(pen, (GAP, GAP), heading)
    for column, title in enumerate(titles):
        _write(pen, (_left(widths, column), GAP + LINE), title)
    top, places = GAP + 2 * LINE, []
    for row, parts in zip(rows, drawn, strict=True):
        _write(pen, (GAP, top), row.caption, GRAY)
        places.append([(_left(widths, column), top + LINE) for column in range(len(parts))])
        for part, place in zip(parts, places[-1], strict=True):
            image.paste(part, place)
        top += LINE + GAP + max(part.height for part in parts)
    for number, line in enumerate(lines):
        _write_legend(pen, (GAP, top + number * LINE), line)
    return Sheet(image, places)


def _left(widths: Sequence[int], column: int) -> int:
    return GAP + sum(widths[:column]) + GAP * column


def _scaled(picture: Image.Image) -> Image.Image:
    """Bring a picture to a size that can be seen; labels, in a palette, keep their colours."""
    largest = max(picture.size)
    factor = MAX_SIDE / largest if largest > MAX_SIDE else max(1, -(-MIN_SIDE // largest))
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    if size == picture.size:
        return picture.convert("RGB")
    is_smooth = picture.mode == "RGB" and factor < 1
    method = Image.Resampling.BILINEAR if is_smooth else Image.Resampling.NEAREST
    return picture.resize(size, method).convert("RGB")


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_SIZE)


def _text_width(text: str) -> int:
    return int(_font().getlength(text)) + 1


def _write(pen: ImageDraw.ImageDraw, place: Place, text: str, colour: Colour = BLACK) -> None:
    pen.text(place, text, fill=colour, font=_font())


def _entry_width(name: str) -> int:
    return SWATCH + 4 + _text_width(name)


def _legend_lines(legend: Sequence[tuple[str, Colour]], width: int) -> list[list[tuple[int, str, Colour]]]:
    """Break a legend into lines, each entry with its distance from the left."""
    lines: list[list[tuple[int, str, Colour]]] = []
    left = width
    for name, colour in legend:
        if left + _entry_width(name) > width - 2 * GAP:
            lines.append([])
            left = 0
        lines[-1].append((left, name, colour))
        left += _entry_width(name) + 2 * GAP
    return lines


def _write_legend(pen: ImageDraw.ImageDraw, place: Place, line: Sequence[tuple[int, str, Colour]]) -> None:
    for left, name, colour in line:
        x, y = place[0] + left, place[1] + 2
        pen.rectangle((x, y, x + SWATCH, y + SWATCH), fill=colour, outline=GRAY)
        _write(pen, (x + SWATCH + 4, place[1]), name)

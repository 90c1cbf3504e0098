import numpy as np
import pytest
from PIL import Image

from rankmatch import sheet

RED, BLUE = (200, 0, 0), (0, 0, 200)


def picture(size, colour):
    return Image.new("RGB", size, colour)


@pytest.mark.parametrize("size", [(48, 40), (300, 700), (1, 1), (256, 100)])
def test_pictures_stand_where_the_sheet_says_and_do_not_overlap(size):
    rows = [sheet.Row(f"row {number}", [picture(size, RED), picture(size, BLUE)]) for number in range(2)]
    whole = sheet.draw("heading", ("left", "right"), rows, [("a", RED), ("b", BLUE)])
    pixels = np.asarray(whole.image)
    corners = [place for row in whole.places for place in row]
    assert [tuple(pixels[y, x]) for x, y in corners] == [RED, BLUE, RED, BLUE]
    counts = [(pixels == colour).all(-1).sum() for colour in (RED, BLUE)]
    swatch = (sheet.SWATCH - 1) ** 2
    largest = max(size)
    factor = 256 / largest if largest > 256 else -(-128 // largest) if largest < 128 else 1
    assert counts == [2 * round(size[0] * factor) * round(size[1] * factor) + swatch] * 2


@pytest.mark.parametrize("names", [["a class with a rather long name"] * 12, ["x" * 200, "y"], []])
def test_legend_is_broken_into_lines_that_fit(names):
    whole = sheet.draw("h", ("t",), [sheet.Row("c", [picture((9, 9), RED)])], [(name, BLUE) for name in names])
    pixels = np.asarray(whole.image)
    assert (pixels == BLUE).all(-1).sum() == len(names) * (sheet.SWATCH - 1) ** 2
    assert (pixels[:, -sheet.GAP + 1 :] == 255).all()  # nothing touches the edge

"""Elements of an array as Slurm abbreviates them, `13_[0-3,7%2]` or `13_[1-5:2]`; pure."""

import re

_TOGETHER = re.compile(r"(\d+)_\[?([\d,:-]+)(?:%\d+)?\]?")


def spelt_out(written: str) -> list[str]:
    """Return the elements, each as `13_0`; none if the text has another form."""
    found = _TOGETHER.fullmatch(written)
    if not found:
        return []
    places: list[int] = []
    for part in found[2].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        places += range(int(first), int(last or first) + 1, int(step or 1))
    return [f"{found[1]}_{place}" for place in places]

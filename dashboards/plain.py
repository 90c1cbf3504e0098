"""Text of runs as it may stand on a page: without half characters, and without marks that turn its order around."""

import re

from orchestration.machine.json_values import legible_text

_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""What Unicode has to embed, override or isolate a direction: `exe.txt` can then read `txt.exe`."""


def plain(text: str) -> str:
    """Return a text, or a whole page, with a replacement character for each such mark."""
    return text if text.isascii() else _TURNING.sub("\ufffd", legible_text(text))

"""Conversion of Cityscapes' label ids to train ids (by the table in the data set's own scripts)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from rankmatch.config import IGNORE_INDEX
from rankmatch.data.folders import find_files
from rankmatch.data.pixels import read_label
from rankmatch.durable import replacing

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label id of each of the 19 classes; all other ids are ignored."""
FOUND, MADE = "_labelIds.png", "_labelTrainIds.png"


def convert(
    root: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Write `*_labelTrainIds.png` beside every `*_labelIds.png` below a folder, and return how many were written.

    Existing files are kept. `say` is called with what was skipped.

    Raises:
        ValueError: There is none below the folder, or one cannot be read.
    """
    found = find_files(root)
    if skipped := found.skipped():
        say(skipped)
    sources = [path for path in found.files if path.name.endswith(FOUND)]
    if not sources:
        raise ValueError(f"the folder must hold *{FOUND} files, as gtFine does; got {str(root)!r}")
    table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    table[list(LABEL_IDS)] = range(len(LABEL_IDS))
    num_written = 0
    for done, source in enumerate(sources, 1):
        target = source.with_name(source.name.removesuffix(FOUND) + MADE)
        if not target.exists():
            with replacing(target) as draft:
                Image.fromarray(table[read_label(source, str(source))]).save(draft, format="PNG")
            num_written += 1
        progress(done, len(sources))
    return num_written

"""The command to type where a folder of data has moved since a grid was launched."""

import re
from collections.abc import Iterable
from pathlib import Path

from orchestration.grids import grid
from orchestration.runs import hints
from orchestration.runs.folders import GridFolder

_HAS_MOVED = re.compile(r"if it has moved: (\w+=FOLDER)")
"""How messages about a folder that is not there end, those of the training code too."""


def ways(messages: Iterable[str], grid_dir: Path) -> list[str]:
    """Say how a launched grid goes on if messages say that folders may have moved; nothing of a grid or search else."""
    found = dict.fromkeys(setting for text in messages for setting in _HAS_MOVED.findall(text))
    file = GridFolder(grid_dir).grid_file
    if not found or not file.is_file() or grid.is_search(file):
        return []
    words = [word for setting in found for word in ("--set", setting)]
    return [f"if it has moved, what was launched goes on with {hints.command('retry', grid_dir, *words)}"]

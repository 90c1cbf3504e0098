"""Commands that messages name, whole, so that they can be copied into a shell as they are."""

import shlex
from pathlib import Path

from orchestration.runs.folders import GridFolder


def shell(*words: str) -> str:
    """Write a command in backticks."""
    return f"`{shlex.join(words)}`"


def command(word: str, grid_dir: Path, *more: str) -> str:
    """Write the command `rankmatch WORD ...` of a grid that was launched, in backticks."""
    return shell("rankmatch", word, *more, "--grid", grid_dir.name, "--runs", str(GridFolder(grid_dir).runs.path))

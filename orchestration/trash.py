"""Run folders that somebody dropped: they lie below the runs folder until somebody removes them."""

import datetime
from pathlib import Path

from orchestration import hints

FOLDER = ".trash"
"""Nobody looks for runs in folders whose names begin with a dot."""


def folder(grid_dir: Path) -> Path:
    """Make a folder for what is dropped now."""
    now = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S.%f}"
    place = grid_dir.parent / FOLDER / grid_dir.name / now
    place.mkdir(parents=True)
    return place


def move(cell_dir: Path, place: Path) -> Path:
    """Move the folder of a cell there by one rename, so that all of it is in one place or the other."""
    return cell_dir.rename(place / cell_dir.name)


def way_back(moved: Path, cell_dir: Path) -> str:
    """Return the command that brings a folder back, in backticks."""
    return hints.shell("mv", str(moved), str(cell_dir))

"""Where an imported cell comes from: a line in its folder for each import, so that whoever reads it can tell."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from socket import gethostname
from typing import Any

from orchestration.machine import clock, files
from orchestration.machine.fields import TEXT, Fields
from orchestration.runs.recorder import SCHEMA
from orchestration.runs.run_folder import RunFolder

NAME = "imported from"
"""How readers call it, beside what else is known of how a cell was made."""
_OF_IMPORT = Fields({"time": TEXT, "host": TEXT, "runs": TEXT, "cell": TEXT, "verified": TEXT.listed()})


def note(cell: RunFolder, runs: Path, place: Path, verified: Sequence[str]) -> None:
    """Note an import in a cell's folder.

    Args:
        cell: The copy.
        runs: The other runs folder, as this machine sees it.
        place: The cell's folder there.
        verified: What was verified of the copy.
    """
    time = clock.utc().isoformat(timespec="seconds")
    row = {"schema": SCHEMA, "time": time, "host": gethostname(), "runs": str(runs),
           "cell": str(place.relative_to(runs)), "verified": [*verified]}  # fmt: skip
    files.append_row(cell.imports_file, row)


def of(cell: RunFolder) -> str:
    """Return where a cell was imported from, in words, the last import first; empty: it was trained here."""
    if not cell.imports_file.exists():
        return ""
    return ", before that ".join(_in_words(row) for row in reversed(files.read_lines(cell.imports_file, _OF_IMPORT)))


def known(cell: RunFolder, provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is known of how a cell was made, with its origin if it was imported."""
    text = of(cell)
    return {**provenance, NAME: text} if text else provenance


def _in_words(row: Mapping[str, Any]) -> str:
    return f"{row['runs']} on {row['host']}, {row['time'][:10]}"

"""The description of a cell in its run folder: its configuration, and the varied keys with the configuration's hash."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from orchestration.machine import clock, files
from orchestration.machine.damage import DamagedFileError
from orchestration.machine.fields import TEXT, TEXTS, Fields
from orchestration.runs.folders import CellFolder
from orchestration.runs.recorder import SCHEMA

ADVICE = "launch the grid again to rewrite it"
HASH = "config_sha256"
_OF_AXES = Fields({"axes": TEXTS}, {HASH: TEXT})
_LOOKS_S = (0.1, 1.0)
"""Seconds between readings of two files that differ: a launch that changes the execution writes one after the other."""


def write(folder: Path, config_yaml: str, axes: Mapping[str, str]) -> None:
    """Write both files into a folder, unless they are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    noted = files.to_text({"schema": SCHEMA, "axes": dict(axes), HASH: _sha256(config_yaml)})
    cell = CellFolder(folder)
    for path, text in ((cell.config_file, config_yaml), (cell.axes_file, noted)):
        if not path.exists() or path.read_bytes() != text.encode():
            files.replace(path, text, sync=False)  # thousands at once; a launch restores missing ones


def config(folder: Path) -> str:
    """Return the configuration as YAML.

    Raises:
        DamagedFileError: It is torn, not text, or differs from its hash.
    """
    path = CellFolder(folder).config_file
    text = _text_of(path)
    for wait_s in _LOOKS_S:
        if _is_as_written(folder, text):
            return text
        clock.sleep(wait_s)
        text = _text_of(path)
    if not _is_as_written(folder, text):
        why = f"it is not what was written, by the {HASH} in {CellFolder.axes_file.name}: lines are missing or changed"
        raise DamagedFileError(path, why, f"{ADVICE}, or remove {HASH} to have it taken as it is")
    return text


def axes(folder: Path) -> dict[str, str]:
    """Return the varied keys with their values as text.

    Raises:
        DamagedFileError: They cannot be read.
    """
    found: dict[str, str] = files.read_json(CellFolder(folder).axes_file, _OF_AXES, ADVICE, is_shown=True)["axes"]
    return found


def _text_of(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFileError(path, f"it is no text ({error})", ADVICE) from None
    if not text.endswith("\n") or "\0" in text:
        raise DamagedFileError(path, "it breaks off" if text else "it is empty", ADVICE)
    return text


def _is_as_written(folder: Path, text: str) -> bool:
    """Return whether a configuration matches its hash; true without a hash, as in folders of earlier versions."""
    try:
        noted = files.read_json(CellFolder(folder).axes_file, _OF_AXES).get(HASH)
    except (FileNotFoundError, DamagedFileError):  # reported by the readers that need it
        return True
    return noted in (None, _sha256(text))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

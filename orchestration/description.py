"""What a run folder says of its cell: the configuration, and the varied keys with the hash of the configuration."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

from orchestration import files
from orchestration.attempt import AXES, CONFIG
from orchestration.damage import DamagedFileError
from orchestration.fields import TEXT, TEXTS, Fields
from orchestration.recorder import SCHEMA

ADVICE = "launch the grid again, which writes it anew"
HASH = "config_sha256"
_OF_AXES = Fields({"axes": TEXTS}, {HASH: TEXT})
_LOOKS_S = (0.1, 1.0)
"""Between looks at two files that differ: a launch that changes the execution writes one, then the other."""


def write(folder: Path, config_yaml: str, axes: Mapping[str, str]) -> None:
    """Put both files into a folder, as far as they differ from what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    noted = files.to_text({"schema": SCHEMA, "axes": dict(axes), HASH: _sha256(config_yaml)})
    for name, text in ((CONFIG, config_yaml), (AXES, noted)):
        path = folder / name
        if not path.exists() or path.read_bytes() != text.encode():
            files.replace(path, text, sync=False)  # thousands at once; each launch makes what is missing


def config(folder: Path) -> str:
    """Return the configuration as YAML.

    Raises:
        DamagedFileError: It is torn, is no text, or is not what was written.
    """
    text = _text_of(folder / CONFIG)
    for wait_s in _LOOKS_S:
        if _is_as_written(folder, text):
            return text
        time.sleep(wait_s)
        text = _text_of(folder / CONFIG)
    if not _is_as_written(folder, text):
        why = f"it is not what was written, by the {HASH} in {AXES}: lines are missing or changed"
        raise DamagedFileError(folder / CONFIG, why, f"{ADVICE}, or remove {HASH} to have it taken as it is")
    return text


def axes(folder: Path) -> dict[str, str]:
    """Return the varied keys with their values as text.

    Raises:
        DamagedFileError: They cannot be read.
    """
    found: dict[str, str] = files.read_json(folder / AXES, _OF_AXES, ADVICE)["axes"]
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
    """Compare a configuration with its hash; where there is none, as of earlier versions, nobody knows better."""
    try:
        noted = files.read_json(folder / AXES, _OF_AXES).get(HASH)
    except (FileNotFoundError, DamagedFileError):  # named by who needs what it holds
        return True
    return noted in (None, _sha256(text))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

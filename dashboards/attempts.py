"""What became of the cells' attempts: failures with their logs, retries, hours, pictures; from their folders."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestration.machine.damage import DamagedFileError
from orchestration.results.energy import energy_j, has_gpu
from orchestration.runs import origin
from orchestration.runs.attempt import Attempt
from orchestration.runs.run_folder import run_folder, state_of_result

TAIL_LINES, TAIL_CHARACTERS = 20, 240
MAX_PICTURE_BYTES = 150_000
_SIDES, _QUALITY = (900, 640, 420), 80
MAX_PIXELS = 40_000_000


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended, in words."""

    number: int
    kind: str
    message: str
    node: str
    tail: str = ""


@dataclass(frozen=True, slots=True)
class Story:
    """What a cell used, and its attempts if something went wrong or there were several."""

    wall_s: float | None = None
    """Over all attempts; None before the first, or where it cannot be told."""
    gpu_s: float | None = None
    """The same times the GPUs of each; None before the result."""
    energy_j: float | None = None
    """What the GPUs took over all attempts, in joules; None where their power was not logged."""
    ends: list[End] = field(default_factory=list)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    unpredicted: tuple[int, ...] = ()
    """Classes that it almost never predicts."""
    is_readable: bool = True


def story(grid_dir: Path, run: Mapping[str, Any]) -> Story:
    """Read what the table of runs does not hold; nothing from an unreadable folder."""
    folder = run_folder(grid_dir, run["folder"])
    if run["status"] in ("missing", "damaged"):
        return Story(is_readable=run["status"] == "missing")
    try:
        result = folder.result() or {}
        wall_s = result["duration_s"] if "duration_s" in result else folder.busy_s()
        needs_ends = run["num_attempts"] > 1 or run["status"] != "done"
        found = folder.attempts()
        ends = [_end(attempt) for attempt in found] if needs_ends else []
        state = state_of_result(result) if result else folder.look()
        energy = energy_j([attempt.path for attempt in found]) if has_gpu(result, found) else None
        made = origin.known(folder, state.provenance)
        return Story(wall_s, result.get("gpu_duration_s"), energy, ends, made, state.unpredicted)
    except (DamagedFileError, OSError, ValueError):
        return Story(is_readable=False)


def picture_of(grid_dir: Path, run: Mapping[str, Any]) -> str:
    """Return the sample images of a finished run as a data URI of limited size; empty if there are none."""
    folder = run_folder(grid_dir, run["folder"])
    try:
        return _small_jpeg(folder.attempt((folder.result() or {}).get("attempt", 0)).samples_file)
    except (DamagedFileError, OSError, ValueError):  # Pillow reports a torn file with one of these
        return ""


def _end(attempt: Attempt) -> End:
    events = attempt.events()
    last = events[-1] if events else {}
    node = next((str(event["node"]) for event in events if event.get("node")), "")
    node = node or next((str(event["host"]) for event in events if event.get("host")), "")
    kind = {"failed": str(last.get("kind", "failed")), "stopped": str(last.get("kind", "stopped"))}.get(
        str(last.get("event")), ""
    )
    message = " ".join(str(last.get("message", "")).split())
    tail = str(last.get("log_tail") or last.get("traceback") or attempt.log_tail()) if kind else ""
    return End(attempt.number, kind, message[:600], node, _short(tail) if last.get("event") == "failed" else "")


def _short(text: str) -> str:
    lines = [line.rstrip()[:TAIL_CHARACTERS] for line in text.splitlines() if line.strip()]
    shown = "\n".join(lines[-TAIL_LINES:])
    return "".join(mark if mark.isprintable() or mark == "\n" else "�" for mark in shown)


def _small_jpeg(path: Path) -> str:
    from PIL import Image

    if not path.is_file():
        return ""
    with Image.open(path) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            return ""
        picture = opened.convert("RGB")
    for side in _SIDES:
        picture.thumbnail((side, 2 * side))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
        if buffer.tell() <= MAX_PICTURE_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()

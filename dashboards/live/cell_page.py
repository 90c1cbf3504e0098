"""The contents of a cell's page: curves, attempts over time, the end of the log, pictures, configuration, commands."""

import re
import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from dashboards import figures, palette
from dashboards.live import chart, places
from dashboards.live.grid_page import COLOURS, ago, cell_side, command, letter, percent
from dashboards.live.watch import Seen
from dashboards.panels import DASH, Line, Lines
from orchestration.machine import files, yaml_text
from orchestration.machine.damage import DamagedFileError
from orchestration.planning.plan import format_duration
from orchestration.runs import made_with
from orchestration.runs.attempt import Attempt, node_of
from orchestration.runs.folders import CellFolder
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState

LOG_LINES = 200
MOST_ROWS = 12
_TERM = "loss_"
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-_])")
Row = Mapping[str, Any]


def build(grid: str, runs: Path, cell: Path, seen: Seen, shown_attempt: int | None) -> dict[str, Any]:
    """Return all that the template of a cell shows.

    Raises:
        FileNotFoundError: The folder is gone.
    """
    folder = RunFolder(cell)
    notes: list[str] = []
    rows = _rows(folder, notes)
    config = _config(cell, notes)
    attempts = folder.attempts()
    spans = [_span(attempt, attempt is attempts[-1], seen) for attempt in attempts]
    panels = curves(rows)
    return {
        "grid": grid,
        "signature": seen.status.cell.signature,
        "slug": seen.status.cell.slug,
        "axes": seen.axes,
        "standing": str(seen.standing),
        "colour": COLOURS[seen.standing],
        "letter": letter(seen.standing),
        "notes": [*filter(None, [seen.status.note, seen.status.state.damage]), *notes],
        "facts": _facts(seen),
        "panels": [(panel, chart.svg(panel), panel.rows(MOST_ROWS)) for panel in panels],
        "classes": _classes(folder, rows, config),
        "attempts": spans,
        "spans": _drawn(spans),
        "log": _log(attempts, shown_attempt, cell),
        "numbers": [attempt.number for attempt in attempts],
        "pictures": list(places.pictures(cell)),
        "config": config,
        "commands": _commands(grid, runs, cell, seen),
        "side": cell_side(grid, seen.status.cell.signature),
    }


def curves(rows: Sequence[Row]) -> list[Lines]:
    """Return the numbers of one training over its epochs, a panel for each."""
    found = []
    for metric in metrics_of(rows):
        title, factor, digits = figures.title_of(metric)
        known = [(float(row["epoch"]), factor * row[metric]) for row in rows if row.get(metric) is not None]
        line = Line(title, 0, [x for x, _ in known], [y for _, y in known], [None] * len(known), [1] * len(known))
        found.append(Lines(f"curve-{metric}", title, "epoch", title, [line], [], digits=digits))
    return found


def metrics_of(rows: Sequence[Row]) -> list[str]:
    """Return which of the epochs' numbers are drawn, in the order of the figures."""
    known = {name for row in rows for name, value in row.items() if value is not None}
    terms = sorted(name for name in known if name.startswith(_TERM))
    ordered = [name for metric in figures.METRICS for name in ([metric, *terms] if metric == "loss" else [metric])]
    return [name for name in ordered if name in known]


def log_tail(path: Path) -> str:
    """Return the last lines of a log as plain text, however long it is and whatever it contains."""
    return _cleaned(files.read_end(path))


def _cleaned(text: str) -> str:
    lines = [_last_part(line) for line in text.split("\n")]
    return "\n".join("\n".join(lines).rstrip("\n").split("\n")[-LOG_LINES:])


def _last_part(line: str) -> str:
    """Return what a terminal would leave of a line that a progress bar has overwritten, without control characters."""
    text = _ESCAPES.sub("", line.rstrip("\r").rpartition("\r")[2])
    return "".join(mark if mark.isprintable() or mark == "\t" else "\ufffd" for mark in text)


def moment(seconds: float | None) -> str:
    """Write a time of day, in the time zone of this machine."""
    return DASH if seconds is None else f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _rows(folder: RunFolder, notes: list[str]) -> list[Row]:
    try:
        return [*folder.epochs()]
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        notes.append(f"Its epochs cannot be read: {error}")
        return []


def _config(cell: Path, notes: list[str]) -> str:
    path = CellFolder(cell).config_file
    if not places.inside(path, cell):
        return ""
    try:
        return RunFolder(cell).config()
    except DamagedFileError as error:
        notes.append(str(error))
        return path.read_text(encoding="utf-8", errors="replace")


def _facts(seen: Seen) -> list[tuple[str, str]]:
    state, status = seen.status.state, seen.status
    steps = f"{state.step}/{state.num_steps or status.cell.num_steps or '?'}" if state.num_attempts else DASH
    found = [
        ("state", str(seen.standing)),
        ("epoch", f"{state.epoch}/{state.num_epochs}" if state.num_epochs else DASH),
        ("step", steps),
        ("mIoU, last epoch", percent(state.miou)),
        ("mIoU, best epoch", percent(state.best_miou)),
        ("attempts", str(state.num_attempts)),
        ("node", status.node or DASH),
        ("job", status.job or state.job or DASH),
        ("written", ago(state.updated)),
    ]
    if state.duration_s:
        found.append(("took", format_duration(state.duration_s)))
    if status.gpu_s:
        found.append(("GPU-hours", f"{status.gpu_s / 3600:.2f}"))
    made = [(name, text) for name, text in made_with.flat(state.provenance) if name in _SHOWN and text]
    return [*found, *((name, _commits(text) if name == "commit" else text) for name, text in made)]


def _commits(text: str) -> str:
    return ", ".join(word[:12] for word in text.split(", "))


_SHOWN = ("commit", "dirty", "device", "torch", "precision", "numerics")


def _classes(folder: RunFolder, rows: Sequence[Row], config: str) -> list[tuple[str, str]]:
    """Return the IoU of each class, at the best epoch if the training is done, else at the last one."""
    try:
        result = folder.result() or {}
    except (DamagedFileError, OSError):
        result = {}
    last = rows[-1] if rows else {}
    prefix = "class_iou_"
    numbers = {int(name.removeprefix(prefix)): value for name, value in last.items() if name.startswith(prefix)}
    values = dict(enumerate(result.get("best_class_iou") or ())) or dict(sorted(numbers.items()))
    names = class_names(config)
    return [(names[number] if number < len(names) else str(number), percent(value)) for number, value in values.items()]


def class_names(config: str) -> list[str]:
    """Return a configuration's class names; nothing if it cannot be read."""
    try:
        return [str(name) for name in yaml_text.parse(config).get("execution", {}).get("class_names", [])]
    except (ValueError, AttributeError):
        return []


def _span(attempt: Attempt, is_last: bool, seen: Seen) -> dict[str, Any]:
    owner, events = attempt.known_owner(), attempt.events()
    last = events[-1] if events else {}
    is_running = is_last and seen.standing is CellState.RUNNING
    begun, first = attempt.begun(), attempt.first_step(events)
    ended = time.time() if is_running else attempt.ended()
    took = attempt.busy_s() if begun is not None and not is_running else max(0.0, ended - (begun or ended))
    begun = begun if begun is None or begun <= ended else ended - took  # by a node whose clock is ahead
    state = "done" if is_last and seen.standing is CellState.DONE else "running" if is_running else "interrupted"
    state = "failed" if last.get("event") == "failed" else state
    word = str(last.get("kind", "")) or {"done": "done", "running": "runs"}.get(state, "no word of its end")
    saved = attempt.saved_step()
    return {
        "number": attempt.number,
        "begun": begun,
        "ended": ended,
        "state": state,
        "letter": palette.STATES[state][2],
        "from": moment(begun),
        "took": format_duration(took) if begun else DASH,
        "node": node_of(owner, events) or DASH,
        "first": DASH if first is None else str(first),
        "checkpoint": DASH if saved is None else f"step {saved}",
        "word": word,
        "message": " ".join(str(last.get("message", "")).split())[:600],
    }


def _drawn(spans: Sequence[Mapping[str, Any]]) -> str:
    known = [span for span in spans if span["begun"] is not None]
    if not known:
        return ""
    said = "; ".join(f"attempt {one['number']} from {one['from']}, {one['took']}: {one['word']}" for one in known)
    rows = [(f"{one['number']}", one["begun"], one["ended"], one["state"]) for one in known]
    return chart.bars("Attempts over time", said, rows, time.time())


def _log(attempts: Sequence[Attempt], number: int | None, cell: Path) -> dict[str, Any]:
    """Return the end of an attempt's log, by default the newest one's."""
    chosen = next((one for one in attempts if one.number == number), attempts[-1] if attempts else None)
    if chosen is None:
        return {"attempt": None, "text": "", "said": "It has not begun, so there is no log yet."}
    path = chosen.log_file
    text = log_tail(path) if places.inside(path, cell) else ""
    text = text or _kept(chosen)
    said = "" if text else f"Attempt {chosen.number} has printed nothing."
    return {"attempt": chosen.number, "text": text, "said": said}


def _kept(attempt: Attempt) -> str:
    """Return what was kept of the log of a failed attempt: the file may be on a disk that is gone."""
    last = next(iter(attempt.events()[-1:]), {})
    return _cleaned(str(last.get("log_tail") or last.get("traceback") or ""))[-LOG_LINES * 400 :]


def _commands(grid: str, runs: Path, cell: Path, seen: Seen) -> list[tuple[str, str]]:
    signature, standing = seen.status.cell.signature, seen.standing
    words = [f"{axis}={value}" for axis, value in seen.axes.items()]
    found = [("Follow its log in a terminal", command("logs", grid, runs, signature, "--follow"))]
    if standing.is_open:
        found.append(("End it, with a checkpoint", command("cancel", grid, runs, signature)))
    elif standing is CellState.DONE:
        weights = seen.status.state.num_attempts
        best = CellFolder(cell).attempt(weights).best_file
        found.append(("Score its weights again", shlex.join(["rankmatch", "evaluate", "--checkpoint", str(best)])))
    else:
        found.append(("Try it again from its checkpoint", command("retry", grid, runs, signature)))
    found.append(("Launch it as a part of its grid", command("launch", grid, runs, *words)))
    found.append(("Put its folder away, to train it from scratch", command("drop", grid, runs, signature)))
    return found

"""The contents of a grid's page: progress, who waits for what, and the cells that an address asks for."""

import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from dashboards import palette
from dashboards.live import places
from dashboards.live.watch import Look, Seen
from dashboards.panels import DASH
from orchestration.machine import own_files
from orchestration.planning.plan import format_duration
from orchestration.runs.folders import GridFolder
from orchestration.runs.states import READ, CellState

MAX_NOTE = 160
ROWS = 200
"""Cells on a page; 2,000 rows of which all but some are out of sight would be sent again with each change."""
STATE, WORDS, SORT, PAGE = "state", "find", "sort", "page"
_NOT_AXES = (STATE, WORDS, SORT, PAGE)
COLOURS = {
    CellState.DONE: "done",
    CellState.RUNNING: "running",
    CellState.STARTING: "running",
    CellState.INTERRUPTED: "interrupted",
    CellState.LOST: "interrupted",
    CellState.FAILED: "failed",
    CellState.DAMAGED: "damaged",
    CellState.UNKNOWN: "damaged",
    CellState.WAITING: "missing",
    CellState.NEW: "missing",
}
"""For each standing the state of the palette whose colour and letter it has."""
_FIRST = [
    CellState.FAILED,
    CellState.DAMAGED,
    CellState.LOST,
    CellState.UNKNOWN,
    CellState.INTERRUPTED,
    CellState.RUNNING,
    CellState.STARTING,
    CellState.WAITING,
    CellState.NEW,
    CellState.DONE,
]
SORTS: dict[str, tuple[str, Callable[[Seen], Any]]] = {
    "state": ("failures first", lambda cell: _FIRST.index(cell.standing)),
    "grid": ("as in the grid", lambda cell: 0),
    "best": ("best mIoU", lambda cell: -(cell.status.state.best_miou or 0.0)),
    "written": ("written last", lambda cell: -cell.status.state.updated),
}


class BadAddressError(Exception):
    """An address asks for what cannot exist."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which cells an address asks for, and how they are shown."""

    values: dict[str, list[str]] = field(default_factory=dict)
    """By axis; empty: any."""
    states: list[str] = field(default_factory=list)
    words: str = ""
    sort: str = "state"
    page: int = 1

    def holds(self, cell: Seen) -> bool:
        """Return whether the address asks for a cell."""
        if self.states and cell.standing not in self.states:
            return False
        if any(cell.axes.get(axis) not in values for axis, values in self.values.items()):
            return False
        text = f"{cell.folder} {cell.status.note} {cell.status.node}".lower()
        return self.words.lower() in text

    def query(self, **changed: object) -> str:
        """Return it as the query of an address."""
        pairs: list[tuple[str, object]] = [(axis, value) for axis, values in self.values.items() for value in values]
        pairs += [(STATE, state) for state in self.states]
        others = {WORDS: self.words, SORT: self.sort, PAGE: self.page, **changed}
        neutral = {WORDS: "", SORT: "state", PAGE: 1}
        return urlencode([*pairs, *((name, value) for name, value in others.items() if value != neutral[name])])


def read(pairs: Sequence[tuple[str, str]], look: Look) -> Wanted:
    """Read the query of an address.

    Raises:
        BadAddressError: It names an axis, a state or an order that does not exist.
    """
    single = {name: value for name, value in pairs if name in _NOT_AXES and value}
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in _NOT_AXES and value:
            _check("an axis of the cells", name, look.axes)
            values.setdefault(name, []).append(value)
    states = [value for name, value in pairs if name == STATE and value]
    for state in states:
        _check("a state", state, list(READ))
    _check("an order", sort := single.get(SORT, "state"), SORTS)
    page = single.get(PAGE, "1")
    if not (page.isascii() and page.isdigit() and 0 < int(page) < 10**6):
        raise BadAddressError(f"{PAGE} must be a whole number from 1; got {page!r}.")
    return Wanted(values, states, single.get(WORDS, ""), sort, int(page))


def _check(what: str, word: str, allowed: Mapping[str, Any] | Sequence[str]) -> None:
    if word not in allowed:
        raise BadAddressError(f"{word!r} must be {what}: {', '.join(allowed) or 'there is none'}.")


def build(name: str, runs: Path, look: Look, wanted: Wanted) -> dict[str, Any]:
    """Return all that the template of a grid shows."""
    found = [cell for cell in look.cells if wanted.holds(cell)]
    found.sort(key=SORTS[wanted.sort][1])
    first = (wanted.page - 1) * ROWS
    done, counts = look.counts[CellState.DONE], look.counts
    steps = [(cell.status.state.step, cell.status.state.num_steps or cell.status.cell.num_steps or 0)
             for cell in look.cells]  # fmt: skip
    return {
        "name": name,
        "summary": f"{done} of {len(look.cells)} cells are done.",
        "done": done,
        "num": len(look.cells),
        "steps": (sum(min(step, of) for step, of in steps), sum(of for _, of in steps)),
        "counts": [(word, counts[word], COLOURS[word], letter(word)) for word in _FIRST if counts[word]],
        "totals": look.totals[1:] if look.cells else [],
        "notes": look.notes,
        "failures": _failures(look.cells),
        "waits": Counter(cell.status.note or "for a launch" for cell in look.cells
                         if cell.standing is CellState.WAITING).most_common(5),
        "axes": look.axes,
        "wanted": wanted,
        "sorts": [(key, title) for key, (title, _) in SORTS.items()],
        "states": [*map(str, _FIRST)],
        "rows": [row(cell, list(look.axes), name) for cell in found[first : first + ROWS]],
        "num_found": len(found),
        "range": (first + 1, min(first + ROWS, len(found))),
        "before": wanted.query(page=wanted.page - 1) if wanted.page > 1 else None,
        "after": wanted.query(page=wanted.page + 1) if first + ROWS < len(found) else None,
        "compare": urlencode({"a": row_side(name, wanted.values)}),
        "commands": _commands(name, runs, look),
    }  # fmt: skip


def row(cell: Seen, axes: Sequence[str], grid: str) -> dict[str, Any]:
    """Return what a row of the table of cells shows."""
    status, state = cell.status, cell.status.state
    num_steps = state.num_steps or status.cell.num_steps
    return {
        "signature": status.cell.signature,
        "slug": status.cell.slug,
        "has_folder": state.status is not CellState.MISSING or bool(cell.axes),
        "standing": str(cell.standing),
        "colour": COLOURS[cell.standing],
        "letter": letter(cell.standing),
        "axes": [cell.axes.get(axis, DASH) for axis in axes],
        "epoch": f"{state.epoch}/{state.num_epochs}" if state.num_epochs else DASH,
        "steps": (state.step, num_steps) if num_steps and cell.standing is CellState.RUNNING else None,
        "miou": percent(state.miou),
        "best": percent(state.best_miou),
        "attempts": str(state.num_attempts or DASH),
        "node": status.node or DASH,
        "written": ago(state.updated),
        "note": _short(status.note, cell.folder),
        "compare": urlencode({"a": cell_side(grid, status.cell.signature)}),
    }


def _short(note: str, folder: str) -> str:
    """Leave out of a note the path to the cell's own folder, and the end of a long note, which the cell's page has."""
    before, mark, after = note.partition(f"{folder}/")
    note = before.rpartition(" ")[0] + after if mark else note
    return note if len(note) <= MAX_NOTE else f"{note[:MAX_NOTE].rstrip()} …"


def listed(runs: Path) -> list[dict[str, Any]]:
    """Return what the list of grids shows: from file names alone, since it covers all grids."""
    return [_glance(runs, name) for name in places.grids(runs)]


def _glance(runs: Path, name: str) -> dict[str, Any]:
    grid_dir, said = runs / name, ""
    done, num, begun, folder = 0, 0, "", GridFolder(grid_dir)
    try:
        cells = places.cells(grid_dir)
        done = sum(folder.cell(cell).result_file.exists() for cell in cells)
        indexed = folder.index_file.read_bytes().count(b"\n") if places.inside(folder.index_file, grid_dir) else 0
        num = max(len(cells), indexed)
        launches = [] if folder.launches_dir.is_symlink() else folder.launches()
        moments = [moment for launch in launches if (moment := launch.moment)]
        begun = f"{moments[-1]:%Y-%m-%d %H:%M} UTC" if moments else ""
        files = [one.launcher_file for one in launches[-1:] if not own_files.is_closed(one.path)]
        is_launched = any(file.exists() for file in (folder.launcher_file, *files))
        said = "a launch is at work, if it was not killed" if is_launched else ""
    except OSError as error:
        said = f"cannot be read: {error}"
    return {"name": name, "done": done, "num": num, "begun": begun or DASH, "said": said,
            "has_report": places.inside(folder.page_file, grid_dir)}  # fmt: skip


def letter(standing: CellState) -> str:
    """Return the letter on a state's mark."""
    return palette.STATES[COLOURS[standing]][2]


def percent(fraction: float | None) -> str:
    """Write a fraction in percent."""
    return DASH if fraction is None else f"{100 * fraction:.2f}"


def ago(moment: float) -> str:
    """Write how long ago something was."""
    return f"{format_duration(max(0.0, time.time() - moment))} ago" if moment else DASH


def cell_side(grid: str, signature: str) -> str:
    """Name a cell as a side of a comparison."""
    return f"{quote(grid, safe='')}/{signature}"


def row_side(grid: str, values: Mapping[str, Sequence[str]]) -> str:
    """Name the cells with certain values as a side of a comparison."""
    return f"{quote(grid, safe='')}?{urlencode(values, doseq=True)}"


def command(word: str, grid: str, runs: Path, *more: str) -> str:
    """Write a command about a grid, to copy into a shell."""
    return shlex.join(["rankmatch", word, *more, "--grid", grid, "--runs", str(runs)])


def _commands(name: str, runs: Path, look: Look) -> list[tuple[str, str]]:
    found = [("Look in a terminal", command("status", name, runs, "--watch"))]
    counts = look.counts
    if any(word.is_open and counts[word] for word in READ):
        found.append(("End what runs and waits", command("cancel", name, runs)))
    if counts[CellState.FAILED] or counts[CellState.INTERRUPTED]:
        found.append(("Try again what has failed or was interrupted", command("retry", name, runs)))
    if counts[CellState.DONE]:
        found.append(("Print the table", command("table", name, runs)))
        found.append(("Write the report", shlex.join(["rankmatch", "report", name, "--runs", str(runs)])))
    return found


def _failures(cells: Sequence[Seen]) -> list[tuple[str, int, str]]:
    """Return the classes of failures with their counts and the query that shows them, the most frequent first."""
    failures = [cell.status.state.failure or "failed" for cell in cells if cell.standing is CellState.FAILED]
    kinds = Counter(failure.partition(":")[0] for failure in failures)
    return [
        (kind, count, urlencode([(STATE, str(CellState.FAILED)), (WORDS, kind)])) for kind, count in kinds.most_common()
    ]

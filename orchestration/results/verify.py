"""Verify finished runs: recompute their figures from checkpoints, and compare their provenance within table rows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from orchestration.grids import grid, launched, moved_data
from orchestration.grids.cells import Cell, from_yaml
from orchestration.grids.grid import Grid
from orchestration.machine import announce
from orchestration.machine.checkout import NO_REPOSITORY
from orchestration.results import run_table, settings
from orchestration.results.score import Source, score
from orchestration.runs.folders import CellFolder, GridFolder
from orchestration.runs.run_folder import RunFolder, run_folder
from orchestration.tables.consistency import Odd, odd_ones
from rankmatch.checks import MissingFileError
from rankmatch.hashing import sha256_of
from rankmatch.run_files import BEST

_HASH = re.compile("[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Check:
    """The result of recomputing a run's figures."""

    run: str
    fault: str = ""
    """The difference, or why it could not be recomputed; empty if nothing differs."""
    largest: float = 0.0
    """The largest difference, in points."""
    is_unchecked: bool = False
    """It could not be recomputed, so nothing is known about its figures."""


def verify(
    root: Path,
    filters: Sequence[str],
    console: Console,
    *,
    count: int,
    seed: int,
    tolerance: float,
    device: str,
    settings: Sequence[str] = (),
) -> int:
    """Recompute some finished runs, and find runs made differently from their row; return 1 if anything is wrong.

    Args:
        root: A folder of grids, or the folder of one grid.
        filters: Which runs, as in `run_table.select`.
        console: Receives a line for each finding.
        count: How many runs to recompute.
        seed: Seed of the choice.
        tolerance: Allowed difference of a figure, in points.
        device: cpu, cuda or auto.
        settings: Changes to the configurations of the runs: `data_root=FOLDER` if the data have moved.

    Raises:
        ValueError: There is no finished run.
    """
    every = run_table.load(root, say=lambda text: _say(console, text))
    runs = run_table.select(every.runs, filters).to_pylist()
    done = _once(root, [row["run"] for row in runs if row["status"] == "done"])
    if not done:
        raise ValueError(f"there must be a finished run to verify among the {len(runs)} below {root}; there is none")
    chosen = choose(done, count, seed)
    _say(console, f"recomputing {len(chosen)} of {len(done)} finished runs (--seed {seed})")
    _cells_of.cache_clear()
    checks, bar = [], console if console.is_terminal else Console(quiet=True)
    for run in chosen:
        checks.append(recompute(root, run, tolerance, device, bar, settings))
        _say_check(checks[-1], console)
    lost = [row for row in runs if row["status"] in ("damaged", "unreadable")]
    for row in lost:
        _say(console, f"{row['status'].upper()} {row['run']}: {row['failure']}")
    grid_dirs = sorted({CellFolder(root / row["run"]).grid.path for row in runs})
    num_odd = _report_odd(grid_dirs, console)
    num_unchecked = sum(check.is_unchecked for check in checks)
    num_bad = sum(bool(check.fault) for check in checks) - num_unchecked
    unchecked = f"{num_unchecked} could not be recomputed; " if num_unchecked else ""
    _say(console, f"{num_bad} of {len(chosen)} differ; {unchecked}{num_odd} findings in the rows of tables")
    return 1 if num_bad or num_unchecked or num_odd or lost else 0


def _say_check(check: Check, console: Console) -> None:
    found = check.fault or f"as recorded (largest difference {check.largest:.2g} points)"
    kind = "UNCHECKED " if check.is_unchecked else f"{'DIFFERS' if check.fault else 'ok':<8}"
    _say(console, f"{kind}{check.run}: {found}")


def _once(root: Path, runs: Sequence[str]) -> list[str]:
    """Return each cell once, though several grids may have it."""
    return [*{(root / run).resolve(): run for run in reversed(runs)}.values()][::-1]


def choose(runs: Sequence[str], count: int, seed: int) -> list[str]:
    """Choose runs at random; the same runs, count and seed give the same choice."""
    ordered = sorted(runs)
    draws = np.random.default_rng(seed).permutation(len(ordered))[:count]
    return [ordered[place] for place in sorted(draws)]


def recompute(
    root: Path, run: str, tolerance: float, device: str, console: Console, settings: Sequence[str] = ()
) -> Check:
    """Score a run's best checkpoint as its training did, and compare the figures with its result."""
    folder = RunFolder(root / run)
    result = folder.result() or {}
    checkpoint = _best_weights(folder, result)
    if checkpoint is None:
        return Check(run, f"cannot be recomputed: no attempt has kept {BEST}", is_unchecked=True)
    changed = ""
    try:
        if result.get("model") and sha256_of(checkpoint) != result["model"]["sha256"]:
            changed = f"{BEST} is not the file that the training published"
        source = Source(checkpoint, settings=(*_places_now(folder), *settings), device=device)
        check = _compared(run, result, score(source, console, as_trained=True), tolerance)
    except (ValueError, OSError, RuntimeError) as error:  # torch raises a RuntimeError for a torn file
        way = " (for verify, --set data_root=FOLDER)" if isinstance(error, MissingFileError) else ""
        words = [f"cannot be recomputed: {' '.join(str(error).split())}{way}", changed]
        return Check(run, "; ".join(filter(None, words)), is_unchecked=not changed)
    return replace(check, fault="; ".join(filter(None, (changed, check.fault))))


def _places_now(folder: RunFolder) -> list[str]:
    """Return the new places of a run's moved data, as its grid knows them."""
    try:
        config = from_yaml(folder.config())
        own = [cell for cell in _cells_of(folder.grid.path) if folder.signature == cell.signature]
    except (ValueError, OSError):
        return []
    places = moved_data.new_places(config, own)
    quotes = {key: "'" if '"' in place else '"' for key, place in places.items()}
    return [f"{key}={quotes[key]}{place}{quotes[key]}" for key, place in places.items()]


@lru_cache(maxsize=8)
def _cells_of(grid_dir: Path) -> list[Cell]:
    return [] if grid.is_search(GridFolder(grid_dir).grid_file) else launched.load_folder(grid_dir).cells


def _best_weights(folder: RunFolder, result: dict[str, Any]) -> Path | None:
    """Return the weights file named in the result; results of earlier versions may name none: then the newest."""
    if model := result.get("model"):
        kept = [folder.path / model["path"]]
    else:
        kept = [attempt.best_file for attempt in folder.attempts() if attempt.number <= result["attempt"]]
    return next((path for path in reversed(kept) if path.is_file()), None)


def _compared(run: str, result: dict[str, Any], numbers: dict[str, Any], tolerance: float) -> Check:
    recorded = {"mIoU": result["best_miou"]} | dict(zip(numbers["class_iou"], result["best_class_iou"], strict=True))
    now = {"mIoU": numbers["miou"]} | numbers["class_iou"]
    faults, largest = [], 0.0
    for name, value in now.items():
        then = recorded[name]
        if (value is None) != (then is None):
            faults.append(f"{name} is {_text(value)}, recorded {_text(then)}")
        elif value is not None:
            points = 100 * abs(value - then)
            largest = max(largest, points)
            if points > tolerance:
                faults.append(f"{name} is {_text(value)}, recorded {_text(then)}")
    return Check(run, "; ".join(faults), largest)


def _report_odd(grid_dirs: Sequence[Path], console: Console) -> int:
    """Print the finished runs that do not match their row in their grid's table; return the number of findings."""
    count = 0
    for grid_dir in grid_dirs:
        try:
            if grid.is_search(GridFolder(grid_dir).grid_file):  # it has no table
                continue
            loaded = launched.load_folder(grid_dir)
        except ValueError as error:
            _say(console, f"ODD     {grid_dir.name}: its rows cannot be determined: {error}")
            count += 1
            continue
        found = dict.fromkeys(line for table in loaded.tables for line in _odd_lines(grid_dir, table))
        for line in found:
            _say(console, line)
        records = run_table.collect(grid_dir, loaded.cells).to_pylist()
        count += len(found) + _report_unknown_code(grid_dir, records, console)
    return count


def _odd_lines(grid_dir: Path, table: Grid) -> list[str]:
    records = run_table.collect(grid_dir, table.cells).to_pylist()
    odd = odd_ones(records, table.table.rows)
    return [f"ODD     {grid_dir.name}/{records[one.place]['folder']}: {_in_words(one)}" for one in odd]


def _report_unknown_code(grid_dir: Path, records: Sequence[dict[str, Any]], console: Console) -> int:
    """Print the finished runs without a commit; return how many of these could have had one."""
    count = 0
    for record in settings.without_commit(records):
        provenance = (run_folder(grid_dir, record["folder"]).result() or {}).get("provenance", {})
        why = provenance.get("commit_unknown", "")
        _say(
            console,
            f"NO CODE {grid_dir.name}/{record['folder']}: no commit is known for its code: "
            f"{why or 'no reason was recorded'}",
        )
        count += why not in ("", NO_REPOSITORY)
    return count


def _in_words(odd: Odd) -> str:
    if len(odd.values) > 1:
        listed = [_short(value) for value in odd.values]
        return f"its epochs were trained with several values of {odd.what}: {', then '.join(listed)}"
    usual = f"most of its row have {_short(odd.usual)}" if odd.usual else "no value is the most common one in its row"
    return f"{odd.what} {_short(odd.value)}, {usual}"


def _short(value: str) -> str:
    """Shorten hashes; return names of devices and of images without a digest whole."""
    return value[:12] if _HASH.match(value) else value or "none"


def _text(value: float | None) -> str:
    return "absent" if value is None else f"{100 * value:.2f}"


def _say(console: Console, text: str) -> None:
    announce.say(console, text)

"""Finished runs put to the test: their figures recomputed from checkpoints, their making compared with their row's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from orchestration import grid, launched, moved_data
from orchestration.cells import Cell, from_yaml
from orchestration.checkout import NO_REPOSITORY
from orchestration.results import run_table, settings
from orchestration.run_folder import CELLS, RunFolder
from orchestration.tables.consistency import Odd, odd_ones
from orchestration.trained import Source, score
from rankmatch.checks import MissingFileError
from rankmatch.hashing import sha256_of

BEST = "best.pt"
GRID = "grid.yaml"


@dataclass(frozen=True, slots=True)
class Check:
    """What recomputing a run's figures gave."""

    run: str
    fault: str = ""
    """What differs, or why it could not be recomputed; empty if all is as it was."""
    largest: float = 0.0
    """The largest difference, in points."""
    is_unchecked: bool = False
    """It could not be recomputed, so that nothing is known of its figures."""


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
    """Recompute some finished runs, and find those that were not made as their row; return 1 if anything is amiss.

    Args:
        root: A folder of grids, or that of one.
        filters: Which runs, as for `run_table.select`.
        console: Gets a line for each finding.
        count: How many runs are recomputed.
        seed: Of the choice.
        tolerance: What a figure may differ by, in points.
        device: Where: cpu, cuda or auto.
        settings: What differs from the configurations of the runs: `data_root=FOLDER`, where the data have moved.

    Raises:
        ValueError: There is no finished run.
    """
    every = run_table.load(root, say=lambda text: _say(console, text))
    runs = run_table.select(every.runs, filters).to_pylist()
    done = [row["run"] for row in runs if row["status"] == "done"]
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
    grid_dirs = sorted({(root / row["run"]).parents[1] for row in runs})
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


def choose(runs: Sequence[str], count: int, seed: int) -> list[str]:
    """Choose runs by chance; the same runs, count and seed give the same choice."""
    ordered = sorted(runs)
    draws = np.random.default_rng(seed).permutation(len(ordered))[:count]
    return [ordered[place] for place in sorted(draws)]


def recompute(
    root: Path, run: str, tolerance: float, device: str, console: Console, settings: Sequence[str] = ()
) -> Check:
    """Score a run's best checkpoint as its training did, and compare with its result."""
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
    except (ValueError, OSError, RuntimeError) as error:  # torch tells of a torn file by a RuntimeError
        way = " (for verify, --set data_root=FOLDER)" if isinstance(error, MissingFileError) else ""
        words = [f"cannot be recomputed: {' '.join(str(error).split())}{way}", changed]
        return Check(run, "; ".join(filter(None, words)), is_unchecked=not changed)
    return replace(check, fault="; ".join(filter(None, (changed, check.fault))))


def _places_now(folder: RunFolder) -> list[str]:
    """Return where the grid of a run has the data that are no longer where it was trained on them."""
    try:
        config = from_yaml(folder.config())
        own = [cell for cell in _cells_of(folder.path.parents[1]) if folder.path.name.startswith(f"{cell.signature}-")]
    except (ValueError, OSError):
        return []
    places = moved_data.new_places(config, own)
    quotes = {key: "'" if '"' in place else '"' for key, place in places.items()}
    return [f"{key}={quotes[key]}{place}{quotes[key]}" for key, place in places.items()]


@lru_cache(maxsize=8)
def _cells_of(grid_dir: Path) -> list[Cell]:
    return [] if grid.is_search(grid_dir / GRID) else launched.load_folder(grid_dir).cells


def _best_weights(folder: RunFolder, result: dict[str, Any]) -> Path | None:
    """Return the file that the result names; of earlier versions, whose result may name none, the newest there is."""
    if model := result.get("model"):
        kept = [folder.path / model["path"]]
    else:
        kept = [attempt.path / BEST for attempt in folder.attempts() if attempt.number <= result["attempt"]]
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
    """Print the finished runs that do not match their row in the table of their grid; return how many findings."""
    count = 0
    for grid_dir in grid_dirs:
        try:
            if grid.is_search(grid_dir / GRID):  # it has no table
                continue
            loaded = launched.load_folder(grid_dir)
        except ValueError as error:
            _say(console, f"ODD     {grid_dir.name}: its rows cannot be told: {error}")
            count += 1
            continue
        records = run_table.collect(grid_dir, loaded.cells).to_pylist()
        for odd in odd_ones(records, loaded.table.rows):
            _say(console, f"ODD     {grid_dir.name}/{records[odd.place]['folder']}: {_in_words(odd)}")
            count += 1
        count += _report_unknown_code(grid_dir, records, console)
    return count


def _report_unknown_code(grid_dir: Path, records: Sequence[dict[str, Any]], console: Console) -> int:
    """Print the finished runs that no commit says the code of; return how many of these could have had one."""
    count = 0
    for record in settings.without_commit(records):
        provenance = (RunFolder(grid_dir / CELLS / record["folder"]).result() or {}).get("provenance", {})
        why = provenance.get("commit_unknown", "")
        _say(
            console,
            f"NO CODE {grid_dir.name}/{record['folder']}: no commit says what code trained it: {why or 'nor says why'}",
        )
        count += why not in ("", NO_REPOSITORY)
    return count


def _in_words(odd: Odd) -> str:
    if len(odd.values) > 1:
        listed = [value if odd.what == "device" else value[:12] for value in odd.values]
        return f"its epochs were trained with several values of {odd.what}: {', then '.join(listed)}"
    usual = f"most of its row have {odd.usual[:12]}" if odd.usual else "no value is the most common one in its row"
    return f"{odd.what} {odd.value[:12]}, {usual}"


def _text(value: float | None) -> str:
    return "absent" if value is None else f"{100 * value:.2f}"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)

"""What every benchmark shares: rows, interleaved runs, peak memory, and the list of parts.

A part is a module `bench_*.py` of this folder with a function `rows(settings: Settings) -> Iterable[Row]`.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from rankmatch.memory import keep_freed_memory

TESTS = Path(__file__).resolve().parents[1]

PARTS = {
    "step": ("bench_step",),
    "data": ("bench_data",),
    "loss": ("bench_loss",),
    "eval": ("bench_eval",),
    "grid": ("bench_grid", "bench_results", "bench_logging"),
    "dashboard": ("bench_dashboard",),
    "report": ("bench_report",),
    "cells": ("bench_cells",),
}
"""The modules behind each word that `rankmatch bench` takes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    repeats: int = 3
    """Interleaved runs behind a ratio, after one that warms up."""
    tiny: bool = False
    """Inputs so small that the figures mean nothing: a check that everything runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure: ours beside the reference, the textbook way or, where there is none, the bound that is aimed at."""

    name: str
    ours: float
    reference: float
    unit: str
    """Of `ours` and `reference`: s, ms, MB; less is better."""
    ratio: float
    """reference / ours."""
    limit_share: float | None = None
    """What ours reaches of the physical limit, between 0 and 1: a matrix product's rate, a disk's."""
    peak_mb: float | None = None
    """Peak memory of ours, where it was measured."""
    note: str = ""

    def __str__(self) -> str:
        share = "" if self.limit_share is None else f"  {100 * self.limit_share:.0f} % of the limit"
        peak = "" if self.peak_mb is None else f"  peak {self.peak_mb:.0f} MB"
        figures = f"ours {self.ours:9.4g} {self.unit}  reference {self.reference:9.4g} {self.unit}"
        return f"{self.name:<22} {figures}  ratio {self.ratio:5.2f}{share}{peak}  {self.note}".rstrip()


def plain(name: str, ours: float, reference: float, unit: str, note: str = "") -> Row:
    """Return the row of two figures that were measured apart, or of one and a bound."""
    return Row(name=name, ours=ours, reference=reference, unit=unit, ratio=reference / ours, note=note)


def seconds(run: Callable[[], object]) -> float:
    """Return how long one run takes, on the device too."""
    _wait_for_device()
    started = time.perf_counter()
    run()
    _wait_for_device()
    return time.perf_counter() - started


def _wait_for_device() -> None:
    torch = sys.modules.get("torch")  # a part without tensors need not load it
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(
    runs: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Return the seconds of every run, taken in turns in this process, so that noise meets all alike."""
    if warm_up:
        for run in runs.values():
            run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            taken[name].append(seconds(run))
    return taken


def compare(
    name: str,
    ours: Callable[[], object],
    reference: Callable[[], object],
    repeats: int,
    *,
    per: int = 1,
    unit: str = "s",
) -> Row:
    """Time both in turns; `per` is how many things (samples, images) one run handles, `unit` s or ms a thing.

    The ratio is the median of the pairs' ratios, not the ratio of the medians.
    """
    scale = {"s": 1.0, "ms": 1e3}[unit] / per
    taken = interleaved({"ours": ours, "reference": reference}, repeats)
    ratios = [slow / fast for fast, slow in zip(taken["ours"], taken["reference"], strict=True)]
    return Row(
        name=name,
        ours=scale * statistics.median(taken["ours"]),
        reference=scale * statistics.median(taken["reference"]),
        unit=unit,
        ratio=statistics.median(ratios),
    )


def peak_mb(module: str, function: str, *arguments: str) -> float:
    """Return by how much a fresh process grows, at most, while it runs a function that `prepare` made.

    The function, of `benchmarks.<module>`, takes text, prepares outside the measurement and returns what is measured.
    """
    command = [sys.executable, "-m", "benchmarks.harness", module, function, *arguments]
    environment = dict(os.environ, PYTHONPATH=f"{TESTS.parent}{os.pathsep}{TESTS}")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def _grown_mb(run: Callable[[], object]) -> float:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM, the peak, to the present size
    before = _resident_kb("VmRSS")
    run()
    return (_resident_kb("VmHWM") - before) * 1024 / 1e6


def allocation(megabytes: str) -> Callable[[], object]:
    """Prepare a run whose peak is known; for the test of `peak_mb`."""
    return lambda: len(b"x" * (int(megabytes) * 10**6))


def _resident_kb(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found, "Linux names it"
    return int(found[1])


def measure(words: list[str], settings: Settings) -> Iterator[Row]:
    """Yield the rows of the named parts, of all where none is named; parts that are not there yet are left out."""
    for word in words or PARTS:
        if word not in PARTS:
            raise ValueError(f"bench must be one of {', '.join(PARTS)}; got {word!r}")
    keep_freed_memory()  # as `fit` does; the reference has the good of it too
    for word in words or PARTS:
        for module in PARTS[word]:
            if (TESTS / "benchmarks" / f"{module}.py").is_file():
                yield from import_module(f"benchmarks.{module}").rows(settings)


def to_json(rows: list[Row]) -> str:
    """Write rows as the JSON list that CI reads."""
    names = ("name", "ours", "reference", "ratio", "unit", "limit_share", "peak_mb", "note")
    return json.dumps([{name: getattr(row, name) for name in names} for row in rows], indent=1) + "\n"


if __name__ == "__main__":
    keep_freed_memory()
    prepared = getattr(import_module(f"benchmarks.{sys.argv[1]}"), sys.argv[2])(*sys.argv[3:])
    print(_grown_mb(prepared))  # noqa: T201 (to `peak_mb`)

"""Grids of very many cells, and what must be so once all have ended."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crash_points
import yaml

from orchestration.grids import index
from orchestration.runs.run_folder import RunFolder, folders

HOOK = Path(__file__).parent / "hook"
ROOT = Path(__file__).resolve().parents[2]
METHODS, SPLITS = ("supervised", "fixmatch", "unimatch", "rankmatch"), ("2", "4")
SITE = ("--max-concurrent=4", "cluster.cpus_per_worker=1", "cluster.mem_gb_per_worker=1",
        "cluster.controller_every_min=1")  # fmt: skip
"""Four at a time: a machine of two cores has its work with the Pythons of the jobs."""
READER_MB = 400
"""What a command that reads may take, with all of its libraries."""
SLURM = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr")


def grid_of(num_cells: int) -> str:
    """Describe a grid of so many cells of a step or two: a table of four rows and two columns, the rest seeds."""
    known = yaml.safe_load(crash_points.GRID)
    del known["set"]["split"]
    known["set"]["method.num_agents"] = 4
    seeds = [*range(num_cells // (len(METHODS) * len(SPLITS)))]
    axes = {"method": [*METHODS], "split": [*SPLITS], "seed": seeds}
    table = {"rows": ["method"], "columns": ["split"], "over": ["seed"]}
    known |= {"axes": axes, "table": table, "baseline": {"method": "supervised"}}
    return yaml.safe_dump(known)


@dataclass(frozen=True, slots=True)
class Took:
    """What a command took, and what it said."""

    code: int
    wall_s: float
    cpu_s: float
    """With all that it started and waited for."""
    peak_mb: float
    """Of the command itself."""
    said: str

    def __str__(self) -> str:
        return f"{self.wall_s:.1f} s, {self.cpu_s:.1f} s of CPU, {self.peak_mb:.0f} MB"


class Place:
    """A folder with a grid of many cells, and the environment in which commands about it are given."""

    def __init__(self, folder: Path, num_cells: int, environment: dict[str, str] | None = None, **more: str) -> None:
        self.folder, self.num_cells = folder, num_cells
        self.calls, self.programs = folder / "calls", folder / "programs"
        for path in (folder, self.programs, folder / "bin"):
            path.mkdir(exist_ok=True)
        self.calls.touch()
        (folder / "many.yaml").write_text(grid_of(num_cells))
        kept = {**os.environ, **(environment or {})}
        path = os.pathsep.join([str(ROOT), str(HOOK)])
        own = {"PYTHONPATH": path, "LOAD_PROGRAMS": str(self.programs), "OMP_NUM_THREADS": "1"}
        self.environment = kept | own | more
        self._write("python", f'PYTHONPATH="$PYTHONPATH:{HOOK}" exec {sys.executable} "$@"')
        self._count_calls()

    def _write(self, name: str, *lines: str) -> Path:
        script = self.folder / "bin" / name
        script.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        script.chmod(0o755)
        return script

    def _count_calls(self) -> None:
        """Have each call of Slurm's commands written down, with what called it."""
        for name in SLURM:
            if real := shutil.which(name, path=self.environment["PATH"]):
                who = '$(tr "\\0" " " < /proc/$PPID/cmdline)'
                self._write(name, f'echo "{name} {who}" >> {self.calls}', f'exec {real} "$@"')
        self.environment["PATH"] = f"{self.folder / 'bin'}:{self.environment['PATH']}"

    @property
    def python(self) -> str:
        """The Python of jobs, whose search path is that of the sources which were launched."""
        return f"cluster.python={self.folder / 'bin' / 'python'}"

    @property
    def grid_dir(self) -> Path:
        return self.folder / "runs" / "many"

    @staticmethod
    def command(*words: str) -> list[str]:
        """Return the words by which a command is given."""
        return [sys.executable, "-c", "from orchestration.commands.main import main; main()", *words]

    def give(self, *words: str) -> Took:
        """Give a command; return what it took."""
        command = self.command(*words)
        said = self.folder / f"said-{words[0]}-{time.time_ns()}.txt"
        began = time.monotonic()
        with said.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.monotonic() - began
        cpu_s = used.ru_utime + used.ru_stime
        return Took(process.returncode, wall_s, cpu_s, self._peak_mb(process.pid), said.read_text())

    def _peak_mb(self, pid: int) -> float:
        """Return what a program noted itself: the kernel's figure for a child begins with its parent's memory."""
        (note,) = self.programs.glob(f"here-{pid}-*.json")
        return float(json.loads(note.read_text())["peak_mb"])

    def called(self) -> Counter[str]:
        """Return how often each of Slurm's commands was called, by whom."""
        return Counter(_by_whom(*line.split(" ", 1)) for line in self.calls.read_text().splitlines())

    def noted(self, word: str) -> list[dict[str, Any]]:
        """Return what programs took that have a word on their command line."""
        rows = [json.loads(path.read_text()) for path in sorted(self.programs.glob("*.json"))]
        return [row for row in rows if any(word in given for given in row["words"])]


CALLERS = {
    "commands": "commands.main",
    "controllers": "orchestration.launching.controller",
    "jobs": "on_slurm.task",
    "the shells of jobs and controllers": "slurm_script",
}
"""Who calls Slurm's commands, by a word on the command line."""


def _by_whom(command: str, caller: str) -> str:
    who = next((name for name, word in CALLERS.items() if word in caller), "others")
    return f"{command} of {who}"


def readings(place: Place) -> dict[str, Took]:
    """Give the commands that read a whole grid."""
    words: dict[str, Sequence[str]] = {
        "status": ("status", "--grid", "many"),
        "status --json": ("status", "--grid", "many", "--json"),
        "results": ("results", "grid=many"),
        "results, again": ("results", "grid=many"),
        "table": ("table", "--grid", "many", "--statistics"),
        "report": ("report", "many"),
    }
    return {name: place.give(*given) for name, given in words.items()}


def is_whole(place: Place, num_attempts: int | None = 1) -> None:
    """Check that each cell has one result, no event is lost, and table and index have all.

    Args:
        place: Where the cells are.
        num_attempts: How many attempts each has; None: some were stopped, and the last one has the result.
    """
    cells = folders(place.grid_dir)
    assert len(cells) == place.num_cells
    ends = Counter(_end(cell, num_attempts) for cell in cells.values())
    assert ends == {("started",): place.num_cells}
    listed = index.read(place.grid_dir)
    assert sorted(cell.signature for cell in listed) == sorted(cells)
    with (place.grid_dir / "table.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "best_miou"]
    per_entry = place.num_cells // (len(METHODS) * len(SPLITS))
    assert Counter((row["method"], row["split"], row["n"]) for row in rows) == {
        (method, split, str(per_entry)): 1 for method in METHODS for split in SPLITS
    }


def _end(cell: RunFolder, num_attempts: int | None) -> tuple[str, ...]:
    """Return the events of the attempt that made a cell's result, which is its last one."""
    result, attempts = cell.result(), cell.attempts()
    assert result is not None and result["attempt"] == len(attempts) == (num_attempts or len(attempts)), cell.path
    last = attempts[-1]
    steps = cell.steps()["step"].to_pylist()
    assert steps and steps == sorted({*steps}), cell.path
    return tuple(event["event"] for event in last.events() if event["event"] != "environment")

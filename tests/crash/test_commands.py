"""Commands that are cut short at any call that changes the disk: given again, they end as if nothing had been."""

import itertools
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from crash_points import ERRORS, GRID, HAS_STRACE, Fault, Programs, faults, lost
from system_calls import Call
from undisturbed import content

from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import RunFolder, folders

pytestmark = [
    pytest.mark.crash,
    pytest.mark.timeout(3600),
    pytest.mark.xdist_group("crash_commands"),
    pytest.mark.skipif(not HAS_STRACE, reason="needs strace (apt-get install strace)"),
]
NUM_SAMPLED = 6
DRAWN = ("samples.png", "pictures", "files")


class Launches:
    """Gives commands about equal grids, one for each fault."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self.programs, self.folder, self.numbers = programs, folder, itertools.count()
        self.launched: Path | None = None
        folder.mkdir()
        self.store = folder / "mlflow.db"
        assert programs("store", {"path": str(self.store)}) == 0, programs.printed.read_text()

    def make(self) -> Path:
        """Make a place for a grid; return its runs folder."""
        place = self.folder / str(next(self.numbers))
        place.mkdir()
        (place / "tiny.yaml").write_text(GRID)
        (place / "runs").mkdir()
        shutil.copy(self.store, place / "runs" / "mlflow.db")
        return place / "runs"

    def words(self, command: str, runs: Path) -> dict[str, Any]:
        grid = str(runs.with_name("tiny.yaml")) if command == "launch" else "tiny"
        inline = ["--cluster", "inline"] if command == "launch" else []
        return {"words": [command, "--grid", grid, *inline, "--runs", str(runs)]}

    def give(self, command: str, runs: Path, **watched: Any) -> int:
        return self.programs("command", self.words(command, runs), **watched)

    def before(self, command: str) -> Path:
        """Return a runs folder in which a command has all to do: `sync` a launch whose store was lost."""
        if command == "launch":
            return self.make()
        if self.launched is None:
            self.launched = self.make()
            assert self.give("launch", self.launched) == 0, self.programs.printed.read_text()
        for path in self.launched.glob("mlflow.db*"):
            path.unlink()
        shutil.rmtree(self.launched / "artifacts", ignore_errors=True)
        shutil.copy(self.store, self.launched / "mlflow.db")
        return self.launched

    def look(self, command: str) -> tuple[list[Call], dict[str, Any]]:
        """Return the calls of an undisturbed command, and what it leaves."""
        runs = self.before(command)
        calls = self.programs.calls("command", self.words(command, runs), runs)
        return calls, left(runs)

    def survives(self, command: str, fault: Fault, whole: dict[str, Any]) -> str:
        """Return what differs after a fault, once the same command has been given again."""
        runs = self.before(command)
        self.give(command, runs, trace=str(self.programs.trace), injected=fault.injected)
        said = self.programs.printed.read_text()
        if (code := self.give(command, runs)) != 0:
            return f"the same command ends with {code}: {self.programs.printed.read_text()[-3000:]}"
        found = left(runs)
        if fault.kind != "kill":
            for cells in (found["cells"], whole["cells"]):
                for name in cells:
                    cells[name] = {key: value for key, value in cells[name].items() if key not in DRAWN}
        wrong = [f"{name} differs: {found[name]!r:.1500}" for name in whole if whole[name] != found[name]]
        if wrong:
            self.launched = None
        elif command == "launch":
            shutil.rmtree(runs.parent)
        return f"{'; '.join(wrong)} (it said: {said[-800:]})" if wrong else ""


def left(runs: Path) -> dict[str, Any]:
    """Return what a grid's folder and the mirror hold, less clocks."""
    grid = GridFolder(runs / "tiny")
    return {
        "cells": {name: content(RunFolder(cell.path)) for name, cell in folders(grid.path).items()},
        "table": grid.table_file.read_text() if grid.table_file.exists() else "",
        "half folders": sorted(path.name for path in runs.rglob(".*") if path.is_dir() and path.name != ".results"),
        "mirror": mirrored(runs / "mlflow.db"),
    }


def mirrored(database: Path) -> dict[str, Any]:
    """Return the runs of a store with their states, and how often each has which point."""
    query = "select t.value, m.key, m.step, count(*) from metrics m join tags t on t.run_uuid = m.run_uuid "
    query += "where t.key = 'mlflow.runName' group by 1, 2, 3 order by 1, 2, 3"
    with closing(sqlite3.connect(database)) as store:
        points = store.execute(query).fetchall()
        names = (
            "select t.value, r.status from runs r join tags t on t.run_uuid = r.run_uuid where t.key = 'mlflow.runName'"
        )
        states = store.execute(names).fetchall()
    cells = {(name, state) for name, state in states if "s0" in name or "s1" in name}
    return {
        "cells": sorted(cells),
        "points of cells": sorted({(name, key, step) for name, key, step, _ in points if (name, "FINISHED") in cells}),
        "double points": [point for point in points if point[3] > 1 and (point[0], "FINISHED") in cells],
    }


@pytest.fixture(scope="module")
def launches(in_memory: Path) -> Iterator[Launches]:
    with Programs(in_memory) as programs:
        yield Launches(programs, in_memory / "launches")


@pytest.mark.parametrize("command", ["launch", "sync"])
def test_command_survives_its_end_and_errors_at_its_calls(
    command: str, launches: Launches, tell_points: Callable[[str, int, list[str]], None], is_all: bool
) -> None:
    calls, whole = launches.look(command)
    every = 1 if is_all else max(1, len(calls) // NUM_SAMPLED)
    found = [*faults(calls, ["kill"], every=every), *faults(calls, ERRORS, every=every, first=every // 2)]
    wrong = lost(found, lambda fault: launches.survives(command, fault, whole))
    tell_points(f"{command}, kill, {', '.join(ERRORS)}", len(found), wrong)
    assert wrong == []

"""A cell that is cut short at any call that changes the disk is resumed by the same command as if nothing had been."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crash_points import ERRORS, HAS_STRACE, Fault, Programs, faults, lost
from equal_cells import make_cell
from system_calls import Call
from undisturbed import content

from orchestration.runs.run_folder import RunFolder

pytestmark = [
    pytest.mark.xdist_group("crash_cell"),
    pytest.mark.skipif(not HAS_STRACE, reason="needs strace (apt-get install strace)"),
]
DRAWN = ("samples.png", "pictures", "files")
"""What an error may cost a run, with a warning: it never costs the result."""
SMALL_BYTES = 64 * 1024
NUM_SAMPLED = 10
"""Of the calls of a real cell, whose checkpoints take some hundred writes each."""


class Cells:
    """Makes equal cells, one for each fault."""

    def __init__(self, programs: Programs, folder: Path, *, is_real: bool = False) -> None:
        self.programs, self.folder, self.numbers, self.is_real = programs, folder, itertools.count(), is_real
        self.calls = {half: self.look(is_half_done=half) for half in ((False,) if is_real else (False, True))}
        self.whole = content(self.cell)

    def make(self, *, is_half_done: bool = False) -> RunFolder:
        """Make a cell, new or stopped after its first epoch."""
        self.cell = make_cell(self.folder / str(next(self.numbers)))
        if is_half_done:
            assert self.programs("cell", {"path": str(self.cell.path), "stop_after": 1}) == 1
        return self.cell

    def order(self, folder: RunFolder) -> dict[str, Any]:
        return {"path": str(folder.path), "is_real": self.is_real}

    def look(self, *, is_half_done: bool) -> list[Call]:
        folder = self.make(is_half_done=is_half_done)
        return self.programs.calls("cell", self.order(folder), folder.path)

    def survives(self, fault: Fault, *, is_half_done: bool = False) -> str:
        """Return what differs after a fault, once the same command has been given again."""
        folder = self.make(is_half_done=is_half_done)
        order = self.order(folder)
        self.programs("cell", order, trace=str(self.programs.trace), injected=fault.injected)
        said = self.programs.printed.read_text()
        if (code := self.programs("cell", order)) != 0:
            return f"the same command ends with {code}: {self.programs.printed.read_text()[-2000:]}"
        wrong = differing(self.whole, content(folder), () if fault.kind == "kill" else DRAWN)
        wrong += [f"{path} is left" for path in left_behind(folder.path)]
        if not wrong:
            shutil.rmtree(folder.path.parents[1])
        return f"{'; '.join(wrong)} (it said: {said[-500:]})" if wrong else ""


def differing(whole: dict[str, Any], found: dict[str, Any], drawn: tuple[str, ...]) -> list[str]:
    return [f"{name} differs" for name in whole if name not in drawn and whole[name] != found[name]]


def left_behind(cell: Path) -> list[Path]:
    """Return folders and large files that nobody will remove: what a killed process was writing may stay if small."""
    found = [path for path in cell.rglob(".*") if path.is_dir() or path.stat().st_size > SMALL_BYTES]
    return [*found, *cell.glob("attempts/*/checkpoints"), *cell.rglob("*.lock")]


@pytest.fixture(scope="module")
def cells(in_memory: Path) -> Iterator[Cells]:
    with Programs(in_memory) as programs:
        yield Cells(programs, in_memory / "cells")


Tell = Callable[[str, int, list[str]], None]


def test_cell_survives_its_end_and_errors_at_some_of_its_calls(cells: Cells) -> None:
    calls = cells.calls[False]
    found = [*faults(calls, ["kill"], every=29, first=3), *faults(calls, ERRORS, every=29, first=17)]
    assert len(found) >= 6
    assert lost(found, cells.survives) == []


@pytest.mark.crash
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("is_half_done", [False, True], ids=["new", "half done"])
@pytest.mark.parametrize("kinds", [("kill",), ERRORS], ids=["killed", "errors"])
def test_cell_survives_a_fault_at_every_call(
    cells: Cells, kinds: tuple[str, ...], tell_points: Tell, is_all: bool, *, is_half_done: bool
) -> None:
    calls = cells.calls[is_half_done]
    turns = [kinds[turn:] + kinds[:turn] for turn in range(len(kinds) if is_all else 1)]
    found = [fault for turn in turns for fault in faults(calls, turn)]
    wrong = lost(found, lambda fault: cells.survives(fault, is_half_done=is_half_done))
    tell_points(f"{'half-done' if is_half_done else 'new'} cell, {', '.join(kinds)}", len(found), wrong)
    assert wrong == []


@pytest.mark.crash
@pytest.mark.timeout(3600)
def test_real_cell_survives_its_end_and_errors_at_some_of_its_calls(
    in_memory: Path, tell_points: Tell, is_all: bool
) -> None:
    folder = in_memory / "real"
    folder.mkdir()
    with Programs(folder) as programs:
        real = Cells(programs, folder / "cells", is_real=True)
        every = 1 if is_all else max(1, len(real.calls[False]) // NUM_SAMPLED)
        found = faults(real.calls[False], ["kill"], every=every)
        found += faults(real.calls[False], ERRORS, every=every, first=every // 2)
        wrong = lost(found, real.survives)
    tell_points("new cell that really trains, kill and errors", len(found), wrong)
    assert wrong == []

"""A drop that is cut short at any call that changes the disk leaves the cell whole, and the same command ends it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crash_points import ERRORS, GRID, HAS_STRACE, Fault, Programs, faults, lost
from undisturbed import content

from orchestration.runs.folders import GridFolder, RunsFolder
from orchestration.runs.run_folder import RunFolder

pytestmark = [
    pytest.mark.crash,
    pytest.mark.timeout(3600),
    pytest.mark.xdist_group("crash_commands"),
    pytest.mark.skipif(not HAS_STRACE, reason="needs strace (apt-get install strace)"),
]


class Drops:
    """Drops a cell of a launched grid, which is put back as it was before each fault."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self.programs, self.runs, self.backup = programs, folder / "runs", folder / "backup"
        grid = folder / "tiny.yaml"
        grid.write_text(GRID)
        words = ["launch", "--grid", str(grid), "--cluster", "inline", "--runs", str(self.runs)]
        assert programs("command", {"words": words}) == 0, programs.printed.read_text()
        self.whole = self.cells()
        assert len(self.whole) == 2
        self.runs.rename(self.backup)
        self.restore()
        self.order = {"words": ["drop", "s0", "--grid", "tiny", "--runs", str(self.runs)]}

    def restore(self) -> None:
        shutil.rmtree(self.runs, ignore_errors=True)
        shutil.copytree(self.backup, self.runs, symlinks=True)

    def cells(self) -> dict[str, dict[str, Any]]:
        """Return what each cell holds, wherever it lies; each lies in one place."""
        runs = RunsFolder(self.runs)
        places = [*(one.path for one in runs.cells()), *runs.trash_dir.glob("tiny/*/*")]
        assert len({path.name for path in places}) == len(places), f"a cell lies in two places: {places}"
        return {path.name: content(RunFolder(path)) for path in places}

    def survives(self, fault: Fault) -> str:
        """Return what differs after a fault, once the same command has been given again."""
        self.restore()
        self.programs("command", self.order, trace=str(self.programs.trace), injected=fault.injected)
        if self.cells() != self.whole:
            return "a cell is not whole"
        said = self.programs.printed.read_text()
        if (code := self.programs("command", self.order)) != 0:
            return f"the same command ends with {code}: {self.programs.printed.read_text()[-2000:]} (it said: {said})"
        links = [path.name for path in GridFolder(self.runs / "tiny").cells_dir.iterdir()]
        is_dropped = len(links) == len(RunsFolder(self.runs).cells()) == 1 and self.cells() == self.whole
        told = "`mv -T " in self.programs.printed.read_text()
        return "" if is_dropped and told else f"it is not dropped, or no way back is told: {links} (it said: {said})"


@pytest.fixture(scope="module")
def drops(in_memory: Path) -> Iterator[Drops]:
    with Programs(in_memory) as programs:
        yield Drops(programs, in_memory)


def test_drop_survives_its_end_and_errors_at_its_calls(
    drops: Drops, tell_points: Callable[[str, int, list[str]], None]
) -> None:
    calls = [
        call for call in drops.programs.calls("command", drops.order, drops.runs) if "mlflow" not in call.paths[-1]
    ]
    found = [*faults(calls, ["kill"]), *faults(calls, ERRORS)]
    assert any(call.name.startswith("rename") for call in calls) and any("unlink" in call.name for call in calls)
    wrong = lost(found, drops.survives)
    tell_points(f"drop, kill, {', '.join(ERRORS)}", len(found), wrong)
    assert wrong == []

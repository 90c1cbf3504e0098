"""A launch on Slurm and a controller's step, cut short at any call: no cell gets two jobs, and none is forgotten."""

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crash_points import ERRORS, HAS_STRACE, Fault, Programs, faults, lost
from orchestration_fakes import FakeSlurm, flags, write_programs
from system_calls import Call

from orchestration.on_slurm import submissions
from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import RunFolder, folders

pytestmark = [
    pytest.mark.crash,
    pytest.mark.timeout(3600),
    pytest.mark.xdist_group("crash_slurm"),
    pytest.mark.skipif(not HAS_STRACE, reason="needs strace (apt-get install strace)"),
]
SMALL = Path(__file__).parents[1] / "orchestration" / "small.yaml"
NUM_CELLS = 4
NUM_SAMPLED = 6


class Slurms:
    """Launches equal grids on a Slurm of their own, one for each fault."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self.programs, self.folder, self.numbers = programs, folder, itertools.count()
        folder.mkdir()
        self.store = folder / "mlflow.db"
        assert programs("store", {"path": str(self.store)}) == 0, programs.printed.read_text()

    def before(self, command: str) -> tuple[Path, dict[str, Any]]:
        """Return a place with a grid that has not been launched, or is all preempted; and the order for its command."""
        place = self.folder / str(next(self.numbers))
        (place / "fake").mkdir(parents=True)
        (place / "runs").mkdir()
        write_programs(place / "fake")
        (place / "fake" / "ended").write_text("")
        shutil.copy(self.store, place / "runs" / "mlflow.db")
        words = ["launch", "--grid", str(SMALL), "--cluster", "slurm", "trainer.device=cpu"]
        order: dict[str, Any] = {"fake": str(place / "fake"), "words": [*words, "--runs", str(place / "runs")]}
        if command == "launch":
            return place, order
        assert self.programs("on_slurm", order) == 0, self.programs.printed.read_text()
        return place, {"fake": str(place / "fake"), "step_of": str(all_preempted(place))}

    def look(self, command: str) -> list[Call]:
        place, order = self.before(command)
        calls = self.programs.calls("on_slurm", order, place / "runs")
        assert wrong_in(place, command) == []
        return calls

    def survives(self, command: str, fault: Fault) -> str:
        """Return what is wrong after a fault, once the same has been asked for again."""
        place, order = self.before(command)
        self.programs("on_slurm", order, trace=str(self.programs.trace), injected=fault.injected)
        said = self.programs.printed.read_text()
        if (code := self.programs("on_slurm", order)) != 0:
            return f"the same command ends with {code}: {self.programs.printed.read_text()[-3000:]}"
        wrong = wrong_in(place, command)
        if not wrong:
            shutil.rmtree(place)
        return f"{'; '.join(wrong)} (it said: {said[-800:]})" if wrong else ""


def all_preempted(place: Path) -> Path:
    """End the jobs of all cells as a site does that wants its nodes; return the launch."""
    launch = GridFolder(place / "runs" / "small").launches()[-1]
    campaign = json.loads(launch.campaign_file.read_text())["name"]
    for number, cell in enumerate(json.loads(launch.submission_files()[0].read_text())["cells"]):
        owner = {"commit": "abc", "campaign": campaign, "slurm": {"job": f"1_{number}"}, "host": "n1"}
        attempt = RunFolder(launch.grid.cell(cell).path).claim(owner | {"pid": 1, "process_started": 1})
        attempt.event("stopped", kind="preempted", step=1)
    (place / "fake" / "ended").write_text(" ".join(f"1_{number}" for number in range(NUM_CELLS)))
    return launch.path


def wrong_in(place: Path, command: str) -> list[str]:
    """Return the cells that have not exactly one job, and jobs that nobody knows."""
    grid_dir, wanted = place / "runs" / "small", 1 if command == "launch" else 2
    scripts = [flags(script) for script in FakeSlurm(place / "fake").scripts]
    jobs = Counter(cell for _, one in submissions.read(grid_dir) for cell in one.jobs())
    wrong = [f"{cell.path.name} has {jobs[cell.path.name]} jobs" for cell in folders(grid_dir).values()
             if jobs[cell.path.name] != wanted]  # fmt: skip
    sizes = [int(one.get("array", "0-0").partition("%")[0].partition("-")[2]) + 1 for one in scripts]
    if sum(sizes) != wanted * NUM_CELLS:
        wrong.append(f"sbatch was given {sum(sizes)} jobs")
    return wrong


@pytest.fixture(scope="module")
def slurms(in_memory: Path) -> Iterator[Slurms]:
    with Programs(in_memory) as programs:
        yield Slurms(programs, in_memory / "slurms")


@pytest.mark.parametrize("command", ["launch", "step"])
def test_cells_have_one_job_each_after_a_fault_at_any_call(
    command: str, slurms: Slurms, tell_points: Callable[[str, int, list[str]], None], is_all: bool
) -> None:
    calls = slurms.look(command)
    every = 1 if is_all else max(1, len(calls) // NUM_SAMPLED)
    found = [
        *faults(calls, ["kill"], every=every, first=every // 3),
        *faults(calls, ERRORS, every=every, first=every // 2),
    ]
    wrong = lost(found, lambda fault: slurms.survives(command, fault))
    tell_points(f"{command} on Slurm, kill, {', '.join(ERRORS)}", len(found), wrong)
    assert wrong == []

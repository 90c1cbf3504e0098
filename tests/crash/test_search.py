"""A search that is cut short at a call that changes the disk: given again, it ends as an undisturbed one.

Its launcher and the driver of Tune are watched and cut short. The Ray that trains its points is somebody else's, so
that no call of Ray itself is among them.
"""

import itertools
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from crash_points import ERRORS, HAS_STRACE, SET, Fault, Programs, faults, lost
from ports import free_port
from system_calls import Call
from undisturbed import at_work, content, wait_until

from orchestration.grids import index
from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import RunFolder, folders

pytestmark = [
    pytest.mark.crash,
    pytest.mark.timeout(7200),
    pytest.mark.xdist_group("crash_search"),
    pytest.mark.skipif(not HAS_STRACE, reason="needs strace (apt-get install strace)"),
]
SEARCH = f"""{SET}
  method: rankmatch
  method.num_agents: 4
search:
  spaces: {{method.top_k: [2, 3, 4]}}
  num_samples: 2
  held_out: 0.5
"""
NUM_SAMPLED = 4
DRAWN = ("samples.png", "pictures", "files")
"""What an error may cost a run, with a warning."""


class Searches:
    """Carries out equal searches on one Ray, one for each fault."""

    def __init__(self, programs: Programs, folder: Path, address: str) -> None:
        self.programs, self.folder, self.address, self.numbers = programs, folder, address, itertools.count()
        folder.mkdir()
        self.store = folder / "mlflow.db"
        assert programs("store", {"path": str(self.store)}) == 0, programs.printed.read_text()

    def make(self) -> tuple[Path, dict[str, Any]]:
        """Make a place for a search; return its runs folder, and the order for its command."""
        place = self.folder / str(next(self.numbers))
        (runs := place / "runs").mkdir(parents=True)
        (place / "found.yaml").write_text(SEARCH)
        shutil.copy(self.store, runs / "mlflow.db")
        words = ["tune", str(place / "found.yaml"), "--cluster", "ray", "--address", self.address]
        return runs, {"words": [*words, "--max-concurrent", "1", "--runs", str(runs)]}

    def look(self) -> tuple[list[Call], dict[str, Any]]:
        """Return the calls of an undisturbed search, and what it leaves."""
        runs, order = self.make()
        calls = self.programs.calls("command", order, runs)
        return calls, left(runs)

    def survives(self, fault: Fault, whole: dict[str, Any]) -> str:
        """Return what differs after a fault, once the same command has been given again."""
        runs, order = self.make()
        self.programs("command", order, trace=str(self.programs.trace), injected=fault.injected)
        said = self.programs.printed.read_text()
        wait_until(lambda: not at_work(runs))
        if (code := self.programs("command", order)) != 0:
            return f"the same command ends with {code}: {self.programs.printed.read_text()[-3000:]}"
        found = left(runs)
        if fault.kind != "kill":
            for points in (found["points"], whole["points"]):
                for point in points.values():
                    for name in DRAWN:
                        point.pop(name, None)
        wrong = [f"{name} differs: {found[name]!r:.1500}" for name in whole if whole[name] != found[name]]
        if not wrong:
            shutil.rmtree(runs.parent)
        return f"{'; '.join(wrong)} (it said: {said[-800:]})" if wrong else ""


def left(runs: Path) -> dict[str, Any]:
    """Return what a search leaves, less clocks: its points in the order of their draws, and its report."""
    grid = GridFolder(runs / "found")
    return {
        "order": [cell.signature for cell in index.read(grid.path)],
        "points": {name: content(RunFolder(cell.path)) for name, cell in folders(grid.path).items()},
        "report": grid.report_file.read_text(),
        "half folders": sorted(path.name for path in runs.rglob(".*") if path.is_dir() and path.name != ".results"),
    }


@pytest.fixture(scope="module")
def searches(in_memory: Path) -> Iterator[Searches]:
    address, ray_folder = f"127.0.0.1:{free_port()}", in_memory / "ray"
    head = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--node-ip-address=127.0.0.1",
            f"--port={address.partition(':')[2]}", "--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats",
            f"--temp-dir={ray_folder}", "--object-store-memory=100000000", "--block"]  # fmt: skip
    with Programs(in_memory) as programs, (in_memory / "ray.out").open("w") as out:
        started = subprocess.Popen(head, stdout=out, stderr=out)
        try:
            wait_until(lambda: answers(address))
            yield Searches(programs, in_memory / "searches", address)
        finally:
            started.terminate()
            started.wait()


def answers(address: str) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", int(address.partition(":")[2])), 1):
        return True
    return False


def test_search_survives_its_end_and_errors_at_its_calls(
    searches: Searches, tell_points: Callable[[str, int, list[str]], None], is_all: bool
) -> None:
    calls, whole = searches.look()
    every = 1 if is_all else max(1, len(calls) // NUM_SAMPLED)
    found = [
        *faults(calls, ["kill"], every=every, first=every // 3),
        *faults(calls, ERRORS, every=every, first=every // 2),
    ]
    wrong = lost(found, lambda fault: searches.survives(fault, whole))
    tell_points(f"tune, kill, {', '.join(ERRORS)}", len(found), wrong)
    assert wrong == []

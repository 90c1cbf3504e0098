"""Minutes of starts, stops and requeues: nothing is left of them but what they were to write."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from load.many_cells import SITE, Place, is_whole
from load.memory import memory_mb, num_handles
from load.test_readers import dashboard
from slurm.real_cluster import Cluster, wait_until

from orchestration.runs.run_folder import folders

pytestmark = [pytest.mark.load, pytest.mark.long, pytest.mark.timeout(7200), pytest.mark.xdist_group("load")]
NUM_CELLS, GROWTH_MB, GROWTH_HANDLES = 8, 20, 5
"""Cells of each grid; how much the dashboard may grow while the second half passes, in memory and in handles."""
OF_TORCH = "torchinductor_*"
"""A folder of torch's own for each user, which all of a user's processes share."""
KEPT = (".results", ".trash")
"""What a runs folder has by intent whose name begins with a point."""
LASTS_S = 60.0
"""A launch here is stopped within this time, so now and then before it trains."""
Tell = Callable[[str, object], None]


class Own:
    """A /tmp and a /dev/shm that only the launches of a test have, so that all that is left there is theirs."""

    def __init__(self, folder: Path) -> None:
        self.tmp, self.shm, self.kept = folder / "tmp", folder / "shm", Path(*folder.parts[:3])
        for path in (self.tmp, self.shm, self.tmp / self.kept.name):
            path.mkdir(parents=True)

    def words(self, command: Sequence[str]) -> list[str]:
        rights = [] if os.getuid() == 0 else ["--map-root-user"]
        folder = self.tmp / self.kept.name
        binds = (
            f"mount --bind {self.shm} /dev/shm && mount --bind {self.kept} {folder} && mount --rbind {self.tmp} /tmp"
        )
        shell = f'{binds} && cd "$PWD" && exec "$@"'
        return ["unshare", "--mount", *rights, "sh", "-c", shell, "sh", *command]

    def left(self) -> list[str]:
        found = [path for folder in (self.tmp, self.shm) for path in folder.iterdir()]
        return sorted(path.name for path in found if path.name != self.kept.name and not path.match(OF_TORCH))


class Here:
    """Launches on this machine, each stopped at some moment and begun again."""

    def __init__(self, folder: Path, cluster: str, own: Own) -> None:
        self.place, self.cluster, self.own = Place(folder, NUM_CELLS, LOAD_STEP_S="0.2"), cluster, own
        self.log, self.due = folder / "launches.txt", 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        words = ["launch", "--grid", "many.yaml", "--cluster", self.cluster]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.own.words(self.place.command(*words)), cwd=self.place.folder, env=self.place.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def stop(self, draws: random.Random) -> str:
        """Begin a launch where none is; else end it in one of the ways in which people do."""
        if not self._is_at_work():
            self.begin()
            self.due = time.monotonic() + draws.uniform(0, LASTS_S)
            return f"launch {self.cluster}"
        if time.monotonic() < self.due:
            return f"{self.cluster} works"
        assert self.process is not None
        number = draws.choice([signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
        self.process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(120)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        return f"{number.name} {self.cluster}"

    def _is_at_work(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def end(self) -> None:
        """Let all cells come to their end."""
        self.due = 0.0
        if self._is_at_work():
            self.stop(random.Random(0))
        self.begin()
        assert self.process is not None and self.process.wait(1800) == 0, self.log.read_text()[-3000:]


class Arrays:
    """Jobs of a real Slurm, requeued, cancelled and killed."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.place = Place(folder, NUM_CELLS, cluster.environment, LOAD_STEP_S="2")
        self.cluster = cluster

    def begin(self) -> None:
        done = self.place.give("launch", "--grid", "many.yaml", "--cluster", "slurm", "--allow-dirty", *SITE,
                               self.place.python)  # fmt: skip
        assert done.code == 0, done.said

    def stop(self, draws: random.Random) -> str:
        acts: dict[str, Callable[[str], object]] = {
            "requeue": lambda job: self.slurm("scontrol", "requeue", job),
            "scancel": lambda job: self.slurm("scancel", job),
            "SIGTERM to a job": lambda job: self.slurm("scancel", "--full", "--signal=TERM", job),
            "SIGKILL of a training": lambda job: self._kill(draws),
            "cancel of a cell": lambda job: self._give("cancel", draws),
            "retry": lambda job: self.place.give("retry", "--grid", "many"),
        }
        name, running = draws.choice([*acts]), self._running()
        if not running:
            return self._again(draws)
        acts[name](draws.choice(running))
        return name

    def _again(self, draws: random.Random) -> str:
        """Have half of the cells trained again once all have ended."""
        if self.slurm("squeue", "--noheader"):
            return "jobs wait"
        cells = [cell.path.name for cell in folders(self.place.grid_dir).values()]
        self.place.give("drop", *draws.sample(cells, len(cells) // 2), "--grid", "many")
        self.place.give("retry", "--grid", "many")
        return "drop and retry"

    def _is_done(self) -> bool:
        return all(cell.has_result() for cell in folders(self.place.grid_dir).values())

    def slurm(self, *words: str) -> str:
        """Give a command that may come too late for its job."""
        with suppress(subprocess.CalledProcessError):
            return self.cluster.slurm(*words)
        return ""

    def _running(self) -> list[str]:
        lines = self.slurm("squeue", "--noheader", "--array", "--states=running", "--format=%i %j").splitlines()
        return [line.split()[0] for line in lines if "controller" not in line]

    def _kill(self, draws: random.Random) -> None:
        trains = "orchestration.on_ray.job"
        found = [one for one in of_place(self.place.folder) if any(trains in word for word in one.cmdline())]
        if found:
            draws.choice(found).kill()

    def _give(self, word: str, draws: random.Random) -> None:
        open_cells = [cell for cell in folders(self.place.grid_dir).values() if not cell.has_result()]
        if open_cells:
            self.place.give(word, "--grid", "many", draws.choice(open_cells).path.name)

    def end(self) -> None:
        """Cancel what is left, then let all cells come to their end."""
        if not self._is_done():
            self.place.give("cancel", "--grid", "many")
            wait_until(lambda: not self.cluster.slurm("squeue", "--noheader"), 600)
            done = self.place.give("retry", "--grid", "many")
            assert self._is_done() or done.code == 0, done.said
        wait_until(self._is_done, 1800, 1.0)
        wait_until(lambda: not self.cluster.slurm("squeue", "--noheader"), 600)


def of_place(folder: Path) -> Iterator[psutil.Process]:
    """Find the processes that were begun for a place, however far from here."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("LOAD_PROGRAMS", "").startswith(str(folder)):
                yield process


def sweep_nodes(cluster: Cluster) -> None:
    """Do what the next job on a node does first: a job that was killed could not remove its folder there."""
    for node in {path.parent.name for path in cluster.leftovers()}:
        words = ["-c", "from orchestration.machine import scratch; scratch.sweep()"]
        cluster.slurm("srun", f"--nodelist={node}", sys.executable, *words)


@pytest.fixture
def cleared(tmp_path: Path) -> Iterator[None]:
    """End what a test that failed leaves at work."""
    yield
    for process in of_place(tmp_path):
        process.kill()


@pytest.mark.usefixtures("cleared")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)")
def test_starts_stops_and_requeues_leave_nothing(cluster: Cluster, tmp_path: Path, soak_s: float, tell: Tell) -> None:
    own = Own(tmp_path / "own")
    (tmp_path / "slurm").mkdir()
    at_work = [Arrays(tmp_path / "slurm", cluster), *(Here(tmp_path / name, name, own) for name in ("inline", "local"))]
    draws, counts = random.Random(0), Counter[str]()
    at_work[0].begin()
    with dashboard(at_work[0].place) as (served, pid):
        sizes = []
        until = time.monotonic() + soak_s
        while time.monotonic() < until:
            for one in at_work:
                counts[one.stop(draws)] += 1
                assert served.ask("/g/many/").status == 200
            sizes.append((memory_mb(pid), num_handles(pid)))
            time.sleep(draws.uniform(0.5, 6))
        for one in at_work:
            one.end()
        served.ask("/g/many/")
        sizes.append((memory_mb(pid), num_handles(pid)))
    tell("starts and stops", dict(counts))
    tell("the dashboard's MB and handles, first, half way, last", [sizes[place] for place in (0, len(sizes) // 2, -1)])
    wait_until(lambda: not [*of_place(tmp_path)], 60)
    assert own.left() == []
    sweep_nodes(cluster)
    assert cluster.leftovers() == []
    assert sorted(path.name for path in tmp_path.glob("*/runs/**/.*") if path.is_dir() and path.name not in KEPT) == []
    for one in at_work:
        is_whole(one.place, num_attempts=None)
    assert sizes[-1][0] - sizes[len(sizes) // 2][0] < GROWTH_MB
    assert sizes[-1][1] - sizes[len(sizes) // 2][1] <= GROWTH_HANDLES

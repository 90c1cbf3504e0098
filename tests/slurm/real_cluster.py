"""A real Slurm of four nodes on this machine, and a grid of one cell that takes some seconds on it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import yaml
from ports import free_block

from orchestration.machine import scratch
from orchestration.runs.run_folder import RunFolder, folders, process_start

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).parent / "cluster"
STEPS_PER_EPOCH = 2


class Cluster:
    """Starts and stops a cluster, and makes its nodes fail."""

    def __init__(self, folder: Path, base_port: int, accounting: str, **settings: str):
        self.folder = folder
        self.settings = {"ST_DIR": str(folder), "ST_BASE_PORT": str(base_port), "ST_ACCT": accounting,
                         "ST_GRACE": "30", "ST_KILL_WAIT": "60", **settings}  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}

    def script(self, name: str, *words: str) -> None:
        subprocess.run(
            ["bash", SCRIPTS / name, *words], env={**self.environment, **self.settings}, check=True, timeout=300
        )

    def leftovers(self) -> list[Path]:
        """Return what jobs left in /tmp: each node has its own, unless they share that of this machine."""
        left = list(self.folder.glob(f"tmp/*/{scratch.PREFIX}*"))
        if self.settings.get("ST_NODE_NS") == "0":
            for path in Path("/tmp").glob(f"{scratch.PREFIX}*/owner.json"):
                with suppress(FileNotFoundError):
                    left += [path.parent] if "slurm" in json.loads(path.read_text()) else []
        return left

    def slurm(self, *words: str) -> str:
        return subprocess.run(
            words, env=self.environment, check=True, timeout=60, capture_output=True, text=True
        ).stdout

    def cut_power(self, node: str) -> None:
        self.give_up(node)
        self.script("node.sh", "start", node)

    def give_up(self, node: str) -> None:
        """Kill slurmd, with all that runs there only where nodes have namespaces of their own, and have Slurm know."""
        self.script("node.sh", "crash", node)
        self.slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    @contextmanager
    def forgotten(self) -> Iterator[None]:
        """Kill slurmctld after a block and start it with its state from before: it forgets what was submitted in it."""
        state, kept = self.folder / "state", self.folder / "state-before"
        shutil.copytree(state, kept)
        yield
        pid = int((self.folder / "run" / "slurmctld.p").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: process_start(pid) is None)
        shutil.rmtree(state)
        kept.rename(state)
        self.script("up.sh")


def start(folder: Path, accounting: str, **settings: str) -> Iterator[Cluster]:
    if not shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin"):
        pytest.skip("Slurm is not installed: apt-get install slurm-wlm munge")
    cluster = Cluster(folder, free_block(17, 19, 101, 102, 103, 104), accounting, **settings)
    try:
        cluster.script("up.sh")
        yield cluster
    finally:
        cluster.script("down.sh", "--wipe")


class Grid:
    """One cell of some seconds, launched as a user would."""

    def __init__(self, cluster: Cluster | None, folder: Path, **settings: object):
        self.cluster, self.folder = cluster, folder
        fixed = yaml.safe_load((ROOT / "tests/orchestration/small.yaml").read_text())["set"]
        fixed |= {"trainer.epochs": 120, "trainer.device": "cpu"} | settings
        axes = {"method": ["supervised"], "split": ["4"], "seed": [0]}
        table = {"rows": ["method"], "columns": ["split"], "over": ["seed"]}
        folder.mkdir(exist_ok=True)
        (folder / "long.yaml").write_text(json.dumps({"set": fixed, "axes": axes, "table": table}))

    @property
    def grid_dir(self) -> Path:
        return self.folder / "runs" / "long"

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = self.cluster.environment if self.cluster else None
        return subprocess.run([sys.executable, *words], env=environment, cwd=self.folder, capture_output=True,
                              text=True, timeout=240, check=False)  # fmt: skip

    def launch(self, *words: str) -> subprocess.CompletedProcess[str]:
        usual = ("cluster.cpus_per_worker=1", "cluster.mem_gb_per_worker=2", "cluster.controller=false")
        given = {word.partition("=")[0] for word in words}
        return self.command(str(ROOT / "orchestration/launch_grid.py"), "--grid", "long.yaml", "--cluster", "slurm",
                            "--allow-dirty", *(word for word in usual if word.partition("=")[0] not in given),
                            *words)  # fmt: skip

    def rankmatch(self, word: str, *words: str) -> subprocess.CompletedProcess[str]:
        program = "from orchestration.commands.main import main; main()"
        return self.command("-c", program, word, "--grid", "long", *words)

    @property
    def cell(self) -> RunFolder:
        (folder,) = folders(self.grid_dir).values()
        return folder

    @property
    def cells(self) -> list[RunFolder]:
        """Those of several seeds, by seed."""
        return sorted(folders(self.grid_dir).values(), key=lambda cell: cell.path.name.rpartition("-")[2])

    def job(self) -> str:
        (path,) = self.grid_dir.glob("launches/*/submissions/*.json")
        return json.loads(path.read_text())["job_id"]

    def begun(self, attempt: int = 1) -> None:
        """Wait until an attempt has trained three epochs; looks often, as a quick machine trains thirty a second."""
        wait_until(lambda: folders(self.grid_dir) and len(self.cell.attempts()) >= attempt)
        wait_until(lambda: len(self.cell.attempts()[attempt - 1].epochs()) >= 3, poll_s=0.02)

    def training(self, cell: RunFolder | None = None) -> int:
        """Return the process that trains a cell, as this machine numbers it; without one, the only cell."""
        folder = str((cell or self.cell).path)
        orders = {
            str(path) for path in self.grid_dir.glob("launches/*/jobs/*/order.json") if folder in path.read_text()
        }
        (found,) = (
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if (words := process.info["cmdline"] or [""])[0] == sys.executable and orders & set(words)
        )
        return found

    @contextmanager
    def frozen(self, cell: RunFolder | None = None) -> Iterator[None]:
        """Stop what trains, so that it does not end while something slow is done to it, and let it go on."""
        training = [psutil.Process(self.training(cell)), *self._workers()]
        for process in training:
            process.suspend()
        try:
            yield
        finally:
            for process in training:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def _workers(self) -> list[psutil.Process]:
        """Return what trains beside that process, where there are several workers."""
        with_names = psutil.process_iter(["cmdline", "environ"])
        workers = [one for one in with_names if (one.info["cmdline"] or [""])[0].startswith("ray::RayTrainWorker")]
        return [one for one in workers if str(self.folder) in str(one.info["environ"])]

    def loses_its_node(self) -> str:
        """Cut the power of the node that trains; return its name."""
        with self.frozen():
            node = self.cluster.slurm("squeue", "--noheader", "--states=running", "--format=%N").strip()
            self.cluster.cut_power(node)
        return node

    def stopped(self, tell: Callable[[], object]) -> None:
        """Have Slurm tell the job to stop, which does so when it goes on."""
        with self.frozen():
            self.told(tell)

    def told(self, tell: Callable[[], object]) -> None:
        """Have Slurm tell the job to stop, and wait until it heard."""
        before = len(self._stop_files())
        tell()
        wait_until(lambda: len(self._stop_files()) > before)

    def told_to_stop(self) -> bool:
        return bool(self._stop_files())

    def _stop_files(self) -> list[Path]:
        return list(self.grid_dir.glob("launches/*/jobs/*/stop"))

    def ended(self) -> None:
        wait_until(lambda: self.cell.result() is not None and not self.cluster.slurm("squeue", "--noheader"))


def wait_until(condition: Callable[[], object], timeout_s: float = 240, poll_s: float = 0.2) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(poll_s)


def numbers(rows: list[dict]) -> list[dict]:
    """Leave out what a clock told."""
    clocks = ("time", "duration_s", "evaluation_s")
    return [{name: value for name, value in row.items() if name not in clocks} for row in rows]

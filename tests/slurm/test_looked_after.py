"""Faults of the cells of one grid on a real Slurm: it ends in its table, and who could not be helped is told of."""

import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest
from slurm.real_cluster import Grid, wait_until

from orchestration.machine.processes import process_start
from orchestration.runs.attempt import Attempt
from orchestration.runs.run_folder import RunFolder

pytestmark = pytest.mark.slurm
FAULTS = '''
import os
import sys

WRITES = os.O_WRONLY | os.O_RDWR
NonFiniteLossError = type("NonFiniteLossError", (ArithmeticError,), {})


def fault_of(path):
    """Return what goes wrong where the row of an epoch is written, by the seed of the cell."""
    first = "/attempts/1/" in path
    if "-s0/" in path and int(os.environ["SLURM_MEM_PER_NODE"]) < 3000:
        return MemoryError("can't allocate memory")
    if "-s1/" in path and first:
        return RuntimeError("CUDA error: uncorrectable ECC error encountered")
    if "-s4/" in path:
        return NonFiniteLossError("the loss is nan at step 1 of 240")
    if "-s5/" in path:
        return TypeError("unsupported operand")


def look(event, words):
    if event == "open" and str(words[0]).endswith("/epochs.jsonl") and isinstance(words[2], int) and words[2] & WRITES:
        if error := fault_of(str(words[0])):
            raise error


if "SLURM_JOB_ID" in os.environ:
    sys.addaudithook(look)
'''
"""What the Python of the jobs has on its way: counted memory, a GPU and code that break, a loss that is no number."""


def killed(grid: Grid, cell: RunFolder, harm) -> Attempt:
    """Kill a training once it is in its third epoch, and harm its files before anybody sees it; return the attempt."""
    wait_until(lambda: len(cell.epochs()) >= 3)
    with grid.frozen(cell):
        attempt, training = cell.attempts()[-1], grid.training(cell)
        harm(attempt)
        os.kill(training, signal.SIGKILL)
    wait_until(lambda: process_start(training) is None)
    return attempt


def damage_checkpoint(attempt) -> None:
    newest = max(attempt.checkpoints(), key=lambda path: path.stat().st_mtime)
    (newest / "state.pt").write_bytes(b"torn")


def damage_owner(attempt) -> None:
    attempt.owner_file.write_text("{")


def kill_job(grid: Grid, cell: RunFolder) -> None:
    """Kill the process of a job that has its cell trained and would record how that ended."""
    wait_until(lambda: len(cell.epochs()) >= 3)
    with grid.frozen(cell):
        psutil.Process(grid.training(cell)).parent().kill()


@pytest.fixture
def refuses(tmp_path, monkeypatch) -> Path:
    """Have sbatch refuse jobs of cells as long as a file is there; return the file."""
    sbatch, flag = tmp_path / "bin" / "sbatch", tmp_path / "refuses"
    sbatch.parent.mkdir()
    refused = f'[ -e {flag} ] && echo "sbatch: error: Invalid account" >&2 && exit 1'
    fails = f'case "$*" in */controllers/*) ;; *) {refused} ;; esac'
    sbatch.write_text(f'#!/bin/sh\n{fails}\nexec {shutil.which("sbatch")} "$@"\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    return flag


@pytest.mark.long
def test_cells_of_eight_faults_end_in_the_table_or_in_a_notice_of_what_to_do(cluster, tmp_path, refuses):
    hook, python, told = tmp_path / "hook", tmp_path / "python", tmp_path / "told"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(FAULTS)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{hook}" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    grid = Grid(cluster, tmp_path / "g")
    notify = f"cluster.notify_command=[sh,-c,'echo $0 >> {told}']"
    launched = grid.launch("seed=[0,1,2,3,4,5,6]", f"cluster.python={python}", notify, "cluster.controller=true",
                           "cluster.controller_every_min=1")  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    refuses.touch()
    wait_until(lambda: len(grid.cells) == 7)
    memory, gpu, checkpoint, owner, nan, code, job = grid.cells
    killed(grid, checkpoint, damage_checkpoint)
    for path in killed(grid, owner, damage_owner).path.iterdir():
        os.utime(path, (0, 0))  # nobody waits the ten minutes in which such an attempt may still be alive
    kill_job(grid, job)
    logs = partial(grid.grid_dir.glob, "launches/*/controllers/*.log")
    wait_until(lambda: any("tried again: sbatch refused" in path.read_text() for path in logs()))
    refuses.unlink()
    wait_until(lambda: (grid.grid_dir / "report.md").exists() and not cluster.slurm("squeue", "--noheader"))
    table = (memory, gpu, checkpoint, owner, job)
    assert [cell.path.name for cell in grid.cells if cell.has_result()] == [cell.path.name for cell in table]
    assert [cell.result()["attempt"] for cell in (memory, gpu, checkpoint, job)] == [2] * 4
    assert owner.result()["attempt"] > 1  # one that is older than its launch is taken for another's
    kinds = [cell.attempts()[0].end().kind for cell in (memory, gpu, checkpoint, nan, code, job)]
    assert kinds == ["out of host memory", "GPU fault", "lost", "loss is not finite", "code error", "lost"]
    asked = [attempt.owner()["asked"]["mem_gb_per_worker"] for attempt in memory.attempts()]
    assert asked == [2.0, 3.0]
    first, second = (attempt.owner()["slurm"]["node"] for attempt in gpu.attempts())
    assert first != second
    said = told.read_text()
    assert f"{nan.path.name} is not tried again: loss is not finite; a smaller trainer.learning_rate" in said
    assert f"{code.path.name} is not tried again: code error; `rankmatch logs` has the traceback" in said
    assert said.splitlines()[-1] == "long: 5 of 7 cells are done, 2 are given up"
    assert "asks for 3 GB for each worker, after it ran out of host memory" in grid.rankmatch("status").stdout
    assert cluster.leftovers() == []

"""Cells that a launch of another grid has: they are left to it, never begun twice, and looked at again."""

import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from launcher import SMALL, Launcher
from rich.console import Console
from typed_words import Options
from typed_words import launch as launch_on_slurm
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.launching import control
from orchestration.launching import launch as launching
from orchestration.launching.step import take_step
from orchestration.machine import snapshot
from orchestration.machine.processes import process_start
from orchestration.on_slurm.campaign_file import open_campaigns
from orchestration.running.run_cell import launcher, run_cell
from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import RunFolder, folders

ROOT = Path(__file__).resolve().parents[3]
CPU = ("trainer.device=cpu",)


def say(*words: object, runs: Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, words), "--runs", str(runs)])
    assert done.exit_code == code, (words, done.exception, done.output)
    return " ".join(done.output.split())


def other_grid(launcher: Launcher, name: str) -> Launcher:
    made = Launcher(launcher.file.parent)
    made.file = Path(shutil.copy(SMALL, launcher.file.with_name(f"{name}.yaml")))
    return made


def cell_of(grid_dir: Path, slug: str) -> RunFolder:
    (found,) = [one for one in folders(grid_dir).values() if one.slug == slug]
    return found


@pytest.fixture
def somebody() -> Iterator[subprocess.Popen[bytes]]:
    """A process that seems to train."""
    process = subprocess.Popen(["sleep", "3600"])
    yield process
    process.kill()
    process.wait()


def begun_by(pid: int, grid: str = "small") -> dict[str, Any]:
    return {**launcher(), "pid": pid, "process_started": process_start(pid), "grid": grid, "launch": "other"}


def test_cell_that_another_grid_trains_is_left_to_it_and_taken_once_that_has_died(again: Launcher, somebody) -> None:
    cell = cell_of(again.runs / "small", "rankmatch-4-s1")
    shutil.rmtree(cell.attempts_dir)
    cell.result_file.unlink()
    cell.claim(begun_by(somebody.pid)).event("started", step=0)
    other = other_grid(again, "second")
    planned = say("plan", "--grid", other.file, "--cluster", "inline", runs=again.runs)
    assert "running, for grid small: attempt 1 at step 0" in planned and "1 running, 3 keep" in planned.replace(
        "3 keep, 1 running", "1 running, 3 keep"
    )
    assert other() == 1
    said = " ".join(other.printed.split())
    assert "1 cell is left to grid small, which trains it: rankmatch-4-s1" in said and len(cell.attempts()) == 1
    status = say("status", "--grid", "second", runs=again.runs)
    assert "1 running" in status and "for grid small" in status
    assert "1 cell is trained for another grid, and no launch is at work on second" in status
    assert "nothing of second is at work" in say("cancel", "--grid", "second", runs=again.runs)
    assert somebody.poll() is None
    somebody.kill()
    somebody.wait()
    assert "4 of 4 cells are done" in say("resume", "--grid", "second", runs=again.runs)
    assert [attempt.owner()["grid"] for attempt in cell.attempts()] == ["small", "second"]
    assert cell.result()["provenance"]["grid"] == "second"


def test_cell_whose_launch_of_another_grid_dies_meanwhile_is_named_at_the_end_of_this_one(
    again: Launcher, somebody, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_of(again.runs / "small", "rankmatch-4-s1")
    shutil.rmtree(cell.attempts_dir)
    cell.result_file.unlink()
    cell.claim(begun_by(somebody.pid)).event("started", step=0)
    finish = launching.finish

    def finish_later(*words: Any) -> list[Path]:
        somebody.kill()
        somebody.wait()
        return finish(*words)

    monkeypatch.setattr(launching, "finish", finish_later)
    other = other_grid(again, "second")
    assert other() == 1 and "running, for grid small" in other.printed
    words = "1 cell is open and no launch trains it: rankmatch-4-s1; `(rankmatch resume --grid second --runs .+?)` does"
    (command,) = re.findall(words, " ".join(other.printed.split()))
    assert "is left to grid" not in other.printed
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0 and "4 of 4 cells are done" in done.output and "is open" not in done.output


def test_of_two_grids_that_begin_a_cell_at_the_same_moment_one_has_it(make_cell) -> None:
    cell_dir, meet, trained = make_cell(), threading.Barrier(2), []
    go_on = threading.Event()

    def train(*_: object) -> object:
        trained.append(1)
        go_on.wait(60)
        raise RuntimeError("enough")

    ended: dict[str, JobState] = {}

    def begin(grid: str) -> None:
        meet.wait()
        ended[grid] = run_cell(cell_dir, train=train, owner={**launcher(), "grid": grid})
        go_on.set()

    threads = [threading.Thread(target=begin, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended.values()) == [JobState.FAILED, JobState.SUPERSEDED] and trained == [1]
    assert len(RunFolder(cell_dir).attempts()) == 1


@pytest.mark.long
def test_launches_of_two_grids_with_the_same_cells_share_the_work(fresh: Launcher) -> None:
    files = [fresh.file, other_grid(fresh, "second").file]
    command = [sys.executable, str(ROOT / "orchestration" / "launch_grid.py"), "--cluster", "inline"]
    both = [
        subprocess.Popen([*command, "--runs", str(fresh.runs), "--grid", str(file)], stdout=subprocess.PIPE, text=True)
        for file in files
    ]
    printed = [process.communicate()[0] for process in both]
    assert {process.returncode for process in both} <= {0, 1} and 0 in {process.returncode for process in both}, printed
    for name in ("small", "second"):
        assert "4 of 4 cells are done" in say("resume", "--grid", name, runs=fresh.runs)
        assert [len(cell.attempts()) for cell in folders(fresh.runs / name).values()] == [1] * 4


@pytest.fixture
def on_slurm(tmp_path: Path, slurm, monkeypatch) -> Mapping[str, Options]:
    """What is typed for two grids of the same cells."""
    monkeypatch.setattr(snapshot, "take", lambda grid_dir, **_: snapshot.Snapshot(grid_dir / "code", "abc", ""))
    runs, typed = tmp_path / "runs", {}
    for name in ("first", "second"):
        file = shutil.copy(SMALL, tmp_path / f"{name}.yaml")
        typed[name] = Options(grid=str(file), overrides=CPU, runs=runs, cluster="slurm")
    return typed


def test_cells_that_another_grid_has_queued_are_looked_at_again_by_a_controller(on_slurm, slurm) -> None:
    console = Console(width=200, record=True)
    assert launch_on_slurm(on_slurm["first"], console) == 0
    slurm.queued = {f"1_{number}": ("PENDING", "") for number in range(4)}
    num_scripts = len(slurm.scripts)
    assert launch_on_slurm(on_slurm["second"], console) == 0
    said = " ".join(console.export_text().split())
    assert "running, for grid first: job 1_0 is pending" in said and len(slurm.scripts) == num_scripts
    assert "4 cells are left to grid first: jobs rankmatch-controller-" in said
    grid_dir = on_slurm["second"].runs / "second"
    ((launch_dir, campaign),) = open_campaigns(grid_dir).items()
    assert any(job["name"] == campaign.controllers_name for job in slurm.controllers.values())
    assert not take_step(launch_dir, console).is_over and len(slurm.scripts) == num_scripts
    slurm.queued = {}
    assert take_step(launch_dir, console).submitted.num_cells == 4


def test_cancelling_one_grid_leaves_the_jobs_of_another(on_slurm, slurm) -> None:
    console = Console(width=200, record=True)
    assert launch_on_slurm(on_slurm["first"], console) == 0
    slurm.queued = {f"1_{number}": ("PENDING", "") for number in range(4)}
    assert launch_on_slurm(on_slurm["second"], console) == 0
    control.cancel(on_slurm["second"].runs / "second", [], console)
    assert not {f"1_{number}" for number in range(4)} & {*slurm.cancelled}
    assert len(open_campaigns(on_slurm["first"].runs / "first")) == 1

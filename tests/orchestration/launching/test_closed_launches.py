"""What a colleague can read of a grid whose launches are closed to them: as another user where root runs the tests."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dashboards.live import grid_page
from dashboards.live.watch import Watch
from orchestration.commands.main import app
from orchestration.grids import launched
from orchestration.launching import steps
from orchestration.launching.launch_folder import make_folders
from orchestration.launching.options import Workers
from orchestration.launching.target import Target
from orchestration.launching.waiting import Launcher
from orchestration.machine import own_files
from orchestration.machine.processes import this_process
from orchestration.on_slurm import submissions
from orchestration.on_slurm.submissions import Submission
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.run_folder import folders

NOBODY = 65534


@dataclass
class Grid:
    """A grid with one cell that trains, and one that was submitted."""

    path: Path
    launch: LaunchFolder
    trains: str
    submitted: str

    def call(self, *words: str) -> Result:
        return CliRunner().invoke(app, [words[0], *words[1:], "--grid", "demo", "--runs", str(self.path.parent)])


@pytest.fixture
def grid(monkeypatch) -> Iterator[Grid]:
    monkeypatch.delenv(own_files.GROUP, raising=False)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        Path(place).chmod(0o755)  # pytest's own folders are closed
        loaded = launched.load("demo", ("seed=0", "split=4"), Path(place))
        path = Path(place) / loaded.name
        path.mkdir()
        target = Target.of(loaded, path, Workers("inline", 1, 1, 0.0))
        launch = LaunchFolder(make_folders(target, steps.plan_of(target)))
        trains, submitted = list(folders(path).values())[:2]
        attempt = trains.claim({"launch": launch.name})
        attempt.event("started", step=0, host="a")
        attempt.log_file.write_text("step 7\n")
        Submission("job", [submitted.path.name], job_id="4711").write(launch.path)
        yield Grid(path, launch, trains.signature, submitted.signature)


@contextmanager
def colleague(grid: Grid) -> Iterator[None]:
    """Be another user for a while; who cannot close the folders to themselves in the same way."""
    if os.getuid():
        grid.launch.path.chmod(0)
        grid.path.chmod(0o555)
    else:
        groups, group = os.getgroups(), os.getgid()
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, 0)
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if os.getuid() == NOBODY:
            os.setresuid(0, 0, 0)
            os.setresgid(group, group, group)
            os.setgroups(groups)
        grid.path.chmod(0o755)
        grid.launch.path.chmod(0o700)


def note(grid: Grid) -> str:
    owner = grid.launch.path.stat().st_uid
    return (
        f"the states are those of the run folders alone: {grid.launch.path} is closed to all but its owner, "
        f"user {owner}, who shares later ones by RANKMATCH_GROUP="
    )


def both(grid: Grid, look: Callable[[], Any]) -> tuple[Any, Any]:
    """Return what the owner sees, which also imports all that it takes, and what a colleague sees."""
    own = look()
    with colleague(grid):
        return own, look()


def test_status_shows_run_folders_and_names_the_closed_launch_and_its_owner(grid):
    own, theirs = both(grid, lambda: grid.call("status"))
    assert note(grid) not in own.output
    assert theirs.exit_code == 0
    assert theirs.output.count(note(grid)) == 1
    (row,) = [line for line in theirs.output.splitlines() if line.startswith(grid.trains)]
    assert "running" in row
    (row,) = [line for line in theirs.output.splitlines() if line.startswith(grid.submitted)]
    assert "unknown" in row  # a job may have it


def test_status_as_json_has_the_note_and_nothing_else_on_stdout(grid):
    _, theirs = both(grid, lambda: grid.call("status", "--json"))
    answer = json.loads(theirs.stdout)
    assert theirs.exit_code == 0
    assert [text.startswith(note(grid)) for text in answer["notes"]] == [True]
    states = {cell["signature"]: cell["state"] for cell in answer["cells"]}
    assert (states[grid.trains], states[grid.submitted]) == ("running", "unknown")


def test_logs_prints_the_log_of_an_attempt_and_says_where_it_cannot_look_for_a_job(grid):
    _, theirs = both(grid, lambda: grid.call("logs", grid.trains))
    assert theirs.exit_code == 0
    assert theirs.output.endswith("step 7\n")
    _, theirs = both(grid, lambda: grid.call("logs", grid.submitted))
    assert theirs.exit_code == 0
    assert "has no attempt, and whether it was submitted is not known" in theirs.output
    assert f"{grid.launch.path} is closed to all but its owner" in theirs.output


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_plan_works_where_slurm_is_and_says_that_it_knows_no_jobs(words, grid, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        Path(place).chmod(0o755)
        for name in ("sbatch", "squeue"):
            (Path(place) / name).write_text("#!/bin/sh\n")
            (Path(place) / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        own, theirs = both(grid, lambda: grid.call("plan", *words, "seed=0", "split=4"))
    assert own.exit_code == theirs.exit_code == 0
    assert note(grid) not in own.output and theirs.output.count(note(grid)) == 1
    assert not words or json.loads(theirs.stdout)["cells"]


def test_table_is_printed_and_the_report_is_left_as_it_was(grid):
    own, theirs = both(grid, lambda: grid.call("table"))
    before = (grid.path / "report.md").read_text()
    assert own.exit_code == theirs.exit_code == 0
    assert "supervised" in theirs.stdout
    assert "the report and its table are left as they were: " in theirs.stderr
    assert "Permission denied" in theirs.stderr
    assert (grid.path / "report.md").read_text() == before


def test_pages_show_run_folders_and_name_the_closed_launch(grid):
    Launcher(**this_process(), cells=[grid.submitted]).to_file(grid.launch.launcher_file)
    _, theirs = both(grid, lambda: Watch(grid.path).look())
    assert [text.startswith(note(grid)) for text in theirs.notes] == [True]
    states = {seen.status.cell.signature: seen.standing for seen in theirs.cells}
    assert (states[grid.trains], states[grid.submitted]) == ("running", "unknown")
    _, (glance,) = both(grid, lambda: grid_page.listed(grid.path.parent))
    assert glance["said"] == ""
    assert glance["num"] == len(theirs.cells)


def test_submissions_in_a_closed_launch_are_an_error_for_who_would_submit(grid):
    with colleague(grid), pytest.raises(PermissionError):
        submissions.read(grid.path)


def test_closed_launch_of_a_group_is_named_with_the_group(grid):
    grid.launch.path.chmod(0o2770)
    assert ", user " in own_files.said_of_closed(grid.launch.path)
    assert " and group " in own_files.said_of_closed(grid.launch.path)

"""What a launch prints into a file, what `logs` prints of a cell, and what `status` says of one that waits."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from launcher import Launcher
from rich.console import Console
from typer.testing import CliRunner

from orchestration import grid, waiting
from orchestration.attempt import LOG
from orchestration.cli import app
from orchestration.launch_plan import Options, make_plan
from orchestration.progress import Progress, Snapshot
from orchestration.run_folder import FolderState, RunFolder, folders
from orchestration.schedulers import JobState, StateLog


def run(*words: str) -> str:
    return CliRunner().invoke(app, list(words), catch_exceptions=False).output


@pytest.fixture
def copied(launched: Launcher, tmp_path: Path) -> Path:
    shutil.copytree(launched.runs, tmp_path / "runs")
    return tmp_path / "runs"


def cell(runs: Path, name: str) -> RunFolder:
    return next(folder for folder in folders(runs / "small").values() if folder.path.name.endswith(name))


def test_launch_into_a_file_says_from_the_start_what_it_does(launched: Launcher) -> None:
    lines = launched.printed.splitlines()
    assert lines[0] == f"composing the cells of {launched.file}"
    steps = ["checking the data", "opening MLflow", "starting 4 cells, 1 at a time; what the launch notes is in "]
    places = [next(place for place, line in enumerate(lines) if line.startswith(step)) for step in steps]
    assert places == sorted(places)


def test_launch_into_a_file_has_a_line_when_a_cell_begins_and_one_when_it_ends(launched: Launcher) -> None:
    told = [line for line in launched.printed.splitlines() if line.startswith("00:") and "rankmatch-4-s0" in line]
    assert told[-1].split()[2] == "done" and len(told) <= 2  # it may take less than a look


@pytest.fixture
def shown() -> Iterator[tuple[Progress, io.StringIO, Snapshot]]:
    loaded = grid.load(str(Path(__file__).with_name("small.yaml")), ["seed=0"])
    items = make_plan(loaded, Path("/none"), Options(cluster="inline")).items
    file = io.StringIO()
    with Progress(Console(file=file, width=200)) as progress:
        yield progress, file, Snapshot(items, {}, {}, 2, 0.0)


def test_cell_has_a_line_a_minute_however_short_its_epochs_are(shown: tuple[Progress, io.StringIO, Snapshot]) -> None:
    progress, file, start = shown
    (item, other) = start.items
    for second in range(130):
        state = FolderState(
            "running", 1, step=second, num_steps=200, epoch=second, num_epochs=200, miou=0.5, best_miou=0.6
        )
        jobs = {item.cell.signature: JobState.RUNNING}
        progress.show(Snapshot(start.items, jobs, {item.cell.signature: state}, 2, float(second)))
    lines = file.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["00:00", "01:00", "02:00"]
    assert lines[0].endswith("begins") and "epoch 60/200  mIoU 50.0 (best 60.0)" in lines[1]
    assert not any(other.cell.slug in line for line in lines)


def test_launch_whose_cells_do_not_begin_says_so_once_a_minute(shown: tuple[Progress, io.StringIO, Snapshot]) -> None:
    progress, file, start = shown
    for second in range(0, 125, 5):
        progress.show(Snapshot(start.items, {}, {}, 2, float(second)))
    assert [line.split("  0/2")[0] for line in file.getvalue().splitlines()] == [
        f"{clock}  {'all cells':<28} none running now" for clock in ("01:00", "02:00")
    ]


def test_logs_prints_the_epochs_of_a_cell(launched: Launcher) -> None:
    lines = run("logs", "rankmatch-4-s0", "--grid", "small", "--runs", str(launched.runs)).splitlines()
    assert lines[0].endswith("attempts/1/log")
    assert "attempt 1 begins at step 0, process " in lines[1]
    assert "epoch 1/1  step 2/2  mIoU " in lines[2]


def test_logs_of_an_earlier_version_prints_the_epochs_too(copied: Path) -> None:
    (cell(copied, "rankmatch-4-s0").path / "attempts" / "1" / LOG).unlink()
    assert run("logs", "rankmatch-4-s0", "--grid", "small", "--runs", str(copied)).startswith(
        "epoch 1/1  step 2/2  mIoU"
    )
    (cell(copied, "rankmatch-4-s0").path / "attempts" / "1" / LOG).touch()
    assert "(empty: epoch 1/1  step 2/2  mIoU" in run(
        "logs", "rankmatch-4-s0", "--grid", "small", "--runs", str(copied)
    )


def test_log_that_is_empty_is_explained(copied: Path) -> None:
    folder = cell(copied, "rankmatch-4-s0")
    (folder.path / "result.json").unlink()
    attempt = folder.attempts()[-1]
    (attempt.path / "epochs.jsonl").unlink()
    (attempt.path / LOG).write_text("")
    attempt.event("failed", kind="code error", message="no luck", error="RuntimeError")
    printed = run("logs", "rankmatch-4-s0", "--grid", "small", "--runs", str(copied))
    assert "has printed nothing: attempt 1 on " in printed and "is failed: " in printed and "no luck" in printed
    shutil.rmtree(folder.path / "attempts")
    assert "has printed nothing yet: it has not begun" in run(
        "logs", "rankmatch-4-s0", "--grid", "small", "--runs", str(copied)
    )


def test_status_says_that_a_cell_waits_while_its_launch_lives(copied: Path) -> None:
    grid_dir, folder = copied / "small", cell(copied, "rankmatch-4-s1")
    (folder.path / "result.json").unlink()
    shutil.rmtree(folder.path / "attempts")
    (launch_dir,) = (grid_dir / "launches").iterdir()
    with waiting.noted(launch_dir, list(folders(grid_dir))):
        printed = run("status", "--grid", "small", "--runs", str(copied))
        assert "4 cells: 3 done, 1 waiting" in printed and "waits for its turn in the launch of process" in printed
        assert "it waits for its turn" in run("logs", "rankmatch-4-s1", "--grid", "small", "--runs", str(copied))
        StateLog(launch_dir).write(folder.path.name, JobState.STOPPED)
        assert "1 not submitted" in run("status", "--grid", "small", "--runs", str(copied))
    assert not waiting.cells(grid_dir)


def test_status_says_the_steps_of_a_cell_that_has_finished_no_epoch(copied: Path) -> None:
    folder = cell(copied, "rankmatch-4-s1")
    (folder.path / "result.json").unlink()
    (folder.path / "attempts" / "1" / "epochs.jsonl").unlink()
    line = next(
        line
        for line in run("status", "--grid", "small", "--runs", str(copied)).splitlines()
        if "rankmatch-4-s1" in line
    )
    assert line.split()[3] == "0/2"

"""What a launch prints into a file, what `logs` prints of a cell, and what `status` says of one that waits."""

import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from launcher import Launcher
from rich.console import Console
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.grids import grid
from orchestration.launching import steps, waiting
from orchestration.launching.options import Workers
from orchestration.launching.progress import Progress, Snapshot
from orchestration.launching.target import Target
from orchestration.runs.jobs import JobState, StateLog
from orchestration.runs.run_folder import FolderState, RunFolder, folders
from orchestration.runs.states import CellState


def run(*words: str) -> str:
    return CliRunner().invoke(app, list(words), catch_exceptions=False).output


@pytest.fixture
def copied(launched: Launcher, tmp_path: Path) -> Path:
    shutil.copytree(launched.runs, tmp_path / "runs", symlinks=True)
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
    told = re.findall(r"^\d\d:\d\d  rankmatch-4-s0 .*", launched.printed, re.M)
    words = [line.split()[2] for line in told if "warning:" not in line and "  epoch " not in line]
    assert words in (["begins", "done"], ["done"]), told  # it may take less than a look


@pytest.fixture
def shown() -> Iterator[tuple[Progress, io.StringIO, Snapshot]]:
    loaded = grid.load(str(Path(__file__).with_name("small.yaml")), ["seed=0"])
    items = steps.plan_of(Target.of(loaded, Path("/none/small"), Workers("inline"))).items
    file = io.StringIO()
    with Progress(Console(file=file, width=200)) as progress:
        yield progress, file, Snapshot(items, {}, {}, 2, 0.0)


def test_cell_has_a_line_a_minute_however_short_its_epochs_are(shown: tuple[Progress, io.StringIO, Snapshot]) -> None:
    progress, file, start = shown
    (item, other) = start.items
    for second in range(130):
        state = FolderState(
            CellState.RUNNING, 1, step=second, num_steps=200, epoch=second, num_epochs=200, miou=0.5, best_miou=0.6
        )
        jobs = {item.cell.signature: JobState.RUNNING}
        progress.show(Snapshot(start.items, jobs, {item.cell.signature: state}, 2, float(second)))
    lines = file.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["00:00", "01:00", "02:00"]
    assert lines[0].endswith("begins") and "epoch 60/200  mIoU 50.0 (best 60.0)" in lines[1]
    assert not any(other.cell.slug in line for line in lines)


def test_cell_in_a_long_first_epoch_has_its_step_and_the_time_that_is_left(
    shown: tuple[Progress, io.StringIO, Snapshot],
) -> None:
    progress, file, start = shown
    item = replace(start.items[0], num_steps=200)
    for second in (0, 61, 122):
        state = FolderState(CellState.RUNNING, 1, step=second, num_steps=200)
        jobs = {item.cell.signature: JobState.RUNNING}
        progress.show(Snapshot([item], jobs, {item.cell.signature: state}, 1, float(second)))
    begins, *later = file.getvalue().splitlines()
    assert begins.endswith("begins")
    for line, step, left in zip(later, (61, 122), ("2 min", "78 s"), strict=True):
        assert line.endswith(f"in its first epoch, at step {step}/200  0/1 cells, about {left} left")


def test_launch_on_a_terminal_is_a_table_with_bars_and_nodes(shown: tuple[Progress, io.StringIO, Snapshot]) -> None:
    _, file, start = shown
    item = start.items[0]
    state = FolderState(
        CellState.RUNNING, 1, step=5, num_steps=10, epoch=1, num_epochs=2, miou=0.5, best_miou=0.6, host="node7"
    )
    console = Console(file=file, width=120, force_terminal=True, color_system=None)
    with Progress(console) as progress:
        jobs = {item.cell.signature: JobState.RUNNING}
        progress.show(Snapshot(start.items, jobs, {item.cell.signature: state}, 2, 5.0))
    (line,) = {line for line in file.getvalue().splitlines() if line.startswith(item.cell.slug)}
    assert "━" in line and "  1/2  50.0  60.0" in line and line.rstrip().endswith("node7")
    assert "0/2 cells, about" in file.getvalue()


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
    cell(copied, "rankmatch-4-s0").attempts()[0].log_file.unlink()
    assert run("logs", "rankmatch-4-s0", "--grid", "small", "--runs", str(copied)).startswith(
        "epoch 1/1  step 2/2  mIoU"
    )
    cell(copied, "rankmatch-4-s0").attempts()[0].log_file.touch()
    assert "(empty: epoch 1/1  step 2/2  mIoU" in run(
        "logs", "rankmatch-4-s0", "--grid", "small", "--runs", str(copied)
    )


def test_log_that_is_empty_is_explained(copied: Path) -> None:
    folder = cell(copied, "rankmatch-4-s0")
    (folder.path / "result.json").unlink()
    attempt = folder.attempts()[-1]
    (attempt.path / "epochs.jsonl").unlink()
    attempt.log_file.write_text("")
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


def test_status_names_who_has_to_act_where_a_launch_was_killed_on_another_machine(copied: Path) -> None:
    grid_dir, folder = copied / "small", cell(copied, "rankmatch-4-s1")
    (folder.path / "result.json").unlink()
    shutil.rmtree(folder.path / "attempts")
    (launch_dir,) = (grid_dir / "launches").iterdir()
    resume = f"`rankmatch resume --grid small --runs {copied}`"
    words = (
        "no cell trains, and whether the launch of process 7 on elsewhere still lives cannot be seen from here: "
        f"where it has ended, {resume} trains what is left"
    )
    launcher = waiting.Launcher("elsewhere", 7, 1, cells=list(folders(grid_dir)))
    launcher.to_file(launch_dir / "launcher.json")
    assert words in run("status", "--grid", "small", "--runs", str(copied))
    attempt = folder.claim({"commit": "abc", "host": "elsewhere", "pid": 7, "process_started": 1})
    attempt.event("started", step=0)
    assert "1 running" in run("status", "--grid", "small", "--runs", str(copied))
    assert "still lives cannot" not in run("status", "--grid", "small", "--runs", str(copied))
    launcher = replace(launcher, cells=[])
    launcher.to_file(launch_dir / "launcher.json")
    attempt.event("failed", kind="lost", message="no word of it", error="LostError")
    assert words in run("status", "--grid", "small", "--runs", str(copied))


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

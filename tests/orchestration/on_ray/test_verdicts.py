import threading
import time
from pathlib import Path

import pytest

from orchestration.machine import damage
from orchestration.machine.damage import DamageWarning
from orchestration.on_ray.verdicts import StopByVerdict, Verdict, judged, read, why, write
from orchestration.running.run_cell import launcher, run_cell, train_inline
from orchestration.runs.failures import FailureClass, decide, is_tried_again
from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import RunFolder


@pytest.fixture
def launch_dir(tmp_path: Path) -> Path:
    path = tmp_path / "grid" / "launches" / "1"
    path.mkdir(parents=True)
    return path


def decide_after_each_epoch(cell: Path, launch_dir: Path, last: int) -> threading.Thread:
    """Be the driver: judge each epoch as its row comes, and stop the training after one of them."""

    def work() -> None:
        told = 0
        while told < last:
            epochs = [row["epoch"] for row in RunFolder(cell).epochs()]
            if epochs and epochs[-1] > told:
                told = epochs[-1]
                time.sleep(0.2)  # the training waits for it
                write(launch_dir, cell.name, Verdict(told, stop=told == last))
            time.sleep(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def train(cell: Path, launch_dir: Path) -> JobState:
    return run_cell(cell, train=judged(train_inline, launch_dir), owner=launcher(), why=why(launch_dir, cell.name))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"epoch": "2", "stop": true}', '{"epoch": 2, "stop": 1}', '{"stop": true}']
)
def test_point_whose_verdict_is_damaged_goes_on_and_the_file_is_named(text, make_cell, launch_dir, monkeypatch):
    monkeypatch.setattr(damage, "_told", set())
    cell = make_cell(epochs=2)
    write(launch_dir, cell.name, Verdict(9, stop=True))
    path = launch_dir / "verdicts" / f"{cell.name}.json"
    path.write_text(text)
    with pytest.warns(DamageWarning, match=f"{path} is damaged: .*the point continues as if it had not fallen behind"):
        assert train(cell, launch_dir) is JobState.DONE


def test_training_that_falls_behind_stops_at_that_very_epoch_and_can_be_gone_on_with(make_cell, launch_dir, tmp_path):
    cell = make_cell(epochs=5)
    thread = decide_after_each_epoch(cell, launch_dir, last=2)
    assert train(cell, launch_dir) is JobState.STOPPED
    thread.join()
    folder = RunFolder(cell)
    event = folder.attempts()[-1].events()[-1]
    assert (event["event"], event["kind"], event["message"]) == ("stopped", "outperformed", "after epoch 2")
    assert [row["epoch"] for row in folder.epochs()] == [1, 2]
    assert folder.newest_checkpoint().name == f"step_{event['step']}" and event["step"] == 4
    assert (folder.state().status, folder.state().failure) == ("interrupted", "outperformed: after epoch 2")
    assert not decide([folder.attempts()[-1].end()]).again
    assert not is_tried_again(FailureClass.OUTPERFORMED)

    assert run_cell(cell, train=train_inline, owner=launcher()) is JobState.DONE
    assert folder.attempts()[1].first_step() == 4 and folder.state().failure is None


def test_resumed_training_waits_for_the_verdict_of_its_last_epoch(make_cell, launch_dir):
    cell = make_cell(epochs=3)
    thread = decide_after_each_epoch(cell, launch_dir, last=1)
    assert train(cell, launch_dir) is JobState.STOPPED
    thread.join()
    again = launch_dir.with_name("2")
    again.mkdir()
    thread = decide_after_each_epoch(cell, again, last=1)
    assert train(cell, again) is JobState.STOPPED
    thread.join()
    assert [row["epoch"] for row in RunFolder(cell).epochs()] == [1]


def test_waiting_for_a_verdict_ends_when_the_launch_does(make_cell, launch_dir):
    cell = make_cell()
    attempt = RunFolder(cell).claim(launcher())
    attempt.recorder()(1, {"epoch": 1, "miou": 0.5})
    answers = iter([False, False, True])
    assert StopByVerdict(attempt, launch_dir, lambda: next(answers))()
    assert read(launch_dir, cell.name) == Verdict() and why(launch_dir, cell.name)() == ""

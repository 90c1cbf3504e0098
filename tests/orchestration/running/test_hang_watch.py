import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from undisturbed import wait_until

from orchestration.running.hang_watch import FACTOR, START_FACTOR, HangWatch, Silence
from orchestration.running.run_cell import record_failure
from orchestration.runs.attempt import Attempt
from orchestration.runs.failures import AttemptEnd, Failure, FailureClass, decide, failed_lately
from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[3]
LIMIT_MIN = 0.1

HANGS = """
import ctypes, os, sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from orchestration.running.run_cell import launcher, run_cell, train_here
from rankmatch import trainer

steps = 0
report_step = trainer._Run._report_step

def hangs_after_two(run, figures, rate):
    global steps
    report_step(run, figures, rate)
    steps += 1
    if steps == 2:
        reads, writes = os.pipe()
        ctypes.PyDLL(None).read(reads, ctypes.create_string_buffer(1), 1)  # keeps Python's lock for ever

trainer._Run._report_step = hangs_after_two
train = partial(train_here, num_threads=1, is_watched=True)

def quickly(config, *words):
    settings = replace(config.execution.trainer, hang_min=float(sys.argv[2]), log_every_steps=1)
    return train(replace(config, execution=replace(config.execution, trainer=settings)), *words)

run_cell(Path(sys.argv[1]), train=quickly, owner=launcher())
"""
LIVES = """
import sys, time
from pathlib import Path
from orchestration.running.hang_watch import HangWatch
from orchestration.runs.attempt import Attempt

with HangWatch(Attempt(Path(sys.argv[1])), float(sys.argv[2])) as watch:
    report, stop = watch.reporting(lambda step, row: None), watch.living(lambda: False)
    for step in range(3):
        report(step, {"loss": 1.0})
        time.sleep(0.01)
    print("begun", flush=True)
    while not Path(sys.argv[3]).exists():  # no step any more, but images of an evaluation
        stop()
        time.sleep(0.05)
print("ended", flush=True)
"""


def program(text: str, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", text, *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.long
def test_training_that_hangs_while_it_keeps_pythons_lock_leaves_its_stack_and_is_ended(make_cell):
    cell_dir = make_cell(epochs=4)
    with program(HANGS, cell_dir, LIMIT_MIN) as running:
        out, err = running.communicate(timeout=400)
    assert running.returncode == -signal.SIGKILL, out + err
    [attempt] = RunFolder(cell_dir).attempts()
    failed = attempt.events()[-1]
    assert (failed["event"], failed["kind"], failed["error"]) == ("failed", "hung", "HungError")
    assert "no sign of life for 0.1 min after step 1 on " in failed["message"]
    log = attempt.log_file.read_text()
    assert (
        "most recent call first" in log and "in hangs_after_two" in log and "in hangs_after_two" in failed["log_tail"]
    )
    state = RunFolder(cell_dir).state()
    assert state.failure_class == FailureClass.HUNG and str(state.failure).startswith("hung: no sign of life for ")


def test_stopped_process_and_a_long_evaluation_are_not_taken_for_hung(tmp_path):
    attempt, end = Attempt(tmp_path / "cells" / "c" / "attempts" / "1"), tmp_path / "end"
    attempt.path.mkdir(parents=True)
    with program(LIVES, attempt.path, LIMIT_MIN, end) as running:
        assert running.stdout is not None and running.stdout.readline() == "begun\n"
        time.sleep(90 * LIMIT_MIN)  # longer than the limit without a step
        running.send_signal(signal.SIGSTOP)
        time.sleep(90 * LIMIT_MIN)
        running.send_signal(signal.SIGCONT)
        time.sleep(1)
        end.touch()
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (0, "ended\n", "")
    assert not attempt.events_file.exists() and attempt.log_file.read_text() == ""


def test_watch_ends_with_its_process(tmp_path):
    attempt = Attempt(tmp_path / "cells" / "c" / "attempts" / "1")
    attempt.path.mkdir(parents=True)
    with program(LIVES, attempt.path, LIMIT_MIN, tmp_path / "end") as running:
        assert running.stdout is not None and running.stdout.readline() == "begun\n"
        [watch] = map(int, Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split())
        running.kill()
    wait_until(lambda: not Path(f"/proc/{watch}").exists() or is_zombie(watch), 60)
    assert not attempt.events_file.exists()


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_watch_goes_on_where_the_terminal_ends_the_training_which_writes_its_last_checkpoint(number, tmp_path):
    attempt, end = Attempt(tmp_path / "cells" / "c" / "attempts" / "1"), tmp_path / "end"
    attempt.path.mkdir(parents=True)
    with program(LIVES, attempt.path, LIMIT_MIN, end) as running:
        assert running.stdout is not None and running.stdout.readline() == "begun\n"
        try:
            (watch,) = psutil.Process(running.pid).children()
            wait_until(lambda: _ignores(watch.pid, number), 30)
            watch.send_signal(number)
            time.sleep(0.5)
            assert watch.is_running() and watch.status() != psutil.STATUS_ZOMBIE
        finally:
            end.touch()
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (0, "ended\n", "")
    assert not attempt.events_file.exists() and attempt.log_file.read_text() == ""


def _ignores(pid: int, number: int) -> bool:
    """Return whether a process ignores a signal; it sets that up once it has imported what it needs."""
    (line,) = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("SigIgn:")]
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def test_ten_median_steps_may_pass_where_that_is_longer():
    silence = Silence(60.0)
    assert silence.limit_s == START_FACTOR * 60
    for step, now in ((0, 0.0), (1, 20.0), (2, 40.0), (3, 300.0), (4, 320.0)):  # an evaluation after the third
        silence.hear(f"{step}\n", now)
    assert silence.limit_s == FACTOR * 20
    assert not silence.wait(199) and not silence.wait(1) and silence.wait(1)
    silence.hear(".\n", 600.0)
    assert not silence.wait(150) and silence.step == 4


def test_short_steps_leave_the_limit_as_it_is_and_signs_that_come_after_several_steps_count_so():
    for steps_per_sign, limit_s in ((1, 60.0), (10, 200.0)):
        silence = Silence(60.0, steps_per_sign)
        silence.hear("0\n", 0.0)
        silence.hear("10\n", 20.0)
        assert silence.limit_s == limit_s


def test_what_others_say_of_the_loss_of_a_hung_training_changes_nothing(make_cell):
    attempt = RunFolder(make_cell()).claim({})
    attempt.event("started", step=0)
    attempt.event("failed", kind="hung", error="HungError", message="no sign of life", traceback="")
    assert record_failure(attempt, Failure(FailureClass.LOST, "LostError", "gone", "")) is JobState.FAILED
    assert [event["event"] for event in attempt.events()] == ["started", "failed"]


def test_hung_cell_is_tried_again_elsewhere():
    end = AttemptEnd(FailureClass.HUNG, 0, 0, node="n1", time=100.0)
    assert decide([end]).again and decide([end, end]).again and not decide([end] * 3).again
    assert failed_lately([end], 200.0) == [end]


def test_limit_of_nothing_watches_nothing(tmp_path):
    with HangWatch(Attempt(tmp_path), 0.0) as watch:
        watch.sign()
    assert not [*tmp_path.iterdir()]

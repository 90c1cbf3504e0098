import os
import signal
import subprocess
import time

import pytest

from orchestration import slurm_commands, slurm_job
from orchestration.failures import FailureClass
from orchestration.ray_job import RESERVE_S, StopAsked
from orchestration.slurm_job import REQUEUE, CellTask, _Head, batch_epilogue


@pytest.fixture
def head(make_cell, tmp_path, slurm, monkeypatch):
    """The first task of a job whose training is a shell line."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(slurm_commands, "job_fields", lambda job: dict(fields))
    fields: dict[str, str] = {}
    (tmp_path / "7.0").mkdir()

    def make(script: str = "exit 0", requeue: bool = True, **known: str) -> _Head:
        fields.update(known)
        popen = subprocess.Popen
        monkeypatch.setattr(
            slurm_job.subprocess, "Popen", lambda command, **_: popen(["sh", "-c", script], start_new_session=True)
        )
        owner = {"campaign": "l", "launch": "l", "commit": "", "provenance": {}}
        task = CellTask(str(make_cell()), str(tmp_path), "root", owner, requeue=requeue)
        return _Head(task, tmp_path / "7.0")

    return make


@pytest.mark.parametrize(
    ("code", "stop", "requeue", "expected"),
    [
        (0, "", True, 0),
        (3, "preempted", True, REQUEUE),
        (3, "time limit", True, REQUEUE),
        (3, "preempted", False, 0),
        (3, "cancelled", True, 0),
        (4, "", True, 1),
        (5, "", True, 0),
        (9, "", True, 1),
    ],
)
def test_exit_code_tells_the_batch_script_what_to_do(code, stop, requeue, expected, head, tmp_path):
    if stop:
        (tmp_path / "7.0" / "stop").write_text(stop)
    assert head(f"exit {code}", requeue).run() == expected


@pytest.mark.parametrize(
    ("number", "fields", "meaning"),
    [
        (signal.SIGTERM, {"JobState": "COMPLETING", "Restarts": "0"}, FailureClass.CANCELLED),
        (signal.SIGTERM, {"JobState": "COMPLETING", "Restarts": "1"}, FailureClass.PREEMPTED),
        (signal.SIGTERM, {"JobState": "RUNNING", "Restarts": "0"}, FailureClass.PREEMPTED),
        (signal.SIGTERM, {}, FailureClass.PREEMPTED),
        (signal.SIGUSR2, {"JobState": "RUNNING"}, FailureClass.PREEMPTED),
        (signal.SIGUSR2, {"EndTime": "2020-01-01T00:00:00"}, FailureClass.TIME_LIMIT),
        (signal.SIGUSR2, {"EndTime": "2100-01-01T00:00:00"}, FailureClass.PREEMPTED),
    ],
)
def test_signal_is_passed_on_with_its_meaning(number, fields, meaning, head, tmp_path):
    task = head(f"while [ ! -e {tmp_path}/7.0/stop ]; do sleep 0.1; done; exit 3", **fields)
    task.heard = number
    assert task.run() == (0 if meaning is FailureClass.CANCELLED else REQUEUE)
    assert (tmp_path / "7.0" / "stop").read_text() == meaning


def test_training_that_crashes_is_written_down_with_its_last_words(head, make_cell):
    task = head("kill -9 $$")
    attempt = task.cell.claim({"commit": "", "campaign": "l"})
    attempt.event("started", step=0)
    attempt.path.joinpath("log").write_text("\n".join(map(str, range(100))))
    assert task.run() == 1
    last = attempt.events()[-1]
    assert (last["event"], last["kind"]) == ("failed", "lost")
    assert "ended by signal 9 in job 7" in last["message"]
    assert last["traceback"].splitlines()[0] == "60"


def test_cell_without_progress_in_three_attempts_is_not_begun_again(head, capsys):
    task = head("exit 9")
    for _ in range(3):
        task.cell.claim({"commit": "", "campaign": "l"}).event("stopped", step=0, kind="preempted")
    assert task.run() == 0
    assert "is not tried again: no progress in 3 attempts, last: preempted" in capsys.readouterr().err


def test_what_killed_jobs_left_on_the_node_is_removed_and_what_others_use_is_not(slurm, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setattr(slurm_job.files, "SHORT_TEMP", tmp_path)
    slurm.queued = {"8_1": ("RUNNING", "n1"), "7": ("RUNNING", "n1")}
    for name in ("rankmatch-j8_1.0", "rankmatch-j7.0", "rankmatch-j5.0", "rankmatch-123"):
        (tmp_path / name).mkdir()
    slurm_job._remove_leftovers()
    assert sorted(path.name for path in tmp_path.glob("rankmatch-*")) == ["rankmatch-123", "rankmatch-j8_1.0"]


def test_stop_is_asked_for_before_the_limit_by_the_longest_way_between_steps(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    asked = StopAsked(tmp_path / "stop", end_time=1000.0 + 100)
    for passed, expected in ((0, False), (10, False), (40, False), (19, False), (1, True)):
        clock[0] += passed
        if expected:
            assert clock[0] + 2 * 40 + RESERVE_S > 1100
        assert asked() is (clock[0] + 2 * (40 if clock[0] >= 1050 else 10 if clock[0] > 1000 else 0) + RESERVE_S > 1100)
    assert asked.why() == "time limit"
    assert StopAsked(tmp_path / "other", None).why() == ""


@pytest.mark.parametrize(("code", "requeued"), [(REQUEUE, True), (0, False), (1, False)])
def test_batch_script_requeues_exactly_its_element(code, requeued, tmp_path):
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\nexit 1\n')
    (tmp_path / "scontrol").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "5",
                   "SLURM_ARRAY_TASK_ID": "3"}  # fmt: skip
    script = "\n".join([f"(exit {code})", *batch_epilogue()])
    assert subprocess.run(["bash", "-c", script], env=environment, check=False).returncode == code
    assert (tmp_path / "said").exists() is requeued
    if requeued:
        assert (tmp_path / "said").read_text() == "requeue 5_3\n"

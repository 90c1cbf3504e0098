import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestration.machine import scratch
from orchestration.on_ray.stop import RESERVE_S, StopAsked
from orchestration.on_slurm import commands, evidence, job, notices, signals, submissions
from orchestration.on_slurm.commands import Job
from orchestration.on_slurm.job import CellTask, _Head, batch_epilogue
from orchestration.on_slurm.notices import Notifier
from orchestration.on_slurm.signals import FOLLOW, REQUEUE
from orchestration.on_slurm.submissions import Submission
from orchestration.runs import patience
from orchestration.runs.failures import FailureClass
from orchestration.runs.folders import JobFolder


@pytest.fixture
def head(make_cell, tmp_path, slurm, monkeypatch):
    """The first task of a job whose training is a shell line."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(commands, "job_fields", lambda job: dict(fields))
    fields: dict[str, str] = {}
    (tmp_path / "7.0").mkdir()

    def make(script: str = "exit 0", requeue: bool = True, **known: str) -> _Head:
        fields.update(known)
        popen = subprocess.Popen
        monkeypatch.setattr(
            job.subprocess, "Popen", lambda command, **_: popen(["sh", "-c", script], start_new_session=True)
        )
        owner = {"campaign": "l", "launch": "l", "commit": "", "provenance": {}}
        task = CellTask(str(make_cell()), str(tmp_path), "root", owner, requeue=requeue)
        return _Head(task, JobFolder(tmp_path / "7.0"))

    return make


@pytest.mark.parametrize(
    ("code", "stop", "requeue", "expected"),
    [
        (0, "", True, 0),
        (3, "preempted", True, REQUEUE),
        (3, "time limit", True, REQUEUE),
        (3, "preempted", False, FOLLOW),
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
    ("is_followed", "most_min", "epochs", "expected"),
    [
        (True, 120, "", FOLLOW),
        (False, 120, "", REQUEUE),  # nobody would submit another one
        (True, 60, "", REQUEUE),  # nor could it be longer
        (True, 120, '{"epoch": 1}\n', REQUEUE),
    ],
)
def test_job_that_met_its_time_limit_before_an_epoch_ended_is_followed_by_a_longer_one(
    is_followed, most_min, epochs, expected, head, tmp_path
):
    (tmp_path / "7.0" / "stop").write_text("time limit")
    cell = head("exit 3")
    cell.task = replace(cell.task, is_followed=is_followed)
    asked = {"workers": 1, "mem_gb_per_worker": 16.0, "time_min": 60, "most_time_min": most_min}
    attempt = cell.cell.claim({"commit": "", "campaign": "l", "slurm": signals.this_job(), "asked": asked})
    attempt.event("started", step=0)
    attempt.event("stopped", step=1, kind="time limit")
    attempt.epochs_file.write_text(epochs)
    assert cell.run() == expected


GRACE = {"JobState": "RUNNING", "StartTime": "2020-01-01T00:00:00", "EndTime": "2020-01-01T00:00:31"}
"""What Slurm says of a job that is being ended: the time of its grace stands where the time limit stood."""


@pytest.mark.parametrize(
    ("number", "fields", "meaning"),
    [
        (signal.SIGTERM, {"JobState": "COMPLETING", "Restarts": "0"}, FailureClass.CANCELLED),
        (signal.SIGTERM, {"JobState": "COMPLETING", "Restarts": "1"}, FailureClass.PREEMPTED),
        (signal.SIGTERM, {"JobState": "RUNNING", "Restarts": "0"}, FailureClass.PREEMPTED),
        (
            signal.SIGTERM,
            {"JobState": "COMPLETING", "Restarts": "0", "EndTime": "2020-01-01T00:00:00"},
            FailureClass.CANCELLED,
        ),
        (signal.SIGTERM, {"JobState": "NODE_FAIL", "Restarts": "0"}, FailureClass.NODE_FAILURE),
        (signal.SIGTERM, {}, FailureClass.PREEMPTED),
        (signal.SIGUSR2, {"JobState": "RUNNING"}, FailureClass.PREEMPTED),
        (signal.SIGUSR2, {"JobState": "RUNNING", "EndTime": "2020-01-01T00:00:00"}, FailureClass.TIME_LIMIT),
        (signal.SIGUSR2, {"EndTime": "2100-01-01T00:00:00"}, FailureClass.PREEMPTED),
        (signal.SIGUSR2, {**GRACE, "PreemptTime": "2020-01-01T00:00:01"}, FailureClass.PREEMPTED),
        (signal.SIGUSR2, {**GRACE, "PreemptTime": "2019-01-01T00:00:00"}, FailureClass.TIME_LIMIT),
        (signal.SIGUSR2, {**GRACE, "PreemptTime": "None"}, FailureClass.TIME_LIMIT),
    ],
)
def test_signal_is_passed_on_with_its_meaning(number, fields, meaning, head, tmp_path):
    task = head(f"while [ ! -e {tmp_path}/7.0/stop ]; do sleep 0.1; done; exit 3", **fields)
    task.end_time = None  # as it was when the job began: far away
    task.heard = number
    assert task.run() == (0 if meaning is FailureClass.CANCELLED else REQUEUE)
    said = f"Slurm says {fields.get('JobState', 'nothing')}"
    assert (tmp_path / "7.0" / "stop").read_text() == f"{meaning}\n{signal.Signals(number).name} came; {said}"


def test_training_that_crashes_is_written_down_with_its_last_words(head, make_cell):
    task = head("kill -9 $$")
    attempt = task.cell.claim({"commit": "", "campaign": "l", "slurm": {"job": "7", "restart": 0}})
    attempt.event("started", step=0)
    attempt.path.joinpath("log").write_text("\n".join(map(str, range(100))))
    assert task.run() == 1
    last = attempt.events()[-1]
    assert (last["event"], last["kind"]) == ("failed", "lost")
    assert "ended by signal 9 in job 7" in last["message"]
    assert last["exit_code"] == "signal 9"
    assert last["log_tail"].splitlines() == [str(number) for number in range(60, 100)]


def test_training_that_was_ended_because_it_hung_keeps_that_class_and_the_job_fails(head):
    task = head("kill -9 $$")
    attempt = task.cell.claim({"commit": "", "campaign": "l", "slurm": {"job": "7", "restart": 0}})
    attempt.event("started", step=0)
    attempt.event("failed", kind="hung", error="HungError", message="no sign of life for 15.0 min", traceback="")
    assert task.run() == 1  # which calls a controller, as the policy tries it again
    assert [(event["event"], event.get("kind")) for event in attempt.events()] == [
        ("started", None),
        ("failed", "hung"),
    ]


def test_attempt_that_published_the_result_and_was_then_killed_has_not_failed(head, monkeypatch):
    monkeypatch.setenv(signals.NAME_VARIABLE, "rm-small")
    task = head("kill -9 $$")
    attempt = task.cell.claim({"commit": "", "campaign": "l", "slurm": {"job": "7", "name": "rm-small", "restart": 0}})
    attempt.event("started", step=0)
    attempt.publish({"finished": True, "step": 2, "num_steps": 2, "epoch": 1, "last_miou": 0.5, "best_miou": 0.5})
    assert task.run() == 0
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    evidence.record_earlier_starts(task.cell)
    assert [event["event"] for event in attempt.events()] == ["started"]


def test_job_on_a_node_that_was_given_up_writes_nothing_into_its_followers_attempt(head):
    task = head("kill -9 $$")
    task.cell.claim({"commit": "", "campaign": "l", "slurm": {"job": "7", "restart": 0}})
    newer = task.cell.claim({"commit": "", "campaign": "l", "slurm": {"job": "7", "restart": 1}})
    task.run()
    assert [attempt.events() for attempt in (task.cell.attempts()[0], newer)] == [[], []]


def test_training_that_the_kernel_killed_for_its_memory_is_out_of_memory(head, monkeypatch):
    counts = iter([0, 1])
    monkeypatch.setattr(job, "num_oom_kills", lambda: next(counts))
    task = head("kill -9 $$")
    attempt = task.cell.claim({"commit": "", "campaign": "l", "slurm": {"job": "7", "restart": 0}})
    task.run()
    assert attempt.events()[-1]["kind"] == "out of host memory"


@pytest.mark.parametrize(("kills", "kind"), [(1, "out of host memory"), (0, "data worker killed")])
def test_data_worker_that_the_kernel_killed_for_its_memory_is_out_of_memory(kills, kind, head, monkeypatch):
    counts = iter([0, kills])
    monkeypatch.setattr(job, "num_oom_kills", lambda: next(counts))
    task = head("exit 4")
    attempt = task.cell.claim({"commit": "", "campaign": "l", "slurm": {"job": "7", "restart": 0}})
    attempt.event(
        "failed", kind="data worker killed", message="DataLoader worker (pid 9) is killed by signal: Killed. "
    )
    assert task.run() == 1
    assert attempt.events()[-1]["kind"] == kind


def test_training_that_lost_a_mapped_file_is_the_file_systems_fault(head):
    task = head("kill -BUS $$")
    attempt = task.cell.claim({"commit": "", "campaign": "l", "slurm": {"job": "7", "restart": 0}})
    task.run()
    assert attempt.events()[-1]["kind"] == "file system"


def test_somebody_is_told_once_that_cells_have_begun_and_of_one_that_failed_for_good(head, tmp_path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(notices, "_run", lambda command: told.append(command[-1]))
    task = head()
    task.task = replace(task.task, notifier=Notifier(str(tmp_path), command=("tell",)))
    for _ in range(2):
        task._tell_of_begin().join()
    owner = {"commit": "", "campaign": "l", "slurm": {"job": "7", "restart": 0}}
    task.cell.claim(owner).event("failed", kind="code error", message="boom")
    assert task.run() == 0
    first, second = told
    assert first.startswith("grid: the first cell has begun, ") and "in job 7 on " in first
    why = "code error; `rankmatch logs` has the traceback"
    assert second == f"grid: {task.cell.path.name} is not tried again: {why}"


def test_training_and_the_passing_on_of_signals_wait_for_no_notice_and_end_by_none(head, tmp_path, monkeypatch):
    (tmp_path / "notices.json").write_text("")
    hanging = threading.Event()
    monkeypatch.setattr(notices, "_run", lambda _: hanging.wait())
    task = head(f"while [ ! -e {tmp_path}/7.0/stop ]; do sleep 0.1; done; exit 3")
    task.task = replace(task.task, notifier=Notifier(str(tmp_path), command=("tell",)))
    task.heard = signal.SIGUSR2
    assert task.run() == REQUEUE
    hanging.set()


@pytest.fixture
def begun_again(head, slurm, monkeypatch):
    """A job in its third start whose first two attempts ended without a word; accounting says how their starts did."""

    def make(*states: str) -> list[str]:
        monkeypatch.setenv(signals.NAME_VARIABLE, "rm-small")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
        slurm.strangers["7"] = "rm-small"
        slurm.accounted = {} if states else None
        slurm.starts = [("7", state, "n3") for state in states]
        task = head()
        for number in range(2):
            of = {"job": "7", "name": "rm-small", "restart": number, "node": "n3"}
            task.cell.claim({"commit": "", "campaign": "l", "slurm": of}).event("started", step=100 * number)
        assert task.run() == 0
        ends = [attempt.events()[-1] for attempt in task.cell.attempts()]
        return [f"{end['event']}: {end['kind']}: {end['message']}" for end in ends]

    return make


def test_job_that_slurm_began_again_writes_down_how_its_earlier_attempts_ended(begun_again):
    assert begun_again("NODE_FAIL", "PREEMPTED", "RUNNING") == [
        "failed: node failure: job 7 on n3: Slurm says NODE_FAIL, exit code 1:0",
        "failed: preempted: job 7 on n3: Slurm says PREEMPTED, exit code 1:0",
    ]


def test_job_that_slurm_began_again_was_requeued_where_accounting_says_nothing(
    begun_again,
):
    assert begun_again() == ["failed: requeued: job 7 on n3 was requeued, and accounting does not say why"] * 2


def test_start_whose_end_accounting_missed_leaves_the_others_their_places(begun_again):
    assert begun_again("RUNNING", "NODE_FAIL", "RUNNING") == [
        "failed: requeued: job 7 on n3 was requeued, and accounting does not say why",
        "failed: node failure: job 7 on n3: Slurm says NODE_FAIL, exit code 1:0",
    ]


def test_start_that_accounting_says_failed_is_lost(begun_again):
    assert begun_again("FAILED") == [
        "failed: lost: job 7 on n3: Slurm says FAILED, exit code 1:0",
        "failed: requeued: job 7 on n3 was requeued, and accounting does not say why",
    ]


def test_job_says_nothing_of_attempts_of_others_or_of_those_that_said_how_they_ended(head, slurm, monkeypatch):
    monkeypatch.setenv(signals.NAME_VARIABLE, "rm-small")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    task = head()
    of = {"job": "7", "name": "rm-small", "restart": 0}
    others = ({**of, "job": "8"}, {**of, "name": "rm-else"}, {**of, "restart": 1})
    for slurm_of in others:
        task.cell.claim({"commit": "", "campaign": "k", "slurm": slurm_of}).event("started", step=0)
    said = task.cell.claim({"commit": "", "campaign": "k", "slurm": of})
    said.event("stopped", step=5, kind="preempted")
    task.run()
    assert [len(attempt.events()) for attempt in task.cell.attempts()] == [1, 1, 1, 1]
    assert said.events()[-1]["event"] == "stopped"


def test_job_that_slurm_began_again_says_that_its_node_was_lost_where_the_earlier_start_took_it_for_a_preemption(
    head, slurm, monkeypatch
):
    monkeypatch.setenv(signals.NAME_VARIABLE, "rm-small")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    task, of = head(), {"job": "7", "name": "rm-small", "restart": 0}
    earlier = task.cell.claim({"commit": "", "campaign": "l", "slurm": of})
    earlier.event("stopped", step=5, kind="preempted", message="SIGTERM came; Slurm says PENDING")
    slurm.starts = [("7", "NODE_FAIL", "n3")]
    monkeypatch.setattr(slurm, "name_of", lambda number: "rm-small")
    task.run()
    assert earlier.end().kind is FailureClass.NODE_FAILURE


def test_cell_that_slurm_began_again_forty_times_while_it_gets_on_is_begun_again(head, slurm, monkeypatch):
    monkeypatch.setenv(signals.NAME_VARIABLE, "rm-small")
    slurm.accounted = None
    for number in range(40):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(number))
        task = head()
        assert not task._is_given_up()
        evidence.record_earlier_starts(task.cell)
        of = {"job": "7", "name": "rm-small", "restart": number}
        task.cell.claim({"commit": "", "campaign": "l", "slurm": of}).event("started", step=10 * number)
    assert {end.kind for end in task.cell.ends("l")[:-1]} == {FailureClass.REQUEUED}


def test_job_waits_for_a_file_server_that_is_away_before_it_says_whether_its_cell_was_cancelled(head, monkeypatch):
    hiccups, task = [OSError(errno.ESTALE, os.strerror(errno.ESTALE))] * 2, head()

    def read(*_):
        if hiccups:
            raise hiccups.pop()
        return {task.cell.path.name}

    monkeypatch.setattr(job, "cancelled_in", read)
    monkeypatch.setattr(patience.clock, "sleep", lambda _: None)
    assert task._is_given_up() and not hiccups


def test_job_that_was_requeued_late_leaves_the_cell_to_the_one_submitted_since(head, monkeypatch, capsys, tmp_path):
    task = head()
    grid, cell = task.cell.grid, task.cell.path.name
    launches = [grid.launch(f"2026010{number}T000000").path for number in (1, 2)]
    task.task = replace(task.task, jobs_dir=str(launches[0] / "jobs"))
    for number, folder in enumerate(launches, 7):
        Submission(f"rm-{number}", [cell], str(number)).write(folder)
    trained = []
    monkeypatch.setattr(_Head, "_train", lambda *_: trained.append(1) or 0)
    monkeypatch.setenv(signals.NAME_VARIABLE, "rm-7")
    monkeypatch.setattr(submissions, "queue", lambda _: {Job("8", "rm-8"): None})
    assert task.run() == 0 and not trained
    assert f"job 8 was submitted for {cell} since" in capsys.readouterr().err
    monkeypatch.setattr(submissions, "queue", lambda _: {})  # the newer one has ended: this is the only one
    assert task.run() == 0 and trained
    trained.clear()
    monkeypatch.setenv(signals.NAME_VARIABLE, "rm-8")
    assert task.run() == 0 and trained


def test_owner_names_the_node_as_slurm_does(head, monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "gpu-17")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu-[17-18]")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    assert head()._order(Path("x")).owner["slurm"] == {"job": "7", "restart": 0, "node": "gpu-17"}
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    assert head()._order(Path("x")).owner["slurm"]["nodes"] == "gpu-[17-18]"


def test_cell_without_progress_in_three_attempts_is_not_begun_again(head, capsys):
    task = head("exit 9")
    for _ in range(3):
        task.cell.claim({"commit": "", "campaign": "l"}).event("stopped", step=0, kind="preempted")
    assert task.run() == 0
    assert "is not tried again: no progress in 3 attempts, last: preempted" in capsys.readouterr().err


def test_what_killed_jobs_left_on_the_node_is_removed_and_what_others_use_is_not(slurm, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setattr(scratch, "PLACES", (tmp_path,))
    monkeypatch.setattr(scratch, "is_local", lambda path: False)  # a /tmp that several nodes share
    slurm.queued = {"8_1": ("RUNNING", "n1"), "7": ("RUNNING", "n1"), "9": ("PENDING", "")}
    monkeypatch.setattr(commands, "job_fields", lambda job: {"Restarts": "1"})
    made = {}
    for number, restart in (("8_1", 1), ("7", 0), ("5", 0), ("9", 0)):
        of = {"job": number, "restart": restart, "name": slurm.name_of(number)}
        made[number] = scratch.make(slurm=of, host="elsewhere", boot="another").path
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *_: None)  # as another node's kernel sees it
        signals.sweep()
    assert [number for number, path in made.items() if path.exists()] == ["8_1"]


def test_stop_is_asked_for_before_the_limit_by_the_longest_way_between_steps(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    asked = StopAsked(tmp_path / "stop", end_time=1100.0)
    answers = []
    for passed in (0, 10, 10, 25, 10):  # the fourth way holds a checkpoint
        clock[0] += passed
        answers.append(asked())
    assert RESERVE_S == 20
    assert answers == [False, False, False, True, True]  # 1045 + 2 * 25 + 20 is beyond 1100, 1020 + 2 * 10 + 20 is not
    assert asked.why() == "time limit\n55 s before the limit; the longest way took 25 s"
    assert StopAsked(tmp_path / "other", None).why() == ""


@pytest.mark.parametrize(
    ("code", "name", "requeued"),
    [(REQUEUE, "rm-a", True), (0, "rm-a", False), (1, "rm-a", False), (REQUEUE, "my-thesis", False)],
)
def test_batch_script_requeues_exactly_its_element_and_no_job_that_was_given_its_number(code, name, requeued, tmp_path):
    shown = f"JobId=9 ArrayJobId=5 ArrayTaskId=3 JobName={name} UserId=me(1000) JobState=RUNNING"
    (tmp_path / "scontrol").write_text(
        f'#!/bin/sh\nif [ "$2 $3 $4" = "show job 5_3" ]; then echo "{shown}"; exit; fi\n'
        f'echo "$@" > {tmp_path}/said\nexit 1\n'
    )
    (tmp_path / "scontrol").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "5",
                   "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_NAME": "rm-a"}  # fmt: skip
    script = "\n".join([f"(exit {code})", *batch_epilogue()])
    assert subprocess.run(["bash", "-c", script], env=environment, check=False).returncode == code
    assert (tmp_path / "said").exists() is requeued
    if requeued:
        assert (tmp_path / "said").read_text() == "requeue 5_3\n"


def test_signals_of_slurm_do_not_reach_what_a_deaf_process_starts_whatever_it_handles():
    code = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_DFL); print(flush=True); sys.stdin.readline()"
    child = [
        sys.executable,
        "-c",
        f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {code!r}]))",
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
    process = subprocess.Popen(child, preexec_fn=signals.be_deaf, **pipes)
    process.stdout.readline()
    for number in signals.SIGNALS:
        os.killpg(process.pid, number)
    process.communicate(b"go on\n", timeout=60)
    assert process.returncode == 0

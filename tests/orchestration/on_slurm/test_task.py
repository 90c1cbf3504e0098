"""The task of a job, taken by the words that stand in batch scripts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.machine import clock
from orchestration.on_slurm import batch, commands, signals, task
from orchestration.on_slurm.commands import Job
from orchestration.on_slurm.signals import NAME_VARIABLE
from orchestration.on_slurm.submissions import Submission
from orchestration.runs.folders import GridFolder


def leave_a_trace(path: str) -> None:
    Path(path).write_text("run")


@pytest.fixture
def job(tmp_path):
    """A job's task in the file where it finds it, and what it leaves when it is run."""
    launch = GridFolder(tmp_path / "grid").launch("20260101T000000.000000-1")
    launch.jobs_dir.mkdir(parents=True)
    batch._store(_Task(str(tmp_path / "trace")), launch.waiting_task("rm", 0))
    batch._give(launch, [Job("7", "rm")])
    return launch.jobs_dir, tmp_path / "trace"


class _Task:
    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self):
        """Like a planted file: it acts as soon as it is unpickled."""
        return exec, (f"open({self.trace!r}, 'w').close()",)

    def __call__(self) -> None:
        pass


def run(jobs_dir: Path, name: str = "rm") -> subprocess.CompletedProcess:
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    zeros = dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0")
    ones = dict.fromkeys(("SLURM_NTASKS", "SLURM_JOB_NUM_NODES"), "1")
    environment = {**own, **zeros, **ones, "SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7", NAME_VARIABLE: name}
    words = [sys.executable, "-c", batch._RUN_TASK, str(jobs_dir)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_task_of_ones_own_is_run(job):
    jobs_dir, trace = job
    assert (jobs_dir / "7_submitted.pkl").stat().st_mode & 0o777 == 0o600
    run(jobs_dir)
    assert trace.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_task_of_another_user_is_not_even_unpickled(job):
    jobs_dir, trace = job
    os.chown(jobs_dir / "7_submitted.pkl", 12345, -1)
    done = run(jobs_dir)
    assert done.returncode != 0 and not trace.exists()
    assert "7_submitted.pkl belongs to user 12345 and is read by user 0; only its owner may run it" in (
        done.stdout + done.stderr
    )


def test_job_of_a_withdrawn_submission_ends_well_and_does_nothing(job):
    jobs_dir, trace = job
    Submission("rm", ["c"]).write(jobs_dir.parent)
    late = Submission("rm-late", ["c"])
    late.write(jobs_dir.parent)
    late.withdraw(jobs_dir.parent)
    (jobs_dir / "7_submitted.pkl").unlink()
    done = run(jobs_dir, "rm-late")
    assert done.returncode == 0 and "what it was for was submitted again" in done.stdout
    assert not trace.exists()


def test_job_that_waits_for_its_task_sees_that_its_submission_is_withdrawn_meanwhile(job, monkeypatch):
    jobs_dir, _ = job
    Submission("rm", ["c"]).write(jobs_dir.parent)
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            Submission("rm", ["c"]).withdraw(jobs_dir.parent)

    monkeypatch.setattr(clock, "sleep", sleep)
    assert not task.comes(jobs_dir / "8_submitted.pkl", "rm")
    assert len(naps) == 3


def test_job_that_nobody_gives_a_task_waits_for_as_long_as_an_sbatch_may_hang(job, monkeypatch):
    jobs_dir, _ = job
    now = [0.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    monkeypatch.setattr(clock, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    with pytest.raises(task.NoTask, match="no task came within 360 s"):
        task.comes(jobs_dir / "8_submitted.pkl", "rm")
    assert now[0] == 360.0 > commands.SBATCH_TIMEOUT_S


def test_job_without_a_task_has_not_failed_and_calls_a_controller(job, monkeypatch):
    jobs_dir, _ = job
    monkeypatch.setattr(task, "WAIT_S", 0.0)
    monkeypatch.setattr("sys.argv", ["task", str(jobs_dir)])
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "8", NAME_VARIABLE: "rm"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        task.main()
    assert ended.value.code == signals.FOLLOW

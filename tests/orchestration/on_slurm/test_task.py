"""The task of a job, taken by the words that stand in batch scripts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.on_slurm import batch
from orchestration.runs.folders import GridFolder


def leave_a_trace(path: str) -> None:
    Path(path).write_text("run")


@pytest.fixture
def job(tmp_path):
    """A job's task in the file where it finds it, and what it leaves when it is run."""
    launch = GridFolder(tmp_path / "grid").launch("20260101T000000.000000-1")
    launch.jobs_dir.mkdir(parents=True)
    batch._store(_Task(str(tmp_path / "trace")), launch.waiting_task("rm", 0))
    batch._give(launch, "rm", ["7"])
    return launch.jobs_dir, tmp_path / "trace"


class _Task:
    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self):
        """Like a planted file: it acts as soon as it is unpickled."""
        return exec, (f"open({self.trace!r}, 'w').close()",)

    def __call__(self) -> None:
        pass


def run(jobs_dir: Path) -> subprocess.CompletedProcess:
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment = {**own, "SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0",
                   "SLURM_JOB_NUM_NODES": "1", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # fmt: skip
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

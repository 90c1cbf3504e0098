"""What controllers and jobs ask of Slurm is what an ordinary user may do: neither root nor an operator asks here."""

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from slurm.real_cluster import Cluster, start, wait_until

from orchestration.on_slurm import commands, controller_script, programs
from orchestration.on_slurm.commands import Job
from orchestration.runs.folders import ControllersFolder

pytestmark = pytest.mark.slurm
NAME = "rankmatch-controller-1"


class User:
    """Somebody without rights of his own on a cluster."""

    def __init__(self, cluster: Cluster, folder: Path):
        self.cluster, self.folder, self.known = cluster, folder, pwd.getpwnam("nobody")
        folder.mkdir()
        os.chown(folder, self.known.pw_uid, self.known.pw_gid)

    @property
    def rights(self) -> dict[str, object]:
        return {"user": self.known.pw_uid, "group": self.known.pw_gid, "extra_groups": []}

    def __call__(self, *words: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            words, cwd=self.folder, check=False, timeout=120, capture_output=True, text=True, **self.rights,
            env={**self.cluster.environment, "HOME": str(self.folder), **environment},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def submits(self, *words: str) -> str:
        return self("sbatch", "--parsable", f"--output={self.folder}/%j.out", *words).strip()

    def reason(self, number: str) -> str:
        return self("squeue", "--noheader", "--array", f"--jobs={number}", "--format=%T %r").strip()

    def held(self) -> dict[str, bool]:
        return {job.job.number: job.is_held for job in commands.queue().values()}

    def controllers(self, count: int) -> list[str]:
        """Submit controllers as a launch does, each behind the one before."""
        script, numbers = self.folder / "controller.sh", []
        script.write_text(f"#!/bin/bash\n#SBATCH --job-name={NAME}\n#SBATCH --output={self.folder}/%j.log\necho here\n")
        for place in range(count):
            begin_s = 600 * (place + 1)
            numbers.append(commands.submit_script(script, begin_s=begin_s, after="".join(numbers[-1:])))
        return numbers


@pytest.fixture
def user(monkeypatch) -> Iterator[User]:
    """Have what `commands` asks of Slurm be asked by an ordinary user."""
    if os.getuid():
        pytest.skip("only root can be somebody else, and without root the tests beside these are an ordinary user's")
    with tempfile.TemporaryDirectory(prefix="user-", dir="/tmp") as folder:  # pytest's own is closed to others
        Path(folder).chmod(0o755)
        for cluster in start(Path(folder) / "cluster", "none"):
            found = User(cluster, Path(folder) / "home")
            with monkeypatch.context() as changed:
                for name in ("PATH", "SLURM_CONF"):
                    changed.setenv(name, cluster.environment[name])
                asked = SimpleNamespace(**{**vars(subprocess), "run": partial(subprocess.run, **found.rights)})
                changed.setattr(programs, "subprocess", asked)
                changed.setattr(commands.os, "getuid", lambda: pwd.getpwnam("nobody").pw_uid)
                yield found


def test_controllers_are_called_moved_and_ended_by_an_ordinary_user(user):
    first, second, third = user.controllers(3)
    assert {job.job.number for job in commands.queue().values()} == {first, second, third}
    lines = ["code=1", *controller_script.wake(NAME, ControllersFolder(user.folder), user.folder / "over")]
    user("bash", "-c", "\n".join(lines), SLURM_JOB_NAME="cells", SLURM_JOB_ID="999")
    wait_until((user.folder / f"{first}.log").exists, 60)
    wait_until(lambda: user.reason(second) == "PENDING BeginTime", 60)
    commands.begin_in(second, 1)
    wait_until((user.folder / f"{second}.log").exists, 60)
    commands.cancel_waiting(NAME)
    wait_until(lambda: not commands.queue(), 60)


def test_what_is_held_is_told_by_whom_and_what_is_advised_is_allowed(user):
    first, second = user.controllers(2)
    user("scontrol", "hold", first, second)
    assert user.held() == {first: True, second: True}
    user("scontrol", "release", first, second)
    wait_until(lambda: user.held() == {first: False, second: False}, 60)
    user.cluster.slurm("scontrol", "hold", first)
    wait_until(lambda: "JobHeldAdmin" in user.reason(first), 60)
    assert "denied" in user("scontrol", "release", first, code=1)
    user.cluster.slurm("scontrol", "release", first)
    user.cluster.slurm("scontrol", "update", "PartitionName=high", "State=DOWN")
    user("scontrol", "update", f"JobId={first}", "Partition=high", "StartTime=now")
    wait_until(lambda: user.reason(first) == "PENDING PartitionDown", 60)
    user("scontrol", "update", f"JobId={first}", "Partition=main")  # as is advised then
    wait_until((user.folder / f"{first}.log").exists, 60)


def test_arrays_are_throttled_requeued_and_cancelled_by_an_ordinary_user(user):
    array = user.submits("--array=0-3%4", "--hold", "--job-name=cells", "--wrap=sleep 60")
    commands.throttle(Job(array, "cells"), 2)
    assert "ArrayTaskThrottle=2" in user("scontrol", "--oneliner", "show", "job", array)
    commands.cancel([Job(f"{array}_{place}", "cells") for place in range(4)])
    assert commands.queue() == {}
    parted = user.submits("--array=0-2%1", "--exclude=n[3-4]", "--job-name=cells", "--wrap=sleep 60")
    cells = [Job(f"{parted}_{place}", "cells") for place in range(3)]
    wait_until(lambda: commands.queue()[cells[0]].state == "RUNNING", 60)
    commands.keep_from([parted], ["n4"])  # of those that wait, though one has begun
    assert [commands.queue()[cell].excluded for cell in cells] == ["n[3-4]", "n4", "n4"]
    commands.keep_from([parted], [])
    assert [commands.queue()[cell].excluded for cell in cells] == ["n[3-4]", "", ""]
    commands.cancel([Job(parted, "cells")])
    wait_until(lambda: not commands.queue(), 60)
    ends = commands.ended_lately(Job(parted, "cells"))
    assert {cell: ends[cell].state for cell in cells} == dict.fromkeys(cells, "CANCELLED")
    again = f'[ "$SLURM_RESTART_COUNT" ] || {{ scontrol requeue $SLURM_JOB_ID; sleep 60; }}; touch {user.folder}/again'
    number = user.submits("--requeue", "--job-name=cells", f"--wrap={again}")
    wait_until((user.folder / "again").exists, 120)
    wait_until(lambda: not commands.queue(), 60)
    (end,) = commands.ended_lately(Job(number, "cells")).values()  # without accounting
    assert (end.state, end.exit_code) == ("COMPLETED", "0:0") and end.node


def test_jobs_in_a_partition_that_slurm_hides_are_seen_and_ended_by_their_user(user):
    [number] = user.controllers(1)
    user.cluster.slurm("scontrol", "update", "PartitionName=main", "Hidden=YES")
    assert user("squeue", "--noheader") == "", "without --all it is as if there were none"
    assert [job.job.number for job in commands.queue().values()] == [number]
    assert commands.jobs_by_name(NAME) == [Job(number, NAME)] and commands.waiting_numbers(NAME) == [number]
    commands.cancel([Job(number, NAME)])
    wait_until(lambda: not commands.queue(), 60)
    assert commands.ended_lately(Job(number, NAME))[Job(number, NAME)].state == "CANCELLED"

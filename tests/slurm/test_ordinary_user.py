"""What controllers and jobs ask of Slurm is what an ordinary user may do: neither root nor an operator asks here."""

import json
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm.real_cluster import ROOT, Cluster, start, wait_until

from orchestration.on_slurm import controller_script

pytestmark = pytest.mark.slurm
NAME = "rankmatch-controller-1"
CALL = "import json, sys; from orchestration.on_slurm import commands as c; from pathlib import Path; "


class User:
    """Somebody without rights of his own on a cluster."""

    def __init__(self, cluster: Cluster, folder: Path):
        self.cluster, self.folder, self.known = cluster, folder, pwd.getpwnam("nobody")
        folder.mkdir()
        os.chown(folder, self.known.pw_uid, self.known.pw_gid)

    def __call__(self, *words: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            words, user=self.known.pw_uid, group=self.known.pw_gid, extra_groups=[], cwd=self.folder, check=False,
            timeout=120, capture_output=True, text=True,
            env={**self.cluster.environment, "PYTHONPATH": str(ROOT), "HOME": str(self.folder), **environment},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def calls(self, code: str) -> object:
        """Call a function of `commands`, and return what it returns."""
        return json.loads(self(sys.executable, "-c", f"{CALL}json.dump({code}, sys.stdout)").splitlines()[-1])

    def submits(self, *words: str) -> str:
        return self("sbatch", "--parsable", f"--output={self.folder}/%j.out", *words).strip()

    def reason(self, number: str) -> str:
        return self("squeue", "--noheader", "--array", f"--jobs={number}", "--format=%T %r").strip()


@pytest.fixture
def user() -> Iterator[User]:
    if os.getuid():
        pytest.skip("only root can be somebody else, and without root the tests beside these are an ordinary user's")
    with tempfile.TemporaryDirectory(prefix="user-", dir="/tmp") as folder:  # pytest's own is closed to others
        Path(folder).chmod(0o755)
        for cluster in start(Path(folder) / "cluster", "none"):
            found = User(cluster, Path(folder) / "home")
            try:
                found(sys.executable, "-c", CALL)
            except (AssertionError, OSError):
                pytest.skip(f"{ROOT} or its Python cannot be read by {found.known.pw_name}")
            yield found


def test_controllers_are_called_moved_and_followed_by_an_ordinary_user(user):
    script = user.folder / "controller.sh"
    script.write_text(f"#!/bin/bash\n#SBATCH --job-name={NAME}\n#SBATCH --output={user.folder}/%j.log\necho at work\n")
    first = user.calls(f"c.submit_script(Path('{script}'), begin_s=600)")
    second = user.calls(f"c.submit_script(Path('{script}'), begin_s=1200, after='{first}')")
    third = user.calls(f"c.submit_script(Path('{script}'), begin_s=1800, after='{second}')")
    assert user.calls(f"c.waiting_numbers('{NAME}')") == [first, second, third]
    lines = ["code=1", *controller_script.wake(NAME, user.folder, user.folder / "over")]
    user("bash", "-c", "\n".join(lines), SLURM_JOB_NAME="cells", SLURM_JOB_ID="999")
    wait_until((user.folder / f"{first}.log").exists, 60)
    wait_until(lambda: user.reason(second) == "PENDING BeginTime", 60)
    user.calls(f"c.begin_in('{second}', 1)")
    wait_until((user.folder / f"{second}.log").exists, 60)
    user.calls(f"c.cancel_waiting('{NAME}')")
    assert user.calls(f"c.waiting_numbers('{NAME}')") == []


def test_what_is_held_is_told_by_whom_and_what_is_advised_is_allowed(user):
    script = user.folder / "controller.sh"
    script.write_text(f"#!/bin/bash\n#SBATCH --job-name={NAME}\n#SBATCH --output={user.folder}/%j.log\necho at work\n")
    first = user.calls(f"c.submit_script(Path('{script}'), begin_s=600)")
    second = user.calls(f"c.submit_script(Path('{script}'), begin_s=1200, after='{first}')")
    user("scontrol", "hold", first, second)
    held = "[[job.job.number, job.is_held] for job in c.queue().values()]"
    assert user.calls(held) == [[first, True], [second, True]]
    user("scontrol", "release", first, second)
    wait_until(lambda: user.calls(held) == [[first, False], [second, False]], 60)
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
    user.calls(f"c.throttle(c.Job('{array}', 'cells'), 2)")
    assert "ArrayTaskThrottle=2" in user("scontrol", "--oneliner", "show", "job", array)
    user.calls(f"c.cancel([c.Job('{array}_{{}}'.format(place), 'cells') for place in range(4)])")
    assert user.calls("len(c.queue())") == 0
    again = f'[ "$SLURM_RESTART_COUNT" ] || {{ scontrol requeue $SLURM_JOB_ID; sleep 60; }}; touch {user.folder}/again'
    user.submits("--requeue", f"--wrap={again}")
    wait_until((user.folder / "again").exists, 120)

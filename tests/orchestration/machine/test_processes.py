"""Processes of others and of other containers are not taken for dead."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.machine import processes
from orchestration.machine.processes import lives, this_process
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState

ROOT = Path(__file__).resolve().parents[3]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
SAY = """
import json, sys
from orchestration.machine.processes import lives
print(json.dumps(lives(json.loads(sys.argv[1]))))
"""


def runs(*command: str) -> bool:
    return bool(shutil.which(command[0])) and not subprocess.run(command, capture_output=True).returncode


def said(prefix: list[str], described: dict) -> bool | None:
    """Ask a process behind a prefix whether another one lives."""
    command = [*prefix, sys.executable, "-c", SAY, json.dumps(described)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    answer: bool | None = json.loads(done.stdout)
    return answer


def test_process_lives_until_it_ends_and_one_elsewhere_is_unknown():
    mine = this_process()
    assert lives(mine) is True
    assert lives(mine | {"process_started": 1}) is False
    assert lives(mine | {"host": "elsewhere"}) is None
    del mine["pid_namespace"]  # as earlier versions wrote it
    assert lives(mine) is True


@pytest.mark.skipif(not runs("unshare", "--pid", "--fork", "true"), reason="no namespaces may be made here")
def test_of_a_process_in_another_container_nothing_is_known():
    assert said(["unshare", "--pid", "--fork", "--mount-proc"], this_process()) is None


def test_attempt_of_another_container_on_this_host_runs_until_its_lease_ends(tmp_path):
    folder = RunFolder(tmp_path / "0123456789ab-c")
    folder.create("", {})
    folder.claim({**this_process(), "pid": 1, "process_started": 1, "pid_namespace": "pid:[1]"})
    assert folder.state().status is CellState.RUNNING


HIDING = "mount -o remount,hidepid=2 /proc 2>/dev/null || mount -t proc -o hidepid=2 proc /proc"


@pytest.mark.skipif(
    not runs("unshare", "--mount", "sh", "-c", HIDING) or not runs(*NOBODY, sys.executable, "-c", ""),
    reason="only root may hide processes",
)
def test_process_that_proc_hides_from_others_counts_as_alive():
    other = subprocess.Popen(["sleep", "100"])
    try:
        described = this_process() | {"pid": other.pid, "process_started": processes.process_start(other.pid)}
        hidden = ["unshare", "--mount", "sh", "-c", f'{HIDING}; exec {" ".join(NOBODY)} "$@"', "sh"]
        assert said(hidden, described) is True
        other.kill()
        other.wait()
        assert said(hidden, described) is False
    finally:
        other.kill()

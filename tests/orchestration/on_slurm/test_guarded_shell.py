"""Batch scripts whose site has lines of its own, run by bash beside an srun and a scontrol that are shell scripts."""

import os
import subprocess
from pathlib import Path

import pytest

from orchestration.on_slurm import cluster, guarded_shell
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.scheduler import SlurmScheduler
from orchestration.on_slurm.signals import FOLLOW, REQUEUE
from orchestration.on_slurm.site import Site, SiteLimits
from orchestration.runs.folders import ControllersFolder
from orchestration.runs.jobs import CellJob

SETUPS = {
    "nothing": [],
    "errexit": ["set -e"],
    "strict": ["set -euo pipefail"],
    "exit trap": ["trap 'echo cleaned >> $HERE/said' EXIT"],
    "exit trap with a code of its own": ["trap 'echo cleaned >> $HERE/said; exit 0' EXIT"],
    "error trap": ["set -E", "trap 'exit 9' ERR"],
    "backslash": ["echo prepared \\"],
}


class Script:
    """Runs the batch script of a cell, and what its job tells Slurm."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name, text in {
            "srun": 'echo "srun $FROM_SETUP" >> $HERE/said; exit $(cat $HERE/code)',
            "sleep": "",
            "slurm/scontrol": 'echo "scontrol $1" >> $HERE/said; [ $1 = requeue ] || echo " JobName=cells "',
            "wake": 'echo "wake $1" >> $HERE/said',
        }.items():
            path = folder / "bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)

    def __call__(self, setup: list[str], code: int, **environment: str) -> tuple[int, list[str]]:
        (self.folder / "said").write_text("")
        (self.folder / "code").write_text(f"{code}\n")
        # Slurm's commands are found by what the setup does, as after a `module load slurm`
        config = ClusterConfig(setup=[f"export PATH={self.folder}/bin/slurm:$PATH FROM_SETUP=it", *setup])
        scheduler = SlurmScheduler(Site(config, Path("/snapshot"), ["wake $code"]))
        (text,) = scheduler.scripts([CellJob(self.folder / "cells" / "a", device="cpu")], self.folder, SiteLimits())
        (self.folder / "job.sh").write_text(text)
        done = subprocess.run(
            ["bash", self.folder / "job.sh"], check=False, timeout=60, capture_output=True,
            env={"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "HERE": str(self.folder), "SLURM_JOB_ID": "7",
                 "SLURM_JOB_NAME": "cells", "TMPDIR": str(self.folder / "tmp"), **environment},
        )  # fmt: skip
        return done.returncode, (self.folder / "said").read_text().splitlines()


@pytest.fixture
def script(tmp_path: Path) -> Script:
    (tmp_path / "tmp").mkdir()
    return Script(tmp_path)


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
def test_job_is_requeued_and_calls_a_controller_whatever_its_site_has_the_shell_do(setup, script):
    requeued = ["srun it", "scontrol --oneliner", "scontrol requeue", f"wake {REQUEUE}"]
    for code, ends_with, expected in (
        (REQUEUE, REQUEUE, requeued),
        (FOLLOW, 0, ["srun it", f"wake {FOLLOW}"]),
        (1, 1, ["srun it", "wake 1"]),
        (0, 0, ["srun it", "wake 0"]),
    ):
        ended, said = script(setup, code)
        assert (ended, [line for line in said if line != "cleaned"]) == (ends_with, expected)
        assert ("cleaned" in said) is any("cleaned" in line for line in setup)
    assert not list((script.folder / "tmp").iterdir())


@pytest.mark.parametrize(
    ("setup", "code"), [(["set -e", "false"], 1), (["exit 3"], 3), (["set -u", "echo $GONE"], 1), (["exec false"], 1)]
)
def test_job_whose_setup_fails_trains_nothing_and_calls_a_controller(setup, code, script):
    assert script(setup, 0) == (code, [f"wake {code}"])


def test_node_without_room_for_a_file_and_a_user_whose_shells_are_strict_change_nothing(script):
    assert script(["set -eu"], 1, TMPDIR="/nowhere") == (1, ["srun it", "wake 1"])
    strict = {"SHELLOPTS": "braceexpand:errexit:hashall:nounset:pipefail"}
    assert script([], 1, **strict) == (1, ["srun it", "wake 1"])


def test_controller_with_a_strict_setup_sees_to_its_followers(script):
    over, setup = script.folder / "over", ["set -e", "trap 'exit 0' EXIT"]
    site = Site(ClusterConfig(setup=setup, python="false"), Path("/snapshot"))
    text = site.controller_script("controllers", ControllersFolder(script.folder), over, ["-m", "it"], "it failed")
    done = subprocess.run(
        ["bash", "-c", text], check=False, timeout=60, capture_output=True, text=True,
        env={"PATH": f"{script.folder}/bin:{os.environ['PATH']}", "HERE": str(script.folder), "SLURM_JOB_ID": "7"},
    )  # fmt: skip
    assert done.returncode == 1 and "it failed" in done.stdout and (script.folder / "told").exists()


@pytest.mark.parametrize("setup", [["echo 'a"], ["if true; then"], ["echo a )"], ["cat << END"], ["("]])
def test_setup_that_is_no_whole_command_is_refused_before_anything_is_submitted(setup):
    with pytest.raises(ValueError, match="cluster.setup must be whole shell commands; bash says"):
        guarded_shell.refuse(setup)
    guarded_shell.refuse(cluster.from_values({"setup": ["if true; then", '  echo "it\'s"', "fi"]}).setup)

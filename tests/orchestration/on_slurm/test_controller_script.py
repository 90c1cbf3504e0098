"""The shell around a controller, run by bash beside a squeue, sbatch, scontrol and scancel that are shell scripts."""

import os
import subprocess
from pathlib import Path

import pytest

from orchestration.on_slurm import controller_script
from orchestration.runs.folders import ControllersFolder

NAME = "rankmatch-controller-1"
FAKES = {
    # a line each: number, state, name; one that was told to fail does so that often
    "squeue": """
for word in "$@"; do case $word in --states=*) states=${word#*=} ;; --name=*) name=${word#*=} ;; esac; done
while read -r number state its; do
  if [ "$its" = "$name" ] && { [ -z "$states" ] || [ "$state" = "$states" ]; }; then echo "$number"; fi
done < $HERE/queue""",
    "sbatch": 'number=$((100 + $(wc -l < $HERE/queue)));'
    ' echo "$number PENDING rankmatch-controller-1" >> $HERE/queue; echo "$number;cluster"',
    "scontrol": "",
    "scancel": "",
    "sleep": "",
    "curl": "cat > $HERE/curl.input",
    "tell": "",
}  # fmt: skip


class Shell:
    """Runs lines as the batch script of job 7."""

    def __init__(self, folder: Path):
        self.folder, self.over, self.controllers = folder, folder / "ended.json", ControllersFolder(folder)
        (folder / "bin").mkdir()
        (folder / "queue").write_text(f"7 RUNNING {NAME}\n")
        for name, text in FAKES.items():
            path = folder / "bin" / name
            fails = (
                f'if [ -s $HERE/{name}.fails ]; then sed -i 1d $HERE/{name}.fails; echo "{name}: no" >&2; exit 1; fi'
            )
            path.write_text(f'#!/bin/bash\necho "{name} $@" >> $HERE/said\n{fails}\n{text}\n')
            path.chmod(0o755)

    def fails(self, name: str, times: int = 1000) -> None:
        (self.folder / f"{name}.fails").write_text("no\n" * times)

    def queue(self, *lines: str) -> None:
        (self.folder / "queue").write_text("".join(f"{line}\n" for line in lines))

    def failures(self) -> int:
        return int((self.folder / "failures").read_text())

    def __call__(self, *lines: str, **environment: str) -> list[str]:
        """Return what Slurm was told, without what it was asked."""
        (self.folder / "said").write_text("")
        done = subprocess.run(
            ["bash", "-c", "\n".join(lines)],
            env={"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "HERE": str(self.folder), "SLURM_JOB_ID": "7",
                 "SLURM_JOB_NAME": NAME, "SQUEUE_STATES": "RUNNING", **environment},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        self.code, self.error = done.returncode, done.stderr
        told = (self.folder / "said").read_text().splitlines()
        return [line for line in told if not line.startswith(("squeue", "sleep"))]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def controller(shell: Shell, code: int = 0, words: tuple[str, ...] = (), **environment: str) -> list[str]:
    before = controller_script.before(NAME, shell.controllers, shell.over, 600, words, 'it\'s "still"')
    after = controller_script.after(NAME, shell.controllers, shell.over, words, 'it\'s "still"')
    return shell(*before, f"(exit {code})", *after, **environment)


def submitted(shell: Shell, seconds: int, behind: int) -> str:
    return f"sbatch --parsable --begin=now+{seconds} --dependency=afterany:{behind} {shell.folder}/controller.sh"


def test_controller_has_two_wait_behind_it_before_it_does_anything(shell):
    said = shell(*controller_script.before(NAME, shell.controllers, shell.over, 600))
    assert said == [submitted(shell, 600, 7), submitted(shell, 1200, 101)]
    assert shell.failures() == 1  # until it has come to its end


def test_controller_adds_as_many_as_are_missing_behind_those_that_wait(shell):
    shell.queue(f"7 RUNNING {NAME}", f"12 PENDING {NAME}", "13 PENDING another")
    assert controller(shell) == [submitted(shell, 1200, 12)]
    shell.queue(f"7 RUNNING {NAME}", f"12 PENDING {NAME}", f"9 PENDING {NAME}")
    assert controller(shell) == []


@pytest.mark.parametrize(("failures", "seconds"), [(0, 600), (1, 120), (2, 240), (7, 7680), (8, 14400), (59, 14400)])
def test_controllers_that_fail_follow_each_other_less_and_less_often(failures, seconds, shell):
    (shell.folder / "failures").write_text(f"{failures}\n")
    assert controller(shell, 3) == [submitted(shell, seconds, 7), submitted(shell, 2 * seconds, 101)]
    assert shell.failures() == failures + 1


def test_controllers_that_fail_are_bounded_in_number_and_the_last_one_says_so(shell):
    (shell.folder / "failures").write_text("60\n")
    assert controller(shell, 1, ("tell", "a b")) == ['tell a b it\'s "still"']
    assert shell.code == 1


def test_refusals_of_sbatch_that_pass_are_waited_for(shell):
    shell.fails("sbatch", 2)
    assert controller(shell)[-2:] == [submitted(shell, 600, 7), submitted(shell, 1200, 101)]


def test_controller_that_nobody_can_follow_goes_back_into_the_queue_itself(shell):
    shell.fails("sbatch")
    assert controller(shell, 3)[-1] == "scontrol requeue 7"
    assert controller(shell, 0)[-1].startswith("sbatch")  # it has seen to it that somebody follows
    (shell.folder / "sbatch.fails").unlink()
    shell.queue(f"7 RUNNING {NAME}")
    shell.fails("sbatch", 4)
    assert controller(shell, 3)[-2:] == [submitted(shell, 240, 7), submitted(shell, 480, 101)]


@pytest.mark.parametrize("code", [1, controller_script.REPORTED])
def test_controller_that_is_restarted_no_more_says_so(code, shell):
    shell.fails("sbatch")
    (shell.folder / "failures").write_text("5\n")
    assert "tell" in controller(shell, code, ("tell",), SLURM_RESTART_COUNT="60")[-1]
    shell.queue(f"7 RUNNING {NAME}", f"9 PENDING {NAME}")
    assert "tell" not in "".join(controller(shell, code, ("tell",), SLURM_RESTART_COUNT="60"))


def test_squeue_that_fails_is_not_taken_for_an_empty_queue(shell):
    shell.fails("squeue")
    assert controller(shell, 3) == []


def test_controller_of_a_campaign_that_is_over_ends_itself_and_those_that_wait(shell):
    shell.over.write_text("")
    assert controller(shell, 9) == [f"scancel --quiet --name={NAME} --state=PENDING"]
    assert shell.code == 0 and not (shell.folder / "failures").exists()


def test_shell_tells_where_python_does_not_start(shell):
    text = 'it\'s "still"'
    hook = {"RANKMATCH_WEBHOOK": "https://x/secret"}
    said = controller(shell, 127, ("tell", "a b"), **hook)
    assert said[2:] == [
        f"tell a b {text}",
        "curl --config - --silent --max-time 20 --header Content-Type: application/json --data "
        '{"text": "it\'s \\"still\\""}',
    ]
    assert (shell.folder / "curl.input").read_text() == 'url = "https://x/secret"\n'
    assert controller(shell, 127, ("tell",), **hook) == []  # once
    (shell.folder / "failures").unlink()
    assert "tell" not in "".join(controller(shell, controller_script.REPORTED, ("tell",), **hook))


@pytest.mark.parametrize("address", ["http://x/secret", "http://127.0.0.1@x/secret", "file:///etc/passwd"])
def test_shell_sends_nothing_in_the_clear(shell, address):
    assert "curl" not in " ".join(controller(shell, 127, ("tell",), RANKMATCH_WEBHOOK=address))


@pytest.mark.parametrize("address", ["http://127.0.0.1:8/x", "http://localhost/x", "http://[::1]:8/x"])
def test_shell_sends_to_this_machine(shell, address):
    assert "curl" in " ".join(controller(shell, 127, ("tell",), RANKMATCH_WEBHOOK=address))


def test_controller_tells_of_those_before_that_were_ended_with_their_shell(shell):
    shell.queue(f"7 RUNNING {NAME}", f"9 PENDING {NAME}", f"12 PENDING {NAME}")
    for expected in ([], [], ['tell it\'s "still"'], []):  # each is killed at its time limit
        assert (
            shell(*controller_script.before(NAME, shell.controllers, shell.over, 600, ("tell",), 'it\'s "still"'))
            == expected
        )
    (shell.folder / "failures").write_text("0\n")  # one came to its end
    for expected in ([], [], ['tell it\'s "still"']):
        assert (
            shell(*controller_script.before(NAME, shell.controllers, shell.over, 600, ("tell",), 'it\'s "still"'))
            == expected
        )


def woken(shell: Shell, code: int, **environment: str) -> list[str]:
    return shell(
        f"code={code}", *controller_script.wake(NAME, shell.controllers, shell.over), "exit $code", **environment
    )


def test_job_that_failed_wakes_the_first_controller_that_waits(shell):
    shell.queue(f"9 PENDING {NAME}", f"12 PENDING {NAME}", "3 RUNNING cells", "4 RUNNING cells", "5 PENDING cells")
    cells = {"SLURM_JOB_NAME": "cells"}
    assert woken(shell, 1, **cells) == ["scontrol update JobId=9 StartTime=now"]
    assert shell.code == 1
    assert woken(shell, 0, **cells) == []
    shell.queue(f"9 PENDING {NAME}", "3 RUNNING cells", "4 RUNNING cells")
    assert woken(shell, 0, **cells) == ["scontrol update JobId=9 StartTime=now"]  # among the last
    shell.over.write_text("")
    assert woken(shell, 1, **cells) == []


def test_job_that_failed_submits_a_controller_where_somebody_cancelled_them(shell):
    shell.queue("3 RUNNING cells")
    assert woken(shell, 1) == [f"sbatch --parsable --begin=now {shell.folder}/controller.sh"]
    shell.queue(f"7 RUNNING {NAME}")  # one is at work, and has seen to who follows
    assert woken(shell, 1) == []
    shell.fails("squeue")
    assert woken(shell, 1) == [] and shell.code == 1

import json
import os
import pickle
import shlex
import subprocess
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from orchestration_fakes import flags

from orchestration.on_slurm import commands, submissions
from orchestration.on_slurm.batch import give_tasks
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import Job, QueuedJob
from orchestration.on_slurm.scheduler import SlurmScheduler
from orchestration.on_slurm.site import Site, SiteLimits
from orchestration.runs.jobs import CellJob, JobState, SchedulerError, SchedulerRefusal
from orchestration.runs.run_folder import RunFolder

OWNER = {"launch": "l", "campaign": "l", "commit": "c", "provenance": {}}


@pytest.fixture
def launch_dir(tmp_path: Path) -> Path:
    path = tmp_path / "grid" / "launches" / "1"
    path.mkdir(parents=True)
    return path


def jobs_of(tmp_path: Path, num: int, **settings) -> list[CellJob]:
    cells = tmp_path / "grid" / "cells"
    return [CellJob(cells / f"{number:012x}-c", estimate_s=60.0, **settings) for number in range(num)]


def scheduler(tmp_path: Path, max_concurrent: int | None = None, **settings) -> SlurmScheduler:
    return SlurmScheduler(Site(ClusterConfig(**settings), tmp_path / "code"), max_concurrent=max_concurrent)


def test_jobs_of_equal_resources_are_one_array_that_is_written_down(slurm, launch_dir, tmp_path):
    handle = scheduler(tmp_path, 2, account="us", extra={"nice": "5"}).submit(jobs_of(tmp_path, 5), launch_dir, OWNER)
    (script,) = slurm.scripts
    assert flags(script) | {"output": ""} == {
        "account": "us", "array": "0-4%2", "cpus-per-task": "4", "gpus-per-node": "1",
        "job-name": handle.submissions[0].name,
        "mem": "16384MB", "nice": "5", "nodes": "1", "ntasks-per-node": "1", "open-mode": "append", "output": "",
        "requeue": "", "signal": "USR2@120", "time": "30",
    }  # fmt: skip
    assert f"export PYTHONPATH={tmp_path}/code" in script and "--cpus-per-task=4" in script
    (stored,) = (launch_dir / "submissions").iterdir()
    assert json.loads(stored.read_text())["job_id"] == "1"
    name = handle.submissions[0].name
    assert submissions.newest_jobs(tmp_path / "grid") == {f"{n:012x}-c": Job(f"1_{n}", name) for n in range(5)}


def test_arrays_stay_within_the_sites_size_and_one_limit_together(slurm, launch_dir, tmp_path):
    slurm.max_array_size = 3
    scheduler(tmp_path, 2).submit(jobs_of(tmp_path, 8), launch_dir, OWNER)
    assert [flags(script)["array"] for script in slurm.scripts[:2]] == ["0-2%1", "0-2%1"]
    assert flags(slurm.scripts[2])["dependency"] == "afterany:1"
    assert len(slurm.scripts) == 3


def test_cells_that_keep_away_from_other_nodes_have_an_array_of_their_own(slurm, launch_dir, tmp_path):
    jobs = [
        replace(job, avoided=nodes) for job, nodes in zip(jobs_of(tmp_path, 4), [(), ("n1",), ("n1",), ()], strict=True)
    ]
    scheduler(tmp_path).submit(jobs, launch_dir, OWNER)
    assert [flags(script).get("exclude") for script in slurm.scripts] == [None, "n1"]
    assert [flags(script)["array"] for script in slurm.scripts] == ["0-1%2", "0-1%2"]


def test_cells_of_other_resources_have_an_array_of_their_own(slurm, launch_dir, tmp_path):
    mixed = [*jobs_of(tmp_path, 2), *jobs_of(tmp_path, 1, num_workers=16)]
    scheduler(tmp_path).submit(mixed, launch_dir, OWNER)
    assert [flags(script)["nodes"] for script in slurm.scripts] == ["1", "2"]
    assert "array" not in flags(slurm.scripts[1]) and flags(slurm.scripts[1])["gpus-per-node"] == "8"


def test_cells_for_which_no_other_node_is_left_go_to_those_that_they_avoid_and_it_is_said(
    slurm, launch_dir, tmp_path, capsys
):
    (slurm.folder / "refuses_asking").write_text("exclude=n1,n2")
    jobs = [replace(job, avoided=("n1", "n2")) for job in jobs_of(tmp_path, 2)]
    handle = scheduler(tmp_path).submit(jobs, launch_dir, OWNER)
    assert "exclude" not in flags(slurm.scripts[-1])
    said = capsys.readouterr().err
    assert (
        said.startswith("submitted again without keeping away from n1, n2: sbatch refused: ") and said.count("\n") == 1
    )
    assert [one.name for _, one in submissions.read(tmp_path / "grid")] == [handle.submissions[0].name]


def test_no_more_jobs_are_submitted_than_the_site_takes(slurm, launch_dir, tmp_path):
    scheduler(tmp_path, max_submit=3).submit(jobs_of(tmp_path, 8), launch_dir, OWNER)
    assert [flags(script)["array"] for script in slurm.scripts] == ["0-2%3"]


def test_refusal_of_sbatch_is_one_message_and_leaves_no_submission(slurm, launch_dir, tmp_path):
    (slurm.folder / "refuses").touch()
    with pytest.raises(SchedulerRefusal, match="sbatch refused: .*Invalid account"):
        scheduler(tmp_path).submit(jobs_of(tmp_path, 2), launch_dir, OWNER)
    assert submissions.read(tmp_path / "grid") == []


def test_one_array_that_is_refused_keeps_no_other_from_being_submitted(slurm, launch_dir, tmp_path):
    (slurm.folder / "refuses_asking").write_text("gpus-per-node=2")
    cells = jobs_of(tmp_path, 3)
    cells[1] = replace(cells[1], num_workers=2)
    with pytest.raises(SchedulerRefusal, match="Requested node configuration is not available"):
        scheduler(tmp_path, 1).submit(cells, launch_dir, OWNER)
    assert [one.cells for _, one in submissions.read(tmp_path / "grid")] == [[cells[0].name, cells[2].name]]


def test_array_behind_one_that_is_refused_waits_for_what_that_would_have_waited_for(slurm, launch_dir, tmp_path):
    (slurm.folder / "refuses_asking").write_text("gpus-per-node=2")
    cells = [replace(job, num_workers=1 + number) for number, job in enumerate(jobs_of(tmp_path, 3))]
    with pytest.raises(SchedulerRefusal):
        scheduler(tmp_path, 1).submit(cells, launch_dir, OWNER)
    first, last = map(flags, slurm.scripts)
    assert (first["gpus-per-node"], last["gpus-per-node"]) == ("1", "3")
    assert "dependency" not in first and last["dependency"] == "afterany:1"


def test_name_stays_to_be_looked_up_where_sbatch_did_not_answer(slurm, launch_dir, tmp_path):
    (slurm.folder / "silent").touch()
    with pytest.raises(SchedulerError, match="Socket timed out"):
        scheduler(tmp_path).submit(jobs_of(tmp_path, 2), launch_dir, OWNER)
    ((_, submission),) = submissions.read(tmp_path / "grid")
    assert submission.job_id == ""
    slurm.names[submission.name] = "17\n"
    ((folder, found),) = submissions.settle(tmp_path / "grid", give_tasks)
    assert (folder, found.job_id) == (launch_dir, "17")
    assert submissions.newest_jobs(tmp_path / "grid")["000000000001-c"] == Job("17_1", submission.name)


def test_what_has_no_job_is_withdrawn_for_good_and_a_job_that_comes_after_all_is_cancelled(slurm, launch_dir, tmp_path):
    (slurm.folder / "silent").touch()
    with pytest.raises(SchedulerError, match="Socket timed out"):
        scheduler(tmp_path).submit(jobs_of(tmp_path, 2), launch_dir, OWNER)
    assert submissions.find(tmp_path / "grid") == []
    ((_, submission),) = submissions.read(tmp_path / "grid")
    assert not submissions.is_withdrawn(launch_dir, submission.name)  # its launch may still be at work
    assert submissions.settle(tmp_path / "grid", give_tasks) == []
    (slurm.folder / "silent").unlink()
    scheduler(tmp_path).submit(jobs_of(tmp_path, 2), launch_dir, OWNER)
    (slurm.folder / "script.2").write_text(f"#SBATCH --job-name={submission.name}\n")
    slurm.names[submission.name] = "2\n"
    slurm.queued = {"1_0": ("PENDING", ""), "1_1": ("PENDING", ""), "2_0": ("PENDING", ""), "2_1": ("PENDING", "")}
    assert submissions.settle(tmp_path / "grid", give_tasks) == []
    assert slurm.cancelled == ["2_0", "2_1"]
    assert {job.number for job in submissions.newest_jobs(tmp_path / "grid").values()} == {"1_0", "1_1"}
    assert submissions.is_withdrawn(launch_dir, submission.name)


def test_launch_that_was_taken_for_dead_while_sbatch_hung_gives_its_jobs_no_tasks(
    slurm, launch_dir, tmp_path, monkeypatch
):
    submit = commands.submit

    def submit_late(script: Path, name: str) -> Job:
        assert submissions.settle(tmp_path / "grid", give_tasks) == []  # as where a lock holds on one machine alone
        slurm.queued = {"1_0": ("PENDING", ""), "1_1": ("PENDING", "")}
        return submit(script, name)

    monkeypatch.setattr(commands, "submit", submit_late)
    with pytest.raises(SchedulerError, match="job 1 came, but is withdrawn: another step saw no launch at work"):
        scheduler(tmp_path).submit(jobs_of(tmp_path, 2), launch_dir, OWNER)
    assert slurm.cancelled == ["1"] and submissions.read(tmp_path / "grid") == []
    assert not [*(launch_dir / "jobs").glob("*_submitted.pkl")]


@pytest.mark.parametrize("num_cells", [1, 3])
def test_found_job_gets_the_tasks_of_its_cells(num_cells, slurm, launch_dir, tmp_path):
    (slurm.folder / "silent").touch()  # as a launch killed behind sbatch leaves it
    with pytest.raises(SchedulerError):
        scheduler(tmp_path).submit(jobs_of(tmp_path, num_cells), launch_dir, OWNER)
    ((_, submission),) = submissions.read(tmp_path / "grid")
    submission.job_id = "17"
    give_tasks(launch_dir, submission)
    assert not [path for path in (launch_dir / "jobs").glob("*.pkl") if "_submitted" not in path.name]
    for cell, job in submission.jobs().items():
        task = pickle.loads((launch_dir / "jobs" / f"{job}_submitted.pkl").read_bytes()).function
        assert Path(task.cell_dir).name == cell


def test_found_job_gets_the_tasks_of_its_own_submission_not_of_one_that_was_refused(slurm, launch_dir, tmp_path):
    jobs = [replace(job, avoided=("n1",)) for job in jobs_of(tmp_path, 2)]
    (slurm.folder / "refuses_asking").write_text("exclude=n1")  # submitted again without: the same cells, other tasks
    (slurm.folder / "silent").touch()
    with pytest.raises(SchedulerError, match="Socket timed out"):
        scheduler(tmp_path).submit(jobs, launch_dir, OWNER)
    ((_, submission),) = submissions.read(tmp_path / "grid")
    waiting = {path.name for path in (launch_dir / "jobs").glob("*.pkl")}
    assert {f"{submission.name}.{place}.pkl" for place in range(2)} == waiting  # those of the refused one are gone
    submission.job_id = "17"
    give_tasks(launch_dir, submission)
    left = {path.name for path in (launch_dir / "jobs").glob("*.pkl")}
    assert left - waiting == {"17_0_submitted.pkl", "17_1_submitted.pkl"}
    assert waiting - left == {f"{submission.name}.{place}.pkl" for place in range(2)}


@pytest.mark.parametrize("num_cells", [1, 3])
def test_found_job_of_an_earlier_version_gets_the_newest_task_of_its_cell(num_cells, slurm, launch_dir, tmp_path):
    (slurm.folder / "silent").touch()
    for seconds, node in ((1, "n1"), (2, "n2")):  # sbatch refused the first submission, whose tasks stayed
        with pytest.raises(SchedulerError):
            scheduler(tmp_path).submit(jobs_of(tmp_path, num_cells), launch_dir, {**OWNER, "mark": node})
        for path in (launch_dir / "jobs").glob("rm-*.pkl"):
            os.utime(path, (seconds, seconds))
            path.rename(path.with_name(f"{uuid.uuid4().hex}.pkl"))
    _, (_, submission) = submissions.read(tmp_path / "grid")
    submission.job_id = "17"
    give_tasks(launch_dir, submission)
    for cell, job in submission.jobs().items():
        task = pickle.loads((launch_dir / "jobs" / f"{job}_submitted.pkl").read_bytes()).function
        assert (Path(task.cell_dir).name, task.owner["mark"]) == (cell, "n2")


def test_settings_of_the_surrounding_job_do_not_reach_the_new_one(slurm, launch_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "9")
    monkeypatch.setenv("SBATCH_PARTITION", "wrong")
    monkeypatch.setenv("SLURM_CONF", "/etc/x")
    scheduler(tmp_path).submit(jobs_of(tmp_path, 1), launch_dir, OWNER)
    environment = (slurm.folder / "env.1").read_text()
    assert "SLURM_CONF=/etc/x" in environment
    assert "CPUS_PER_TASK" not in environment and "SBATCH_PARTITION" not in environment


def test_task_carries_the_cell_and_what_its_workers_get(slurm, launch_dir, tmp_path):
    scheduler(tmp_path, requeue=False).submit(jobs_of(tmp_path, 2, num_workers=2), launch_dir, OWNER)
    task = pickle.loads((launch_dir / "jobs" / "1_1_submitted.pkl").read_bytes()).function
    assert Path(task.cell_dir).name == "000000000001-c"
    assert (task.num_nodes, task.num_workers, task.num_cpus_per_node, task.num_gpus_per_node) == (1, 2, 8, 2)
    assert (task.requeue, task.owner["campaign"]) == (False, "l")
    assert (task.jobs_dir, task.root) == (str(launch_dir / "jobs"), str(tmp_path / "code"))
    assert flags(slurm.scripts[0])["no-requeue"] == ""


def test_task_knows_what_its_site_says_of_signals_controllers_and_notices(slurm, launch_dir, tmp_path):
    for number, settings in enumerate(
        ({}, {"signal_before_s": 300, "controller": False, "notify_command": ["tell", "us"]}), 1
    ):
        site = Site(ClusterConfig(**settings), tmp_path / "code")
        SlurmScheduler(site).submit(jobs_of(tmp_path, 2), launch_dir, OWNER)
        task = pickle.loads((launch_dir / "jobs" / f"{number}_0_submitted.pkl").read_bytes()).function
        assert (task.signal_before_s, task.is_followed) == (site.config.signal_before_s, site.config.controller)
        assert task.notifier == site.notifier(launch_dir)


def test_names_with_quotes_and_spaces_stay_names(slurm, tmp_path):
    folder = tmp_path / "it's a folder; touch evil" / "launches" / "1"
    folder.mkdir(parents=True)
    (script,) = scheduler(tmp_path).scripts(jobs_of(tmp_path, 1), folder, SiteLimits())
    line = next(line for line in script.splitlines() if line.startswith("srun"))
    assert shlex.split(line)[-1] == str(folder / "jobs") and flags(script)["job-name"] == "rankmatch"
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=True).returncode == 0


def test_states_are_those_of_the_folder_first_and_of_squeue_second(slurm, launch_dir, tmp_path):
    made = jobs_of(tmp_path, 4)
    for job in made:
        RunFolder(job.cell_dir).create("", {})
    handle = scheduler(tmp_path).submit(made, launch_dir, OWNER)
    slurm.queued = {"1_0": ("PENDING", ""), "1_1": ("RUNNING", "n1"), "1_2": ("RUNNING", "n1")}
    RunFolder(made[2].cell_dir).claim({"commit": ""})
    (made[2].cell_dir / "result.json").write_text("{}")
    attempt = RunFolder(made[3].cell_dir).claim({"commit": ""})
    attempt.event("failed", kind="code error")
    assert list(handle.poll().values()) == [JobState.PENDING, JobState.RUNNING, JobState.DONE, JobState.FAILED]
    assert not handle.wait(0.1)
    slurm.queued = {}
    assert handle.wait(0.1)
    slurm.is_down = True
    with pytest.raises(SchedulerError, match="squeue did not answer"):
        handle.poll()


def test_machine_without_slurm_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="must be launched where Slurm's commands are"):
        scheduler(tmp_path).check([])


def test_every_field_of_a_site_reaches_the_script(slurm, launch_dir, tmp_path):
    site = {"partition": "gpu", "account": "our's", "qos": "high", "constraint": "a100&ib", "reservation": "r 1",
            "wckey": "key", "exclude": "n[1-2]", "extra": {"nice": "5", "exclusive": "true"}, "gpu_type": "a100",
            "srun_args": ["--mpi=none"], "modules": ["cuda/12.4"], "setup": ["ulimit -n 4096"],
            "environment": {"NCCL_DEBUG": "it's"}, "container": "apptainer", "image": "/i m.sif",
            "container_args": ["--nv"], "gpus_per_node": 4, "cpus_per_worker": 8, "mem_gb_per_worker": 48.0,
            "time_min": 600, "signal_before_s": 300}  # fmt: skip
    scheduler(tmp_path, **site).submit(jobs_of(tmp_path, 1, num_workers=2), launch_dir, OWNER)
    (script,) = slurm.scripts
    found = {name: shlex.split(value)[0] if value else "" for name, value in flags(script).items()}
    assert found | {"output": "", "job-name": ""} == {
        "partition": "gpu", "account": "our's", "qos": "high", "constraint": "a100&ib", "reservation": "r 1",
        "wckey": "key", "exclude": "n[1-2]", "nice": "5", "exclusive": "", "gres": "gpu:a100:2", "nodes": "1",
        "ntasks-per-node": "1", "cpus-per-task": "16", "mem": "98304MB", "time": "600", "signal": "USR2@300",
        "open-mode": "append", "requeue": "", "output": "", "job-name": "",
    }  # fmt: skip
    lines = script.splitlines()
    assert "export SLURM_EXPORT_ENV=ALL" in lines  # else srun hides the lines below where SBATCH_EXPORT=NONE
    assert "module load cuda/12.4" in lines and "ulimit -n 4096" in lines
    assert "export NCCL_DEBUG='it'\"'\"'s'" in lines
    (command,) = (shlex.split(line) for line in lines if line.startswith("srun"))
    assert {"--mpi=none", "--cpus-per-task=16", "--kill-on-bad-exit=1"} <= {*command}
    place = command.index("apptainer")
    assert command[place : place + 5] == ["apptainer", "exec", "--nv", "/i m.sif", "python"]


def test_value_of_two_lines_is_refused():
    for settings in ({"account": "a\ntouch evil"}, {"extra": {"nice": "1\ntouch evil"}}):
        with pytest.raises(ValueError, match="must be one line; got"):
            ClusterConfig(**settings)


def test_site_that_says_how_many_jobs_it_takes_gets_no_more(slurm, launch_dir, tmp_path):
    slurm.max_submit_jobs = {"user": "us|us||6|\n", "qos": "5\n"}
    slurm.queued = {"90": ("RUNNING", "n1")}
    handle = scheduler(tmp_path, qos="normal").submit(jobs_of(tmp_path, 8), launch_dir, OWNER)
    assert flags(slurm.scripts[0])["array"] == "0-2%3"  # 5, but for the job that is there and the controller
    assert len(handle.names) == 3
    slurm.queued = {str(number): ("PENDING", "") for number in range(5)}
    with pytest.raises(SchedulerError, match="the site takes 5 jobs of this user at a time, and has them"):
        scheduler(tmp_path, qos="normal").submit(jobs_of(tmp_path, 8), launch_dir, OWNER)


def test_jobs_of_an_earlier_launch_count_in_the_limit_of_those_at_a_time(slurm, launch_dir, tmp_path):
    site = Site(ClusterConfig(), tmp_path / "code")
    busy = [QueuedJob(Job(f"7_{place}", "rm"), "RUNNING", "n1", "") for place in range(2)]
    SlurmScheduler(site, max_concurrent=3, busy=busy).submit(jobs_of(tmp_path, 4), launch_dir, OWNER)
    assert flags(slurm.scripts[0])["array"] == "0-3%1" and "dependency" not in flags(slurm.scripts[0])
    SlurmScheduler(site, max_concurrent=2, busy=busy).submit(jobs_of(tmp_path, 4), launch_dir, OWNER)
    assert flags(slurm.scripts[1])["array"] == "0-3%1"
    assert flags(slurm.scripts[1])["dependency"] == "'afterany:7_0?afterany:7_1'"
    assert not slurm.throttles


def test_array_of_an_earlier_launch_gives_up_one_of_its_places_to_a_new_one(slurm, launch_dir, tmp_path):
    site = Site(ClusterConfig(), tmp_path / "code")
    states = ("RUNNING", "RUNNING", "PENDING", "PENDING")
    busy = [QueuedJob(Job(f"7_{place}", "rm"), state, "", "") for place, state in enumerate(states)]
    SlurmScheduler(site, max_concurrent=2, busy=busy).submit(jobs_of(tmp_path, 4), launch_dir, OWNER)
    assert slurm.throttles == {"7": 1}
    assert flags(slurm.scripts[0])["dependency"] == "'afterany:7_0?afterany:7_1'"
    SlurmScheduler(site, max_concurrent=1, busy=busy[1:]).submit(jobs_of(tmp_path, 4), launch_dir, OWNER)
    assert flags(slurm.scripts[1])["dependency"] == "afterany:7"


def test_what_a_site_has_sbatch_print_is_not_taken_for_a_job(slurm, launch_dir, tmp_path):
    (slurm.folder / "banner").write_text("Welcome! Your job 99 counts double, submitted batch job 98\n97\n")
    handle = scheduler(tmp_path).submit(jobs_of(tmp_path, 2), launch_dir, OWNER)
    assert [job.number for job in handle.job_ids] == ["1"]
    assert sorted(path.name for path in (launch_dir / "jobs").glob("*.pkl")) == [
        "1_0_submitted.pkl",
        "1_1_submitted.pkl",
    ]


@pytest.mark.parametrize("name", ["50%", "a%j", "back\\slash", "a:b", "two\nlines"])
def test_runs_folder_that_slurm_or_python_would_read_otherwise_is_refused(name, slurm, tmp_path):
    (folder := tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=r"--runs must be a folder without % \\ : and control characters .*; got "):
        scheduler(tmp_path).check(jobs_of(folder, 1))
    (link := tmp_path / "link").symlink_to(folder)
    with pytest.raises(ValueError, match="--runs must be a folder without %"):
        scheduler(tmp_path).check(jobs_of(link, 1))


def test_cpus_of_the_srun_are_those_of_the_job_that_a_site_gives(slurm, tmp_path):
    def srun(**extra) -> list[str]:
        (script,) = scheduler(tmp_path, extra=extra).scripts(jobs_of(tmp_path, 1), tmp_path / "l", SiteLimits())
        return next(shlex.split(line) for line in script.splitlines() if line.startswith("srun"))

    assert "--cpus-per-task=4" in srun()
    assert "--cpus-per-task=9" in srun(**{"cpus-per-task": "9"})
    assert not [word for word in srun(**{"cpus-per-task": "false"}) if word.startswith("--cpus-per-task")]

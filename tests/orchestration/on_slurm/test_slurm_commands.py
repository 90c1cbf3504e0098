import subprocess

import pytest
from shell_programs import programs

from orchestration.on_slurm import commands
from orchestration.on_slurm.commands import EndedJob, Job, QueuedJob, SlurmError, SlurmRefusal

OF_A_SHELL = ("SQUEUE_STATES", "SQUEUE_PARTITION", "SQUEUE_QOS", "SQUEUE_ACCOUNT", "SQUEUE_NAMES", "SQUEUE_USERS",
              "SQUEUE_FORMAT", "SQUEUE_LICENSES", "SLURM_CLUSTERS", "SLURM_BITSTR_LEN", "SACCT_FORMAT",
              "SACCT_FEDERATION", "SCANCEL_INTERACTIVE", "SCANCEL_STATE", "SCONTROL_FUTURE",
              "SLURM_TIME_FORMAT")  # fmt: skip


@pytest.fixture
def says(monkeypatch):
    """Let commands print what is given by their first word, or fail with an exit code."""
    answers, asked = {}, []

    def run(command, **options):
        asked.append(command)
        answer = answers.get(command[0], 1)
        if isinstance(answer, type):
            raise answer(command, 30) if answer is subprocess.TimeoutExpired else answer
        if isinstance(answer, int):
            return subprocess.CompletedProcess(command, answer, "", "it is switched off\n")
        return subprocess.CompletedProcess(command, 0, answer, "")

    monkeypatch.setattr(subprocess, "run", run)
    answers["asked"] = asked
    return answers


def test_queue_has_each_element_of_an_array(says):
    says["squeue"] = (
        "12_0|RUNNING|n1|None|1||rm-a\n12_3|PENDING||Priority|0|n[1-2]|rm-a\n"
        "14|COMPLETING|n2|None|7|(null)|my|th\nesis\n"
    )
    one, two, three = Job("12_0", "rm-a"), Job("12_3", "rm-a"), Job("14", "my|th")
    assert commands.queue() == {
        one: QueuedJob(one, "RUNNING", "n1", "None"),
        two: QueuedJob(two, "PENDING", "", "Priority", True, "n[1-2]"),
        three: QueuedJob(three, "COMPLETING", "n2", "None"),
    }
    assert [job.is_waiting for job in commands.queue().values()] == [False, True, False]
    assert [job.is_held for job in commands.queue().values()] == [False, True, False]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (1, "squeue failed with exit code 1: it is switched off"),
        (subprocess.TimeoutExpired, "squeue did not answer within 30 s"),
        (FileNotFoundError, "squeue is not here"),
    ],
)
def test_silence_is_an_error_and_no_empty_queue(answer, message, says):
    says["squeue"] = answer
    with pytest.raises(SlurmError, match=message):
        commands.queue()


def test_accounting_tells_of_ended_jobs_since_long_ago(says):
    says["sacct"] = (
        "12_0|CANCELLED by 1000|0:15|n1|Unknown|rm-a\n12_1|NODE_FAIL|1:0|n2|Unknown|rm-a\n"
        "12_2|RUNNING|0:0|n3|Unknown|rm-a\n"
        "99|FAILED|1:0|n1|Unknown|my-thesis\n"
    )
    asked = [Job("12_1", "rm-a"), Job("12_0", "rm-a"), Job("12_2", "rm-a"), Job("99", "rm-b")]
    assert commands.ended(asked) == {
        asked[1]: (EndedJob("CANCELLED", "0:15", "n1"),),
        asked[0]: (EndedJob("NODE_FAIL", "1:0", "n2"),),
    }
    command = says["asked"][-1]
    assert "--jobs=12,99" in command and any(word.startswith("--starttime=20") for word in command)


def test_accounting_tells_of_elements_that_were_cancelled_together_before_they_began(says):
    says["sacct"] = (
        "12_[1,3-5,8-12:2%2]|CANCELLED by 0|0:0|None assigned|Unknown|rm-a\n12_0|COMPLETED|0:0|n1|Unknown|rm-a\n"
        "12_4|FAILED|1:0|n1|Unknown|rm-a\n"
        "13_[0-1]|PENDING|0:0|None assigned|Unknown|rm-a\n13_[2,...]|CANCELLED|0:0|n1|Unknown|rm-a\n"
    )
    asked = [Job(f"12_{place}", "rm-a") for place in range(13)] + [Job(f"13_{place}", "rm-a") for place in range(3)]
    ended = commands.ended(asked)
    cancelled = (EndedJob("CANCELLED", "0:0", "None assigned"),)
    assert [job.number for job in asked if ended.get(job) == cancelled] == [
        "12_1", "12_3", "12_5", "12_8", "12_10", "12_12",
    ]  # fmt: skip
    assert {job.number: ends[0].state for job, ends in ended.items() if ends != cancelled} == {
        "12_0": "COMPLETED",
        "12_4": "FAILED",
    }
    says["scontrol"] = (
        "JobId=14 ArrayJobId=12 ArrayTaskId=1-3%1 JobName=rm-a JobState=CANCELLED ExitCode=0:0 NodeList=\n"
        "JobId=15 ArrayJobId=12 ArrayTaskId=0 JobName=rm-a JobState=FAILED ExitCode=1:0 NodeList=n1\n"
    )
    lately = commands.ended_lately(Job("12", "rm-a"))
    assert {job.number: end.state for job, end in lately.items()} == {
        "12_0": "FAILED",
        **dict.fromkeys(("12_1", "12_2", "12_3"), "CANCELLED"),
    }


def test_accounting_that_is_switched_off_is_not_an_empty_answer(says):
    assert commands.ended([Job("12", "rm-a")]) is None
    assert commands.ended([]) == {}


def test_jobs_are_found_by_name_in_the_queue_and_behind_it(says):
    says["squeue"], says["sacct"] = "12\n12\n", "7_0\n"
    assert commands.jobs_by_name("rm-x") == [Job("12", "rm-x")]
    says["squeue"] = ""
    assert commands.jobs_by_name("rm-x") == [Job("7", "rm-x")]
    says["sacct"] = 1
    assert commands.jobs_by_name("rm-x") == []


def test_end_of_a_job_is_read_from_scontrols_text(says):
    says["scontrol"] = "JobId=3 JobName=rm-a JobState=RUNNING EndTime=2026-11-24T13:00:00 Comment=x=y\n"
    assert commands.job_fields(Job("3", "rm-b")) == {}
    fields = commands.job_fields(Job("3", "rm-a"))
    assert fields["JobState"] == "RUNNING" and fields["Comment"] == "x=y"
    assert commands.end_time(fields) is not None
    assert commands.end_time({"EndTime": "Unknown"}) is commands.end_time({}) is None
    says["scontrol"] = FileNotFoundError
    assert commands.job_fields(Job("3", "rm-a")) == {}


def test_many_jobs_are_cancelled_in_parts(says):
    says["scancel"], says["squeue"] = "", "".join(f"{number}|PENDING||None|1||rm-a\n" for number in range(1001))
    commands.cancel([Job(str(number), "rm-a") for number in range(1001)])
    assert [len(command) - 2 for command in says["asked"][1:]] == [500, 500, 1]


def test_nothing_is_cancelled_by_its_number_alone(says):
    says["scancel"], says["squeue"] = "", "12_3|PENDING||None|1||rm-a\n14|RUNNING|n1|None|1||my-thesis\n"
    commands.cancel([Job("12", "rm-a"), Job("12_3", "rm-a"), Job("14", "rm-b"), Job("15", "rm-a")])
    assert says["asked"][-1] == ["scancel", "--quiet", "12", "12_3"]
    says["squeue"] = ""
    commands.cancel([Job("12", "rm-a")])
    assert [command[0] for command in says["asked"]] == ["squeue", "scancel", "squeue"]


def test_accounting_tells_how_each_start_of_a_job_ended_that_was_requeued(says):
    says["sacct"] = (
        "6_0|NODE_FAIL|0:0|n1|Unknown|rm-a\n6_1|NODE_FAIL|0:0|n1|Unknown|rm-a\n6_0|REQUEUED|0:0|n2|Unknown|rm-a\n6_1|RUNNING|0:0|n1|Unknown|rm-a\n"
        "6_0|PENDING|0:0|None assigned|Unknown|rm-a\n"
    )
    lost = EndedJob("NODE_FAIL", "0:0", "n1")
    requeued, running = Job("6_0", "rm-a"), Job("6_1", "rm-a")
    assert commands.ended([requeued, running]) == {
        requeued: (lost, EndedJob("REQUEUED", "0:0", "n2")),
        running: (lost,),
    }


def test_reason_that_a_command_prints_where_others_print_answers_is_shown(tmp_path, monkeypatch):
    programs(tmp_path, monkeypatch, scontrol="echo 'Partition mian not found'; exit 1", squeue="exit 1")
    with pytest.raises(SlurmError, match="^scontrol failed with exit code 1: Partition mian not found$"):
        commands.output(["scontrol", "show", "partition", "mian"])
    with pytest.raises(SlurmError, match="^squeue failed with exit code 1: it gives no reason$"):
        commands.queue()


def test_shell_of_a_user_does_not_filter_what_slurm_says(tmp_path, monkeypatch):
    programs(tmp_path, monkeypatch, squeue="env", sacct="env", scancel="env > seen")
    for name in OF_A_SHELL:
        monkeypatch.setenv(name, "other")
    monkeypatch.setenv("SLURM_CONF", "/etc/x")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.chdir(tmp_path)
    said = commands.output(["squeue"]).splitlines()
    assert not [line for line in said if line.endswith("=other")]
    assert {"SLURM_CONF=/etc/x", "LC_ALL=C", "SLURM_TIME_FORMAT=standard"} <= {*said}
    commands.cancel_waiting("rm-a")
    assert "other" not in (tmp_path / "seen").read_text()


def test_answers_are_read_whatever_bytes_others_put_into_names(tmp_path, monkeypatch):
    programs(tmp_path, monkeypatch, squeue=r"printf '7|RUNNING|n1|None|1||caf\351\n8|RUNNING|n1|None|1||rm-a\n'")
    assert [job.number for job in commands.queue()] == ["7", "8"]
    assert Job("8", "rm-a") in commands.queue()


@pytest.mark.parametrize(
    ("printed", "known", "number"),
    [
        ("12", "12", "12"),
        ("12;here", "12", "12"),
        ("Note: this job 99 counts double\n12", "12", "12"),
        ("99\n12", "12", "12"),
        ("this job 99 counts double", "12", "12"),
        ("99", "12", "12"),
    ],
)
def test_job_is_the_one_of_its_name_whatever_sbatch_prints(printed, known, number, tmp_path, monkeypatch):
    programs(tmp_path, monkeypatch, sbatch=f"printf '{printed}\\n'", squeue=f"echo {known}")
    assert commands.submit(tmp_path / "x.sh", "rm-a") == Job(number, "rm-a")


def test_job_that_slurm_does_not_know_by_its_name_is_none(tmp_path, monkeypatch):
    programs(tmp_path, monkeypatch, sbatch="echo submitted, more or less", squeue="true")
    with pytest.raises(
        SlurmError, match="sbatch printed 'submitted, more or less', and Slurm knows no job of the name"
    ):
        commands.submit(tmp_path / "x.sh", "rm-a")


def test_number_that_sbatch_told_is_taken_where_squeue_is_silent(tmp_path, monkeypatch):
    programs(tmp_path, monkeypatch, sbatch="echo 17", squeue="exit 1")
    assert commands.submit(tmp_path / "x.sh", "rm-a") == Job("17", "rm-a")
    programs(tmp_path, monkeypatch, sbatch="echo 17; echo 18", squeue="exit 1")
    with pytest.raises(SlurmError, match="squeue failed"):
        commands.submit(tmp_path / "x.sh", "rm-a")


def test_sbatch_that_is_killed_or_gives_no_reason_has_not_refused(tmp_path, monkeypatch):
    told = ("Message receive failure", "Insane message length", "Protocol authentication error", "Broken pipe")
    for how in ("kill -9 $$", "exit 1", "exit 143", *(f"echo 'sbatch: error: {said}' >&2; exit 1" for said in told)):
        programs(tmp_path, monkeypatch, sbatch=how)
        with pytest.raises(SlurmError) as caught:
            commands.submit(tmp_path / "x.sh", "rm-a")
        assert type(caught.value) is SlurmError


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("sbatch: error: invalid partition specified: mian", SlurmRefusal),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
         SlurmRefusal),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", SlurmRefusal),
        ("sbatch: fatal: --mem, --mem-per-cpu, and --mem-per-gpu are mutually exclusive.", SlurmRefusal),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", SlurmError),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller", SlurmError),
        ("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's "
         "size and/or time limits)", SlurmError),
        *((f"sbatch: error: {limit}\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
           "(job submit limit, user's size and/or time limits)", kind)
          for limit, kind in (("QOSMaxSubmitJobPerUserLimit", SlurmError), ("AssocGrpSubmitJobsLimit", SlurmError),
                              ("AssocMaxWallDurationPerJobLimit", SlurmRefusal), ("QOSMinGRES", SlurmError),
                              ("QOSMaxGRESPerJob", SlurmRefusal), ("MaxCpuPerAccount", SlurmError))),
    ],
)  # fmt: skip
def test_what_sbatch_will_never_take_is_told_from_what_passes(reason, kind, tmp_path, monkeypatch):
    (tmp_path / "reason").write_text(reason)
    programs(tmp_path, monkeypatch, sbatch=f"cat {tmp_path}/reason >&2; exit 1")
    with pytest.raises(SlurmError, match="sbatch failed with exit code 1") as caught:
        commands.submit(tmp_path / "x.sh", "rm-a")
    assert type(caught.value) is kind and reason.rpartition(": ")[2][:40] in str(caught.value)

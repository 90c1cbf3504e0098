import subprocess

import pytest

from orchestration.on_slurm import commands
from orchestration.on_slurm.commands import EndedJob, Job, QueuedJob, SlurmError


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
    says["squeue"] = "12_0|RUNNING|n1|None|rm-a\n12_3|PENDING||Priority|rm-a\n14|COMPLETING|n2|None|my|th\nesis\n"
    one, two, three = Job("12_0", "rm-a"), Job("12_3", "rm-a"), Job("14", "my|th")
    assert commands.queue() == {
        one: QueuedJob(one, "RUNNING", "n1", "None"),
        two: QueuedJob(two, "PENDING", "", "Priority"),
        three: QueuedJob(three, "COMPLETING", "n2", "None"),
    }
    assert [job.is_waiting for job in commands.queue().values()] == [False, True, False]


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
        "12_0|CANCELLED by 1000|0:15|n1|rm-a\n12_1|NODE_FAIL|1:0|n2|rm-a\n12_2|RUNNING|0:0|n3|rm-a\n"
        "99|FAILED|1:0|n1|my-thesis\n"
    )
    asked = [Job("12_1", "rm-a"), Job("12_0", "rm-a"), Job("12_2", "rm-a"), Job("99", "rm-b")]
    assert commands.ended(asked) == {
        asked[1]: (EndedJob("CANCELLED", "0:15", "n1"),),
        asked[0]: (EndedJob("NODE_FAIL", "1:0", "n2"),),
    }
    command = says["asked"][-1]
    assert "--jobs=12_0,12_1,12_2,99" in command and any(word.startswith("--starttime=20") for word in command)


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


@pytest.mark.parametrize(
    ("limit", "minutes"), [("UNLIMITED", None), ("01:30:00", 90), ("2-00:00:30", 2881), ("00:30:00", 30)]
)
def test_time_limit_of_a_partition(limit, minutes, says):
    says["scontrol"] = f"PartitionName=a Default=NO MaxTime=00:01:00\nPartitionName=b Default=YES MaxTime={limit}\n"
    assert commands.max_minutes("") == commands.max_minutes("b") == minutes
    assert commands.max_minutes("a") == 1


def test_size_of_arrays_is_the_sites(says):
    says["scontrol"] = "Configuration data\nMaxArraySize            = 10001\nMaxJobCount = 20000\n"
    assert commands.max_array_size() == 10001


def test_many_jobs_are_cancelled_in_parts(says):
    says["scancel"], says["squeue"] = "", "".join(f"{number}|PENDING||None|rm-a\n" for number in range(1001))
    commands.cancel([Job(str(number), "rm-a") for number in range(1001)])
    assert [len(command) - 2 for command in says["asked"][1:]] == [500, 500, 1]


def test_nothing_is_cancelled_by_its_number_alone(says):
    says["scancel"], says["squeue"] = "", "12_3|PENDING||None|rm-a\n14|RUNNING|n1|None|my-thesis\n"
    commands.cancel([Job("12", "rm-a"), Job("12_3", "rm-a"), Job("14", "rm-b"), Job("15", "rm-a")])
    assert says["asked"][-1] == ["scancel", "--quiet", "12", "12_3"]
    says["squeue"] = ""
    commands.cancel([Job("12", "rm-a")])
    assert [command[0] for command in says["asked"]] == ["squeue", "scancel", "squeue"]


def test_accounting_tells_how_each_start_of_a_job_ended_that_was_requeued(says):
    says["sacct"] = (
        "6_0|NODE_FAIL|0:0|n1|rm-a\n6_1|NODE_FAIL|0:0|n1|rm-a\n6_0|REQUEUED|0:0|n2|rm-a\n6_1|RUNNING|0:0|n1|rm-a\n"
        "6_0|PENDING|0:0|None assigned|rm-a\n"
    )
    lost = EndedJob("NODE_FAIL", "0:0", "n1")
    requeued, running = Job("6_0", "rm-a"), Job("6_1", "rm-a")
    assert commands.ended([requeued, running]) == {
        requeued: (lost, EndedJob("REQUEUED", "0:0", "n2")),
        running: (lost,),
    }

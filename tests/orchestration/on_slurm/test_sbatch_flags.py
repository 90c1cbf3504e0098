"""What a site may say of the flags of its jobs: all of them can be replaced and left out."""

import re

import pytest

from orchestration.on_slurm import shell_defaults
from orchestration.on_slurm.cluster import ClusterConfig, load
from orchestration.on_slurm.resources import Resources
from orchestration.on_slurm.sbatch_flags import controller_flags, head_flags, training_flags
from orchestration.on_slurm.shell_defaults import with_defaults

ASKED = Resources(nodes=1, cpus_per_node=8, gpus_per_node=2, mem_gb_per_node=32.0, time_min=60)
ALL = {"time": "60", "nodes": "1", "ntasks-per-node": "1", "cpus-per-task": "8", "mem": "32768MB",
       "gpus-per-node": "2", "signal": "USR2@120", "requeue": ""}  # fmt: skip


def site(**settings) -> ClusterConfig:
    return ClusterConfig(**settings)


def test_every_flag_can_be_left_out():
    assert training_flags(site(), ASKED) == ALL
    assert training_flags(site(extra=dict.fromkeys(ALL, "false")), ASKED) == {}
    assert controller_flags(site(extra=dict.fromkeys(ALL, "False"))) == {}


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_flag_can_be_replaced(name):
    assert training_flags(site(extra={name: "x"}), ASKED) == ALL | {name: "x"}


@pytest.mark.parametrize(
    ("settings", "flag", "value"),
    [
        ({}, "mem", "32768MB"),
        ({"mem_flag": "mem-per-cpu"}, "mem-per-cpu", "4096MB"),
        ({"mem_flag": "mem-per-gpu"}, "mem-per-gpu", "16384MB"),
        ({"mem_flag": "none"}, None, None),
        ({"extra": {"mem-per-cpu": "3G"}}, "mem-per-cpu", "3G"),
        ({"extra": {"mem_per_gpu": "9G"}}, "mem-per-gpu", "9G"),
    ],
)
def test_memory_is_asked_for_in_one_way_and_as_the_site_wants_it(settings, flag, value):
    found = {name: text for name, text in training_flags(site(**settings), ASKED).items() if name.startswith("mem")}
    assert found == ({flag: value} if flag else {})


@pytest.mark.parametrize(("requeue", "given"), [(True, "no-requeue"), (False, "requeue"), (True, "requeue")])
def test_job_is_requeued_or_not_as_the_sites_own_flag_says(requeue, given):
    for flags in (training_flags(site(requeue=requeue, extra={given: "true"}), ASKED),
                  controller_flags(site(requeue=requeue, controller_extra={given: "true"}))):  # fmt: skip
        assert {name: text for name, text in flags.items() if "requeue" in name} == {given: ""}


def test_memory_of_a_job_without_gpus_is_not_asked_for_by_gpu():
    assert controller_flags(site(mem_flag="mem-per-gpu"))["mem-per-cpu"] == "4096MB"
    assert head_flags(site(mem_flag="mem-per-cpu"), Resources(1, 2, 0, 8.0, 60))["mem-per-cpu"] == "4096MB"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"gpus-per-node": "2"}),
        ({"gpu_type": "a100"}, {"gres": "gpu:a100:2"}),
        ({"gpu_type": "a100", "gpu_flag": "gpus-per-node"}, {"gpus-per-node": "a100:2"}),
        ({"gpu_flag": "gres"}, {"gres": "gpu:2"}),
        ({"gpu_flag": "none"}, {}),
        ({"extra": {"gres": "lustre:1"}}, {"gpus-per-node": "2", "gres": "lustre:1"}),
        ({"extra": {"gres": "gpu:h100:4"}}, {"gres": "gpu:h100:4"}),
        ({"gpu_type": "a100", "extra": {"gpus-per-task": "2"}}, {"gpus-per-task": "2"}),
    ],
)
def test_gpus_are_asked_for_in_one_way_and_as_the_site_wants_it(settings, expected):
    found = training_flags(site(**settings), ASKED)
    assert {name: text for name, text in found.items() if "gpu" in name or name == "gres"} == expected


def test_sizes_are_those_of_the_jobs_that_train_and_small_jobs_have_their_own():
    given = site(extra={"exclusive": "true", "cpus-per-task": "32", "gres": "gpu:4", "nice": "5"},
                 controller_extra={"qos": "short", "mem": "1G"}, qos="long", controller_partition="tiny",
                 mail_user="me@x", requeue=False)  # fmt: skip
    assert controller_flags(given) == {
        "time": "10", "nodes": "1", "cpus-per-task": "1", "mem": "1G", "nice": "5", "qos": "short",
        "partition": "tiny", "mail-user": "me@x", "mail-type": "FAIL,TIME_LIMIT", "no-requeue": "",
    }  # fmt: skip
    assert training_flags(given, ASKED)["qos"] == "long" and training_flags(given, ASKED)["exclusive"] == ""
    head = head_flags(site(extra={"signal": "false"}), Resources(1, 2, 0, 8.0, 60))
    assert head == {"time": "60", "nodes": "1", "cpus-per-task": "2", "mem": "8192MB", "no-requeue": ""}


def test_wckey_and_reservation_are_passed_on_and_none_is_invented():
    assert training_flags(site(wckey="k", reservation="r"), ASKED) == ALL | {"wckey": "k", "reservation": "r"}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"job-name": "mine"}, "cluster.extra must not have 'job-name': launches need it for themselves"),
        ({"--array": "1-2"}, "cluster.extra must not have 'array'"),
        ({"clusters": "c2"}, "cluster.extra must not have 'clusters'"),
        ({"mem per": "1"}, "cluster.extra must map long names of sbatch flags to values; got 'mem per'"),
        ({"mem_per_cpu": "1G", "mem-per-cpu": "2G"}, "cluster.extra must have 'mem-per-cpu' once; it has it twice"),
    ],
)
def test_flag_that_would_lose_the_jobs_is_refused(extra, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        site(extra=extra)


@pytest.mark.parametrize(("setting", "minutes"), [("1-12:00:00", 2160), ("90", 90), ("1:30:00", 90), ("0", 0)])
def test_durations_of_a_site_are_read_as_slurm_writes_them(setting, minutes, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"time_min: {setting}\nmax_time_min: {setting}\n")
    assert (
        load(str(tmp_path / "mine.yaml")).time_min == load("slurm", [f"cluster.time_min={setting}"]).time_min == minutes
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("cluster.time_min=1h", "cluster.time_min: a duration must be minutes, .*; got '1h'"),
        ("cluster.time_min=-5", "cluster.time_min must be at least 0; got -5"),
        ("cluster.controller_time_min=0", "cluster.controller_time_min must be at least 1; got 0"),
        ("cluster.mem_flag=all", "cluster.mem_flag must be one of mem, mem-per-cpu, mem-per-gpu, none; got 'all'"),
    ],
)
def test_wrong_duration_or_flag_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        load("slurm", [setting])


def test_defaults_of_a_shell_count_for_what_the_site_leaves_open():
    shell = {"SBATCH_PARTITION": "gpu", "SBATCH_ACCOUNT": "us", "SBATCH_EXCLUSIVE": "", "SBATCH_HINT": "nomultithread",
             "SBATCH_TIMELIMIT": "5", "SBATCH_JOB_NAME": "evil", "SBATCH_ARRAY_INX": "0-9"}  # fmt: skip
    found = with_defaults(site(account="mine", extra={"hint": "compute_bound"}), shell)
    assert (found.partition, found.account) == ("gpu", "mine")
    assert found.extra == {"exclusive": "true", "hint": "compute_bound"}
    assert shell_defaults.notes(found, shell) == [
        "SBATCH_ACCOUNT=us of this shell does not count: the site, or the launch itself, says that",
        "SBATCH_ARRAY_INX=0-9 of this shell does not count: the site, or the launch itself, says that",
        "SBATCH_EXCLUSIVE= of this shell counts as cluster.extra {exclusive: true}",
        "SBATCH_HINT=nomultithread of this shell does not count: the site, or the launch itself, says that",
        "SBATCH_JOB_NAME=evil of this shell does not count: the site, or the launch itself, says that",
        "SBATCH_PARTITION=gpu of this shell counts as cluster.partition",
        "SBATCH_TIMELIMIT=5 of this shell does not count: the site, or the launch itself, says that",
    ]


def test_within_a_job_the_defaults_are_those_of_the_launch():
    shell = {"SBATCH_PARTITION": "gpu", "SLURM_JOB_ID": "7"}
    assert with_defaults(site(), shell) == site() and shell_defaults.notes(site(), shell) == []

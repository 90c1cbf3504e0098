import os
import pwd

import pytest

from orchestration.on_slurm import commands, durations, site_limits
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.site_limits import SubmitLimit

PARTITIONS = (
    "PartitionName=main Default=YES MaxTime=2-00:00:30 QoS=N/A\nPartitionName=low Default=NO MaxTime=01:30:00 QoS=N/A\n"
    "PartitionName=high Default=NO MaxTime=UNLIMITED QoS=rush\n"
)
ASSOCIATIONS = "us|many||9|fewer\nus|few|low|2|\nus|few||7|\nus|us|||\nus|us2||1|\n"


@pytest.fixture
def site(monkeypatch):
    """A site by what its commands print; a qos by its name."""
    known = {
        "config": "ClusterName             = Here\nMaxArraySize            = 10001\nMaxJobCount = 20000\n",
        "partition": PARTITIONS,
        "user": ASSOCIATIONS,
        "squeue": "1\n2\n3_0\n",
        "fewer": "3\n",
    }
    asked = []

    def output(command):
        asked.append(command)
        words = [word for word in command[1:] if not word.startswith("-") and word != "show"]
        answer = known.get("squeue" if command[0] == "squeue" else words[0] if words[0] != "qos" else words[1], "")
        if answer is None:
            raise SlurmError(f"{command[0]} failed with exit code 1: you must not ask")
        return answer

    monkeypatch.setattr(commands, "output", output)
    known["asked"] = asked
    return known


def test_size_of_arrays_is_the_sites(site):
    assert site_limits.max_array_size() == 10001


@pytest.mark.parametrize(
    ("partition", "minutes"),
    [("", 2881), ("main", 2881), ("low", 90), ("high", None), ("main,low", 90), ("high,low", 90)],
)
def test_time_limit_is_the_least_of_the_partitions(partition, minutes, site):
    assert site_limits.max_minutes(partition) == minutes


@pytest.mark.parametrize("partition", ["mian", "main,lwo"])
def test_partition_that_is_not_there_is_refused_with_those_that_are(partition, site):
    with pytest.raises(ValueError, match=f"cluster.partition must be of high, low, main; got '{partition}'"):
        site_limits.max_minutes(partition)


@pytest.mark.parametrize(
    ("account", "qos", "partition", "limit", "counted"),
    [
        ("few", "", "", 7, "--account=few"),
        ("few", "", "low", 2, "--account=few"),
        ("few", "fewer", "", 3, "--qos=fewer"),
        ("Many", "", "", 3, "--qos=fewer"),
        ("many", "unlimited", "", 9, "--account=many"),
        ("", "", "", None, ""),
        ("unknown", "", "", None, ""),
    ],
)
def test_limit_of_jobs_is_that_of_the_association_they_run_under_here(
    account, qos, partition, limit, counted, site, monkeypatch
):
    monkeypatch.setenv("LOGNAME", "somebody-else")  # as `su` leaves it
    found = site_limits.submit_limit(account, qos, partition)
    assert found == (None if limit is None else SubmitLimit(limit, 3))
    (asked,) = (command for command in site["asked"] if command[0] == "sacctmgr" and "user" in command)
    assert "cluster=Here" in asked and pwd.getpwuid(os.getuid()).pw_name in asked
    assert not counted or counted in site["asked"][-1]


def test_limit_of_the_partitions_qos_comes_first(site):
    site["rush"] = "5\n"
    assert site_limits.submit_limit("few", "fewer", "high") == SubmitLimit(5, 3)
    assert "--partition=high" in site["asked"][-1]


def test_site_that_lets_users_ask_nothing_has_no_limit_that_is_known(site):
    site["user"] = site["fewer"] = None
    assert site_limits.submit_limit("few", "fewer", "") is None


def test_shell_that_sends_jobs_to_another_cluster_is_refused(site, monkeypatch):
    for name in ("SLURM_CLUSTERS", "SBATCH_CLUSTERS"):
        monkeypatch.setenv(name, "Here")
        site_limits.refuse_other_clusters()
        monkeypatch.setenv(name, "there")
        with pytest.raises(ValueError, match=f"{name} must name the cluster .* here, Here, or be unset; got 'there'"):
            site_limits.refuse_other_clusters()
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("1:30", 2), ("30:00", 30), ("1:30:00", 90), ("01:30:01", 91), ("1-12:00:00", 2160), ("2-0", 2880),
     ("1-2:30", 1590), ("0", 0)],
)  # fmt: skip
def test_duration_is_read_as_slurm_writes_it(text, minutes):
    assert durations.to_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "1h", "1:2:3:4", "-5", "1-", "1.5", "infinite"])
def test_what_is_no_duration_is_refused_with_the_forms_there_are(text):
    with pytest.raises(ValueError, match="a duration must be minutes, .*days-hours:minutes:seconds; got "):
        durations.to_minutes(text)

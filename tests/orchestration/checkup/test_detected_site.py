"""A site's file is written from what sites of many kinds answer; `sites/` holds that, in the manuals' formats."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestration.commands.main import app, main
from orchestration.on_slurm import cluster


@pytest.fixture
def detected(at_site, tmp_path: Path):
    def detect(name: str) -> tuple[str, cluster.ClusterConfig]:
        at_site(name)
        done = CliRunner().invoke(app, ["site", "detect"])
        assert done.exit_code == 0, done.exception
        (tmp_path / "site.yaml").write_text(done.stdout)
        return done.stdout, cluster.load(str(tmp_path / "site.yaml"))

    return detect


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("old", {"partition": "gpu", "account": "", "gpus_per_node": 4, "cpus_per_worker": 6, "mem_gb_per_worker": 29.0,
                 "max_time_min": 2880}),
        ("typed", {"partition": "main", "account": "vision", "gpus_per_node": 8, "cpus_per_worker": 16,
                   "mem_gb_per_worker": 119.0, "max_time_min": 1440, "gpu_type": ""}),
        ("cancels", {"partition": "batch", "account": "lab", "gpus_per_node": 4, "cpus_per_worker": 24,
                     "mem_gb_per_worker": 179.0, "max_time_min": 4320}),
        ("without_gpus", {"partition": "short", "gpu_flag": "none", "cpus_per_worker": 2, "mem_gb_per_worker": 7.0,
                          "max_time_min": 3}),
    ],
)  # fmt: skip
def test_fields_are_those_of_the_site(detected, name, expected):
    _, site = detected(name)
    assert {field: getattr(site, field) for field in expected} == expected
    assert site.requeue and site.controller


def test_comments_say_where_values_are_from_and_what_else_there_is(detected):
    text, _ = detected("typed")
    assert "cluster typed, Slurm 23.02.6" in text
    assert "# main: 4 nodes, 28 GPUs (a100, v100), jobs of up to 1440 minutes\n" in text
    assert "# or scavenge: 3 nodes, 24 GPUs (a100), jobs of up to 720 minutes\n" in text
    assert "account: vision  # the default, qos normal, long\n# or account: shared, qos normal\n" in text
    assert "# gpu_type: a100  # of a100, v100" in text
    assert "PreemptMode REQUEUE: a preempted cell goes on from its checkpoint, in the same job" in text
    text, _ = detected("old")
    assert "sacctmgr tells nothing of this user" in text and "JobRequeue=0" in text and "PreemptMode OFF" in text
    assert "No container runtime is found here" in text


def test_site_without_gpus_says_how_to_launch_there(detected):
    text, _ = detected("without_gpus")
    assert "# If they have none, launch with trainer.device=cpu.\n" in text


def test_jobs_that_the_shell_sends_elsewhere_are_named(detected, monkeypatch):
    monkeypatch.setenv("SLURM_CLUSTERS", "south")
    text, _ = detected("cancels")
    assert "The shell sends jobs to 'south'" in text
    assert "in a new job that the next controller submits" in text


def test_container_runtime_that_is_here_is_named(detected, tmp_path, monkeypatch):
    from shell_programs import programs

    programs(tmp_path / "more", monkeypatch, apptainer="")
    text, _ = detected("old")
    assert "# container: apptainer\n" in text


def test_slurm_that_does_not_answer_is_told_without_talk_of_a_launch(tmp_path, monkeypatch, capsys):
    from shell_programs import programs

    programs(tmp_path / "silent", monkeypatch, sbatch="exit 1", scontrol="echo no controller >&2; exit 1")
    monkeypatch.setattr("sys.argv", ["rankmatch", "site", "detect"])
    with pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: Slurm must answer, or no site can be described: scontrol ")
    assert "no controller" in said.err and "resumes" not in said.err


def test_machine_without_slurm_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    done = CliRunner().invoke(app, ["site", "detect"])
    assert done.exit_code != 0 and "there is no sbatch here" in str(done.exception)


def test_examples_of_data_and_weights_are_right_once_they_are_no_comments(detected, tmp_path):
    text, site = detected("typed")
    assert not site.data_root and not site.weights
    marked = ("# data_root:", "# weights:", "# tracking_uri:")
    lines = [line.removeprefix("# ") if line.startswith(marked) else line for line in text.splitlines()]
    (tmp_path / "site.yaml").write_text("\n".join(lines))
    site = cluster.load(str(tmp_path / "site.yaml"))
    assert cluster.places_of(site).data_root == {"pascal": "/data/VOC2012", "cityscapes": "/data/cityscapes"}
    assert site.weights["resnet50"] == "/data/weights/resnet50.pth"
    assert site.tracking_uri == "http://mlflow.example.org:5000"

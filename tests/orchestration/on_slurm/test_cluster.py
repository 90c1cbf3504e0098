import shlex
import subprocess

import pytest

from orchestration.on_slurm import cluster
from orchestration.on_slurm.cluster import ClusterConfig, load


def test_sites_of_the_project_can_be_read():
    assert {"slurm", "site_example"} <= set(cluster.names())
    assert load("slurm") == ClusterConfig()
    assert load("site_example").account == "my_project"


def test_site_file_and_words_of_the_command_line(tmp_path):
    (tmp_path / "mine.yaml").write_text("partition: gpu\nextra: {nice: 5, exclusive: true}\n")
    site = load(
        str(tmp_path / "mine.yaml"), ["cluster.partition=1_16", "cluster.requeue=false", "cluster.time_factor=3"]
    )
    assert (site.partition, site.extra) == ("1_16", {"nice": "5", "exclusive": "true"})
    assert (site.requeue, site.time_factor) == (False, 3.0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("cluster.partiton=x", "unknown key 'cluster.partiton'; did you mean cluster.partition"),
        ("cluster.gpus_per_node=0", "cluster.gpus_per_node must be at least 1; got 0"),
        ("cluster.gpus_per_node=many", "cluster.gpus_per_node must be a whole number; got 'many'"),
        ("cluster.requeue=1", "cluster.requeue must be true or false; got '1'"),
        ("cluster.setup=text", "cluster.setup must be a list of texts; got 'text'"),
        ("cluster.container=docker", "cluster.container must be one of , apptainer, pyxis; got 'docker'"),
        ("cluster.container=pyxis", "cluster.image must be given with cluster.container"),
    ],
)
def test_wrong_setting_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        load("slurm", [setting])


def test_empty_file_is_no_site(tmp_path):
    (tmp_path / "my_site.yaml").write_text("\n")
    with pytest.raises(ValueError, match="must describe a site; it is empty, as after a `rankmatch site det"):
        load(str(tmp_path / "my_site.yaml"))


def test_unknown_site_is_refused():
    with pytest.raises(ValueError, match="--cluster must be one of local, inline, .*slurm.* or a YAML file; got 'pbs'"):
        load("pbs")


def test_nothing_of_a_value_reaches_the_shell_as_code():
    evil = "it's; touch /tmp/evil $(id)"
    site = ClusterConfig(environment={"A": evil}, modules=[evil], container="apptainer", image=evil)
    lines = cluster.shell_setup(site, {"B": evil})
    printed = subprocess.run(
        ["bash", "-c", "\n".join([*lines[1:], 'printf "%s|%s" "$A" "$B"'])], capture_output=True, text=True, check=True
    )
    assert printed.stdout == f"{evil}|{evil}"
    assert shlex.split(lines[0]) == ["module", "load", evil]
    assert shlex.split(cluster.python_command(site, "/x/python")) == ["apptainer", "exec", evil, "python"]


def test_python_of_the_launcher_is_taken_outside_of_containers():
    assert cluster.python_command(ClusterConfig(), "/my env/bin/python") == "'/my env/bin/python'"
    assert cluster.python_command(ClusterConfig(python="python3"), "/x") == "python3"
    pyxis = ClusterConfig(container="pyxis", image="a.sqsh", container_args=["--container-mounts=/d"])
    assert cluster.srun_words(pyxis) == ["--kill-on-bad-exit=1", "--container-image=a.sqsh", "--container-mounts=/d"]

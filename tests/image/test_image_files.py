"""The files of `docker/`, looked at without an engine."""

import functools
import http.server
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import jsonschema
import pytest
import yaml
from ports import free_port

from orchestration.on_slurm import cluster
from orchestration.on_slurm.cluster import python_command, srun_words

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
pytestmark = pytest.mark.image


def pins(path: Path) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==([^\s+]+)", path.read_text(), re.M)
    return {name.lower().replace("_", "-").replace(".", "-"): version for name, version in found}


def test_dockerfile_has_no_fault_that_hadolint_knows():
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_file_has_no_grave_fault_that_its_linter_knows():
    """Medium: `latest` and no limits of memory, both for whoever runs it to choose."""
    program = Path(sys.executable).parent / "compose-lint"
    done = subprocess.run([program, DOCKER / "compose.yaml"], capture_output=True, text=True)
    assert done.returncode == 0 and "high" in done.stdout, done.stdout + done.stderr


def test_image_installs_the_versions_of_the_lock_file_and_nothing_without_a_hash():
    locked = pins(ROOT / "requirements.lock")
    image = pins(DOCKER / "requirements.lock") | pins(DOCKER / "torch-cuda.lock")
    assert {name: version for name, version in image.items() if locked.get(name, version) != version} == {}
    for name in ("requirements.lock", "torch-cuda.lock"):
        lines = [line for line in (DOCKER / name).read_text().splitlines() if "==" in line]
        assert lines and all(re.search(r" --hash=sha256:[0-9a-f]{64}$", line) for line in lines)
        assert "--require-hashes" in (DOCKER / name).read_text()
    assert pins(DOCKER / "torch-cpu.lock").items() <= image.items()
    project = (ROOT / "pyproject.toml").read_text().partition("dependencies = [")[2].partition("\n]")[0]
    needed = {name.lower() for name in re.findall(r'^ *"([A-Za-z0-9-]+)', project, re.M)}
    assert needed and needed <= image.keys()


def test_lock_files_are_parted_as_the_layers_are():
    spec = importlib.util.spec_from_file_location("lock", DOCKER / "lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    packages = [("Torch", "2.1"), ("torchvision", "0.2"), ("nvidia_cublas", "13"), ("nvidia-ml-py", "12"),
                ("setuptools", "80"), ("PyYAML", "6")]  # fmt: skip
    report = {"install": [
        {"metadata": {"name": name, "version": version}, "download_info": {"archive_info": {"hashes": {"sha256": "a"}}}}
        for name, version in packages
    ] + [{"metadata": {"name": "rankmatch", "version": "1"}, "download_info": {"dir_info": {}}}]}  # fmt: skip
    written = module.lock_files(report)
    assert {name: re.findall(r"^([a-z-]+==\S+)", text, re.M) for name, text in written.items()} == {
        "requirements.lock": ["nvidia-ml-py==12", "pyyaml==6"],
        "torch-cuda.lock": ["nvidia-cublas==13", "setuptools==80", "torch==2.1", "torchvision==0.2"],
        "torch-cpu.lock": ["torch==2.1+cpu", "torchvision==0.2+cpu", "setuptools==80"],
    }


def test_no_file_names_a_package_index_or_holds_a_secret():
    listed = subprocess.run(["git", "ls-files", "docker", ".dockerignore"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.split():
        text = (ROOT / name).read_text()
        assert not re.search(r"https?://(?!mlflow:|localhost|127\.0\.0\.1|\$\{?)\S*(simple|pypi|whl|index)", text), name
        assert not re.search(r"(?i)(password|token|secret) *[:=] *[\"']?[0-9a-z]{8,}", text), name


def test_only_what_the_image_is_made_of_reaches_the_builder():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (DOCKER / "Dockerfile").read_text(), re.M)
    sources = {word.replace("${TORCH}", "cuda") for line in copied for word in line.split()}
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert rules[0] == "*"
    assert {word for word in sources if not any(Path(word).match(rule) for rule in allowed)} == set()
    assert {rule for rule in allowed if not any(Path(word).match(rule) for word in sources)} == set()


def test_kubernetes_job_holds_what_its_schema_knows_and_tries_nothing_again():
    job = yaml.safe_load((DOCKER / "kuberay.yaml").read_text())
    schema = json.loads((Path(__file__).parent / "rayjob_schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(job, schema)
    assert (job["spec"]["backoffLimit"], job["spec"]["submitterConfig"]["backoffLimit"]) == (0, 0)
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pins(ROOT / "requirements.lock")["ray"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job | {"spec": job["spec"] | {"backoffLimits": 0}}, schema)
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert {"livenessProbe", "readinessProbe"} <= container.keys()  # the operator's own ones need wget
    images = re.findall(r"(?:image|value): (\S+)", (DOCKER / "kuberay.yaml").read_text())
    assert len(images) == 3 and len(set(images)) == 1 and "@sha256:" in images[0]


def test_definition_of_apptainer_has_the_sections_that_run_the_command_line():
    text = (DOCKER / "apptainer.def").read_text()
    header, *sections = re.split(r"^%(\w+)$", text, flags=re.M)
    head = dict(re.findall(r"^(\w+): (\S+)$", header, re.M))
    assert head == {"Bootstrap": "docker-daemon", "From": "rankmatch:latest"}
    found = dict(zip(sections[::2], sections[1::2], strict=True))
    assert set(found) == {"environment", "runscript", "test"}
    assert 'exec /opt/rankmatch/bin/entrypoint "$@"' in found["runscript"]
    for body in found.values():
        assert subprocess.run(["sh", "-n"], input=body, text=True).returncode == 0


def test_sites_start_their_jobs_in_the_image():
    site = cluster.load(str(DOCKER / "site_apptainer.yaml"))
    words = shlex.split(python_command(site, "/usr/bin/python3"))
    assert words == ["apptainer", "exec", "--nv", "--bind", "/shared", "/shared/images/rankmatch.sif", "python"]
    site = cluster.load(str(DOCKER / "site_pyxis.yaml"))
    assert "--container-image=/shared/images/rankmatch.sqsh" in srun_words(site)
    assert python_command(site, "/usr/bin/python3") == "python"


@pytest.mark.parametrize("name", ["entrypoint", "mlflow-server", "answers", "../secrets/make", "../build"])
def test_programs_are_such_that_the_shell_reads(name):
    path = DOCKER / "bin" / name
    shell = path.read_text().splitlines()[0].rpartition("/")[2].split()[-1]
    assert subprocess.run([shell, "-n", path]).returncode == 0
    assert path.stat().st_mode & 0o111


def test_health_check_asks_the_container_itself_where_a_proxy_is_set_and_takes_200_alone(tmp_path):
    (tmp_path / "health").touch()
    served = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.HTTPServer(("127.0.0.1", 0), served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
        codes = [subprocess.run([DOCKER / "bin" / "answers", str(server.server_port), path], env=environment,
                                timeout=60).returncode for path in ("/health", "/none")]  # fmt: skip
        server.shutdown()
    assert codes == [0, 1]
    assert subprocess.run([DOCKER / "bin" / "answers", str(free_port()), "/health"], timeout=60).returncode


def test_passwords_are_drawn_once_and_read_by_nobody_else(tmp_path):
    folder = tmp_path / "secrets"
    folder.mkdir()
    program = folder / "make"
    program.write_bytes((DOCKER / "secrets" / "make").read_bytes())
    program.chmod(0o755)
    subprocess.run([program], check=True)
    first = {name: (folder / name).read_text() for name in ("database", "mlflow")}
    assert len(set(first.values())) == 2 and all(len(word) == 48 for word in first.values())
    assert folder.stat().st_mode & 0o777 == 0o700
    subprocess.run([program], check=True)
    assert {name: (folder / name).read_text() for name in first} == first
    ignored = subprocess.run(["git", "check-ignore", "docker/secrets/mlflow", "docker/secrets/make"], cwd=ROOT,
                             capture_output=True, text=True)  # fmt: skip
    assert ignored.stdout.split() == ["docker/secrets/mlflow"]

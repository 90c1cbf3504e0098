"""The image is built from the sources, and runs as a stranger would run it; see `container_engine.py`."""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from container_engine import EPOCH, IMAGE, ROOT, Engine, build, commit, compose, head
from ports import free_port

from orchestration.machine import built_from

pytestmark = [pytest.mark.image, pytest.mark.long, pytest.mark.xdist_group("image"), pytest.mark.timeout(900)]

POSTGRES = "localhost/postgres:test"
STRANGER = "12345:12345"
READ_ONLY = ("--read-only", "--read-only-tmpfs=false")
"""As Docker has it: podman alone would let /run, /tmp and /var/tmp be written."""
TWO_CELLS = ("launch", "--grid", "demo", "method=supervised", "split=4", "trainer.epochs=1")


def test_image_says_what_it_is_of_and_keeps_nothing_of_how_packages_were_reached(engine, image, sources):
    found = engine.inspect(image)
    labels = {name.rpartition(".")[2]: value for name, value in found["Labels"].items() if "opencontainers" in name}
    assert datetime.fromisoformat(labels["created"]).timestamp() == EPOCH
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    expected = {
        "revision": head(sources),
        "created": "2025-06-15T15:06:40+00:00",
        "version": version,
        "licenses": "Apache-2.0",
        "title": "RankMatch",
    }
    assert expected.items() <= labels.items() and "source" in labels
    assert (found["User"], found["Config"]["Entrypoint"]) == ("10001:10001", ["/opt/rankmatch/bin/entrypoint"])
    said = json.dumps(found)
    for line in (engine.folder / "pip.conf").read_text().splitlines()[2:]:
        assert len(line.strip()) < 8 or line.strip() not in said
    command = "cat /etc/pip.conf /run/trust/* 2>/dev/null; ls -A /root/.cache /root/.config 2>/dev/null"
    assert engine.run("podman", "run", "--rm", "--user=0", "--network=none", "--entrypoint=sh", image, "-c", command,
                      check=False) == ""  # fmt: skip


def test_stranger_trains_two_cells_with_a_read_only_root_and_no_network(engine, image, sources, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir(mode=0o777)
    runs.chmod(0o777)
    digest = engine.inspect(image)["Digest"]
    reference = f"registry.example.org/rankmatch@{digest}"
    guarded = (*READ_ONLY, "--network=none", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges")
    settings = (
        f"--user={STRANGER}",
        "--shm-size=1g",
        f"--volume={runs}:/work/runs",
        f"--env=RANKMATCH_IMAGE={reference}",
    )
    said = engine.run("podman", "run", "--rm", *guarded, *settings, image, *TWO_CELLS)
    assert "2 of 2 cells are done" in said and "supervised" in said
    results = [json.loads(path.read_text()) for path in runs.glob("demo/cells/*/result.json")]
    assert len(results) == 2
    for result in results:
        made = result["provenance"]
        assert (made["commit"], made["image"]) == (head(sources), reference)
        assert (made["dirty"], f"sha256:{made['image_sha256']}") == (False, digest)
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in runs.rglob("*")}
    assert owners == {(12345, 12345)}


def test_lines_of_the_page_train_into_a_folder_of_who_types_them(engine, image, tmp_path):
    page = (ROOT / "docs" / "image.md").read_text()
    lines = re.search(r"## Run it\n\n```\n(mkdir .*\n.* --grid demo)\n", page)[1]
    programs, runs = tmp_path / "programs", tmp_path / "runs"
    programs.mkdir()
    for name, what in {"docker": 'exec podman "$@"', "id": f"echo {STRANGER.partition(':')[0]}"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{what}\n")
        (programs / name).chmod(0o755)
    runs.mkdir()
    os.chown(runs, 12345, 12345)
    engine.run("podman", "tag", image, "rankmatch:latest")
    environment = engine.environment | {"PATH": f"{programs}:{os.environ['PATH']}"}
    said = []
    words = ["env", "--default-signal=INT", "bash", "-ec", lines]  # whoever began the tests may have it ignored
    with subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=environment, cwd=tmp_path, start_new_session=True) as typed:  # fmt: skip
        for line in typed.stdout:
            said.append(line)
            if line.rstrip().endswith("begins"):
                os.killpg(typed.pid, signal.SIGINT)  # as a terminal's Ctrl-C
    assert typed.returncode != 0 and any("begins" in line for line in said), said
    assert {path.stat().st_uid for path in runs.rglob("*")} == {12345}
    refused = engine.run("podman", "run", "--rm", f"--volume={runs}:/work/runs", image, *TWO_CELLS, check=False)
    assert "/work/runs/demo belongs to user 12345 (mode 755), and this is user 10001" in refused


def test_command_line_takes_its_own_words_where_home_is_not_there_and_temporary_files_go_elsewhere(engine, image):
    elsewhere = ("--tmpfs=/scratch:mode=1777", "--env=TMPDIR=/scratch", "--env=HOME=/nowhere", f"--user={STRANGER}")
    said = engine.run("podman", "run", "--rm", "--network=none", *READ_ONLY, *elsewhere, image,
                      "plan", "--grid", "demo", "seed=0")  # fmt: skip
    assert "6 cells: 6 submit" in said
    assert "launch" in engine.run("podman", "run", "--rm", "--network=none", image)


def test_login_shell_as_kubernetes_starts_ray_by_finds_the_programs(engine, image):
    said = engine.run("podman", "run", "--rm", "--network=none", "--entrypoint=/bin/bash", image,
                      "-lc", "command -v ray rankmatch python")  # fmt: skip
    assert said.split() == [f"/opt/rankmatch/bin/{name}" for name in ("ray", "rankmatch", "python")]


def contents(engine: Engine, image: str) -> dict[str, tuple[object, ...]]:
    """Return of each file of the code's layers, and of what a build may touch beside it, its rights, time and hash.

    They are read where the layers lie, since a container that is started has files and times of its own.
    """
    with engine.mounted(image) as root:  # the folder itself is the engine's
        packages = next(root.glob("opt/rankmatch/lib/python3*/site-packages"))
        ours = [packages / name for name in ("rankmatch", "orchestration", "dashboards")]
        places = [root / "opt/rankmatch/bin", *ours, *packages.glob("rankmatch-*"), root / "etc", root / "work"]
        beside = [root / "opt", root / "opt/rankmatch", packages.parent, packages, root / "mlflow", root / "tmp"]
        paths = [*beside, *(path for place in places for path in (place, *place.rglob("*")))]
        return {str(path.relative_to(root)): of_file(path) for path in paths}


def of_file(path: Path) -> tuple[object, ...]:
    seen = path.lstat()
    read = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(seen.st_mode) else ""
    return seen.st_mode, seen.st_uid, seen.st_gid, seen.st_mtime_ns, read


def test_change_of_a_file_is_in_the_next_image_with_its_commit(engine, image, sources, tmp_path):
    """By what is copied: buildah takes some commands from its cache without a look at what they read."""
    changed, name = tmp_path / "changed", "orchestration/launch_grid.py"
    shutil.copytree(sources, changed, ignore=shutil.ignore_patterns(".git"))
    (changed / name).write_text(f"{(changed / name).read_text()}# changed")
    commit(changed)
    said = build(engine, changed, f"{IMAGE}-changed")
    with engine.mounted(f"{IMAGE}-changed") as root:
        (packages,) = root.glob("opt/rankmatch/lib/python3*/site-packages")
        assert (packages / name).read_text().endswith("# changed")
        record = packages / built_from.FILE
        assert head(changed) in record.read_text()
    engine.run("podman", "rmi", f"{IMAGE}-changed")
    assert "Collecting" not in said


def test_change_of_code_rebuilds_the_last_layers_alone_and_the_same_code_gives_the_same_files(
    engine, image, sources, tmp_path
):
    first, again = contents(engine, image), tmp_path / "again"
    shutil.copytree(sources, again, ignore=shutil.ignore_patterns(".git"))
    dockerfile = again / "docker" / "Dockerfile"
    text = dockerfile.read_text()
    for stage in ("code", "image"):
        assert f" AS {stage}\n" in text
        text = text.replace(f" AS {stage}\n", f" AS {stage}\nRUN true\n")
    dockerfile.write_text(text)
    commit(again)
    said = build(engine, again, f"{IMAGE}-again", "--build-arg", f"COMMIT={head(sources)}")
    assert len(re.findall("--> Using cache", said)) >= 5 and "Collecting" not in said
    second, layers = contents(engine, f"{IMAGE}-again"), engine.inspect(f"{IMAGE}-again")["RootFS"]["Layers"]
    engine.run("podman", "rmi", f"{IMAGE}-again")
    assert len(first) > 600 and {path: found for path, found in second.items() if first.get(path) != found} == {}
    assert first.keys() == second.keys()
    assert set(engine.inspect(image)["RootFS"]["Layers"]) <= set(layers)  # the same bytes


LAUNCHER = ("run", "--rm", "--no-deps", "-T", "launcher")
"""Without `--no-deps`, and `--no-recreate` below, Compose would make services anew: podman's networks seem others."""


@pytest.fixture(scope="module")
def services(engine, image, tmp_path_factory) -> Iterator["Services"]:
    """The services of compose.yaml, with PostgreSQL from Debian where the one of its registry would stand."""
    folder = tmp_path_factory.mktemp("compose")
    shutil.copytree(ROOT / "docker" / "secrets", folder / "secrets", ignore=lambda *_: ["database", "mlflow"])
    shutil.copy(ROOT / "docker" / "compose.yaml", folder)
    subprocess.run([folder / "secrets" / "make"], check=True)
    postgres = Path(__file__).parent / "postgres"
    engine.run("buildah", "build", "--layers", "--isolation", "chroot", "--tag", POSTGRES, postgres)
    with engine.serving() as variables:
        made = Services(engine, folder, variables)
        try:
            yield made
        finally:
            made.run("--profile", "tools", "down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)


class Services:
    def __init__(self, engine: Engine, folder: Path, variables: dict[str, str]):
        self.engine, self.folder, self.port, self.page = engine, folder, free_port(), free_port()
        self.password = (folder / "secrets" / "mlflow").read_text()
        project = f"rm{os.getpid()}"
        ports = {"MLFLOW_PORT": str(self.port), "DASHBOARD_PORT": str(self.page)}
        images = {"IMAGE": IMAGE, "POSTGRES_IMAGE": POSTGRES}
        self.variables = {**variables, **images, **ports, "COMPOSE_PROJECT_NAME": project, "DATA": str(folder)}

    def run(self, *words: str, check: bool = True) -> str:
        command = compose("--file", self.folder / "compose.yaml", *words)
        return self.engine.run(*command, extra=self.variables, check=check, cwd=self.folder)

    def ask(self, path: str, password: str, body: dict) -> dict:
        return json.loads(self.opened(f"api/2.0/mlflow/{path}", password, json.dumps(body).encode()))

    def opened(self, path: str, password: str, body: bytes | None = None) -> str:
        """Return what MLflow answers."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", body)
        word = base64.b64encode(f"rankmatch:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    def page_of_runs(self, token: str) -> str:
        request = urllib.request.Request(f"http://localhost:{self.page}/")
        request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    def finished_runs(self) -> dict[str, float]:
        """Return the best mIoU of the cells in MLflow."""
        found = self.ask("experiments/search", self.password, {"max_results": 100})["experiments"]
        ids = [one["experiment_id"] for one in found if one["name"] == "demo"]
        runs = self.ask("runs/search", self.password, {"experiment_ids": ids})["runs"]
        metrics = {one["info"]["run_name"]: one["data"].get("metrics", []) for one in runs}
        pairs = {name: {one["key"]: one["value"] for one in listed} for name, listed in metrics.items()}
        return {name: values["final/best_miou"] for name, values in pairs.items() if "final/best_miou" in values}


def test_services_as_compose_reads_them_are_guarded(services):
    found = json.loads(services.run("--profile", "tools", "config", "--format", "json"))
    assert {"database", "mlflow", "dashboard", "launcher"} == found["services"].keys()
    for name, service in found["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "restart" in service and (name == "launcher" or "healthcheck" in service), name
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name
        assert not [word for word in service.get("environment", {}) if word.endswith("PASSWORD")], name


def test_cells_are_in_the_database_behind_the_server_and_are_found_again_after_a_restart(services):
    services.run("up", "--detach", "--wait", "--wait-timeout", "300")
    said = services.run(*LAUNCHER, *TWO_CELLS)
    assert "2 of 2 cells are done" in said and "supervised" in said and "MLflow is not up to date" not in said
    assert "<title>MLflow</title>" in services.opened("", services.password)
    found = services.finished_runs()
    assert len(found) == 2 and all(0 < miou < 1 for miou in found.values())
    with pytest.raises(urllib.error.HTTPError, match="401"):
        services.ask("experiments/search", "wrong", {"max_results": 1})
    (token,) = re.findall(r"Bearer TOKEN': (\S+)", services.run("logs", "dashboard"))
    assert "demo" in services.page_of_runs(token)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        services.page_of_runs("wrong")
    services.run("restart", "database", "mlflow")
    services.run("up", "--no-recreate", "--detach", "--wait", "--wait-timeout", "300")
    assert services.finished_runs() == found
    assert "2 of 2 cells are done" in services.run(*LAUNCHER, *TWO_CELLS)

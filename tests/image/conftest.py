"""The image of the sources as they are, for all tests of this folder; see `container_engine.py`."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_engine import BASE, IMAGE, PROGRAMS, ROOT, STORE, Engine, build, commit

COPIED = (
    *("rankmatch", "orchestration", "dashboards", "experiments", "docker", "pyproject.toml", "setup.py"),
    *("README.md", "LICENSE", "requirements.lock", ".dockerignore", ".gitignore"),
)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    lacking = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
    if lacking or os.getuid():
        pytest.skip(f"needs root, and apt-get install {' '.join(lacking)}" if lacking else "needs root")
    own = ["unshare", "--mount", "--net", "--pid", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"]
    asked = subprocess.run(own, capture_output=True, text=True)
    if asked.returncode:
        pytest.skip(f"needs a machine where root may make namespaces and mounts; here: {asked.stderr.strip()}")
    STORE.mkdir(exist_ok=True, parents=True)
    with tempfile.TemporaryDirectory(prefix="rm-img-") as folder:
        made = Engine(Path(folder))
        if not made.has(BASE):
            made.make_base()
        yield made
        made.run("podman", "rm", "--all", "--force", "--volumes", check=False)
        made.run("podman", "image", "prune", "--force", check=False)  # layers of earlier code, which nothing uses


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Path:
    """The sources as they are now, as a repository with a commit that is the same for the same files."""
    folder = tmp_path_factory.mktemp("sources")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    commit(folder)
    return folder


@pytest.fixture(scope="session")
def image(engine, sources) -> str:
    build(engine, sources, IMAGE)
    return IMAGE

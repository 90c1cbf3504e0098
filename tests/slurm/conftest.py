"""A real Slurm for all tests of this folder; they are skipped where Slurm is not installed."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm.real_cluster import ROOT, Cluster, Grid, numbers, start

from orchestration.runs.run_folder import RunFolder


@pytest.fixture(scope="session")
def short_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("slurm")


@pytest.fixture(scope="session")
def cluster(short_folder: Path) -> Iterator[Cluster]:
    accounting = "dbd" if shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin") else "none"
    yield from start(short_folder / "main", accounting)


@pytest.fixture
def make_grid(cluster: Cluster, tmp_path: Path) -> Callable[..., Grid]:
    return lambda **settings: Grid(cluster, tmp_path / "g", **settings)


@pytest.fixture(scope="session")
def undisturbed_cell(tmp_path_factory) -> RunFolder:
    """The cell of `Grid`, trained without Slurm and without Ray."""
    grid = Grid(None, tmp_path_factory.mktemp("undisturbed"))
    done = grid.command(str(ROOT / "orchestration/launch_grid.py"), "--grid", "long.yaml", "--cluster", "inline")
    assert done.returncode == 0, done.stderr
    return grid.cell


@pytest.fixture(scope="session")
def undisturbed(undisturbed_cell: RunFolder) -> list[dict]:
    """The epochs of that cell."""
    return numbers(undisturbed_cell.epochs())

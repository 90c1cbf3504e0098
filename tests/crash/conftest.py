"""A folder for programs that are carried out hundreds of times and wait for the disk at each step."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where there is one, as nothing is to outlive the test: what is synced is read from traces."""
    place = MEMORY if MEMORY.is_dir() else tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory(prefix="rankmatch-crash-", dir=place) as folder:
        yield Path(folder)

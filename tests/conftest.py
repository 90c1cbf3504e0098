"""Fixtures that several test folders use, and how two processes share the tests.

A worker of pytest-xdist takes the next test, or the next `xdist_group`, whenever it has none: what shares a start of
something costly is one group.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # two threads each, on two cores, would spin while they wait for each other
SHARED = Path(__file__).resolve().parents[2] / "shared"
NUM_CLASSES = 3
SIZE = (40, 48)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin the long ones first, so that no worker begins one when the other has nothing left."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of small real data sets; the test is skipped where it is not there."""
    if not SHARED.is_dir():
        pytest.skip("no folder of real data sets beside the project")
    return SHARED


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory) -> Path:
    """Twelve training and three validation images with their lists; the split `2` has two labeled ones."""
    root = tmp_path_factory.mktemp("tiny")
    names = [f"{number:02}" for number in range(15)]
    for number, name in enumerate(names):
        draws = np.random.default_rng(number)
        label = (np.indices(SIZE).sum(0) // (6 + number) % NUM_CLASSES).astype(np.uint8)
        image = (label[..., None] * 80 + draws.integers(0, 60, (*SIZE, 3))).astype(np.uint8)
        Image.fromarray(image).save(root / f"{name}.png")
        Image.fromarray(label).save(root / f"{name}_label.png")
    lines = [f"{name}.png {name}_label.png\n" for name in names]
    (root / "splits" / "2").mkdir(parents=True)
    (root / "splits" / "2" / "labeled.txt").write_text("".join(lines[:2]))
    (root / "splits" / "2" / "unlabeled.txt").write_text("".join(lines[2:12]))
    (root / "splits" / "val.txt").write_text("".join(lines[12:]))
    return root

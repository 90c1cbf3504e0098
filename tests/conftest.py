"""Fixtures that several test folders use."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared"
NUM_CLASSES = 3
SIZE = (40, 48)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs and small real data sets; the test is skipped where it is not there."""
    if not SHARED.is_dir():
        pytest.skip("no folder of reference data beside the project")
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

"""What is looked at before the first cell starts, and what need not be looked at again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orchestration.grids.cells import Cell, compose, to_yaml
from orchestration.machine.provenance import ROOT
from orchestration.planning import preflight
from rankmatch.config import ModelConfig
from rankmatch.models.deeplabv3plus import outline

CHECK = """
import sys
from pathlib import Path
from orchestration.grids.cells import Cell, from_yaml
from orchestration.planning import preflight
preflight.check([Cell(from_yaml(sys.stdin.read()), {})], Path(sys.argv[1]), lambda *_: None)
print("torch" in sys.modules)
"""


def cell_of(root: Path, weights: Path, width: float = 0.25) -> Cell:
    """Compose a cell of files whose backbone begins with a file of weights."""
    settings = {
        "dataset.name": "tiny", "dataset.num_classes": 3, "split": "2", "data_root": str(root),
        "backbone": "mobilenet_v2", "backbone.pretrained": True, "backbone.width": width,
        "backbone.weights": str(weights),
    }  # fmt: skip
    return Cell(compose(settings), {})


def save_weights(path: Path, width: float) -> Path:
    network = outline(ModelConfig(backbone="mobilenet_v2", width=width)).backbone
    state = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in network.state_dict().items()}
    torch.save(state, path)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_weights(tmp_path / "weights.pth", 0.25)


def test_launch_takes_torch_only_for_weights_that_nobody_looked_at(
    tiny_root: Path, weights: Path, tmp_path: Path
) -> None:
    text = to_yaml(cell_of(tiny_root, weights).config)
    for is_needed in (True, False):
        done = subprocess.run(
            [sys.executable, "-c", CHECK, tmp_path / "checked"],
            input=text, cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == f"{is_needed}\n"


def test_weights_are_looked_at_again_once_the_file_or_the_network_is_another(
    tiny_root: Path, weights: Path, tmp_path: Path
) -> None:
    def check(width: float = 0.25) -> None:
        preflight.check([cell_of(tiny_root, weights, width)], tmp_path / "checked", lambda *_: None)

    check()
    with pytest.raises(ValueError, match=r"backbone\.weights: weights .*weights\.pth are of another architecture"):
        check(width=0.5)
    size, time_ns = weights.stat().st_size, weights.stat().st_mtime_ns
    damaged = bytearray(weights.read_bytes())
    damaged[:2] = b"xx"
    weights.write_bytes(damaged)
    os.utime(weights, ns=(time_ns + 1, time_ns + 1))
    assert weights.stat().st_size == size
    for _ in range(2):  # what was refused is not remembered
        with pytest.raises(ValueError, match=r"backbone\.weights: "):
            check()
    save_weights(weights, 0.25)
    check()

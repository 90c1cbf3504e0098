"""The names of what a training leaves in its folder; imports no torch, so that whoever looks for them is quick."""

import re
from pathlib import Path

CHECKPOINTS = "checkpoints"
"""The folder of the checkpoints; each is a folder `step_<k>` with these three files."""
STATE, BEST, MANIFEST = "state.pt", "best.pt", "manifest.json"
SAMPLES = "samples.png"
PICTURES, INDEX = "pictures", "pictures.json"
"""A folder of small pictures, and in it what they are of."""
EVALUATION = "evaluation.json"
"""Counts of the evaluation at the best epoch."""
BAD_STEP = "bad_step.json"
"""What it takes to look again at the step after which a loss or a weight was not finite."""
_BEFORE_EVALUATION = "_before_evaluation"
_NAME = re.compile(rf"step_(\d+)({_BEFORE_EVALUATION})?")


def checkpoint_name(step: int, *, is_evaluated: bool = True) -> str:
    """Name the checkpoint after so many steps; one before the evaluation of its epoch has a name of its own."""
    return f"step_{step}" if is_evaluated else f"step_{step}{_BEFORE_EVALUATION}"


def is_checkpoint(path: Path) -> bool:
    """Return whether a folder has the name of a checkpoint."""
    return _NAME.fullmatch(path.name) is not None


def step_of(path: Path) -> int:
    """Return how many steps were done when the checkpoint `step_<k>` was written."""
    name = _NAME.fullmatch(path.name)
    assert name is not None, "checkpoints are found by their names"
    return int(name[1])


def is_evaluated(path: Path) -> bool:
    """Return whether a checkpoint was written after its epoch's evaluation."""
    return not path.name.endswith(_BEFORE_EVALUATION)


def order_of(path: Path) -> tuple[int, bool]:
    """Return what checkpoints are ordered by: the evaluation at the end of an epoch is the last of its step."""
    return step_of(path), is_evaluated(path)

"""RankMatch and its baselines for semi-supervised semantic segmentation, as a plain PyTorch library."""

from importlib import import_module
from typing import Any

NUMERICS = 3
"""Raised when a change of the code changes trained numbers; part of every run's identity."""

_LAZY = {"fit": "rankmatch.trainer", "FitResult": "rankmatch.trainer", "evaluate": "rankmatch.evaluation"}

__all__ = ["NUMERICS", "FitResult", "evaluate", "fit"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (torch takes seconds to import: only when something is used)
    if name not in _LAZY:
        raise AttributeError(f"module 'rankmatch' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)

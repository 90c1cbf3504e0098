"""RankMatch and its baselines for semi-supervised semantic segmentation, as a plain PyTorch library."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

NUMERICS = 3
"""Increased when a code change changes trained numbers; part of every run's identity."""

_LAZY = {"fit": "rankmatch.trainer", "FitResult": "rankmatch.fit_result", "evaluate": "rankmatch.evaluation"}

__all__ = ["NUMERICS", "FitResult", "evaluate", "fit"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (torch takes seconds to import: only when something is used)
    if name == "__version__":
        return _version()
    if name not in _LAZY:
        raise AttributeError(f"module 'rankmatch' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def _version() -> str:
    """Return the version that pyproject.toml states; a checkout that nobody installed has none."""
    try:
        return version(__name__)
    except PackageNotFoundError:
        return "unknown"

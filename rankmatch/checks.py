"""Checks of single values, and errors that depend on the machine: a retry on another one may succeed."""

from collections.abc import Collection
from ctypes import c_float


class MissingFileError(ValueError):
    """A file or folder that a run needs does not exist, or this machine cannot see it."""


class MissingGpuError(ValueError):
    """A run asks for a GPU but torch finds none, or the GPU does not answer."""


class LocalDiskError(ValueError):
    """A disk of this machine is too full for a run's files."""


def one_of(name: str, value: object, allowed: Collection[object]) -> None:
    """Refuse a value that is not one of the allowed ones.

    Raises:
        ValueError: Naming the field, its value and what is allowed.
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}")


def in_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Refuse a number outside `[low, high]` (NaN included).

    Raises:
        ValueError: Naming the field, its value and the range.
    """
    if not low <= value <= high:
        limit = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise ValueError(f"{name} must be {limit}; got {value!r}")


def in_float32(name: str, value: float) -> None:
    """Refuse a number that is computed with in float32 but is none there: too near 0, too large, or NaN.

    Raises:
        ValueError: Naming the field, its value and the range.
    """
    if value and not 0 < abs(c_float(value).value) < float("inf"):
        raise ValueError(f"{name} must be 0 or a number that float32 holds, 1.4e-45 to 3.4e38; got {value!r}")

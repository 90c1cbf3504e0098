"""The two checks of a value that most refusals are made of, and the refusals that another machine might not make."""

from collections.abc import Collection


class MissingFileError(ValueError):
    """A file or folder that a run needs is not there, or this machine does not see it."""


class MissingGpuError(ValueError):
    """A run asks for a GPU and torch finds none, or the one that is there does not answer."""


class LocalDiskError(ValueError):
    """A disk of this machine has no room for what a run puts there."""


def one_of(name: str, value: object, allowed: Collection[object]) -> None:
    """Refuse a value that is not among the allowed ones.

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

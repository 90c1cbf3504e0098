"""From repeated numbers to what is stated about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over repetitions, in the unit of the numbers, and how they spread."""

    mean: float
    std: float | None
    """Standard deviation of a sample (divided by n - 1); None for a single number."""
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """Sum up repetitions.

    Raises:
        ValueError: There are none.
    """
    if not values:
        raise ValueError("values must hold at least one number; got none")
    return Estimate(fmean(values), stdev(values) if len(values) > 1 else None, len(values))
